"""
A baseline without the third dimension: the U-Net of Genesis with kernels and pooling within axial slices, as wide as
gives it as many parameters, fine-tuned with the same cubes, loss, optimiser and steps as `transfer.py` asks for.
"""

import types
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import ark_hf

WIDTH = (
    13  # 1.13 million parameters beside 1.19 of width 8 in three dimensions, whose kernels have 27 weights and not 9
)
WINDOW = (0, 1000)  # values that become 0 and 1
LABELLED = 0.5  # share of the training cubes that hold a labelled voxel, as in fine-tuning


def build(task: Any, size: list[int]) -> nn.Module:
    """A segmenter or classifier of cubes of this size, (batch, 1, z, y, x), that never looks across slices."""
    segments = isinstance(task, ark_hf.SegmentationTask)
    kind: Any = ark_hf.GenesisForSemanticSegmentation if segments else ark_hf.GenesisForImageClassification
    answers: dict[str, Any] = {"segmentation": task} if segments else {"tasks": [task]}
    model = kind(ark_hf.GenesisConfig(width=WIDTH, cube_size=size, **answers))
    for name, module in list(model.named_modules()):
        parent, _, own = name.rpartition(".")
        if isinstance(module, nn.Conv3d) and module.kernel_size == (3, 3, 3):
            flat: nn.Module = nn.Conv3d(module.in_channels, module.out_channels, (1, 3, 3), padding=(0, 1, 1))
        elif isinstance(module, nn.ConvTranspose3d):
            flat = nn.ConvTranspose3d(module.in_channels, module.out_channels, (1, 2, 2), stride=(1, 2, 2))
        else:
            continue
        setattr(model.get_submodule(parent), own, flat)
    model.genesis.encoder.forward = types.MethodType(_encode, model.genesis.encoder)
    return model


def _encode(encoder: Any, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    features = [encoder.levels[0](pixel_values)]
    for level in encoder.levels[1:]:
        features.append(level(F.max_pool3d(features[-1], (1, 2, 2))))
    return tuple(features)


def whole_volumes(data: Any, split: str, numbers: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of the rows (z, y, x) float32 in [0, 1], and label map of the same shape or labels."""
    processor = ark_hf.GenesisImageProcessor(hu_window=WINDOW)
    found = []
    for number in numbers:
        row = data.splits[split][int(number)]
        turned = ark_hf.reorient(ark_hf.stored_volume(row["volume"]), "SPL")
        seen = processor(turned.voxels, do_center_crop=False)["pixel_values"][0][0]
        if "mask" in row:
            mask = ark_hf.reorient(ark_hf.stored_volume(row["mask"]), "SPL").voxels
            found.append((seen, torch.from_numpy(np.ascontiguousarray(mask)).long()))
        else:
            found.append((seen, torch.tensor(row["labels"], dtype=torch.float32)))
    return found


def draw_cube(
    volume: torch.Tensor, labels: torch.Tensor, size: list[int], generator: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A cube anywhere in a volume, or so that it holds a voxel of a label that is drawn."""
    start = [int(generator.integers(there - side + 1)) for there, side in zip(volume.shape, size, strict=True)]
    if labels.ndim == 3 and generator.random() < LABELLED:
        present = labels.unique()[1:]
        places = (labels == present[generator.integers(len(present))]).nonzero()
        voxel = places[generator.integers(len(places))].tolist()
        start = [
            int(generator.integers(max(at - side + 1, 0), min(at, there - side) + 1))
            for at, there, side in zip(voxel, volume.shape, size, strict=True)
        ]
    place = tuple(slice(at, at + side) for at, side in zip(start, size, strict=True))
    return volume[place], labels[place] if labels.ndim == 3 else labels


def finetune(data: Any, numbers: Any, seed: int, size: list[int], settings: dict[str, Any]) -> nn.Module:
    """The baseline, trained on these rows."""
    torch.manual_seed(seed)
    generator = np.random.default_rng([seed, 2])
    model, volumes = build(data.task, size).train(), whole_volumes(data, "train", numbers)
    optimizer = torch.optim.AdamW(model.parameters(), settings["learning_rate"], weight_decay=0.05)
    steps, warmup = settings["max_steps"], max(settings["max_steps"] // 10, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (1 + np.cos(np.pi * step / steps)) / 2)
    )
    for _ in range(steps):
        chosen = generator.choice(len(volumes), settings["batch_size"])
        cubes, labels = zip(*(draw_cube(*volumes[each], size, generator) for each in chosen), strict=True)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(pixel_values=torch.stack(cubes)[:, None], labels=torch.stack(labels)).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def dice(model: nn.Module, data: Any, split: str) -> np.ndarray:
    """Dice of each volume and label, float64 (volumes, labels), NaN where a label is not in truth and answer."""
    scores = []
    for number in range(len(data.splits[split])):
        ((volume, truth),) = whole_volumes(data, split, [number])
        found = model(pixel_values=volume[None, None]).logits.argmax(dim=1)[0]
        row = []
        for label in range(1, len(data.task.labels) + 1):
            mask, true = found == label, truth == label
            both = (mask.sum() + true.sum()).item()
            row.append(2 * (mask & true).sum().item() / both if both else np.nan)
        scores.append(row)
    return np.array(scores)


@torch.no_grad()
def probabilities(model: nn.Module, data: Any, split: str) -> np.ndarray:
    """(volumes, labels) of a classifier."""
    found = []
    for number in range(len(data.splits[split])):
        ((volume, _),) = whole_volumes(data, split, [number])
        found.append(model(pixel_values=volume[None, None]).logits[0].sigmoid().numpy())
    return np.array(found)

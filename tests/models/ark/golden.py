"""Rebuilds the golden cases of the original system: weights by rule, normalised images, our model around them."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.convert_ark_checkpoint import convert_state_dict
from ark_hf.models.ark.modeling_ark import ArkForImageClassification


def weight_by_rule(key: str, shape: list[int], seed: int) -> torch.Tensor:
    """Section 11 of the specification: every parameter is a function of its original name, its shape and a seed."""
    draw = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32).standard_normal(shape)
    if key.endswith("relative_position_bias_table"):
        value = 0.3 * draw
    elif len(shape) >= 2:
        value = draw / np.sqrt(np.prod(shape[1:]))
    elif key.endswith("gamma"):
        value = 0.3 * draw
    elif key.endswith("weight"):
        value = 1 + 0.2 * draw
    else:
        value = 0.1 * draw
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def rule_state_dict(shapes: dict[str, list[int]], seed: int) -> dict[str, torch.Tensor]:
    return {key: weight_by_rule(key, shape, seed) for key, shape in shapes.items()}


def golden_config(case: dict, image_size: int | None = None) -> ArkConfig:
    kwargs = dict(case["kwargs"])
    swin = "window_size" in kwargs
    size = kwargs.pop("img_size", image_size) or case["image_size"]
    kwargs.pop("encoder_features", None)
    drop_path_rate = kwargs.pop("drop_path_rate", 0.1 if swin else 0.0)
    names = {"num_heads", "depths", "embed_dim", "window_size", "patch_size", "dims"}
    return ArkConfig(
        backbone="swin_tiny_patch4_window7_224" if swin else "convnext_tiny",
        backbone_kwargs={key: value for key, value in kwargs.items() if key in names},
        image_size=size,
        projector_dim=case["projector_features"],
        projector_type="mlp" if case["use_mlp"] else "linear",
        drop_path_rate=drop_path_rate,
        tasks=golden_tasks(case),
    )


def golden_tasks(case: dict) -> list[ArkTask]:
    return [
        ArkTask(f"head_{number}", [f"label_{i}" for i in range(width)])
        for number, width in enumerate(case["num_classes_list"])
    ]


def original_buffers(case: dict) -> dict[str, torch.Tensor]:
    """The constant attention buffers that an original file holds beside its parameters."""
    buffers = dict(ArkForImageClassification(golden_config(case)).ark.encoder.named_buffers())
    names = [key for key, *_ in case["state_dict"] if key not in case["parameter_order"]]
    return {key: buffers[key] for key in names}


def load_original(model: ArkForImageClassification, original: dict[str, torch.Tensor]) -> None:
    """Loads an original-layout state dict; every parameter of the model must be covered."""
    missing, unexpected = model.load_state_dict(convert_state_dict(original, model), strict=False)
    assert not unexpected and not missing, (missing, unexpected)


def normalise(images: np.ndarray) -> torch.Tensor:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    values = ((images / 255 - mean) / std).astype(np.float32)
    return torch.from_numpy(values).permute(0, 3, 1, 2).contiguous()


def read_case(folder: Path, name: str) -> tuple[dict, dict]:
    return json.loads((folder / f"{name}.json").read_text()), dict(np.load(folder / f"{name}.npz"))

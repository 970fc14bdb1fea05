"""From the checkpoint of Models Genesis to our model (specification of the originals, section 10)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ...weights import check_filled, check_tensors, read_weights_file, without_module_prefix
from .configuration_genesis import GenesisConfig
from .image_processing_genesis import GenesisImageProcessor
from .modeling_genesis import GenesisForPreTraining

# What the file is called that the authors give away
RELEASED_FILES = {"Genesis_Chest_CT.pt": "Genesis Chest CT, trained on LUNA16"}
FIRST = "down_tr64.ops.0.conv1.weight"
RENAMED = {
    "down_tr64.ops": "genesis.encoder.levels.0",
    "down_tr128.ops": "genesis.encoder.levels.1",
    "down_tr256.ops": "genesis.encoder.levels.2",
    "down_tr512.ops": "genesis.encoder.levels.3",
    "up_tr256.up_conv": "decoder.upsamplings.0",
    "up_tr256.ops": "decoder.levels.0",
    "up_tr128.up_conv": "decoder.upsamplings.1",
    "up_tr128.ops": "decoder.levels.1",
    "up_tr64.up_conv": "decoder.upsamplings.2",
    "up_tr64.ops": "decoder.levels.2",
    "out_tr.final_conv": "restoration_head",
}
INSIDE = {"conv1": "convolution", "bn1": "normalization", "activation": "activation"}


@dataclass
class GenesisConversion:
    """
    A converted checkpoint and how it came about.

    Args:
        section: What of the file was taken.
        ignored: What was not.
    """

    model: GenesisForPreTraining
    processor: GenesisImageProcessor
    source: str
    section: str
    num_used: int
    ignored: tuple[str, ...]

    def summary(self) -> str:
        """What was found, used and ignored, as lines of text."""
        config = self.model.config
        release = f", by its name {RELEASED_FILES[self.source]}" if self.source in RELEASED_FILES else ""
        low, high = config.hu_window
        lines = [
            f"weights: {self.section} of {self.source}{release}",
            f"network: 3D U-Net of Models Genesis, {config.depth} levels, width {config.width}, {config.activation}; "
            "encoder, decoder and the head that restores cubes",
            f"axes: {config.axes}, cubes of {'x'.join(map(str, config.cube_size))} voxels as scanned",
            f"voxels: {low:g} to {high:g} HU as 0 to 1",
            "batch norm: with the statistics of the batch in evaluation too, as the original (batch_statistics)",
            f"used: {self.num_used} tensors, none missing, none left over",
            *(f"ignored: {what}" for what in self.ignored),
        ]
        return "\n".join(lines)


def holds_genesis(loaded: Mapping[str, Any]) -> bool:
    """Whether what [`read_weights_file`] read is a checkpoint of Models Genesis, or the state dict in one."""
    weights = loaded.get("state_dict", loaded)
    return isinstance(weights, Mapping) and any(str(key).removeprefix("module.") == FIRST for key in weights)


def convert_genesis_checkpoint(path: str | Path, activation: Literal["relu", "elu"] = "relu") -> GenesisConversion:
    """
    Reads the checkpoint of Models Genesis (`epoch`, `state_dict` with or without `module.`, `optimizer_state_dict`),
    or its state dict alone, of any width.

    Args:
        path: The file. No code in it runs, see [`read_weights_file`].
        activation: What a file cannot tell; the released one has "relu". PReLU is found by its slopes.

    Raises:
        ValueError: The file cannot be read, is not such a checkpoint, holds tensors that have no place in the model,
            or lacks some.
    """
    return convert_loaded_genesis(read_weights_file(path), path, activation)


def convert_loaded_genesis(
    loaded: dict[str, Any], path: str | Path, activation: Literal["relu", "elu"] = "relu"
) -> GenesisConversion:
    """As [`convert_genesis_checkpoint`], of what [`read_weights_file`] read at `path`."""
    if not holds_genesis(loaded):
        raise ValueError(
            f"{path} is not a checkpoint of Models Genesis in PyTorch: it has no tensor {FIRST!r}, but keys such as "
            f"{list(loaded)[:3]}."
        )
    weights, section = loaded, "the only model"
    if "state_dict" in loaded:
        epoch = loaded.get("epoch")
        weights, section = loaded["state_dict"], f"epoch {epoch}" if isinstance(epoch, int) else "state_dict"
    check_tensors(weights, f"{path}, {section}")
    try:
        model = _convert(without_module_prefix(weights, path), activation)
    except ValueError as error:
        raise ValueError(f"{path}, {section}: {error}") from None
    processor = GenesisImageProcessor.from_config(model.config)
    ignored = ("the optimiser's state",) if "optimizer_state_dict" in loaded else ()
    return GenesisConversion(model.eval(), processor, Path(path).name, section, len(model.state_dict()), ignored)


def _convert(original: dict[str, torch.Tensor], activation: Literal["relu", "elu"]) -> GenesisForPreTraining:
    first = original[FIRST]
    if first.ndim != 5 or 0 in first.shape:
        raise ValueError(f"{FIRST} has the shape {tuple(first.shape)}, which is not that of a 3D convolution.")
    has_slopes = any(key.endswith(".activation.weight") for key in original)
    config = GenesisConfig(
        width=first.shape[0],
        num_channels=first.shape[1],
        axes="xyz",
        activation="prelu" if has_slopes else activation,
        batch_statistics=True,
    )
    with torch.device("meta"):  # takes no memory, whatever size the file's shapes ask for
        expected = GenesisForPreTraining(config).state_dict()
    weights = convert_genesis_state_dict(original)
    left_over = sorted(set(weights) - set(expected))
    if left_over:
        raise ValueError(
            f"tensors are left over that have no place in the U-Net of Models Genesis: {len(left_over)}, such as "
            f"{left_over[:3]}."
        )
    for key, value in weights.items():
        if key.endswith("activation.weight") and value.numel() == 1:  # one slope for all channels
            weights[key] = value.expand(expected[key].shape)
    check_filled(weights, expected)
    copied = {key: value.to(expected[key].dtype, copy=True) for key, value in weights.items()}  # mapped from the file
    return GenesisForPreTraining.from_pretrained(None, config=config, state_dict=copied, dtype=torch.float32)


def convert_genesis_state_dict(original: Mapping[str, Any]) -> dict[str, Any]:
    """Renames the keys of an original state dict (without `module.`) to ours; one without a place keeps its own."""
    return {_our_name(key): value for key, value in original.items()}


def _our_name(key: str) -> str:
    match = re.fullmatch(rf"({'|'.join(map(re.escape, RENAMED))})(?:\.([01])\.({'|'.join(INSIDE)}))?\.(\w+)", key)
    if match is None or (match[2] is None) != (not match[1].endswith("ops")):
        return key
    inside = [] if match[2] is None else [match[2], INSIDE[match[3]]]
    return ".".join([RENAMED[match[1]], *inside, match[4]])

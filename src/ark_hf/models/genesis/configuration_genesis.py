"""Configuration of Genesis, the 3D U-Net of Models Genesis (Zhou et al., Medical Image Analysis 2021)."""

import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..ark.tasks_ark import TaskLabelsMixin
from .code_genesis import WithCodeMixin

# Saved with every config, whichever class is saved
AUTO_MAP = {
    "AutoConfig": "configuration_genesis.GenesisConfig",
    "AutoModel": "modeling_genesis.GenesisModel",
    "AutoModelForPreTraining": "modeling_genesis.GenesisForPreTraining",
    "AutoModelForImageClassification": "modeling_genesis.GenesisForImageClassification",
    "AutoModelForSemanticSegmentation": "modeling_genesis.GenesisForSemanticSegmentation",
}

Axes = Literal["zyx", "xyz"]
CUBE_SIZE = {"zyx": (32, 64, 64), "xyz": (64, 64, 32)}  # of the paper
MAX_DEPTH = 10  # each level halves a cube: the sides of deeper ones would be multiples of a thousand
HU_WINDOW = (-1000.0, 1000.0)


def three_numbers(values: Any, what: str, integers: bool = False) -> list[Any]:
    """
    The values as a list of three, one an axis.

    Raises:
        ValueError: They are not three positive finite numbers (or integers); the message begins with `what`.
    """
    listed = list(values) if isinstance(values, (list, tuple)) else []
    kinds = (int,) if integers else (int, float)
    fits = [isinstance(each, kinds) and not isinstance(each, bool) and 0 < each < math.inf for each in listed]
    if len(fits) != 3 or not all(fits):
        raise ValueError(
            f"{what} must be three positive {'integers' if integers else 'numbers'}, one an axis, got {values!r}."
        )
    return [each if integers else float(each) for each in listed]


def checked_window(window: Any) -> list[float]:
    """The window as a list; raises `ValueError` if it is not two numbers, the lower one first."""
    listed = list(window) if isinstance(window, (list, tuple)) else []
    finite = [isinstance(each, (int, float)) and math.isfinite(each) for each in listed]
    if len(listed) != 2 or not all(finite) or not listed[0] < listed[1]:
        raise ValueError(f"hu_window must be two numbers of Hounsfield units, the lower one first, got {window!r}.")
    return [float(each) for each in listed]


@strict
class GenesisConfig(WithCodeMixin, TaskLabelsMixin, PreTrainedConfig):
    r"""
    Args:
        width: Channels of the first convolution, 32 as published; each level has twice those of the one above.
        depth: Levels of the encoder. Sides of the input must divide by 2^(depth - 1).
        num_channels: Input channels.
        cube_size: Voxels of the cubes that it was trained on, in the order of `axes`; 32x64x64 (zyx) or 64x64x32 (xyz)
            unless set. The network itself takes any size that divides.
        axes: What the last three axes of `pixel_values` are: "zyx", as arrays of volumes are stored, or "xyz", as in
            the originals.
        spacing: Spacing of the voxels in mm that volumes are brought to, in the order of `axes`; `None`: as scanned.
        hu_window: The Hounsfield units that become 0 and 1; `None`: volumes have their values in [0, 1] already, as
            those of MR.
        activation: "relu", "elu" or "prelu", with a slope a channel.
        batch_statistics: Whether batch norm uses the statistics of its batch in evaluation too, and goes on moving the
            running ones by 0.1, as the originals do: an output then depends on the other volumes of its batch. Off for
            new models; a fine-tuned one may switch it off (`from_pretrained(..., batch_statistics=False)`).
        tasks, segmentation: As in [`ArkConfig`].

    Raises:
        ValueError: A size, spacing or window is not as described above, a cube does not divide by 2^(depth - 1), or
            as of [`ArkConfig`].
    """

    model_type = "genesis"
    keys_to_ignore_at_inference = ["embeddings", "hidden_states"]

    width: int = 32
    depth: int = 4
    num_channels: int = 1
    cube_size: Any = None
    axes: Axes = "zyx"
    spacing: Any = None
    hu_window: Any = HU_WINDOW
    activation: Literal["relu", "elu", "prelu"] = "relu"
    batch_statistics: bool = False
    tasks: list[Any] | None = None
    segmentation: Any = None

    def __post_init__(self, **kwargs):
        for name, least in (("width", 1), ("depth", 2), ("num_channels", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.depth > MAX_DEPTH:
            raise ValueError(f"depth must be at most {MAX_DEPTH}, and is more.")
        size = CUBE_SIZE[self.axes] if self.cube_size is None else self.cube_size
        self.cube_size = three_numbers(size, "cube_size", integers=True)
        if any(side % self.stride for side in self.cube_size):
            raise ValueError(
                f"cube_size must have sides that are multiples of {self.stride} for a network of {self.depth} levels, "
                f"got {self.cube_size}."
            )
        self.spacing = None if self.spacing is None else three_numbers(self.spacing, "spacing")
        self.hu_window = None if self.hu_window is None else checked_window(self.hu_window)
        super().__post_init__(**kwargs)

    @property
    def stride(self) -> int:
        """Voxels of the input, along an axis, for one at the bottom of the network."""
        return 2 ** (self.depth - 1)

    @property
    def view(self) -> str:
        """What operating points are bound to beside weights."""
        names = ("cube_size", "axes", "spacing", "hu_window", "activation", "batch_statistics")
        return " ".join(f"{name} {getattr(self, name)}" for name in names)

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"auto_map": dict(AUTO_MAP)}


__all__ = ["GenesisConfig"]

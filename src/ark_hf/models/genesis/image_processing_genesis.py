"""Image processor of Genesis: volumes of CT, as arrays of Hounsfield units, to cubes in [0, 1]."""

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from torch.nn import functional as F
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature

from ..ark.masks_ark import ArkSemanticSegmenterOutput, label_maps
from ..ark.tasks_ark import check_modality
from .code_genesis import WithCodeMixin
from .configuration_genesis import CUBE_SIZE, HU_WINDOW, GenesisConfig, checked_window, three_numbers

AXES = ("zyx", "xyz")
MAX_VOXELS = 2**31
ROUNDING = 1e-4  # how far rounding, as of a resampling in float32, may carry floats out of [0, 1]; and of a voxel


class GenesisImageProcessorKwargs(TypedDict, total=False):
    """What `from_pretrained` may be given in place of what was saved."""

    axes: str
    spacing: list[float] | None
    hu_window: list[float] | None
    cube_size: list[int]
    do_center_crop: bool
    modality: str


class GenesisImageProcessor(WithCodeMixin, BaseImageProcessor):
    r"""
    Image processor of Genesis, for volumes.

    A volume is a NumPy array or tensor (depth, height, width), whatever the model's axes are, or (num_channels, depth,
    height, width): z, y, x leading to the head, to the back and to the left, as in DICOM. Its values are

    - integers, or floats that are not all in [0, 1]: Hounsfield units, clipped to `hu_window` and scaled to [0, 1];
    - floats in [0, 1]: taken as they are. Without a window (`hu_window=None`, as for MR) no others are taken.

    NaN and infinities raise a `ValueError`.

    Output: `pixel_values`, float32 in [0, 1], of shape (B, C, *cube_size), axes in the order of `axes`; without
    `do_center_crop` of the volumes' own sizes, for a sliding window.

    Args:
        axes (`str`, *optional*, defaults to `"zyx"`):
            Order of the last three axes of `pixel_values`, "zyx" or "xyz".
        spacing (`list[float]`, *optional*):
            Spacing of voxels in mm that volumes are resampled to, in the order of `axes`; their own unless set.
        hu_window (`list[float]`, *optional*, defaults to `[-1000, 1000]`):
            The Hounsfield units that become 0 and 1.
        cube_size (`list[int]`, *optional*):
            Voxels of the cube, in the order of `axes`; 32x64x64 (zyx) or 64x64x32 (xyz) unless set.
        do_center_crop (`bool`, *optional*, defaults to `True`):
            Whether to cut the cube in the middle of each volume; what it has too little of is filled with 0.
        modality (`str`, *optional*, defaults to `"CT"`):
            DICOM's code of what the volumes are taken with. Volumes of another one are refused when the call tells it.

    Raises:
        ValueError: An argument is not as described above.
    """

    valid_kwargs = GenesisImageProcessorKwargs
    model_input_names = ["pixel_values"]

    def __init__(
        self,
        axes: str = "zyx",
        spacing: Sequence[float] | None = None,
        hu_window: Sequence[float] | None = HU_WINDOW,
        cube_size: Sequence[int] | None = None,
        do_center_crop: bool = True,
        modality: str = "CT",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if axes not in AXES:
            raise ValueError(f"axes must be one of {AXES}, got {axes!r}.")
        check_modality(modality, "modality")
        self.axes, self.do_center_crop, self.modality = axes, do_center_crop, modality
        self.spacing = None if spacing is None else three_numbers(spacing, "spacing")
        self.hu_window = None if hu_window is None else checked_window(hu_window)
        self.cube_size = three_numbers(cube_size or CUBE_SIZE[axes], "cube_size", integers=True)

    @classmethod
    def from_config(cls, config: GenesisConfig, modality: str = "CT") -> "GenesisImageProcessor":
        """The processor of a model."""
        return cls(config.axes, config.spacing, config.hu_window, config.cube_size, modality=modality)

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {
            "hu_window": self.hu_window,  # kept where it is None, which is not what it is unless set
            "auto_map": {"AutoImageProcessor": "image_processing_genesis.GenesisImageProcessor"},
        }

    def preprocess(
        self,
        images: Any,
        spacing: Sequence[float] | Sequence[Sequence[float]] | None = None,
        do_center_crop: bool | None = None,
        modality: str | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """
        Args:
            images: A volume, a list of volumes, or a batch (B, num_channels, depth, height, width).
            spacing: Spacing of the volumes' voxels in mm, (z, y, x), of all or of each. A processor with a spacing of
                its own needs it; without one the volumes stay as scanned.
            do_center_crop: As at construction.
            modality: DICOM's code of what the volumes are taken with.
            return_tensors: "pt" or "np" for one array; else a list of tensors.

        Raises:
            ValueError: A volume has values or a shape other than described, its spacing is missing or not three
                positive numbers, it is of another modality, or volumes of different sizes are asked for as one tensor.
        """
        if modality not in (None, self.modality):
            raise ValueError(f"this image processor is for volumes of modality {self.modality}, not {modality}")
        volumes = _listed(images)
        spacings = self._checked_spacings(spacing, len(volumes))
        crop = self.do_center_crop if do_center_crop is None else do_center_crop
        cubes = [self._cube(each, own, crop) for each, own in zip(volumes, spacings, strict=True)]
        sizes = sorted({tuple(each.shape) for each in cubes})
        if return_tensors is not None and len(sizes) > 1:
            raise ValueError(
                f"volumes of different sizes are no single tensor: {sizes[:3]}. Give one at a time, or leave "
                "`return_tensors` out"
            )
        return BatchFeature({"pixel_values": cubes}, tensor_type=return_tensors)

    def _cube(self, volume: Any, spacing: list[float] | None, crop: bool) -> torch.Tensor:
        values = _to_unit_range(_to_channels_first(volume), self.hu_window)
        if self.spacing is not None and spacing is not None:
            values = resample(values, spacing, self.spacing_zyx)
        if self.axes == "xyz":
            values = values.permute(0, 3, 2, 1)
        return (_center_crop(values, self.cube_size) if crop else values).contiguous()

    def post_process_semantic_segmentation(
        self, outputs, target_sizes=None, return_segmentation_scores: bool = False, spacing=None
    ) -> list[torch.Tensor] | list[BatchFeature]:
        """
        Label maps of a segmenter's outputs for whole volumes; see [`label_maps`].

        Their axes are z, y, x again.

        Args:
            target_sizes: (depth, height, width) of each volume as it was given.
            spacing: As it was given, where the volumes were resampled: the maps lie on their voxels.

        Raises:
            ValueError: There are not as many sizes or spacings as volumes, or the spacing is missing.
        """
        if self.axes == "xyz":
            turned = outputs.logits.permute(0, 1, 4, 3, 2)
            outputs = ArkSemanticSegmenterOutput(logits=turned, cutoffs=outputs.cutoffs)
        if self.spacing is None or target_sizes is None or len(target_sizes) != len(outputs.logits):
            return label_maps(outputs, target_sizes, return_segmentation_scores)
        found: list[Any] = []
        for number, own in enumerate(self._checked_spacings(spacing, len(target_sizes))):
            logits = resample(outputs.logits[number], self.spacing_zyx, own, target_sizes[number])
            cutoffs = None if outputs.cutoffs is None else outputs.cutoffs[[number]]
            one = ArkSemanticSegmenterOutput(logits=logits[None], cutoffs=cutoffs)  # type: ignore[arg-type]
            found += label_maps(one, None, return_segmentation_scores)
        return found

    @property
    def spacing_zyx(self) -> list[float]:
        """`spacing` in the order z, y, x, whatever the model's axes are; empty without one."""
        spacing = list(self.spacing or [])
        return spacing[::-1] if self.axes == "xyz" else spacing

    def _checked_spacings(self, spacing: Any, count: int) -> list[Any]:
        if self.spacing is not None and spacing is None:
            raise ValueError(
                f"this model sees voxels of {self.spacing} mm ({self.axes}): give `spacing`, the volumes' own, in the "
                "order z, y, x"
            )
        return _spacings(spacing, count)


def resample(
    volume: torch.Tensor, spacing: Sequence[float], wanted: Sequence[float], size: Sequence[int] | None = None
) -> torch.Tensor:
    """
    A volume with other voxels, by linear interpolation between their centres.

    Args:
        volume: (channels, depth, height, width), float.
        spacing: Of its voxels, an axis each.
        wanted: Of the result's.
        size: Of the result, an axis each; as many voxels as cover the volume, unless set.

    Returns:
        It begins at the first edge of the volume. Beyond the centres of the last voxels it has their values.

    Raises:
        ValueError: The result would have more than 2^31 voxels.
    """
    factors = [new / old for old, new in zip(spacing, wanted, strict=True)]
    if size is None:
        pairs = zip(volume.shape[1:], factors, strict=True)
        size = [max(1, math.ceil(side / factor - ROUNDING)) for side, factor in pairs]
    if math.prod(size) > MAX_VOXELS:
        raise ValueError(
            f"with a spacing of {list(spacing)} mm the volume has {' x '.join(map(str, size))} voxels of "
            f"{list(wanted)} mm: is it in mm?"
        )
    for axis, (factor, count) in enumerate(zip(factors, map(int, size), strict=True), start=1):
        side = volume.shape[axis]
        if count == side and abs(factor - 1) * side < ROUNDING:
            continue
        lower, upper, share = neighbours(count, side, factor)
        share = share.to(volume.device, volume.dtype).view(-1, *[1] * (volume.ndim - axis - 1))
        ends = (volume.index_select(axis, end.to(volume.device)) for end in (lower, upper))
        volume = torch.lerp(*ends, share)
    return volume


def neighbours(count: int, side: int, factor: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Between which of the `side` voxels of an axis those of [`resample`]'s result lie, `count` of `factor` times their
    length: the lower ones and the upper ones, int64 (count,), and float64 shares of the way from the former.
    """
    places = ((torch.arange(count, dtype=torch.float64) + 0.5) * factor - 0.5).clamp(0, side - 1)
    lower = places.floor().long()
    return lower, (lower + 1).clamp(max=side - 1), places - lower


def _listed(images: Any) -> list[Any]:
    if isinstance(images, (list, tuple)):
        return list(images)
    return list(images) if getattr(images, "ndim", None) == 5 else [images]


def _spacings(spacing: Any, count: int) -> list[list[float] | None]:
    if spacing is None:
        return [None] * count
    values = spacing.tolist() if isinstance(spacing, (np.ndarray, torch.Tensor)) else list(spacing)
    each = values if values and isinstance(values[0], (list, tuple, np.ndarray, torch.Tensor)) else [values] * count
    if len(each) != count:
        raise ValueError(f"spacing must be one (z, y, x) for all volumes or one for each, {count}; got {len(each)}")
    return [three_numbers([float(number) for number in numbers], "spacing") for numbers in each]


def _to_channels_first(volume: Any) -> torch.Tensor:
    """A volume of any accepted kind as (C, D, H, W), of its own dtype."""
    if isinstance(volume, np.ndarray):
        volume = torch.from_numpy(np.require(volume, volume.dtype.newbyteorder("="), ["C", "W"]))
    if not isinstance(volume, torch.Tensor):
        raise ValueError(f"a volume must be a NumPy array or a tensor, got {type(volume).__name__}")
    if volume.ndim not in (3, 4) or volume.numel() == 0:
        raise ValueError(
            "a volume must be (depth, height, width) or (channels, depth, height, width) with at least one voxel, got "
            f"shape {tuple(volume.shape)}"
        )
    return volume[None] if volume.ndim == 3 else volume


def _to_unit_range(volume: torch.Tensor, window: Sequence[float] | None) -> torch.Tensor:
    if volume.dtype == torch.bool or volume.is_complex():
        raise ValueError(f"a volume must hold integers or floats, got {volume.dtype}")
    values = volume.to(torch.float32, copy=True)
    low, high = (bound.item() for bound in values.aminmax())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("a volume must not hold NaN or infinite voxels")
    if volume.is_floating_point() and -ROUNDING <= low and high <= 1 + ROUNDING:
        return values.clamp_(0, 1)
    if window is None:
        raise ValueError(
            f"this model has no window of Hounsfield units: scale the volume to floats in [0, 1]; got values from "
            f"{low:g} to {high:g}"
        )
    bottom, top = window
    return values.sub_(bottom).div_(top - bottom).clamp_(0, 1)


def _center_crop(volume: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The middle of (C, ...), or all of it with 0 around it where a side is too short."""
    padding: list[int] = []
    for axis, side in enumerate(size, start=1):
        spare = volume.shape[axis] - side
        if spare > 0:
            volume = volume.narrow(axis, spare // 2, side)
        before = max(-spare, 0) // 2
        padding = [before, max(-spare, 0) - before, *padding]
    return F.pad(volume, padding)


__all__ = ["GenesisImageProcessor", "neighbours", "resample"]

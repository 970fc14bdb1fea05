"""Which encoder an original checkpoint holds, read from its tensors' shapes (specification, sections 1 and 2)."""

import math
import re
from dataclasses import dataclass
from typing import Any

import torch

# timm's names of the encoders: Swin by (embed_dim, depths, num_heads, window_size), ConvNeXt by (depths, dims)
SWINS: dict[tuple[int, tuple[int, ...], tuple[int, ...], int], str] = {
    (96, (2, 2, 6, 2), (3, 6, 12, 24), 7): "swin_tiny_patch4_window7_224",
    (96, (2, 2, 18, 2), (3, 6, 12, 24), 7): "swin_small_patch4_window7_224",
    (128, (2, 2, 18, 2), (4, 8, 16, 32), 7): "swin_base_patch4_window7_224",
    (128, (2, 2, 18, 2), (4, 8, 16, 32), 12): "swin_base_patch4_window12_384",
    (192, (2, 2, 18, 2), (6, 12, 24, 48), 7): "swin_large_patch4_window7_224",
    (192, (2, 2, 18, 2), (6, 12, 24, 48), 12): "swin_large_patch4_window12_384",
}
CONVNEXTS: dict[tuple[tuple[int, ...], tuple[int, ...]], str] = {
    ((3, 3, 9, 3), (96, 192, 384, 768)): "convnext_tiny",
    ((3, 3, 27, 3), (96, 192, 384, 768)): "convnext_small",
    ((3, 3, 27, 3), (128, 256, 512, 1024)): "convnext_base",
    ((3, 3, 27, 3), (192, 384, 768, 1536)): "convnext_large",
}
MOST_BLOCKS, MOST_STAGES = 200, 6  # more than any Swin or ConvNeXt has
LARGEST_WINDOW = 32  # an attention index grows with the window's fourth power; known models have 6 to 24
CONVNEXT_IMAGE_SIZE = 224


@dataclass(frozen=True)
class Architecture:
    """Settings of an [`ArkConfig`]; `image_size_source` says where the image size comes from."""

    backbone: str
    backbone_kwargs: dict[str, Any] | None
    drop_path_rate: float
    image_size: int
    image_size_source: str
    description: str


def infer_architecture(encoder: dict[str, torch.Tensor], size_of_heads: int | None = None) -> Architecture:
    """
    Reads the architecture of a Swin v1 or ConvNeXt v1 encoder from its tensors, in the layout of timm 0.5.4.

    Args:
        size_of_heads: Side in pixels of the pictures that heads beside a Swin are for, where they depend on it.

    Raises:
        ValueError: A tensor that the architecture depends on is missing or of an impossible shape, or image sizes
            contradict each other.
    """
    return _swin(encoder, size_of_heads) if "patch_embed.proj.weight" in encoder else _convnext(encoder)


def _swin(encoder: dict[str, torch.Tensor], size_of_heads: int | None) -> Architecture:
    embed_dim, channels, patch, patch_width = _shape(encoder, "patch_embed.proj.weight", 4)
    if channels != 3 or patch != patch_width or patch < 1:
        raise ValueError(
            f"patches of {patch}x{patch_width} pixels and {channels} channels; they must be square, of 3."
        )
    depths = _depths(encoder, r"layers\.(\d+)\.blocks\.(\d+)\.")
    tables = [
        [_shape(encoder, f"layers.{stage}.blocks.{block}.attn.relative_position_bias_table", 2) for block in range(n)]
        for stage, n in enumerate(depths)
    ]
    if any(table != stage[0] for stage in tables for table in stage):
        raise ValueError("the relative position tables of a stage differ in shape.")
    num_heads = tuple(stage[0][1] for stage in tables)
    windows = [(math.isqrt(stage[0][0]) + 1) // 2 for stage in tables]
    if any((2 * w - 1) ** 2 != stage[0][0] or w > LARGEST_WINDOW for w, stage in zip(windows, tables, strict=True)):
        rows = [stage[0][0] for stage in tables]
        raise ValueError(f"relative position tables of {rows} rows belong to no square window up to {LARGEST_WINDOW}.")
    window = max(windows)
    scales = [patch * 2**stage for stage in range(len(depths))]  # pixels a token stands for
    # The mask of a shifted block has one row a window of the image; a window cut short is as large as its stage's map
    sizes = {windows[i] * scales[i] for i in range(len(depths)) if windows[i] < window}
    for key in encoder:
        if match := re.fullmatch(r"layers\.(\d+)\.blocks\.\d+\.attn_mask", key):
            stage, (count, *tokens) = int(match[1]), _shape(encoder, key, 3)
            if tokens != [windows[stage] ** 2] * 2:
                raise ValueError(f"the tensor {key} is not a mask of windows of {windows[stage]} tokens.")
            sizes.add(math.isqrt(count) * windows[stage] * scales[stage])
    source = "attention masks and windows" if sizes else "the window, as the file has no attention masks"
    if size_of_heads is not None:
        source = "attention masks, windows and heads" if sizes else "the heads"
        sizes.add(size_of_heads)
    if len(sizes) > 1:
        raise ValueError(f"{source} of different image sizes: {sorted(sizes)}.")
    image_size = sizes.pop() if sizes else window * scales[-1]
    name = SWINS.get((embed_dim, depths, num_heads, window)) if patch == 4 else None
    settings = {
        "embed_dim": embed_dim,
        "depths": list(depths),
        "num_heads": list(num_heads),
        "window_size": window,
        "patch_size": patch,
    }
    return Architecture(
        backbone=name or "swin_tiny_patch4_window7_224",
        backbone_kwargs=None if name else settings,
        drop_path_rate=0.1,
        image_size=image_size,
        image_size_source=source,
        description=f"Swin, embed_dim {embed_dim}, depths {depths}, heads {num_heads}, window {window}",
    )


def _convnext(encoder: dict[str, torch.Tensor]) -> Architecture:
    _, channels, *_ = _shape(encoder, "downsample_layers.0.0.weight", 4)
    if channels != 3:
        raise ValueError(f"an encoder of {channels} channels; it must have 3.")
    depths = _depths(encoder, r"stages\.(\d+)\.(\d+)\.")
    keys = [
        "downsample_layers.0.0.weight",
        *(f"downsample_layers.{stage}.1.weight" for stage in range(1, len(depths))),
    ]
    dims = tuple(_shape(encoder, key, 4)[0] for key in keys)
    name = CONVNEXTS.get((depths, dims))
    return Architecture(
        backbone=name or "convnext_tiny",
        backbone_kwargs=None if name else {"depths": list(depths), "dims": list(dims)},
        drop_path_rate=0.0,
        image_size=CONVNEXT_IMAGE_SIZE,
        image_size_source="the default, as a ConvNeXt runs at any size",
        description=f"ConvNeXt, dims {dims}, depths {depths}",
    )


def _depths(encoder: dict[str, torch.Tensor], pattern: str) -> tuple[int, ...]:
    """Blocks of each stage; both are numbered from 0 without gaps."""
    found: dict[int, set[int]] = {}
    for key in encoder:
        if match := re.match(pattern, key):
            found.setdefault(int(match[1]), set()).add(int(match[2]))
    blocks = [sorted(found[stage]) for stage in sorted(found)]
    if not blocks or sorted(found) != list(range(len(found))) or any(b != list(range(len(b))) for b in blocks):
        raise ValueError("stages or blocks of the encoder are missing; the file is not whole.")
    if len(blocks) > MOST_STAGES or sum(len(stage) for stage in blocks) > MOST_BLOCKS:
        raise ValueError(f"{sum(map(len, blocks))} blocks in {len(blocks)} stages are no known Swin or ConvNeXt.")
    return tuple(len(stage) for stage in blocks)


def _shape(encoder: dict[str, torch.Tensor], key: str, dimensions: int) -> tuple[int, ...]:
    if key not in encoder:
        raise ValueError(f"the tensor {key} is missing.")
    shape = tuple(encoder[key].shape)
    if len(shape) != dimensions or 0 in shape:
        raise ValueError(f"the tensor {key} has the shape {shape}; it must have {dimensions} dimensions, none empty.")
    return shape

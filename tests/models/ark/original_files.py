"""Writes files in the layouts of the original releases, from the specification alone (sections 1, 2 and 11)."""

import numpy as np
import torch

from .golden import weight_by_rule

RELEASED_SIZES = [14, 14, 14, 3, 6, 1]


def swin_state_dict(
    seed: int = 0,
    image_size: int = 32,
    window: int = 2,
    embed_dim: int = 8,
    depths: tuple[int, ...] = (2, 2),
    num_heads: tuple[int, ...] = (2, 4),
    heads: list[int] | None = None,
    projector: str | None = "linear",
    projector_dim: int = 12,
) -> dict[str, torch.Tensor]:
    """A tiny Ark Swin as timm 0.5.4 names it: weights by rule, the buffers, and the unused `head` of 1000 classes."""
    shapes: dict[str, list[int]] = {
        "patch_embed.proj.weight": [embed_dim, 3, 4, 4],
        "patch_embed.proj.bias": [embed_dim],
        **norm("patch_embed.norm", embed_dim),
    }
    buffers = {}
    for stage, (depth, number) in enumerate(zip(depths, num_heads, strict=True)):
        width, side = embed_dim * 2**stage, image_size // 4 // 2**stage
        local = min(window, side)
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            shapes |= norm(f"{name}.norm1", width)
            shapes[f"{name}.attn.relative_position_bias_table"] = [(2 * local - 1) ** 2, number]
            shapes |= linear(f"{name}.attn.qkv", width, 3 * width) | linear(f"{name}.attn.proj", width, width)
            shapes |= norm(f"{name}.norm2", width)
            shapes |= linear(f"{name}.mlp.fc1", width, 4 * width) | linear(f"{name}.mlp.fc2", 4 * width, width)
            buffers[f"{name}.attn.relative_position_index"] = position_index(local)
            if block % 2 and side > window:
                buffers[f"{name}.attn_mask"] = shift_mask(side, window)
        if stage < len(depths) - 1:
            shapes |= norm(f"layers.{stage}.downsample.norm", 4 * width)
            shapes[f"layers.{stage}.downsample.reduction.weight"] = [2 * width, 4 * width]
    shapes |= norm("norm", width) | linear("head", width, 1000)
    if projector is not None:
        shapes |= linear("projector" if projector == "linear" else "projector.0", width, projector_dim)
        if projector == "mlp":
            shapes |= linear("projector.2", projector_dim, projector_dim)
    for number, size in enumerate(RELEASED_SIZES if heads is None else heads):
        shapes |= linear(f"omni_heads.{number}", width if projector is None else projector_dim, size)
    return {key: weight_by_rule(key, shape, seed) for key, shape in shapes.items()} | buffers


def peac_state_dict(
    seed: int = 0, cell: int = 8, places: int = 16, width: int = 16, local: bool = True, **swin
) -> dict[str, torch.Tensor]:
    """A tiny PEAC model, a Swin without classes and four heads; three if not `local`, as in one of its versions."""
    encoder = swin_state_dict(seed, projector=None, heads=[], **swin)
    del encoder["head.weight"], encoder["head.bias"]
    shapes = {"bias": [places]} | linear("head", width, places)
    shapes |= {"decoder.0.weight": [3 * cell**2, width, 1, 1], "decoder.0.bias": [3 * cell**2]}
    for name, (first, second, last) in [("mlp", (12, 10, 6))] + [("mlp_local", (9, 7, 5))] * local:
        shapes |= linear(f"{name}.0", width, first) | norm(f"{name}.1", first)
        shapes |= linear(f"{name}.3", first, second) | norm(f"{name}.4", second)
        shapes[f"{name}.6.weight"] = [last, second]
    heads = {key: weight_by_rule(key, shape, seed) for key, shape in shapes.items()}
    return with_prefix(encoder, "swin_model.") | heads | {"head.bias": heads["bias"]}


def norm(name: str, width: int) -> dict[str, list[int]]:
    return {f"{name}.weight": [width], f"{name}.bias": [width]}


def linear(name: str, inputs: int, outputs: int) -> dict[str, list[int]]:
    return {f"{name}.weight": [outputs, inputs], f"{name}.bias": [outputs]}


def position_index(window: int) -> torch.Tensor:
    """(window², window²) int64: row of the bias table for each pair of query and key."""
    y, x = np.divmod(np.arange(window**2), window)
    dy, dx = y[:, None] - y[None], x[:, None] - x[None]
    return torch.from_numpy((dy + window - 1) * (2 * window - 1) + dx + window - 1)


def shift_mask(side: int, window: int) -> torch.Tensor:
    """(windows, window², window²): -100 between tokens that the cyclic shift brought together from afar."""
    shift = window // 2
    strip = np.digitize(np.arange(side), [side - window, side - shift])
    region = 3 * strip[:, None] + strip[None]
    windows = region.reshape(side // window, window, -1, window).transpose(0, 2, 1, 3).reshape(-1, window**2)
    return torch.from_numpy(np.where(windows[:, :, None] == windows[:, None], 0.0, -100.0).astype(np.float32))


def training_checkpoint(student: dict, teacher: dict) -> dict:
    """As the official engine writes it, with the numpy scalar that plain `weights_only=True` refuses."""
    return {
        "epoch": 3,
        "lossMIN": [0.5, 0.25],
        "state_dict": student,
        "teacher": teacher,
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(0.1), "betas": (0.9, 0.999), "params": [0, 1]}]},
        "scheduler": {"base_values": [0.3], "warmup_steps": [np.float64(0.01)]},
    }


def with_prefix(weights: dict, prefix: str) -> dict:
    return {prefix + key: value for key, value in weights.items()}

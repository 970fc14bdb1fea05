"""The heads of an original PEAC checkpoint, under the names that they have here (specification, section 9)."""

import math
from collections.abc import Mapping

import torch

PROJECTORS = {"mlp": "global_projector", "mlp_local": "local_projector"}
LINEARS = (0, 3, 6)  # which of a projector's layers; between them LayerNorm and ReLU
PARAMETERS = "0.weight 0.bias 1.weight 1.bias 3.weight 3.bias 4.weight 4.bias 6.weight".split()
OUR_NAMES = {
    "bias": "order.bias",  # one tensor of two names
    "head.bias": "order.bias",
    "head.weight": "order.weight",
    "decoder.0.weight": "restoration.weight",
    "decoder.0.bias": "restoration.bias",
    **{f"{theirs}.{each}": f"{ours}.{each}" for theirs, ours in PROJECTORS.items() for each in PARAMETERS},
}
THEIR_NAMES = {ours: theirs for theirs, ours in OUR_NAMES.items()}


def convert_peac_heads(original: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Renames the heads of a PEAC checkpoint, in float32, after a check that they are whole and fit each other.

    Args:
        original: By the keys of `OUR_NAMES`. The local projector may be missing: a version of PEAC has none.

    Raises:
        ValueError: Tensors are missing, contradict each other or are of another shape; the message names them.
    """
    heads: dict[str, torch.Tensor] = {}
    for key, value in original.items():
        if not value.is_floating_point() or value.numel() == 0 or value.ndim == 0:
            raise ValueError(f"{key}, of PEAC's heads, is a {value.dtype} of shape {tuple(value.shape)}, no weights.")
        name, value = OUR_NAMES[key], value.to(torch.float32, copy=True)  # may be mapped from the file
        if name in heads and not torch.equal(heads[name], value):
            raise ValueError("`bias` and `head.bias` are one tensor of PEAC's order head, but they differ.")
        heads[name] = value
    optional = () if _has(heads, "local_projector") else ("mlp_local.",)
    missing = [key for name, key in THEIR_NAMES.items() if name not in heads and not key.startswith(optional)]
    if missing:
        raise ValueError(f"PEAC's heads are not whole: tensors are missing ({len(missing)}), such as {missing[:3]}.")
    misshapen = [
        f"{THEIR_NAMES[name]} {tuple(heads[name].shape)} instead of {shape}"
        for name, shape in _shapes(heads).items()
        if heads[name].shape != shape
    ]
    if misshapen:
        raise ValueError(f"PEAC's heads do not fit each other: {', '.join(misshapen[:3])}.")
    return heads


def cell_of(heads: Mapping[str, torch.Tensor]) -> int:
    """Side in pixels of the cells that the restoration head gives, each in three channels."""
    numbers = len(heads["restoration.weight"])
    cell = math.isqrt(numbers // 3)
    if numbers != 3 * cell**2:
        raise ValueError(f"decoder.0.weight, of PEAC's heads, has {numbers} rows, not 3 for each pixel of a square.")
    return cell


def image_size_of(heads: Mapping[str, torch.Tensor]) -> int:
    """Side in pixels of the pictures whose cells the order head tells apart."""
    places = len(heads["order.weight"])
    side = math.isqrt(places)
    if places != side**2:
        raise ValueError(f"head.weight, of PEAC's heads, has {places} rows, not one for each cell of a square.")
    return side * cell_of(heads)


def check_fit_of_heads(heads: Mapping[str, torch.Tensor], width: int, cell: int) -> None:
    """Raises `ValueError` if the heads are not of tokens of `width` numbers, each for a square of `cell` pixels."""
    theirs = heads["order.weight"].shape[1], cell_of(heads)
    if theirs != (width, cell):
        raise ValueError(
            f"PEAC's heads are of {theirs[0]} features for a cell of {theirs[1]} pixels, but the encoder gives "
            f"{width} for a cell of {cell}."
        )


def describe_heads(heads: Mapping[str, torch.Tensor]) -> str:
    """Such as "order (196 places), restoration (cells of 32 pixels), global_projector (8192, 8192, 8192)"."""
    told = {"order": f"order ({len(heads['order.weight'])} places)"} if _has(heads, "order") else {}
    told |= {"restoration": f"restoration (cells of {cell_of(heads)} pixels)"}
    told |= {name: f"{name} {_widths(heads, name)}" for name in PROJECTORS.values() if _has(heads, name)}
    fresh = [name for name in ("order", *PROJECTORS.values()) if name not in told]
    return ", ".join(told.values()) + (f"; training begins afresh with {' and '.join(fresh)}" if fresh else "")


def _has(heads: Mapping[str, torch.Tensor], head: str) -> bool:
    return any(name.startswith(f"{head}.") for name in heads)


def _widths(heads: Mapping[str, torch.Tensor], projector: str) -> tuple[int, ...]:
    return tuple(len(heads[f"{projector}.{number}.weight"]) for number in LINEARS)


def _shapes(heads: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Those that heads of these numbers of outputs must have, on tokens as wide as the order head's."""
    places, numbers = len(heads["order.weight"]), len(heads["restoration.weight"])
    width = heads["order.weight"].shape[-1]
    shapes: dict[str, tuple[int, ...]] = {
        "order.weight": (places, width),
        "order.bias": (places,),
        "restoration.weight": (numbers, width, 1, 1),
        "restoration.bias": (numbers,),
    }
    for name in PROJECTORS.values():
        if _has(heads, name):
            first, second, last = _widths(heads, name)
            sizes = [(first, width), *[(first,)] * 3, (second, first), *[(second,)] * 3, (last, second)]
            shapes |= {f"{name}.{each}": size for each, size in zip(PARAMETERS, sizes, strict=True)}
    return shapes

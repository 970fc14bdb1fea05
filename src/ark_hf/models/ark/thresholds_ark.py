"""Operating points hold for the weights that they were found on alone: by which digest these are known again."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch

from .configuration_ark import ArkConfig


def weights_digests(weights: Mapping[str, torch.Tensor], config: ArkConfig) -> dict[str, str]:
    """
    Of each task with thresholds a sha256 over all that its probabilities come from.

    That is the encoder, the projector and the task's own head: names, shapes and values as float32; and the side of
    the input. So it does not change with other heads, with the files that weights are stored in, nor by storing them
    in a wider type. 800 MB take less than a second on two cores.

    Args:
        weights: State dict of an `ArkForImageClassification`, on any device but "meta".
        config: Of the same model.
    """
    names = [task.name for task in config.tasks or [] if task.thresholds]
    if not names:
        return {}
    wanted = tuple(f"heads.{name}." for name in names)
    chosen = sorted(key for key in weights if key.startswith("ark.") or key.startswith(wanted))
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        lines = dict(zip(chosen, pool.map(lambda key: _line(key, weights[key]), chosen), strict=True))
    digests = {}
    for name in names:
        own = [line for key, line in lines.items() if key.startswith(("ark.", f"heads.{name}."))]
        digests[name] = hashlib.sha256("\n".join([f"image_size {config.image_size}", *own]).encode()).hexdigest()
    return digests


def _line(name: str, tensor: torch.Tensor) -> str:
    values = tensor.detach().to("cpu", torch.float32).reshape(-1).numpy()
    return f"{name} {tuple(tensor.shape)} {hashlib.sha256(values).hexdigest()}"

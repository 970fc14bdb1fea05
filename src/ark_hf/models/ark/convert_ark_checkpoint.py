"""From the original Ark releases' parameter names to ours (specification of the originals, sections 1 and 2)."""

import sys

import torch

from .modeling_ark import ArkForImageClassification


def convert_state_dict(original: dict[str, torch.Tensor], model: ArkForImageClassification) -> dict[str, torch.Tensor]:
    """
    Renames an original state dict (no `module.` prefix) to `model`'s keys; head number i becomes the i-th task's.

    The unused 1000-class `head` and the constant attention buffers are left out. timm's own filter knows how the
    older Swin and ConvNeXt layouts map to its present one.
    """
    task_names = [task.name for task in model.config.tasks or []]
    converted, encoder_part = {}, {}
    for key, value in original.items():
        top, _, rest = key.partition(".")
        if top == "omni_heads":
            number, _, parameter = rest.partition(".")
            converted[f"heads.{task_names[int(number)]}.{parameter}"] = value
        elif top == "projector":
            converted[f"ark.{key}"] = value
        elif top != "head":
            encoder_part[key] = value
    encoder = model.ark.encoder
    filtered = sys.modules[type(encoder).__module__].checkpoint_filter_fn(encoder_part, encoder)
    return converted | {f"ark.encoder.{key}": value for key, value in filtered.items()}

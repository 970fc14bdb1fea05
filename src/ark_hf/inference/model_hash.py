"""By which digest a model is known again that makes the same embeddings of the same pictures."""

import hashlib
import json

import torch

from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.modeling_ark import ArkModel

# What decides how a picture becomes an embedding, beside the weights
_MODEL_SETTINGS = (
    "backbone", "backbone_kwargs", "image_size", "num_channels", "projector_dim", "projector_type"
)  # fmt: skip
_VIEW_SETTINGS = (
    "do_convert_rgb", "do_resize", "intermediate_size", "size", "resample", "do_center_crop", "do_ten_crop",
    "crop_size", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std",
)  # fmt: skip


def hash_model(model: ArkModel, processor: ArkImageProcessor, dtype: torch.dtype | None = None) -> str:
    """
    SHA-256, 64 hexadecimal digits, of what makes an embedding: architecture, every weight of encoder and projector in
    the type that it computes in, and the processor's view. Heads, names and folders do not count, nor do libraries,
    devices and compiling, whose embeddings agree but for rounding.

    Args:
        dtype: What the model would compute in if it were cast; what it computes in unless given.
    """
    view = processor.to_dict()
    settings = {name: getattr(model.config, name) for name in _MODEL_SETTINGS}
    settings |= {name: view.get(name) for name in _VIEW_SETTINGS}
    settings |= {name: view[name] for name in ("modalities",) if name in view}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=dict).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())  # NumPy has no bfloat16
    return digest.hexdigest()

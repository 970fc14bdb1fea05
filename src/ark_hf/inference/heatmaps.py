"""Heat maps: which places of a picture speak for a label.

The method is HiResCAM (Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional
neural networks", arXiv:2011.08891): gradient times activation at the encoder's last spatial layer, summed over its
channels. Where the encoder's tokens are averaged and all that follows is linear, the places' contributions add up to
the logit less what it is without any activation; otherwise they are a first-order account of it.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from ..models.ark.modeling_ark import ArkForImageClassification

SUPPORTED = "Heat maps know Swin, ConvNeXt, ResNet, EfficientNet and ViT, and timm encoders that are built like them"
_AFTER_LAST_SPATIAL_LAYER = ("global_pool", "attn_pool", "fc_norm", "pre_logits", "head_drop", "head", "classifier")


def heat_maps(model: ArkForImageClassification, pixel_values: torch.Tensor, labels: Sequence[int]) -> np.ndarray:
    """
    What speaks for each label and where, scaled so that the hottest place of every map is 1.

    Maps of different labels or pictures are therefore not comparable in height; [`contributions`] are.

    Args:
        model: On any device, in any mode and dtype; it is left as it was.
        pixel_values: (batch, num_channels, image_size, image_size), as the image processor gives them.
        labels: Indices into `config.id2label`.

    Returns:
        float32 (batch, labels, rows, columns) in [0, 1], a value a place of the encoder's last grid, which covers the
        whole of the model's input; all 0 where nothing speaks for the label.

    Raises:
        ValueError: As [`contributions`].
    """
    positive = contributions(model, pixel_values, labels).clamp(min=0)
    hottest = positive.amax(dim=(2, 3), keepdim=True)
    return torch.where(hottest > 0, positive / hottest, 0).cpu().numpy()


def contributions(model: ArkForImageClassification, pixel_values: torch.Tensor, labels: Sequence[int]) -> torch.Tensor:
    """
    How much each place adds to (or, negative, takes from) the score of each label: the log-odds that the model gives
    without `task`, or the raw logit of a model with one head.

    One forward pass serves all labels, and gradients go back no further than the last spatial layer. Memory beyond
    that pass: two float arrays (batch, labels, rows, columns, channels). The model must not be used by another thread
    meanwhile.

    Args:
        model, pixel_values, labels: As in [`heat_maps`].

    Returns:
        float32 (batch, labels, rows, columns) on the model's device, in units of the score.

    Raises:
        ValueError: There is no such label, or the backbone's layout is not known.
    """
    from captum.attr import LayerGradientXActivation  # its import takes a while, and only heat maps need it

    labels = list(labels)
    if not labels or not set(labels) <= set(range(model.config.num_labels)):
        raise ValueError(f"labels must be indices below {model.config.num_labels}, at least one, not {labels}.")
    encoder = model.base_model.encoder

    def scores_one_by_one(pixel_values: torch.Tensor) -> torch.Tensor:
        return model(pixel_values).logits[:, labels].flatten()

    with torch.inference_mode(False), _as_for_inference(model):
        pixel_values = pixel_values.to(model.device, model.dtype, copy=True)  # autograd takes no inference tensors
        # Captum differentiates the sum of all scores; batched unit vectors as their weights keep the labels apart
        apart = torch.eye(len(labels), device=model.device).repeat(len(pixel_values), 1)
        products = LayerGradientXActivation(scores_one_by_one, last_spatial_layer(encoder)).attribute(
            pixel_values, grad_kwargs={"grad_outputs": apart.unbind(), "is_grads_batched": True}
        )
    return _sum_over_channels(products.detach(), encoder).transpose(0, 1)


def last_spatial_layer(encoder: nn.Module) -> nn.Module:
    """
    The last module whose output still has a place for everything that the score depends on.

    That is the last one before the pooling. A ViT that reads its class token is the exception: after the last block's
    attention nothing depends on the other tokens any more, so there it is the norm before that attention.

    Raises:
        ValueError: The encoder has no such module where timm's encoders have it.
    """
    if getattr(encoder, "global_pool", None) == "token":
        blocks = getattr(encoder, "blocks", None)
        if blocks and hasattr(blocks[-1], "norm1"):
            return blocks[-1].norm1
    else:
        last = None
        for name, child in encoder.named_children():  # in the order in which they run
            if name in _AFTER_LAST_SPATIAL_LAYER and last is not None and not isinstance(last, nn.ModuleList):
                return last
            last = child
    raise ValueError(f"{SUPPORTED}; {type(encoder).__name__} is not.")


def _sum_over_channels(products: torch.Tensor, encoder: nn.Module) -> torch.Tensor:
    """(labels, batch, ...) in the layout of the encoder, to float32 (labels, batch, rows, columns)."""
    shape, width = tuple(products.shape[2:]), encoder.num_features
    if len(shape) == 2 and shape[1] == width and hasattr(encoder, "num_prefix_tokens"):
        patches = products[:, :, encoder.num_prefix_tokens :]
        side = math.isqrt(patches.shape[2])
        if side * side == patches.shape[2]:
            return patches.float().sum(dim=-1).unflatten(-1, (side, side))
    elif len(shape) == 3:
        channels = 2 if getattr(encoder, "output_fmt", "NCHW") == "NHWC" else 0
        if shape[channels] == width:
            return products.float().sum(dim=2 + channels)
    raise ValueError(f"{SUPPORTED}; the last layer of {type(encoder).__name__} has shape {shape} a picture.")


@contextmanager
def _as_for_inference(model: ArkForImageClassification) -> Iterator[None]:
    """Eval mode, and no graph before the layer that captum asks for; afterwards everything is as it was."""
    checkpointing = model.base_model.gradient_checkpointing
    if checkpointing:  # it runs layers a second time, or their parts one by one, so that captum does not see them
        model.base_model.encoder.set_grad_checkpointing(False)
    modes = {module: module.training for module in model.modules()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter in trainable:
            parameter.requires_grad_()
        if checkpointing:
            model.base_model.encoder.set_grad_checkpointing()

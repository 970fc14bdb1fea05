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
from ..models.ark.modeling_ark_segmentation import ArkForSemanticSegmentation
from ..models.compile_blocks import hooks_noticed

SUPPORTED = "Heat maps know Swin, ConvNeXt, ResNet, EfficientNet and ViT, and timm encoders that are built like them"
MAPS_AT_ONCE = 64  # each takes two arrays of the last spatial layer's size
_AFTER_LAST_SPATIAL_LAYER = ("global_pool", "attn_pool", "fc_norm", "pre_logits", "head_drop", "head", "classifier")


class ExplainedPass:
    """
    A forward pass, of which the places' contributions to any score can be had once the scores are known.

    Gradients go back no further than the last spatial layer. The pass is for inference: the model may be in any mode
    and dtype, and is left as it was; it must not be used by another thread meanwhile.

    Args:
        model: On any device.
        pixel_values: (batch, num_channels, image_size, image_size), as the image processor gives them.

    Attributes:
        logits: float64 (batch, num_labels) on the CPU: the log-odds that the model gives without `task`, or the raw
            logits of a model with one head.
        embeddings: (batch, width), as the model gives them.

    Raises:
        ValueError: The backbone's layout is not known, or the model is a segmenter.
    """

    def __init__(self, model: ArkForImageClassification, pixel_values: torch.Tensor):
        if isinstance(model, ArkForSemanticSegmentation):
            raise ValueError("Heat maps are of classifiers; a segmenter's masks say where it sees what.")
        self._encoder = model.base_model.encoder
        layer = last_spatial_layer(self._encoder)
        activations = []

        def start_graph(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
            activations.append(output.detach().requires_grad_())
            return activations[0].clone()  # what follows may write into it

        noticed = hooks_noticed(model, layer)
        with torch.inference_mode(False), torch.enable_grad(), _as_for_inference(model), noticed:
            pixel_values = pixel_values.to(model.device, model.dtype, copy=True)  # autograd takes no inference tensors
            with layer.register_forward_hook(start_graph):
                outputs = model(pixel_values)
        self._scores, self.embeddings = outputs.logits, outputs.embeddings.detach()
        self._activation = activations[0]
        self.logits = self._scores.detach().cpu().double()

    def contributions(self, labels: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """
        How much each place adds to (or, negative, takes from) the scores of the labels.

        Args:
            labels: Of each picture some labels, indices into `config.id2label`.

        Returns:
            Of each picture float32 (its labels, rows, columns) on the model's device, in units of the score.

        Raises:
            ValueError: There is no such label, or the backbone's layout is not known.
        """
        (pictures, known), most = self._scores.shape, max(map(len, labels), default=0)
        for each in labels:
            if not each or not set(each) <= set(range(known)):
                raise ValueError(f"labels must be indices below {known}, at least one, not {list(each)}.")
        padded = [[*each, *each[:1] * (most - len(each))] for each in map(list, labels)]
        maps = []
        with torch.inference_mode(False), torch.enable_grad():
            # A gradient has one label of every picture, as no picture's score depends on another picture
            every = torch.tensor(padded, device=self._scores.device)
            for columns in every.split(max(1, MAPS_AT_ONCE // pictures), dim=1):
                totals = self._scores.gather(1, columns).sum(dim=0)
                apart = torch.eye(len(totals), device=totals.device, dtype=totals.dtype)
                (gradients,) = torch.autograd.grad(
                    totals, self._activation, apart, retain_graph=True, is_grads_batched=True
                )
                maps.append(_sum_over_channels(gradients * self._activation.detach(), self._encoder))
        return [found[: len(each)] for found, each in zip(torch.cat(maps).transpose(0, 1), labels, strict=True)]

    def heat_maps(self, labels: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """
        What speaks for the labels and where, scaled so that the hottest place of every map is 1.

        Maps of different labels or pictures are therefore not comparable in height; [`contributions`] are.

        Args, Raises: as in [`contributions`].

        Returns:
            Of each picture float32 (its labels, rows, columns) in [0, 1], a value a place of the encoder's last grid,
            which covers the whole of the model's input; all 0 where nothing speaks for the label.
        """
        maps = []
        for found in self.contributions(labels):
            positive = found.clamp(min=0)
            hottest = positive.amax(dim=(1, 2), keepdim=True)
            maps.append(torch.where(hottest > 0, positive / hottest, 0).cpu().numpy())
        return maps


def heat_maps(model: ArkForImageClassification, pixel_values: torch.Tensor, labels: Sequence[int]) -> np.ndarray:
    """
    What speaks for the same labels in each picture, and where; see [`ExplainedPass`], which also tells the scores.

    Args:
        model, pixel_values: As for [`ExplainedPass`].
        labels: Indices into `config.id2label`.

    Returns:
        float32 (batch, labels, rows, columns) in [0, 1], as [`ExplainedPass.heat_maps`] gives them.

    Raises:
        ValueError: There is no such label, or the backbone's layout is not known.
    """
    return np.stack(ExplainedPass(model, pixel_values).heat_maps([labels] * len(pixel_values)))


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
    """Eval mode, and no graph of the parameters; afterwards everything is as it was."""
    checkpointing = model.base_model.gradient_checkpointing
    if checkpointing:  # it runs layers a second time, or their parts one by one, past the hook
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

"""What of the encoder is trained, and how fast: frozen stages and layer-wise learning-rate decay."""

from typing import Any

from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn

from ...models.ark.modeling_ark import ArkPreTrainedModel
from ...models.genesis.modeling_genesis import GenesisPreTrainedModel


def freeze_encoder(model: ArkPreTrainedModel | GenesisPreTrainedModel, freeze: str) -> None:
    """
    Stops the training of the encoder or of its first stages, for good: whatever `model.train()` is told later, their
    normalising statistics stay, and no path in them is dropped.

    Args:
        model: Changed in place.
        freeze: "none", "encoder", or a number of stages (of a ViT blocks, of a Genesis levels) from the image; the
            stem counts as 0.

    Raises:
        ValueError: The encoder has fewer stages.
    """
    if freeze == "none":
        return
    encoder: Any = model.base_model.encoder
    if isinstance(model, GenesisPreTrainedModel):
        stage_of = {name: int(name.split(".")[1]) + 1 for name, _ in encoder.named_parameters()}
    else:
        stage_of = group_parameters(encoder, encoder.group_matcher(coarse=True), reverse=True)
    last = max(stage_of.values())  # of some encoders the norm behind the last stage
    frozen = last if freeze == "encoder" else int(freeze)
    if frozen > last:
        name = getattr(model.config, "backbone", model.config.model_type)
        raise ValueError(f"freeze: the encoder {name!r} has {last} stages, not {freeze}.")
    for name, parameter in encoder.named_parameters():
        if stage_of.get(name, last) <= frozen:
            parameter.requires_grad_(False)
    for module in encoder.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            _keep_in_eval_mode(module)


def _keep_in_eval_mode(module: nn.Module) -> None:
    module.eval()
    module.train = lambda mode=True: module  # type: ignore[method-assign]


def parameter_groups(
    model: ArkPreTrainedModel | GenesisPreTrainedModel, learning_rate: float, layer_decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """
    Groups for an optimiser: each layer of the encoder learns `layer_decay` times as fast as the one behind it, the
    last layer, the projector and the heads or the decoder at `learning_rate` (Bao et al., BEiT, 2022). Biases and
    norms do not decay. All of a Genesis learns at `learning_rate`.

    Parameters that are not trained are in no group.
    """
    encoder: Any = model.base_model.encoder
    groups: list[dict[str, Any]] = []
    of_encoder: set[int] = set()
    if not isinstance(model, GenesisPreTrainedModel):
        skipped = encoder.no_weight_decay() if hasattr(encoder, "no_weight_decay") else ()
        groups = param_groups_layer_decay(encoder, weight_decay, skipped, layer_decay=layer_decay)
        for group in groups:
            group["lr"] = learning_rate * group.pop("lr_scale")
        of_encoder = {id(parameter) for parameter in encoder.parameters()}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in of_encoder]
    for decay, chosen in (
        (weight_decay, [p for p in others if p.ndim > 1]),
        (0.0, [p for p in others if p.ndim <= 1]),
    ):
        if chosen:
            groups.append({"params": chosen, "weight_decay": decay, "lr": learning_rate})
    return groups

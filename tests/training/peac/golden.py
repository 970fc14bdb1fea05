"""PEAC's golden cases: the original's tensors by rule, under our names."""

import torch

from ark_hf.models.ark.configuration_ark import ArkConfig
from ark_hf.models.ark.convert_ark_checkpoint import _swin_key
from ark_hf.models.ark.modeling_ark import ArkModel
from ark_hf.training.peac.heads import PeacHeads, PeacModel

from ...models.ark.golden import weight_by_rule

HEADS = {
    "bias": "order.bias",
    "head.weight": "order.weight",
    "decoder.0.": "restoration.",
    "mlp.": "global_projector.",
    "mlp_local.": "local_projector.",
}
SIZE, CELL = 448, 32


def our_key(original: str) -> str:
    """The name in [`PeacModel`] of one of the original's tensors."""
    if original.startswith("swin_model."):
        return f"ark.encoder.{_swin_key(original.removeprefix('swin_model.'))}"
    name = next(name for name in HEADS if original == name or name.endswith(".") and original.startswith(name))
    return f"heads.{HEADS[name]}{original.removeprefix(name)}"


def build(case: dict, parameters: list[str]) -> PeacModel:
    """The case's network, its parameters by the rule under their original names."""
    config = ArkConfig(
        backbone="swin_base_patch4_window7_224",
        backbone_kwargs={"embed_dim": case["hidden_size"], "depths": case["depth"], "num_heads": case["heads"]},
        image_size=SIZE,
        projector_dim=None,
        drop_path_rate=0.0,
    )
    dims = [[int(width) for width in case[name].split("-")] for name in ("mlp", "mlp_local")]
    model = PeacModel(ArkModel(config), PeacHeads(8 * case["hidden_size"], (SIZE // CELL) ** 2, CELL, 3, *dims))
    ours = model.state_dict()
    values = {
        our_key(key): weight_by_rule(key, list(ours[our_key(key)].shape), case["weight_seed"]) for key in parameters
    }
    missing, unexpected = model.load_state_dict(values, strict=False)
    assert not missing and not unexpected
    return model


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 (n, H, W, 3) as the original's network takes it."""
    return ((images.double() / 255 - 0.5056) / 0.252).float().permute(0, 3, 1, 2).contiguous()

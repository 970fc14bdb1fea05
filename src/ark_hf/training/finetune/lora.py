"""Low-rank adapters in the encoder (Hu et al., LoRA, ICLR 2022), through `peft`."""

from typing import Any

from torch import nn

from ...models.ark.modeling_ark import ArkForImageClassification

# Last parts of the names of timm's linear layers: of a Swin and a ViT the attention's two (`qkv`, `proj`) and the two
# of the perceptron behind it, of a ConvNeXt the two of each block's perceptron
TARGETS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


def add_adapters(model: ArkForImageClassification, rank: int) -> Any:
    """
    Freezes the encoder and adds adapters of the given rank, scaled by 2, to the layers of [`TARGETS`] that it has. The
    projector and the heads are trained in full.

    Args:
        model: Changed in place.
        rank: Width of the adapters, at least 1.

    Returns:
        The `PeftModel` around it. Its `merge_and_unload()` adds the adapters to the weights and gives `model` back.

    Raises:
        ValueError: `peft` is not installed, or the encoder has none of these layers.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ValueError("lora_rank needs peft: pip install peft.") from None
    layers = [f"ark.encoder.{name}" for name, _ in model.ark.encoder.named_modules() if name.endswith(TARGETS)]
    if not layers:
        raise ValueError(
            f"lora_rank: the encoder {model.config.backbone!r} has none of the layers that take adapters, "
            f"{', '.join(TARGETS)}; Swin, ViT and ConvNeXt have. Train it in full, or freeze stages."
        )
    others = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith("ark.encoder.")
    ]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers, modules_to_save=others)
    return get_peft_model(model, config)

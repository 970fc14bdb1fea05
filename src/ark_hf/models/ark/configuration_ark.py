"""Configuration of Ark: one encoder, one projector and one named head per dataset (task)."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .tasks_ark import ArkTask, SegmentationTask, TaskLabelsMixin

MAX_BLOCKS = 1000  # of a stage

# Saved with every config, whichever class is saved: transformers itself would record that class alone
AUTO_MAP = {
    "AutoConfig": "configuration_ark.ArkConfig",
    "AutoModel": "modeling_ark.ArkModel",
    "AutoModelForImageClassification": "modeling_ark.ArkForImageClassification",
    "AutoModelForSemanticSegmentation": "modeling_ark_segmentation.ArkForSemanticSegmentation",
}


@strict
class ArkConfig(TaskLabelsMixin, PreTrainedConfig):
    r"""
    Args:
        backbone: Name of the encoder in timm. Swin, ConvNeXt, ViT and EfficientNet are tested.
        backbone_kwargs: Further arguments of `timm.create_model`, such as `{"window_size": 12}`.
        image_size: Side of the square input in pixels.
        num_channels: Input channels. Its image processor's `image_mean` and `image_std` must have as many.
        projector_dim: Width of the embeddings, 1376 in the papers; `None` leaves the projector out.
        projector_type: "linear", or "mlp" (Linear, ReLU, Linear).
        drop_path_rate: Largest stochastic depth rate, rising linearly over the blocks from 0.
        tasks: One [`ArkTask`] (or its dictionary) a head. `None`: an ordinary classifier with one head `classifier`
            made from `id2label`/`num_labels`.
        segmentation: What a segmenter outlines, a [`SegmentationTask`] (or its dictionary). `None`: a segmenter is an
            exclusive one, without a name, made from `id2label`/`num_labels`. Setting it drops the tasks.
        decoder_type: Of a segmenter: "upernet" or "fpn".
        decoder_channels: Width of the decoder.

    With tasks, `id2label` is derived: `task/label` in head order (plain labels for a single task). With a segmentation
    it names the values of a label map: 0 background, then the labels. A caller's `num_labels` or `id2label` that
    disagrees wins: `tasks` and `segmentation` become `None` and the stored `problem_type` is dropped, so that stock
    fine-tuning scripts get the fresh head that they ask for.

    Raises:
        ValueError: Two tasks of one name, an empty list of tasks, tasks beside a segmentation, or a size that is not
            positive.
    """

    model_type = "ark"
    keys_to_ignore_at_inference = ["embeddings", "hidden_states"]

    backbone: str = "swin_base_patch4_window7_224"
    backbone_kwargs: dict[str, Any] | None = None
    image_size: int = 224
    num_channels: int = 3
    projector_dim: int | None = 1376
    projector_type: Literal["linear", "mlp"] = "linear"
    drop_path_rate: float = 0.1
    tasks: list[Any] | None = None
    segmentation: Any = None
    decoder_type: Literal["upernet", "fpn"] = "upernet"
    decoder_channels: int = 256

    def __post_init__(self, **kwargs):
        for name in ("image_size", "num_channels", "projector_dim", "decoder_channels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be positive, got {value}.")
        depths = [(self.backbone_kwargs or {}).get(name) for name in ("depth", "depths", "layers")]
        blocks = [each for depth in depths for each in (depth if isinstance(depth, (list, tuple)) else [depth])]
        if any(isinstance(each, int) and each > MAX_BLOCKS for each in blocks):  # they would be built one by one
            raise ValueError(f"backbone_kwargs may ask for {MAX_BLOCKS:,} blocks at most, got {blocks!r:.100}.")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must lie in [0, 1), got {self.drop_path_rate}.")
        super().__post_init__(**kwargs)

    @property
    def view(self) -> str:
        """What operating points are bound to beside weights."""
        return f"image_size {self.image_size}"

    def to_dict(self) -> dict[str, Any]:
        output = super().to_dict()
        if self.segmentation is None:  # classifiers are written as before there were segmenters
            for key in ("segmentation", "decoder_type", "decoder_channels"):
                if output.get(key) == getattr(type(self), key):
                    output.pop(key, None)
        output["auto_map"] = dict(AUTO_MAP)
        return output


__all__ = ["ArkConfig", "ArkTask", "SegmentationTask"]

"""From the files of the original Ark releases to our models (specification of the originals, sections 1 to 3)."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...plain_yaml import read_yaml
from ...weights import check_filled, check_tensors, read_weights_file, without_module_prefix
from .configuration_ark import ArkConfig, ArkTask
from .image_processing_ark import ArkImageProcessor
from .modeling_ark import ArkForImageClassification, ArkModel
from .original_architecture import Architecture, infer_architecture
from .original_peac_heads import OUR_NAMES as PEAC_HEADS
from .original_peac_heads import check_fit_of_heads, convert_peac_heads, describe_heads, image_size_of

# The heads of the released models, labels in the order of the outputs. MIMIC's order is alphabetical, whatever the
# official configuration says: the published predictions prove it.
RELEASED_TASKS = (
    ArkTask(
        "mimic_cxr",
        [
            "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture",
            "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia",
            "Pneumothorax", "Support Devices",
        ],
    ),
    ArkTask(
        "chexpert",
        [
            "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
            "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other",
            "Fracture", "Support Devices",
        ],
        eval_labels=["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"],
    ),
    ArkTask(
        "chestxray14",
        [
            "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
            "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
        ],
    ),
    ArkTask("rsna", ["Normal", "No Lung Opacity/Not Normal", "Lung Opacity"], "single_label_classification"),
    ArkTask("vindr_cxr", ["PE", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding"]),
    ArkTask("shenzhen", ["TB"]),
    ArkTask("covidx", ["normal", "pneumonia", "COVID-19"], "single_label_classification"),
)  # fmt: skip
RELEASED_SIZES = [len(task.labels) for task in RELEASED_TASKS]
# What the files are called that the authors give away (specification of the originals, sections 2 and 5)
RELEASED_FILES = {
    "ark6_teacher_ep200_swinb_projector1376_mlp.pth.tar": "Ark-6 of MICCAI 2023, Swin-B at 224 pixels",
    "Ark6_swinLarge768_ep50.pth.tar": "Ark+, Swin-L at 768 pixels",
}
ARK5_SIZES = RELEASED_SIZES[1:6]

# What an Ark model has no use for: a reason and the keys, inside the encoder and, by its prefix, beside it
IGNORED_IN_ENCODER = {
    "attention buffers, which are rebuilt": r"layers\.\d+\.blocks\.\d+\.(attn\.relative_position_index|attn_mask)",
    "the encoder's own classifier": r"head\.(weight|bias)",
    "SimMIM's mask token": r"mask_token",
}
PEAC_PREFIX = "swin_model."
IGNORED_BESIDE_ENCODER = {"encoder.": {"SimMIM's decoder": r"decoder\.0\.(weight|bias)"}}
# What is used beside the encoder, by the encoder's prefix: Ark's projector and heads, and the heads of PEAC
USED_BESIDE_ENCODER = {
    "": r"(omni_heads\.(0|[1-9]\d{0,2})|projector(\.[02])?)\.(weight|bias)",
    PEAC_PREFIX: "|".join(map(re.escape, PEAC_HEADS)),
}
# Other originals use ImageNet's; what SimMIM and fine-tuned files were trained with stands nowhere in them
PEAC_NORMALISATION = {"image_mean": [0.5056] * 3, "image_std": [0.252] * 3}
CONVNEXT_NAMES = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"^norm\.", "head.norm."),
)


@dataclass
class Conversion:
    """
    A converted checkpoint and how it came about.

    Args:
        ignored: Counts the unused tensors by reason.
        interpolated: Whether a change of image size resized relative position tables.
        heads: Of a PEAC checkpoint the heads, under the names of `PeacHeads`, with which its training can go on.
    """

    model: ArkForImageClassification | ArkModel
    processor: ArkImageProcessor
    source: str
    section: str
    architecture: Architecture
    num_used: int
    ignored: dict[str, int]
    interpolated: bool = False
    heads: dict[str, torch.Tensor] | None = None

    def summary(self) -> str:
        """What was found, used and ignored, as lines of text."""
        config = self.model.config
        resized = "" if config.image_size == self.architecture.image_size else f", changed to {config.image_size}"
        resized += " (position tables interpolated)" * self.interpolated
        projector = "none" if config.projector_dim is None else f"{config.projector_type}, {config.projector_dim}"
        heads = ", ".join(f"{task.name} ({len(task.labels)})" for task in config.tasks or [])
        if self.heads is not None:
            heads = f"those of PEAC's training, kept beside the model to go on with it: {describe_heads(self.heads)}"
        heads = heads or "none (a fine-tuned classifier is kept if --tasks names its classes)"
        release = f", by its name {RELEASED_FILES[self.source]}" if self.source in RELEASED_FILES else ""
        lines = [
            f"weights: {self.section} of {self.source}{release}",
            f"encoder: {self.architecture.description}",
            f"image size: {self.architecture.image_size} (from {self.architecture.image_size_source}){resized}",
            f"pixels: minus {self.processor.image_mean}, by {self.processor.image_std}",
            f"projector: {projector}",
            f"heads: {heads}",
            f"used: {self.num_used} tensors, none missing, none left over",
            *(f"ignored: {count} tensors ({reason})" for reason, count in self.ignored.items()),
        ]
        return "\n".join(lines)


def convert_checkpoint(
    path: str | Path, key: str | None = None, tasks: list[ArkTask] | None = None, image_size: int | None = None
) -> Conversion:
    """
    Reads an original checkpoint: Ark's training checkpoints, with or without `module.`, its flat teacher files, and
    encoders alone (fine-tuned timm Swins with a `head`, PEAC, SimMIM), which become an [`ArkModel`] without projector.
    PEAC's heads are kept beside it.

    Args:
        path: The file. No code in it runs, see [`read_weights_file`].
        key: "teacher" or "student" of a training checkpoint; the teacher, if there is one, unless said.
        tasks: Names of the heads, in order. The released layouts (14, 14, 14, 3, 6, 1[, 3] outputs) are known. For a
            fine-tuned encoder: one task for its `head`.
        image_size: Side of the input in pixels; the file's own unless set. See [`ArkPreTrainedModel.set_image_size`].

    Raises:
        ValueError: The file cannot be read, does not hold such a model, holds tensors that have no place in it or
            lacks some, or its heads are not those of `tasks`.
    """
    return convert_loaded(read_weights_file(path), path, key, tasks, image_size)


def convert_loaded(
    loaded: dict[str, Any],
    path: str | Path,
    key: str | None = None,
    tasks: list[ArkTask] | None = None,
    image_size: int | None = None,
) -> Conversion:
    """As [`convert_checkpoint`], of what [`read_weights_file`] read at `path`."""
    section, weights = _select_weights(loaded, key, path)
    check_tensors(weights, f"{path}, {section}")
    weights = without_module_prefix(weights, path)
    try:
        return _convert(weights, tasks, image_size, Path(path).name, section)
    except ValueError as error:
        raise ValueError(f"{path}, {section}: {error}") from None


def read_tasks(path: str | Path) -> list[ArkTask]:
    """
    Tasks from a YAML or JSON list of their fields, such as `- {name: rsna, labels: [Normal, Other]}`.

    Raises:
        ValueError: The file cannot be read, or an entry is not a task; the message names it.
    """
    entries = read_yaml(path, "the tasks in")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} must list the heads' tasks, such as `- {{name: rsna, labels: [Normal, Other]}}`.")
    tasks = []
    for number, entry in enumerate(entries, start=1):
        try:
            tasks.append(ArkTask.from_dict(entry))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, task {number}: {error}") from None
    return tasks


def convert_state_dict(
    original: dict[str, torch.Tensor], model: ArkForImageClassification | ArkModel
) -> dict[str, torch.Tensor]:
    """
    Renames an original state dict (without `module.`) to `model`'s keys; head number i becomes the i-th task's.

    The unused `head` and the constant attention buffers are left out.
    """
    heads = {f"omni_heads.{number}": f"heads.{task.name}" for number, task in enumerate(model.config.tasks or [])}
    base = "ark." if isinstance(model, ArkForImageClassification) else ""
    swin = any(key.startswith("patch_embed.") for key in original)
    converted = {}
    for key, value in original.items():
        layer, _, parameter = key.rpartition(".")
        if layer in heads:
            converted[f"{heads[layer]}.{parameter}"] = value
        elif key.startswith("projector."):
            converted[f"{base}{key}"] = value
        elif not any(re.fullmatch(pattern, key) for pattern in IGNORED_IN_ENCODER.values()):
            converted[f"{base}encoder.{_swin_key(key) if swin else _convnext_key(key)}"] = value
    return converted


def _swin_key(key: str) -> str:
    # the originals merge patches at the end of a stage, timm today at the start of the next
    return re.sub(r"^layers\.(\d+)\.downsample", lambda match: f"layers.{int(match[1]) + 1}.downsample", key)


def _convnext_key(key: str) -> str:
    for pattern, name in CONVNEXT_NAMES:
        key = re.sub(pattern, name, key)
    return key


def _select_weights(loaded: dict[str, Any], key: str | None, path: str | Path) -> tuple[str, dict[str, Any]]:
    """The state dict that `key` asks for, and what to call it."""
    sections = {
        "teacher": "teacher",
        "student": next((k for k in ("state_dict", "student", "model") if k in loaded), ""),
    }
    present = {role: loaded[name] for role, name in sections.items() if isinstance(loaded.get(name), dict)}
    if not present:
        nested = [name for name, value in loaded.items() if isinstance(value, dict)]
        if nested:
            raise ValueError(
                f"{path} holds {nested[:5]}, none of which is `teacher`, `state_dict`, `student` or `model`."
            )
        if key == "student":
            raise ValueError(f"{path} is a flat file of one model; it holds no student beside it. Leave --key out.")
        return "the only model", loaded
    role = key or next(iter(present))
    if role not in present:
        raise ValueError(f"{path} holds no {role}; it has {', '.join(present)}. Choose with --key.")
    epoch = loaded.get("epoch")
    return f"{role} of epoch {epoch}" if isinstance(epoch, int) else role, present[role]


def _convert(
    weights: dict[str, torch.Tensor], tasks: list[ArkTask] | None, image_size: int | None, source: str, section: str
) -> Conversion:
    prefix = _encoder_prefix(weights)
    encoder, beside, ignored = _sort_keys(weights, prefix)
    peac_heads = None
    if prefix == PEAC_PREFIX and beside:
        peac_heads, beside = convert_peac_heads(beside), {}
    architecture = infer_architecture(encoder, None if peac_heads is None else image_size_of(peac_heads))
    heads = _heads(beside)
    if not heads and tasks is not None and "head.weight" in encoder:  # a fine-tuned encoder whose classes are named
        heads = {0: _num_outputs(encoder, "head.weight")}
        beside |= {
            f"omni_heads.0.{name}": encoder[f"head.{name}"] for name in ("weight", "bias") if f"head.{name}" in encoder
        }
        ignored.pop("the encoder's own classifier")
    config = ArkConfig(
        backbone=architecture.backbone,
        backbone_kwargs=architecture.backbone_kwargs,
        image_size=architecture.image_size,
        drop_path_rate=architecture.drop_path_rate,
        tasks=_named_tasks(list(heads.values()), tasks),
        **_projector_settings(beside),
    )
    kind = ArkForImageClassification if config.tasks else ArkModel
    model = _load(kind, config, encoder | beside)
    _check_buffers(model.base_model.encoder, encoder)
    if peac_heads is not None:
        check_fit_of_heads(peac_heads, model.encoder.num_features, model.encoder.feature_info[-1]["reduction"])
    num_used = len(model.state_dict()) + len(peac_heads or {})
    shapes = _shapes(model)
    if image_size is not None and image_size != config.image_size:
        model.set_image_size(image_size)
        if peac_heads is not None:
            del peac_heads["order.weight"], peac_heads["order.bias"]  # of the file's own number of cells
    interpolated = _shapes(model) != shapes
    side, normalisation = model.config.image_size, PEAC_NORMALISATION if prefix == PEAC_PREFIX else {}
    processor = ArkImageProcessor(size={"height": side, "width": side}, **normalisation)
    facts = source, section, architecture, num_used, dict(ignored), interpolated
    return Conversion(model.eval(), processor, *facts, peac_heads)


def _shapes(model: torch.nn.Module) -> list[torch.Size]:
    return [value.shape for value in model.state_dict().values()]


def _encoder_prefix(weights: dict[str, torch.Tensor]) -> str:
    first = r"(.*\.)?(patch_embed\.proj|downsample_layers\.0\.0)\.weight"
    found = [match[1] or "" for match in (re.fullmatch(first, key) for key in weights) if match]
    if len(found) != 1:
        raise ValueError(
            f"{len(found)} encoders found, not one. Ark's are a Swin v1 (`patch_embed.proj.weight`) or a ConvNeXt v1 "
            f"(`downsample_layers.0.0.weight`); the file has keys such as {list(weights)[:3]}."
        )
    return found[0]


def _sort_keys(
    weights: dict[str, torch.Tensor], prefix: str
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Counter[str]]:
    """The encoder's tensors without `prefix`, what is used beside it, and the number of ignored ones by reason."""
    encoder, beside, left_over = {}, {}, []
    ignored: Counter[str] = Counter()
    used = USED_BESIDE_ENCODER.get(prefix)
    for key, value in weights.items():
        inside = key.startswith(prefix)
        name = key.removeprefix(prefix)
        reasons = IGNORED_IN_ENCODER if inside else IGNORED_BESIDE_ENCODER.get(prefix, {})
        reason = next((reason for reason, pattern in reasons.items() if re.fullmatch(pattern, name)), None)
        if reason is not None:
            ignored[reason] += 1
        if used and inside == (not prefix) and re.fullmatch(used, name):
            beside[name] = value
        elif inside:
            encoder[name] = value
        elif reason is None:
            left_over.append(key)
    if left_over:
        raise ValueError(_left_over_message(left_over))
    return encoder, beside, ignored


def _left_over_message(keys: list[str]) -> str:
    return (
        f"tensors are left over that have no place in an Ark model: {len(keys)}, such as {keys[:3]}. This is not one "
        "of the layouts that are converted (Ark, a plain timm Swin, PEAC, SimMIM)."
    )


def _heads(beside: dict[str, torch.Tensor]) -> dict[int, int]:
    """Outputs of each head, by number."""
    heads = [key for key in beside if key.startswith("omni_heads.") and key.endswith(".weight")]
    sizes = {int(key.split(".")[1]): _num_outputs(beside, key) for key in heads}
    if sorted(sizes) != list(range(len(sizes))):
        raise ValueError(f"heads are numbered {sorted(sizes)}; some are missing.")
    return dict(sorted(sizes.items()))


def _num_outputs(weights: dict[str, torch.Tensor], key: str) -> int:
    if weights[key].ndim != 2 or len(weights[key]) == 0:
        raise ValueError(f"{key} has the shape {tuple(weights[key].shape)}, which is not that of a linear layer.")
    return len(weights[key])


def _named_tasks(sizes: list[int], tasks: list[ArkTask] | None) -> list[ArkTask] | None:
    if tasks is not None:
        if [len(task.labels) for task in tasks] != sizes:
            raise ValueError(
                f"its heads have {sizes} outputs, the given tasks have {[len(task.labels) for task in tasks]} labels."
            )
        return tasks
    if not sizes:
        return None
    if sizes not in (RELEASED_SIZES[:6], RELEASED_SIZES):
        known = f"which is not a released model ({RELEASED_SIZES[:6]} or {RELEASED_SIZES})"
        if sorted(sizes) == sorted(ARK5_SIZES):
            known = "as Ark-5 has, whose paper names five datasets but not the order of the heads"
        raise ValueError(
            f"its heads have {sizes} outputs, {known}. Name them with --tasks FILE: a YAML list of one "
            "`{name: ..., labels: [...], problem_type: ...}` a head, in this order."
        )
    return list(RELEASED_TASKS[: len(sizes)])


def _projector_settings(beside: dict[str, torch.Tensor]) -> dict[str, Any]:
    for key, kind in {"projector.weight": "linear", "projector.2.weight": "mlp"}.items():
        if key in beside:
            return {"projector_dim": _num_outputs(beside, key), "projector_type": kind}
    return {"projector_dim": None}


def _load(kind: Any, config: ArkConfig, original: dict[str, torch.Tensor]) -> Any:
    """The model with the original's weights in float32."""
    converted = check_fit(kind, config, original)
    # copied, because tensors that are still mapped from the file would change with it
    weights = {key: value.to(torch.float32, copy=True) for key, value in converted.items()}
    return kind.from_pretrained(None, config=config, state_dict=weights, dtype=torch.float32)


def check_fit(kind: Any, config: ArkConfig, original: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    The original's weights under our names, after a check that they fill the model exactly.

    Raises:
        ValueError: Tensors are left over, missing or of another shape.
    """
    with torch.device("meta"):  # takes no memory, whatever size the file's shapes ask for
        empty = kind(config)
    converted = convert_state_dict(original, empty)
    expected = empty.state_dict()
    left_over = [key for key in converted if key not in expected]
    if left_over:
        raise ValueError(_left_over_message([_short(key) for key in left_over]))
    check_filled(converted, expected, _short)
    return converted


def _short(key: str) -> str:
    return re.sub(r"^(ark\.)?(encoder\.)?", "", key)


def _check_buffers(encoder: torch.nn.Module, original: dict[str, torch.Tensor]) -> None:
    ours = dict(encoder.named_buffers())
    for key, value in original.items():
        if key.endswith(("relative_position_index", "attn_mask")) and not (
            key in ours and ours[key].shape == value.shape and bool((ours[key] == value).all())
        ):
            raise ValueError(
                f"{key} is not that of a Swin v1 at {encoder.patch_embed.img_size} pixels: attention would be wrong."
            )

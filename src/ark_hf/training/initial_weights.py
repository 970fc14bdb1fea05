"""The student before its first step: fresh, from encoder weights, or continued from an ark-cxr."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..inference.load import load_ark
from ..models.ark.configuration_ark import ArkConfig, ArkTask, SegmentationTask
from ..models.ark.image_processing_ark import OF_A_MODALITY, ArkImageProcessor
from ..models.ark.modeling_ark import ArkForImageClassification, ArkModel, create_encoder
from ..models.ark.modeling_ark_segmentation import ArkForSemanticSegmentation
from ..names import model_below
from ..provenance import read_provenance, shown_name, weights_sha256
from ..weights import UnreadableWeightsError, check_tensors, read_weights_file
from .settings import check_init, names_ark

DEFAULT_IMAGE_SIZE = 224
DEFAULT_DROP_PATH_RATE = 0.1
# Settings that an ark-cxr brings with it
ARCHITECTURE = ("backbone", "backbone_kwargs", "projector_dim", "projector_type")
BROUGHT = (*ARCHITECTURE, "image_size", "num_channels", "drop_path_rate")  # by a model that training goes on with


@dataclass(frozen=True)
class StartArguments:
    """What training starts from, in the words of the recipe: see `PretrainingArguments`."""

    init: str
    backbone: str
    backbone_kwargs: Any  # a mapping or None
    image_size: int | None
    projector_dim: int | None
    projector_type: str
    drop_path_rate: float | None  # None: that of the ark-cxr
    seed: int


def build_student(
    args: StartArguments, tasks: list[ArkTask]
) -> tuple[ArkForImageClassification, ArkImageProcessor | None]:
    """
    The student that `args.init` asks for, with one head per task in the given order, and its processor if it has one.

    Raises:
        ValueError: The backbone is unknown, or `init` names nothing that can be loaded.
    """
    torch.manual_seed(args.seed)
    if names_ark(args.init):
        return _continue_from(args, tasks)
    student = ArkForImageClassification(ArkConfig(**_architecture(args), tasks=tasks))
    _load_encoder(student, args.init)
    return student, None


def build_encoder(args: StartArguments, image_size: int) -> tuple[ArkModel, ArkImageProcessor | None]:
    """
    The encoder that self-supervision starts from, without projector, and its processor if it has one.

    Args:
        image_size: Where neither `args` nor an ark-cxr says it.

    Raises:
        ValueError: As of [`build_student`].
    """
    torch.manual_seed(args.seed)
    if not names_ark(args.init):
        model = ArkModel(ArkConfig(**_architecture(replace(args, image_size=args.image_size or image_size))))
        _load_encoder(model, args.init)
        return model, None
    base, processor = load_ark(args.init, ArkModel)
    values = {name: getattr(base.config, name) for name in BROUGHT}
    values |= {"projector_dim": None, "projector_type": "linear"}
    if args.drop_path_rate is not None:
        values["drop_path_rate"] = args.drop_path_rate
    model = ArkModel(ArkConfig(**values))
    check_architecture(args, model.config, f"init: {args.init!r}")
    model.encoder.load_state_dict(base.encoder.state_dict())
    if args.image_size is not None and args.image_size != model.config.image_size:
        model.set_image_size(args.image_size)
        processor.size = {"height": args.image_size, "width": args.image_size}
    return model, processor


def build_segmenter(
    args: StartArguments, task: SegmentationTask, decoder_type: str, decoder_channels: int, new_decoder: bool = False
) -> tuple[ArkForSemanticSegmentation, ArkImageProcessor]:
    """
    The segmenter that training starts from, and a processor that shows it the whole picture.

    Its encoder is what `args.init` asks for; a segmenter of the same labels goes on as a whole, with its own decoder.

    Args:
        new_decoder: Start with a fresh decoder there, too.

    Raises:
        ValueError: As of [`build_student`], the encoder's features do not suit the decoder, or a segmenter that goes
            on has another decoder than is asked for.
        ImportError: The decoders' library is not installed.
    """
    torch.manual_seed(args.seed)
    processor = None
    if not names_ark(args.init):
        config = ArkConfig(
            **_architecture(args), segmentation=task, decoder_type=decoder_type, decoder_channels=decoder_channels
        )
        model = ArkForSemanticSegmentation(config)
        _load_encoder(model, args.init)
    else:
        base, processor = load_ark(args.init, ArkModel)
        goes_on = not new_decoder and continues(base.config.segmentation, task)
        if goes_on:
            _check_decoder(
                {"decoder_type": decoder_type, "decoder_channels": decoder_channels}, base.config, args.init
            )
            decoder_type, decoder_channels = base.config.decoder_type, base.config.decoder_channels
        values = {name: getattr(base.config, name) for name in BROUGHT}
        values |= {"decoder_type": decoder_type, "decoder_channels": decoder_channels}
        if args.drop_path_rate is not None:
            values["drop_path_rate"] = args.drop_path_rate
        model = ArkForSemanticSegmentation(ArkConfig(**values, segmentation=task))
        check_architecture(args, model.config, f"init: {args.init!r}")
        model.ark.load_state_dict(base.state_dict())
        if goes_on:
            whole, _ = load_ark(args.init, ArkForSemanticSegmentation)
            model.load_state_dict(whole.state_dict())
        if args.image_size is not None and args.image_size != model.config.image_size:
            model.set_image_size(args.image_size)
    return model, _whole_picture(model.config, processor, task.modality)


def _check_decoder(asked: dict[str, Any], config: ArkConfig, init: str) -> None:
    """Raises `ValueError` if a setting that is told apart from its default is not that of the segmenter."""
    usual = ArkConfig()
    for name, value in asked.items():
        if value not in (getattr(config, name), getattr(usual, name)):
            raise ValueError(
                f"init: {init!r} has {name} {getattr(config, name)!r}, not {value!r}, and keeps it: leave {name} out, "
                "or set new_head for a fresh decoder."
            )


def continues(had: SegmentationTask | None, task: SegmentationTask) -> bool:
    """Whether a decoder of the one task can go on with the other: the same labels, alike exclusive or not."""
    return had is not None and (had.labels, had.overlapping) == (task.labels, task.overlapping)


def _whole_picture(config: ArkConfig, saved: ArkImageProcessor | None, modality: str) -> ArkImageProcessor:
    """A processor of the model's size that cuts no crops, as masks are of the whole picture."""
    values = {} if saved is None else for_modalities(saved, [modality]).to_dict()
    values |= {"do_resize": True, "size": {"height": config.image_size, "width": config.image_size}}
    values |= {"intermediate_size": None, "do_center_crop": False, "do_ten_crop": False, "modality": modality}
    return ArkImageProcessor.from_dict(values)


def _architecture(args: StartArguments) -> dict[str, Any]:
    return {
        "backbone": args.backbone,
        "backbone_kwargs": args.backbone_kwargs,
        "image_size": args.image_size or DEFAULT_IMAGE_SIZE,
        "projector_dim": args.projector_dim,
        "projector_type": args.projector_type,
        "drop_path_rate": DEFAULT_DROP_PATH_RATE if args.drop_path_rate is None else args.drop_path_rate,
    }


def _load_encoder(model: ArkForImageClassification | ArkForSemanticSegmentation | ArkModel, init: str) -> None:
    """Gives the encoder the weights that `init` names, "none", "imagenet" or a file."""
    if init == "imagenet":
        _load_imagenet_weights(model.base_model.encoder, model.config)
    elif init != "none":
        load_encoder_weights(model.base_model.encoder, init)


def processor_of(student: ArkForImageClassification, saved: ArkImageProcessor | None) -> ArkImageProcessor:
    """The student's saved processor, or a plain one of its size, for its tasks' modalities, the first the default."""
    size, tasks = student.config.image_size, student.config.tasks or []
    processor = saved or ArkImageProcessor(size={"height": size, "width": size})
    return for_modalities(processor, [task.modality for task in tasks])


def for_modalities(processor: ArkImageProcessor, modalities: Sequence[str]) -> ArkImageProcessor:
    """The processor as it takes images of these modalities and no others, the first the default; each as it was."""
    first, *others = dict.fromkeys(modalities)
    plain = processor.of(first)
    otherwise = {each: _differing(plain, processor.of(each)) for each in others}
    return type(processor).from_dict(plain.to_dict() | {"modality": first, "modalities": otherwise})


def _differing(one: ArkImageProcessor, other: ArkImageProcessor) -> dict[str, Any]:
    """What of the settings that may be another for each modality the other processor has otherwise."""
    return {name: getattr(other, name) for name in OF_A_MODALITY if getattr(other, name) != getattr(one, name)}


def initial_heads(init: str) -> list[str]:
    """Names of the heads of the ark-cxr that `init` names; none where it names something else."""
    if not names_ark(init):
        return []
    values, _ = ArkConfig.get_config_dict(init)
    return [task["name"] for task in values.get("tasks") or []]


def initial_segmentation(init: str) -> SegmentationTask | None:
    """What the segmenter that `init` names outlines; None where it names something else."""
    if not names_ark(init):
        return None
    values, _ = ArkConfig.get_config_dict(init)
    found = values.get("segmentation")
    return None if found is None else SegmentationTask.from_dict(found)


def start_facts(init: str) -> dict[str, Any]:
    """What a model's card tells of what its training started from: `start`, and of an ark-cxr `start_provenance`."""
    earlier = read_provenance(init) if names_ark(init) else None
    return {"start": shown_name(init)} | ({"start_provenance": earlier} if earlier else {})


def start_sha256(init: str) -> str | None:
    """The sha256 of the weights that `init` names; None where there are none, or they cannot be found."""
    if Path(init).is_file():
        with open(init, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return weights_sha256(init) if names_ark(init) else None


def _continue_from(
    args: StartArguments, tasks: list[ArkTask]
) -> tuple[ArkForImageClassification, ArkImageProcessor | None]:
    name_or_path, image_size = args.init, args.image_size
    base, processor = load_ark(name_or_path, ArkModel)
    if base.config.tasks is None:  # a converted encoder, or a fine-tuned classifier, whose head is of no use here
        config = ArkConfig(
            **{name: getattr(base.config, name) for name in BROUGHT},
            tasks=tasks,
        )
        if base.projector is None:  # of an encoder alone
            config.projector_dim, config.projector_type = args.projector_dim, args.projector_type  # type: ignore[assignment]
        student = ArkForImageClassification(config)
        student.ark.load_state_dict(base.state_dict(), strict=base.projector is not None)
    else:
        student, _ = load_ark(name_or_path)
    check_architecture(args, student.config, f"init: {name_or_path!r}")
    had = {task.name: task for task in student.config.tasks or []}
    for task in tasks:
        if task.name in had and (task.labels, task.problem_type) != (
            had[task.name].labels,
            had[task.name].problem_type,
        ):
            raise ValueError(
                f"init: {name_or_path!r} has a task {task.name!r} with labels {had[task.name].labels}, the dataset "
                f"has {task.labels}; give the dataset's task another `name`."
            )
        if task.name not in had:
            student.add_task(task)
    student.keep_tasks([task.name for task in tasks] + [name for name in had if name not in {t.name for t in tasks}])
    if args.drop_path_rate is not None and args.drop_path_rate != student.config.drop_path_rate:
        student.config.drop_path_rate = args.drop_path_rate
        student.set_image_size(student.config.image_size)  # builds the encoder anew, with the new rate
    if image_size is not None and image_size != student.config.image_size:  # the scale-up of Ark+
        student.set_image_size(image_size)
        processor.size = {"height": image_size, "width": image_size}
    return student, processor


def check_architecture(args: Any, config: ArkConfig, where: str) -> None:
    """
    Settings that are told apart from their defaults must be those of a model that brings its own.

    Args:
        args: With the fields of `ARCHITECTURE`.
        config: Of the model.
        where: What the message calls it.

    Raises:
        ValueError: One asks for something else.
    """
    usual = ArkConfig()
    for name in ARCHITECTURE:
        asked, there = getattr(args, name), getattr(config, name)
        agrees = asked == there or isinstance(asked, dict) and asked.items() <= (there or {}).items()
        if not agrees and asked != getattr(usual, name):
            raise ValueError(f"{where} has {name} {there!r}, not {asked!r}, and keeps it: leave {name} out.")


def _load_imagenet_weights(encoder: nn.Module, config: ArkConfig) -> None:
    try:
        source = create_encoder(config, pretrained=True)
    except Exception as error:  # timm and the Hub client raise many kinds; all mean the weights are not to be had
        raise ValueError(
            f"init: timm's weights of {config.backbone!r} could not be loaded ({type(error).__name__}). Without a "
            "network, give `init` a local weights file."
        ) from error
    encoder.load_state_dict(source.state_dict())


def load_encoder_weights(encoder: nn.Module, path: str | Path) -> None:
    """
    Loads a local weights file into the encoder: timm's names, or other names in timm's order with equal shapes.

    Tensors after the encoder's, a classifier's, are left out. Pickle files are read without running code.

    Raises:
        ValueError: There is no such file, it is not a weights file, or its tensors are not this encoder's.
    """
    weights = {
        key: value
        for key, value in _read_weights(Path(path)).items()
        if not key.endswith(("relative_position_index", "attn_mask"))  # buffers that older timm saved
    }
    ours = encoder.state_dict()
    by_name = {key: weights[key] for key in ours if key in weights and weights[key].shape == ours[key].shape}
    if len(by_name) < len(ours):
        by_order = dict(zip(ours, weights.values(), strict=False))
        if len(by_order) < len(ours) or any(by_order[key].shape != ours[key].shape for key in ours):
            missing = [key for key in ours if key not in by_name]
            raise ValueError(
                f"init: {path} is not of this encoder: {len(missing)} of {len(ours)} tensors are "
                f"missing or of another shape, such as {missing[:3]}, and their order does not fit either. A "
                "checkpoint of Ark or PEAC is converted first: `ark-hf convert`."
            )
        by_name = by_order
    encoder.load_state_dict(by_name)


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    check_init(str(path))
    if not path.is_file():
        raise ValueError(
            f"init: {str(path)!r} is not a weights file, a folder with an ark-cxr, `none` or `imagenet`."
            f"{model_below(path)}"
        )
    try:
        weights = read_weights_file(path)
        for key in ("teacher", "state_dict", "model"):
            if isinstance(weights.get(key), dict):
                weights = weights[key]
        check_tensors(weights, str(path))
    except UnreadableWeightsError as error:
        raise ValueError(f"init: {error}") from None
    return {key.removeprefix("module."): value for key, value in weights.items()}

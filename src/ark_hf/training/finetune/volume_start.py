"""What fine-tuning on volumes starts from: a Genesis from scratch, or with the weights of one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...inference.load import load_genesis
from ...models.ark.configuration_ark import ArkTask, SegmentationTask
from ...models.genesis.configuration_genesis import GenesisConfig
from ...models.genesis.image_processing_genesis import GenesisImageProcessor
from ...models.genesis.modeling_genesis import GenesisForImageClassification, GenesisForSemanticSegmentation
from ..initial_weights import continues
from ..settings import names_ark
from .arguments import FinetuningArguments

BROUGHT = ("width", "depth", "num_channels", "activation")  # with its weights, so that they cannot be others
VIEW = ("cube_size", "spacing", "hu_window")


def initial_genesis(
    init: str, task: ArkTask | SegmentationTask, args: FinetuningArguments, seed: int
) -> tuple[GenesisForImageClassification | GenesisForSemanticSegmentation, GenesisImageProcessor]:
    """
    The Genesis before its first step, in training mode, with the task's head alone, and its image processor.

    Of another one the encoder is kept, and for label maps its decoder if it has one, as a pretrained one has; a head
    of the same name and labels, unless `args.new_head`. Batch norm never uses the statistics of its batch in
    evaluation, as the originals' does: what a model says of a volume would depend on the others that it sees.

    Args:
        init: "none", or a folder or Hub id of a Genesis.

    Raises:
        ValueError: `init` names no Genesis, one of another width or depth than `args` ask for, or one with a head of
            the same name and other labels.
    """
    torch.manual_seed(seed)
    segments = isinstance(task, SegmentationTask)
    answers: dict[str, Any] = {"segmentation": task} if segments else {"tasks": [task]}
    kind: Any = GenesisForSemanticSegmentation if segments else GenesisForImageClassification
    base = None if init == "none" else _load(init)
    model = kind(_config(base, args, answers, init))
    if base is not None:
        model.genesis.load_state_dict(base.base_model.state_dict())
        if segments and hasattr(base, "decoder"):
            model.decoder.load_state_dict(base.decoder.state_dict())
        _carry_head(model, base, task, init, args.new_head)
    return model.train(), GenesisImageProcessor.from_config(model.config, task.modality)


def _load(init: str) -> Any:
    if init == "imagenet" or not (names_ark(init) or Path(init).is_dir()):
        reason = (
            "timm's weights are of pictures" if init == "imagenet" else "`ark-hf convert` makes one of a checkpoint"
        )
        raise ValueError(f"MODEL {init!r}: volumes take `none`, or a folder or Hub id of a Genesis; {reason}.")
    model, _ = load_genesis(init)
    if model.config.num_channels != 1:
        raise ValueError(f"{init!r} takes volumes of {model.config.num_channels} channels, and a dataset's have one.")
    return model.cpu()


def _config(base: Any, args: FinetuningArguments, answers: Mapping[str, Any], init: str) -> GenesisConfig:
    """That of the model to be trained; settings that are given take the place of those of `base`, or are refused."""
    values: dict[str, Any] = {}
    if base is not None:
        values = {name: getattr(base.config, name) for name in (*BROUGHT, "axes", *VIEW)}
        for name in ("width", "depth"):
            asked = getattr(args, name)
            if asked not in (None, values[name]):
                raise ValueError(f"{init!r} has {name} {values[name]}, not {asked}, and keeps it: leave {name} out.")
    given = {name: getattr(args, name) for name in ("width", "depth", *VIEW) if getattr(args, name) is not None}
    if values.get("axes") == "xyz":
        given |= {name: given[name][::-1] for name in ("cube_size", "spacing") if name in given}
    return GenesisConfig(**(values | given), **answers)


def _carry_head(model: Any, base: Any, task: ArkTask | SegmentationTask, init: str, new_head: bool) -> None:
    if new_head or type(base) is not type(model):
        return
    if isinstance(task, SegmentationTask):
        if continues(base.config.segmentation, task):
            model.segmentation_head.load_state_dict(base.segmentation_head.state_dict())
        return
    had = {each.name: each for each in base.config.tasks or []}.get(task.name)
    if had is None:
        return
    if (had.labels, had.problem_type) != (task.labels, task.problem_type):
        raise ValueError(
            f"{init!r} has a task {task.name!r} with labels {had.labels}, the dataset has {task.labels}; give the "
            "dataset's task another `name`, or set new_head."
        )
    model.heads[task.name].load_state_dict(base.heads[task.name].state_dict())

"""The data of fine-tuning: one task's splits, from a task dataset or any Hub image dataset, checked."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import PartialState

from ...data.leaks import mark_shared_images, mark_trained_before
from ...data.masks import UNKNOWN
from ...data.open_dataset import TaskDataset, open_dataset
from ...data.subsets import drawn_rows, fraction_rows, rows_per_class
from ...data.task_dataset import SPLITS, read_dataset_task, split_names
from ...models.ark.configuration_ark import SegmentationTask
from .arguments import OF_PICTURES, OF_VOLUMES, FinetuningArguments

CUBES_PER_VOLUME = 4


def load_finetuning_data(dataset: str, args: FinetuningArguments) -> TaskDataset:
    """
    Opens and checks the splits of a dataset, before any training time is spent.

    Raises:
        ValueError: The dataset cannot be read, it has no train split, a split is empty or has no known label, labels
            or masks do not fit the task, a patient stands in two splits, or an option is not for such a task.
    """
    task = None if args.label_columns else read_dataset_task(dataset)
    there = split_names(dataset)
    if "train" not in there:
        raise ValueError(f"{dataset} has no split 'train', only {there}.")
    if isinstance(task, SegmentationTask):
        check_mask_options(args)
    elif args.loss == "dice":
        raise ValueError(f"loss: dice is for masks, and {dataset} holds labels; use cross_entropy or focal.")
    columns = {"image": args.image_column, "labels": args.label_columns} if args.label_columns else None
    if columns is not None and args.name is None:
        raise ValueError(f"{dataset}: with --label_columns the task needs a --name.")
    splits = [split for split in SPLITS if split in there]
    data = open_dataset(dataset, splits, task, args.name, columns, args.uncertain)
    check_content(data, args)
    for split in splits:
        if not data.has_known_label(split):
            raise ValueError(
                f"{dataset}, split {split!r}: no label of task {data.task.name!r} is known, so it is of no use."
            )
    return data


def check_mask_options(args: FinetuningArguments) -> None:
    """Raises `ValueError` if an option is set that is for labels alone, or that masks cannot be trained with."""
    usual = FinetuningArguments.__dataclass_fields__
    for name in ("uncertain", "per_class", "class_weighting", "lora_rank"):
        if getattr(args, name) != usual[name].default:
            raise ValueError(f"{name} is for datasets of labels, and has no meaning for masks: leave it out.")
    if args.loss == "focal":
        raise ValueError("loss: focal is for datasets of labels; masks take cross_entropy (with Dice) or dice.")


def check_content(data: TaskDataset, args: FinetuningArguments) -> None:
    """Raises `ValueError` if an option is of volumes where the dataset has pictures, or the reverse."""
    segmented = isinstance(data.task, SegmentationTask)
    usual = FinetuningArguments.__dataclass_fields__
    there, other = ("volumes", "pictures") if data.has_volumes else ("pictures", "volumes")
    names: Sequence[str] = OF_PICTURES if data.has_volumes else OF_VOLUMES
    for name in names:
        if getattr(args, name) != usual[name].default:
            raise ValueError(f"{name} is for datasets of {other}, and {data.name} holds {there}: leave it out.")
    if data.has_volumes:
        if args.cubes_per_volume is not None and not segmented:
            raise ValueError(
                "cubes_per_volume is for label maps: a classifier sees one cube of a volume. Leave it out."
            )
        if segmented and (data.task.overlapping or len(data.task.labels) >= UNKNOWN):
            raise ValueError(
                f"{data.name}: a label map holds one label a voxel, up to {UNKNOWN - 1}, and the task in the card has "
                f"{len(data.task.labels)}, overlapping: {str(data.task.overlapping).lower()}."
            )
    elif segmented:
        check_batches(args)


def cubes_per_sample(data: TaskDataset, args: FinetuningArguments) -> int:
    """Images of a step that one row gives: of volumes with label maps several cubes."""
    if data.has_volumes and isinstance(data.task, SegmentationTask):
        return args.cubes_per_volume or CUBES_PER_VOLUME
    return 1


def check_batches(args: FinetuningArguments) -> None:
    """Raises `ValueError` if a decoder of masks would be shown one image alone."""
    parts = args.gradient_accumulation_steps * PartialState().num_processes
    if args.decoder_type == "upernet" and args.batch_size // parts < 2:
        raise ValueError(
            "Batches of one image give the batch norm of UPerNet's pooled branch no statistics: use a batch_size of "
            "at least 2 for each process and accumulation step, or decoder_type: fpn."
        )


def check_leaks(data: TaskDataset, start: Mapping[str, Any], allowed: bool) -> TaskDataset:
    """
    The dataset, with what is known of held-out images that are trained on among its facts.

    Args:
        start: What training starts from, as `start_facts` gives it.
        allowed: Whether to go on with such images.

    Raises:
        ValueError: There are some, here or in what training starts from.
    """
    (marked,) = mark_trained_before(mark_shared_images([data], allowed), start, allowed)
    return marked


def choose_training_rows(data: TaskDataset, args: FinetuningArguments, seed: int) -> TaskDataset:
    """
    With the part of the train split that `args.percent`, `args.per_class` or `args.images` asks for in the place of
    all of it.

    Raises:
        ValueError: There are fewer images than asked for, or no label has both images with it and images without.
    """
    task = data.task
    try:
        if args.percent is not None:
            data = data.select("train", fraction_rows(len(data.splits["train"]), args.percent))
        elif args.per_class is not None:
            rows = rows_per_class(data.targets("train"), args.per_class, seed, task.labels)
            data = data.select("train", rows)
        elif args.images is not None:
            data = data.select("train", drawn_rows(len(data.splits["train"]), args.images, seed))
    except ValueError as error:
        raise ValueError(f"{data.name}, split 'train': {error}") from None
    if isinstance(task, SegmentationTask):
        _warn_of_absent_structures(data)
        return data
    targets = data.targets("train", args.uncertain)
    one_sided = [
        label
        for label, column in zip(task.labels, targets.T, strict=True)
        if not ((column > 0.5).any() and (column <= 0.5).any())
    ]
    if len(one_sided) == len(task.labels):
        raise ValueError(
            f"{data.name}, task {task.name!r}: the {len(targets)} training images are all of one class, so there is "
            "nothing to tell apart. Take more of them, or check the labels."
        )
    if one_sided:
        warnings.warn(
            f"{data.name}: {len(one_sided)} labels have one class only among the {len(targets)} training images and "
            f"cannot be learned from them: {', '.join(one_sided)}.",
            stacklevel=2,
        )
    return data


def _warn_of_absent_structures(data: TaskDataset) -> None:
    present = (data.targets("train") == 1).any(axis=0)
    absent = [label for label, is_there in zip(data.task.labels, present, strict=True) if not is_there]
    if absent:
        warnings.warn(
            f"{data.name}: none of the {len(data.splits['train'])} training images shows {', '.join(absent)}, which "
            "cannot be learned from them.",
            stacklevel=3,
        )

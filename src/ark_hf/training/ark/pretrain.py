"""Pretraining from settings and tasks: what `ark-hf pretrain` does with a recipe."""

from pathlib import Path

from .pretrainer import CyclicPretrainer
from .recipe import PretrainingArguments, TaskSpec
from .tasks import load_tasks


def pretrain(args: PretrainingArguments, tasks: list[TaskSpec]) -> Path:
    """
    Loads the datasets of the tasks, checks them, and trains; the same call again resumes.

    Returns:
        The folder of the last teacher, an ark-cxr.

    Raises:
        ValueError: Settings, datasets and `init` do not fit each other, or the folder holds another run.
    """
    CyclicPretrainer(args, load_tasks(tasks, args.data_root, args.streaming)).train()
    return Path(args.output_dir, "ark-cxr")

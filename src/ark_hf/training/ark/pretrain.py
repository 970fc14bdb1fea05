"""Pretraining from settings and tasks: what `ark-hf pretrain` does with a recipe."""

from dataclasses import asdict
from pathlib import Path

from ..run import write_recipe
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
    trainer = CyclicPretrainer(args, load_tasks(tasks, args.data_root, args.streaming))
    if trainer.accelerator.is_main_process:
        located = [{**asdict(task), "dataset": task.location(args.data_root)} for task in tasks]
        write_recipe(trainer.output_dir, args.to_dict() | {"data_root": ".", "tasks": located})
    trainer.train()
    return Path(args.output_dir, "ark-cxr")

"""Pretraining from settings and datasets: what `ark-hf pretrain` does with a recipe."""

from dataclasses import asdict
from pathlib import Path

from .ark.pretrainer import CyclicPretrainer
from .ark.recipe import PretrainingArguments, TaskSpec
from .ark.tasks import load_tasks
from .genesis.arguments import GenesisArguments
from .genesis.pretrainer import MODEL as GENESIS
from .genesis.pretrainer import GenesisPretrainer
from .genesis.tasks import load_volumes
from .peac.arguments import PeacArguments
from .peac.pretrainer import PeacPretrainer
from .peac.tasks import load_images
from .run import write_recipe


def pretrain(args: PretrainingArguments | PeacArguments | GenesisArguments, tasks: list[TaskSpec]) -> Path:
    """
    Loads the datasets, checks them, and trains by the method that the settings are of; the same call again resumes.

    Args:
        args: [`PretrainingArguments`] for Ark's cycles; [`PeacArguments`] for PEAC and [`GenesisArguments`] for Models
            Genesis, which read no labels, Genesis of volumes.
        tasks: The datasets.

    Returns:
        The folder of the last teacher, an ark-cxr; of a Genesis, that of the network.

    Raises:
        ValueError: Settings, datasets and `init` do not fit each other, or the folder holds another run.
    """
    trainer: CyclicPretrainer | PeacPretrainer | GenesisPretrainer
    model = "ark-cxr"
    if isinstance(args, GenesisArguments):
        trainer, model = GenesisPretrainer(args, load_volumes(tasks, args.data_root)), GENESIS
    elif isinstance(args, PeacArguments):
        trainer = PeacPretrainer(args, load_images(tasks, args.data_root, args.streaming))
    else:
        trainer = CyclicPretrainer(args, load_tasks(tasks, args.data_root, args.streaming))
    if trainer.accelerator.is_main_process:
        located = [{**asdict(task), "dataset": task.location(args.data_root)} for task in tasks]
        write_recipe(trainer.output_dir, args.to_dict() | {"data_root": ".", "tasks": located})
    trainer.train()
    return Path(args.output_dir, model)

"""The trainers of all methods that share [`Run`], for tests of what they have in common."""

import functools
from pathlib import Path

from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.ark.recipe import PretrainingArguments, TaskSpec
from ark_hf.training.genesis.tasks import load_volumes
from ark_hf.training.peac.tasks import load_images

from .conftest import TINY, open_site
from .genesis.conftest import trainer as genesis_trainer
from .peac.conftest import trainer as peac_trainer

METHODS = ("ark", "peac", "genesis")


@functools.cache
def opened(load, *folders):
    return load([TaskSpec(str(folder)) for folder in folders])


def make_trainer(method: str, folder: Path, sites: list[Path], volumes: Path, **settings):
    """A trainer of a method by its name: of sites, or of cubes of volumes."""
    if method == "ark":
        args = PretrainingArguments(output_dir=str(folder), **{**TINY, **settings})
        return CyclicPretrainer(args, [open_site(path) for path in sites])
    if method == "peac":
        return peac_trainer(folder, opened(load_images, *sites), **settings)
    return genesis_trainer(folder, opened(load_volumes, volumes), **settings)

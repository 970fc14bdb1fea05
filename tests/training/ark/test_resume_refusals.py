"""What must not keep a run from resuming."""

import shutil
from pathlib import Path

from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.ark.recipe import PretrainingArguments, TaskSpec
from ark_hf.training.ark.tasks import load_tasks
from ark_hf.training.initial_weights import build_student

from ..conftest import TINY
from .test_pretrainer import distance


def train(folder: Path, site: Path, **settings) -> CyclicPretrainer:
    args = PretrainingArguments(output_dir=str(folder), **{**TINY, "cycles": 1, **settings})
    trainer = CyclicPretrainer(args, load_tasks([TaskSpec(str(site))], "."))
    trainer.train()
    return trainer


def test_a_tuple_among_the_backbone_s_arguments(tmp_path, sites):
    site = sites["phantom_hill"]
    kwargs = {key: tuple(value) for key, value in TINY["backbone_kwargs"].items()}
    whole = train(tmp_path, site, backbone_kwargs=kwargs)
    resumed = train(tmp_path, site, backbone_kwargs=kwargs)
    assert resumed.state.step == whole.state.step and distance(resumed.teacher, whole.teacher) == 0


def test_start_weights_that_are_gone_since(tmp_path, sites):
    site, init = sites["phantom_hill"], tmp_path / "init"
    args = PretrainingArguments(output_dir=str(tmp_path / "other"), **TINY)
    tasks = [data.task for data in load_tasks([TaskSpec(str(site))], ".")]
    build_student(args, tasks)[0].save_pretrained(init)
    ArkImageProcessor(size={"height": 32, "width": 32}).save_pretrained(init)
    whole = train(tmp_path / "run", site, init=str(init))
    shutil.rmtree(init)
    resumed = train(tmp_path / "run", site, init=str(init))
    assert resumed.state.step == whole.state.step and distance(resumed.teacher, whole.teacher) == 0

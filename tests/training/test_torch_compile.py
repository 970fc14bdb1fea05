"""`torch_compile` of every training: the same weights from the same operations, kept on resume."""

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters

import ark_hf.models.compile_blocks as compiling
from ark_hf import FinetuningArguments, finetune
from ark_hf.data.open_dataset import open_images
from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.ark.recipe import PretrainingArguments

from .conftest import TINY, open_site
from .genesis.conftest import trainer as genesis_trainer
from .genesis.conftest import volumes  # noqa: F401
from .peac.conftest import trainer as peac_trainer

pytestmark = pytest.mark.slow_ci  # dynamo takes a quarter of a second for a block


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Dynamo's graphs run by the same operations, so that results are the same to the bit."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    torch._dynamo.reset()
    counters.clear()


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def check_same(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def ark_trainer(folder, sites, **settings) -> CyclicPretrainer:
    args = PretrainingArguments(str(folder), **{**TINY, **settings})
    return CyclicPretrainer(args, [open_site(path) for path in list(sites.values())[:2]])


def test_ark_trains_the_same_and_resumes_to_the_same(sites, tmp_path):
    for name, compiled in (("plain", False), ("whole", True), ("broken", True)):
        run = ark_trainer(tmp_path / name, sites, torch_compile=compiled, save_steps=2)
        if name == "broken":
            steps = run.cycle_steps()
            run.run.begin({})
            for _ in range(4):
                next(steps)
            run.run.save_checkpoint()
            run = ark_trainer(tmp_path / name, sites, torch_compile=True, save_steps=2)
            assert run.state.step == 4
        run.train()
        assert bool(counters["stats"]) == compiled and not counters["graph_break"]
    for model in ("ark-cxr", "student"):
        check_same(tmp_path / "plain" / model, tmp_path / "whole" / model)
        check_same(tmp_path / "plain" / model, tmp_path / "broken" / model)
    with pytest.raises(ValueError, match="torch_compile"):
        ark_trainer(tmp_path / "whole", sites, torch_compile=False, save_steps=2)


def test_peac_trains_the_same(sites, tmp_path):
    images = [open_images(str(next(iter(sites.values()))))]
    for name, compiled in (("plain", False), ("compiled", True)):
        peac_trainer(tmp_path / name, images, epochs=1, torch_compile=compiled).train()
    assert counters["stats"]["unique_graphs"]
    check_same(tmp_path / "plain" / "ark-cxr", tmp_path / "compiled" / "ark-cxr")


def test_genesis_trains_the_same(volumes, tmp_path):  # noqa: F811
    for name, compiled in (("plain", False), ("compiled", True)):
        genesis_trainer(tmp_path / name, volumes, epochs=1, torch_compile=compiled).train()
    assert counters["stats"]["unique_graphs"]
    check_same(tmp_path / "plain" / "genesis", tmp_path / "compiled" / "genesis")


def test_fine_tuning_trains_the_same(sites, tmp_path):
    shape = {key: TINY[key] for key in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}
    for name, compiled in (("plain", False), ("compiled", True)):
        settings = {**shape, "batch_size": 8, "epochs": 1, "bootstrap": 0, "torch_compile": compiled}
        folder = tmp_path / name
        finetune("none", str(sites["phantom_hill"]), FinetuningArguments(output_dir=str(folder), **settings))
    assert counters["stats"]["unique_graphs"]
    check_same(tmp_path / "plain" / "seed-0" / "ark-cxr", tmp_path / "compiled" / "seed-0" / "ark-cxr")

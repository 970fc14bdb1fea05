"""Weights sharded by FSDP 2: a run trains as in one process, and goes on from a checkpoint to the bit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedType, merge_fsdp_weights
from safetensors.torch import load_file

from ark_hf import ArkForImageClassification
from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.ark.recipe import PretrainingArguments
from ark_hf.training.optimizer import create_optimizer
from ark_hf.training.sharding import begin_states, check_sharding, own_parts, whole_weights

from .ark.test_resume import ENVIRONMENT, checkpoint_steps, same_weights
from .conftest import TINY, open_site
from .sharded_processes import DIES_AT

SWIN = {
    **TINY,
    "backbone": "swin_tiny_patch4_window7_224",
    "backbone_kwargs": {"embed_dim": 16, "depths": [2, 1], "num_heads": [1, 2], "window_size": 4},
    "drop_path_rate": 0.0,
    "cycles": 1,
    "warmup_steps": 1,
    "save_steps": 2,
    "gradient_checkpointing": True,
    "max_grad_norm": 1.0,
    "gradient_accumulation_steps": 2,
}


@pytest.mark.slow_ci
def test_two_sharded_processes_train_as_one_and_resume(tmp_path, sites):
    (tmp_path / "recipe.yaml").write_text(
        yaml.safe_dump({**SWIN, "tasks": [{"dataset": str(path)} for path in sites.values()]})
    )
    script = Path(__file__).with_name("sharded_processes.py")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(
        [sys.executable, *launcher, str(tmp_path / "recipe.yaml"), str(tmp_path)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"(step {DIES_AT - 1})" in done.stdout
    args = PretrainingArguments(output_dir=str(tmp_path / "one"), **SWIN)
    CyclicPretrainer(args, [open_site(path) for path in sites.values()]).train()

    for name in ("ark-cxr", "student"):
        assert same_weights(tmp_path / "whole" / name, tmp_path / "killed" / name)
        one, two = (load_file(tmp_path / run / name / "model.safetensors") for run in ("one", "whole"))
        assert one.keys() == two.keys()
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=0, atol=1e-5)
    ArkForImageClassification.from_pretrained(tmp_path / "whole" / "ark-cxr")

    # One process reads the last checkpoint, of which the two have just written the models
    checkpoint = tmp_path / "whole" / "checkpoints" / f"step-{checkpoint_steps(tmp_path / 'whole')[-1]:010d}"
    merge_fsdp_weights(str(checkpoint / "pytorch_model_fsdp_0"), str(tmp_path / "merged"))
    assert same_weights(tmp_path / "merged", tmp_path / "whole" / "student")
    teacher = torch.load(checkpoint / "custom_checkpoint_0.pkl", weights_only=True)
    written = load_file(tmp_path / "whole" / "ark-cxr" / "model.safetensors")
    assert teacher.keys() == written.keys() and all(torch.equal(teacher[key], value) for key, value in written.items())


@pytest.mark.parametrize("optim", ["sgd", "momentum", "adamw"])
def test_a_state_to_begin_with_changes_no_step(optim):
    weights = []
    for begun in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = create_optimizer(model, optim, 0.1, 0.01, torch.device("cpu"))
        if begun:
            begin_states(optimizer)
        keys = [set(optimizer.state[each]) for each in model.parameters()] if begun else []
        for _ in range(3):
            model(torch.randn(4, 3)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert not begun or keys == [set(optimizer.state[each]) for each in model.parameters()]
        weights.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*weights)


def test_a_model_that_is_not_sharded_is_left_as_it_is():
    model = torch.nn.BatchNorm1d(2)
    state = model.state_dict()
    assert whole_weights(model) is None
    assert all(own is state[key] for key, own in own_parts(state).items())


@pytest.mark.parametrize(
    ("asked", "kind", "is_fsdp2", "method", "message"),
    [
        ("true", DistributedType.MULTI_CPU, False, "ark", "accelerate gives MULTI_CPU: it shards on several GPUs"),
        ("true", DistributedType.FSDP, False, "ark", "--fsdp_version 2"),
        ("true", DistributedType.FSDP, True, "peac", "method: peac is not trained with FSDP"),
        ("true", DistributedType.NO, False, "genesis", "method: genesis is not trained with FSDP"),
        ("true", DistributedType.FSDP, True, "ark", None),
        ("false", DistributedType.MULTI_GPU, False, "peac", None),
        (None, DistributedType.NO, False, "ark", None),
    ],
)
def test_what_cannot_be_sharded_is_refused(monkeypatch, asked, kind, is_fsdp2, method, message):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    if asked is not None:
        monkeypatch.setenv("ACCELERATE_USE_FSDP", asked)
    monkeypatch.setattr(Accelerator, "distributed_type", property(lambda self: kind))
    monkeypatch.setattr(Accelerator, "is_fsdp2", property(lambda self: is_fsdp2))
    accelerator = object.__new__(Accelerator)
    if message is None:
        return check_sharding(accelerator, method)
    with pytest.raises(ValueError, match=message):
        check_sharding(accelerator, method)


def test_a_pretraining_that_asks_for_fsdp_on_the_cpu_is_refused(tmp_path, sites, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    args = PretrainingArguments(output_dir=str(tmp_path / "run"), **TINY)
    with pytest.raises(ValueError, match="it shards on several GPUs alone"):
        CyclicPretrainer(args, [open_site(path) for path in sites.values()])
    assert not (tmp_path / "run").exists()

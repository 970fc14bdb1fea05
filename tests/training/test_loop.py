"""What the three trainers' loops have in common: when they wait for the device, and the processes that load."""

import contextlib
import math
import multiprocessing

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.optimizer import create_optimizer

from .methods import METHODS

# What waits for an accelerator: reading a value, and copying one there that lies in ordinary memory
READ = {"item", "tolist", "numpy", "cpu", "__array__", "__bool__", "__float__", "__int__", "__index__", "nonzero"}
SENT = {"tensor", "new_tensor"}
ATEN_READ = {"_local_scalar_dense", "nonzero", "is_nonzero", "masked_select"}


class Waits(TorchFunctionMode):
    """Notes the step of a run at each call that would wait for an accelerator, except while batches are loaded."""

    def __init__(self, trainer):
        super().__init__()
        self.trainer, self.loading, self.found = trainer, False, []
        load = trainer.loader.load

        def without_loading(*args):
            batches = load(*args)
            while True:
                self.loading = True
                batch = next(batches, None)
                self.loading = False
                if batch is None:
                    return
                yield batch

        trainer.loader.load = without_loading

    def note(self, name: str) -> None:
        if not self.loading:
            self.found.append((self.trainer.state.step, name))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in READ | SENT:
            self.note(name)
        return func(*args, **(kwargs or {}))


class AtenWaits(TorchDispatchMode):
    """The same for what C++ calls by itself; masks as an index have to be counted, too."""

    def __init__(self, waits: Waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        masks = name in ("index", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in ATEN_READ or masks:
            self.waits.note(name)
        return func(*args, **(kwargs or {}))


def steps_of_a_cycle(trainer) -> None:
    """Without validation, or anything on the disk."""
    trainer.run.begin({})
    if isinstance(trainer, CyclicPretrainer):
        for _ in trainer.cycle_steps():
            pass
    else:
        for batches in trainer.train_batches(0):
            trainer._step(batches)


@pytest.mark.parametrize("method", METHODS)
def test_between_logging_steps_nothing_waits_for_the_device(make, method):
    trainer = make(method, logging_steps=4, gradient_accumulation_steps=2, max_grad_norm=1.0)
    waits = Waits(trainer)
    with waits, AtenWaits(waits):
        steps_of_a_cycle(trainer)
    assert trainer.state.step == {"ark": 6, "peac": 6, "genesis": 5}[method]
    ends = [3, 6] if method == "ark" else []  # of passes, where the losses are read, too
    assert waits.found == [(step, "tolist") for step in sorted([0, 4, *ends])]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA, which tells of every wait itself")
@pytest.mark.parametrize("optim", ["sgd", "adamw"])
@pytest.mark.parametrize("method", METHODS)
def test_cuda_sees_no_wait_between_logging_steps(make, method, optim):
    trainer = make(method, logging_steps=10**6, optim=optim, mixed_precision="bf16", dataloader_num_workers=0)
    read = trainer.run.read_losses

    def read_losses():
        torch.cuda.set_sync_debug_mode("default")
        try:
            return read()
        finally:
            torch.cuda.set_sync_debug_mode("error")

    trainer.run.read_losses = read_losses
    try:
        steps_of_a_cycle(trainer)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", ["ark", *(pytest.param(each, marks=pytest.mark.slow_ci) for each in METHODS[1:])])
def test_a_run_starts_its_processes_once_and_they_end_with_it(make, method, monkeypatch):
    started, start = [], multiprocessing.process.BaseProcess.start
    monkeypatch.setattr(
        multiprocessing.process.BaseProcess, "start", lambda self: (started.append(self), start(self))[1]
    )
    trainer = make(method, dataloader_num_workers=2, **{"cycles" if method == "ark" else "epochs": 2})
    trainer.train()
    assert trainer.state.cycle == 2 and len(started) == 2
    assert not any(process.is_alive() for process in started)


@contextlib.contextmanager
def spoilt(trainer, step: int):
    """The loss of one step, and only of that, is not finite."""
    name = "_train_step" if isinstance(trainer, CyclicPretrainer) else "train_step"
    take = getattr(trainer, name)

    def take_step(*args):
        losses = take(*args)
        if trainer.state.step != step:
            return losses
        spoil = torch.tensor(math.inf)
        return losses * spoil if isinstance(losses, torch.Tensor) else losses | {"total": spoil, "task_loss": spoil}

    setattr(trainer, name, take_step)
    yield


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_that_is_not_finite_is_found_before_anything_is_saved(make, method):
    trainer = make(method, logging_steps=100, save_steps=2)
    with spoilt(trainer, 1), pytest.raises(FloatingPointError, match="is not finite at step 1, and would be so again"):
        trainer.train()
    assert trainer.state.step == 2 and not list(trainer.output_dir.glob("checkpoints/*"))
    for save in (trainer.run.save_checkpoint, lambda: trainer.run.save_model("ark-cxr", pytest.fail)):
        with pytest.raises(FloatingPointError, match="step 1"):
            save()
    assert not [*trainer.output_dir.glob("*/*.safetensors")]


def test_it_is_found_at_the_next_logging_step_or_end_of_a_pass(make):
    for logging_steps, found_at in ((2, 2), (100, 3)):
        trainer = make("ark", logging_steps=logging_steps)
        with spoilt(trainer, 1), pytest.raises(FloatingPointError, match="task 'phantom_city' .* at step 1,"):
            trainer.train()
        assert trainer.state.step == found_at


def test_losses_are_kept_as_they_are(make):
    """However seldom they are read."""
    often, seldom = (make("ark", cycles=1, logging_steps=steps) for steps in (1, 100))
    assert often.run_cycle() == seldom.run_cycle() and often.state.step == 6


@pytest.mark.parametrize(("device", "fused"), [("cpu", None), ("cuda", True)])
def test_a_step_of_adamw_is_fused_on_cuda_alone(device, fused):
    model = torch.nn.Linear(2, 2)
    for optim, expected in (("adamw", fused), ("sgd", None), ("momentum", None)):
        optimizer = create_optimizer(model, optim, 0.1, 0.0, torch.device(device))
        assert [group["fused"] for group in optimizer.param_groups] == [expected] * 2

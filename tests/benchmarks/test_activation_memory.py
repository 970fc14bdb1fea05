"""The count of a step's memory, which DESIGN's goal and the defaults of large models rest on."""

import argparse
import importlib

import pytest
import torch

from .test_benchmarks import FOLDER

pytestmark = pytest.mark.slow_ci  # what counts without values takes seconds to import


@pytest.fixture
def activation_memory(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("activation_memory")


def test_what_lives_is_counted_once_and_until_nothing_holds_it(activation_memory):
    weight = torch.nn.Parameter(torch.ones(1000))
    with activation_memory.LiveBytes([weight]) as live:
        weight.register_post_accumulate_grad_hook(live.finished)
        doubled = weight.view(10, 100) * 2  # the view is no memory of its own
        assert (live.now, live.peak) == (4000, 4000)
        loss = (doubled * doubled).sum()  # the product is given back
        assert (live.now, live.peak) == (4004, 8004)
        loss.backward()
        del doubled, loss
        assert (live.now, live.gradients) == (4000, 4000)
        live.peak = live.peak_with_gradients = 0
        torch.ones(1000)
        assert (live.peak, live.peak_with_gradients) == (4000, 8000)


@pytest.mark.parametrize("backbone", ["swin_tiny_patch4_window7_224", "convnext_tiny", "vit_small_patch16_224"])
def test_checkpointing_keeps_little_of_a_step(activation_memory, backbone):
    args = argparse.Namespace(backbone=backbone, image_size=224, batch_size=4)
    row = activation_memory.count(args, "as built")
    assert 0 < row["ratio"] < activation_memory.GOAL


@pytest.mark.slow
def test_the_count_is_that_of_a_real_step(activation_memory, capsys):
    args = argparse.Namespace(backbone="swin_tiny_patch4_window7_224", image_size=224, measured_batch_size=8)
    rows = activation_memory.compare(args)
    activation_memory.print_measured(rows)
    for row in rows:
        assert row["measured_gb"] == pytest.approx(row["counted_gb"], rel=0.25)
    assert "checkpointed" in capsys.readouterr().out

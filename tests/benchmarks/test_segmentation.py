"""benchmarks/segmentation.py runs on little; what it measures is not asserted, that both ways compute the same is."""

import argparse
import importlib.util
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "segmentation.py"

pytestmark = pytest.mark.slow_ci  # the library's own model needs all of its encoders imported


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("segmentation_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def models(benchmark) -> dict[str, torch.nn.Module]:
    return {way: benchmark.create("test_resnet", way, 64) for way in benchmark.WAYS}


def test_both_ways_are_the_same_network(models):
    ours, theirs = (sum(weight.numel() for weight in model.parameters()) for model in models.values())
    unused = sum(weight.numel() for weight in models["ours"].ark.encoder.parameters()) - sum(
        weight.numel() for weight in models["smp"].encoder.parameters()
    )
    assert ours - unused == theirs
    pictures = torch.zeros(2, 3, 64, 64)
    assert models["ours"].eval()(pictures).logits.shape == models["smp"].eval()(pictures).shape == (2, 3, 16, 16)


def test_every_part_is_measured(benchmark, capsys):
    args = argparse.Namespace(image_size=64, batch_size=2, turns=2, threads=1, mask_size=96)
    memory = {("test_resnet", "training", way): 100.0 for way in benchmark.WAYS}
    row = benchmark.measure("test_resnet", "training", memory, args)
    assert all(row[way]["images_per_second"] > 0 for way in benchmark.WAYS) and row["peak_mb_ratio"] == 1
    assert benchmark.peak_megabytes("test_resnet", "inference", "ours", args) > 0
    distance = benchmark.measure_distance(args)
    assert all(distance[way] > 0 for way in ("ours", "transforms"))
    benchmark.print_table([row], distance)
    assert "peak_mb, ours by theirs: worst 1.0, goal at most 1.1: met" in capsys.readouterr().out

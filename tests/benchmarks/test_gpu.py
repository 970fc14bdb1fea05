"""benchmarks/gpu.py rehearses on the CPU; what it measures is not asserted, what it counts is."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import datasets
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(PATH.parent)  # as for a script that is run
    spec = importlib.util.spec_from_file_location("gpu_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def main(gpu, monkeypatch):
    """The command on these arguments; returns its exit status."""
    # The command moves the cache of `datasets`, which are imported here and stay where the tests have them
    monkeypatch.setenv("HF_DATASETS_CACHE", str(datasets.config.HF_DATASETS_CACHE))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(PATH), *map(str, arguments)])
        try:
            gpu.main()
        except SystemExit as error:
            return error.code
        return 0

    return run


def patch_embedding_flops(image_size, width):
    return 2 * (image_size // 4) ** 2 * (4 * 4 * 3) * width


def swin_flops(image_size, width, depths, window, projector_dim):
    """By hand: a multiplication and an addition for each weight and token; attention's two products in each window."""
    total = patch_embedding_flops(image_size, width)
    side = image_size // 4
    for stage, depth in enumerate(depths):
        if stage:  # four tokens of the last stage become one, twice as wide
            side, width = side // 2, width * 2
            total += 2 * side**2 * (2 * width) * width
        tokens = side**2
        total += depth * 2 * tokens * (3 + 1 + 4 + 4) * width**2  # qkv, output, and the two layers of the MLP
        total += depth * 2 * 2 * tokens * min(window, side) ** 2 * width
    return total + 2 * width * projector_dim


@pytest.mark.parametrize(
    "model, expected",
    [
        ("tiny Swin", swin_flops(56, 8, (1, 1), 7, 16)),
        ("Swin-L 768", swin_flops(768, 192, (2, 2, 18, 2), 12, 1376)),
    ],
)
def test_forward_pass_is_counted_as_by_hand(gpu, model, expected):
    assert gpu.forward_flops((gpu.FULL["models"] | gpu.QUICK["models"])[model]) == expected


def test_a_training_step_comes_to_four_forward_passes(gpu):
    """Less the gradient of the pictures, which nobody needs; more one head, of which the teacher has no part."""
    model = gpu.QUICK["models"]["tiny Swin"]
    step = gpu.training_step(gpu.build(model, "eager").to(gpu.DEVICE), torch.randn(2, 3, 56, 56).to(gpu.DEVICE), None)
    with FlopCounterMode(display=False) as counter:
        step()
    head = 2 * model["projector_dim"] * importlib.import_module("steps").HEADS[0]
    passes = gpu.FORWARDS["training"] * gpu.forward_flops(model)
    assert counter.get_total_flops() == 2 * (passes + 3 * head - patch_embedding_flops(56, 8))


@pytest.mark.slow_ci
def test_rehearsal_runs_every_part(gpu, main, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ark_hf.models.compile_blocks.BACKEND", "eager")  # the compiler itself takes half a minute
    assert main("--quick", "--out", tmp_path / "gpu.json") == 0
    results = json.loads((tmp_path / "gpu.json").read_text())
    ways = [(row["job"], row["way"]) for row in results["table"]]
    assert ways == [
        *((job, way) for job in ("training", "inference") for way in gpu.WAYS),
        ("training", gpu.CHECKPOINTED),
        ("training", "pretrainer, step"),
        ("training", "pretrainer, run"),
    ]
    for row in results["table"]:
        reference = next(each for each in results["table"] if each["job"] == row["job"])
        if row["batch_size"] == reference["batch_size"]:
            assert row["ratio"] == pytest.approx(row["images_per_s"] / reference["images_per_s"], rel=0.002)
        else:
            assert row["ratio"] is None
        flops = gpu.FORWARDS[row["job"]] * results["forward_gflops"]["tiny Swin"] / 1000
        assert row["mfu"] == pytest.approx(flops * row["images_per_s"] / results["ceiling_tflops"], rel=0.002)
        assert row["first_step_s"] > 0
    assert 0 < results["demo"]["auroc"] < 1 and 0 < results["demo"]["shortcut_auroc"] < 1
    output = capsys.readouterr().out
    assert "not judged" in output and len(output.splitlines()) == len(ways) + 5  # whatever the parts print


def test_a_part_that_fails_leaves_the_others_and_is_told(gpu, main, tmp_path, capsys, monkeypatch):
    def run_out_of_memory(sizes, folder, job, name, batch_size, way):
        if way == "reference":
            raise torch.OutOfMemoryError("no room")
        return [{"job": job, "model": name, "batch_size": batch_size, "way": way, "seconds": 1.0}]

    monkeypatch.setattr(gpu, "measure_step", run_out_of_memory)
    monkeypatch.setattr(gpu, "measure_pretraining", lambda sizes, folder: [])
    monkeypatch.setattr(gpu, "check_demo", lambda sizes, folder: None)
    assert main("--quick", "--out", tmp_path / "gpu.json") == 1
    results = json.loads((tmp_path / "gpu.json").read_text())
    ways = [way for way in gpu.WAYS if way != "reference"]
    assert [row["way"] for row in results["table"]] == [*ways, *ways, gpu.CHECKPOINTED]
    assert all(row["ratio"] is None for row in results["table"])
    assert list(results["failures"].values()) == ["OutOfMemoryError: no room"] * 2
    assert "run_out_of_memory training tiny Swin 4 reference: OutOfMemoryError: no room" in capsys.readouterr().out


@pytest.mark.parametrize("floor, status, verdict", [(0.6, 0, "passed"), (0.8, 1, "FAILED")])
def test_a_demo_below_the_level_of_the_cpu_fails_the_run(gpu, main, capsys, monkeypatch, floor, status, verdict):
    monkeypatch.setattr(gpu, "QUICK", gpu.QUICK | {"steps": [], "demo_floor": floor, "demo_sites": {}})
    monkeypatch.setattr(gpu, "measure_pretraining", lambda sizes, folder: [])
    mean = type("Mean", (), {"auroc": 0.7})
    report = type("Report", (), {"mean": mean, "baseline_mean": mean})
    monkeypatch.setattr("ark_hf.demonstration.train_demo", lambda *args, **kwargs: [report] * 4)
    assert main("--quick") == status
    assert f"at least {floor}: {verdict}" in capsys.readouterr().out


def test_without_a_gpu_nothing_is_measured(gpu, main, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no CUDA device; --quick" in line

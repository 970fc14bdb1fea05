"""The scripts under benchmarks/ run on a handful of images; what they measure is not asserted."""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ark_hf.training.ema import MovingAverage

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def input_pipeline():
    spec = importlib.util.spec_from_file_location("input_pipeline", FOLDER / "input_pipeline.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_input_pipeline_measures_every_part_of_both_ways(input_pipeline, tmp_path, capsys):
    args = argparse.Namespace(images=2, repeats=2, turns=1, batch_size=2, no_workers=True)
    results = input_pipeline.measure(tmp_path, args)
    ways = {"total": ["reference", "map-style", "streaming"]}
    ways |= dict.fromkeys(["decode", "student view", "teacher view", "normalise both"], ["reference", "ours"])
    assert [(row["part"], row["way"]) for row in results["table"]] == [
        (part, way) for part, found in ways.items() for way in found
    ]
    assert all(row["ms_per_image"] > 0 for row in results["table"])
    assert 500 < results["png_kilobytes"] < 1000  # ChestX-ray14's are 400
    json.dumps(results)
    input_pipeline.print_table(results)
    assert "Goal 10x" in capsys.readouterr().out


def test_reference_views_are_those_of_the_specification(input_pipeline, tmp_path):
    """Its random views must do the work that ours do, or the ratio means nothing."""
    (path,) = input_pipeline.draw_radiographs(tmp_path / "png", 1)
    samples = input_pipeline.ReferenceSamples([path])
    image = samples.decode(0)
    assert image.size == (256, 256) and image.mode == "RGB"
    boxes = np.array([samples.draw_box() for _ in range(500)])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 256**2
    assert 0.08 - 0.01 < areas.min() < 0.15 and 0.85 < areas.max() <= 1
    # A turn moves what it shows by little, and fills the border with the picture
    view = image.resize((224, 224))
    for _ in range(20):
        turned = np.asarray(samples.turn(view), dtype=float)
        assert np.corrcoef(turned.ravel(), np.asarray(view, dtype=float).ravel())[0, 1] > 0.5
        assert turned[[0, 0, -1, -1], [0, -1, 0, -1]].sum() > 0
    student, teacher = samples[0]
    expected = (np.asarray(view) / 255 - input_pipeline.MEAN) / input_pipeline.STD
    np.testing.assert_allclose(teacher.numpy().transpose(1, 2, 0), expected, atol=1e-6)
    assert student.shape == teacher.shape == (3, 224, 224) and student.dtype == teacher.dtype


@pytest.mark.slow
def test_memory_does_not_grow_while_50000_images_are_built_streamed_and_trained_on(tmp_path):
    command = [sys.executable, str(FOLDER / "constant_memory.py"), "--size", "64"]  # fails if it grows
    subprocess.run([*command, "--out", str(tmp_path / "results.json")], check=True)
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert list(parts) == ["build", "train, loaded", "train, streamed"]


@pytest.mark.slow_ci
def test_views_of_peac_are_measured_beside_those_of_ark(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    peac_views = importlib.import_module("peac_views")
    results = peac_views.measure(tmp_path, argparse.Namespace(images=2, turns=1, batch_size=2))
    assert [row["part"] for row in results["table"]] == [
        "total", "decode", "views, 8 bits", "views, floats", "normalise",
    ]  # fmt: skip
    assert all(row["ark_ms"] > 0 and row["peac_ms"] > 0 and row["ratio"] > 0 for row in results["table"])
    json.dumps(results)
    peac_views.print_table(results)
    assert "Goal 1.5x" in capsys.readouterr().out


@pytest.mark.slow_ci
def test_both_deformations_of_cubes_are_measured(capsys, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    deformation = importlib.import_module("genesis_deformation")
    args = argparse.Namespace(cubes=2, turns=2, processes=1, side_by_side=2)
    results = deformation.measure(args)
    assert [row["part"] for row in results["table"]] == [
        "whole",
        "blocks shuffled",
        "values mapped",
        "painted outside",
    ]
    assert all(row["exact_ms"] > 0 and row["fast_ms"] > 0 and row["ratio"] > 0 for row in results["table"])
    assert all(rate > 0 for rate in results["cubes_a_second"].values())
    json.dumps(results)
    deformation.print_table(results)
    assert "Goal 250 cubes a second" in capsys.readouterr().out


@pytest.mark.slow_ci
def test_the_loop_of_training_is_measured_with_live_processes_and_without(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    loop = importlib.import_module("training_loop")
    args = argparse.Namespace(
        sites=1, images=[8], size=32, workers=1, cycles=1, backbone="test_resnet", updates=2, out=tmp_path
    )
    results = loop.measure(tmp_path, args)
    (row,) = results["loader"]
    assert row["images_of_each"] == {"train": 8, "validation": 8}
    assert all(row[figure] > 0 for figure in ("loader_a_pass", "live", "ratio"))
    assert results["average"]["ratio"] > 0 and results["average"]["weights"] > 1000
    json.dumps(results)
    loop.print_table(results)
    assert "Averaging" in capsys.readouterr().out


@pytest.mark.slow_ci
def test_files_are_read_by_one_core_and_by_all(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    many_files = importlib.import_module("many_files")
    cores = os.sched_getaffinity(0)
    results = many_files.measure(tmp_path, argparse.Namespace(files=10, size=64, turns=1, out=tmp_path))
    assert os.sched_getaffinity(0) == cores
    assert [row["verb"] for row in results["rows"]] == ["predict", "embed"]
    assert all(row["one_core"] > 0 and row["all_cores"] > 0 for row in results["rows"])
    json.dumps(results)
    many_files.print_table(results)
    assert "share of the ideal" in capsys.readouterr().out


def test_both_ways_of_averaging_give_the_same(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    loop = importlib.import_module("training_loop")
    teachers, student = [torch.nn.BatchNorm1d(3) for _ in range(2)], torch.nn.BatchNorm1d(3)
    student(torch.arange(12.0).reshape(4, 3))
    loop.average_state_dicts(teachers[0], student, 0.9)
    MovingAverage(teachers[1], student).update(0.9)
    one, other = (teacher.state_dict() for teacher in teachers)
    assert all(torch.equal(one[key], other[key]) for key in one) and one["running_mean"].any()


@pytest.mark.slow_ci
def test_ways_on_a_cpu_are_measured_beside_the_reference(capsys, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    cpu = importlib.import_module("cpu")
    monkeypatch.setattr("ark_hf.models.compile_blocks.BACKEND", "eager")  # the compiler itself takes half a minute
    results = cpu.measure(argparse.Namespace(turns=2, inference_batch=2, training_batch=2, threads=1, quick=True))
    assert [(row["job"], row["way"]) for row in results["table"]] == [
        *(("inference", way) for way in cpu.WAYS),
        *(("training", way) for way, (_, _, compiled) in cpu.WAYS.items() if not compiled),
    ]
    assert all(row["images_per_s"] > 0 and row["ratio"] > 0 and row["share"] > 0 for row in results["table"])
    json.dumps(results)
    cpu.print_table(results)
    assert "Goal of inference" in capsys.readouterr().out


def test_results_of_one_benchmark_leave_those_of_others(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    run_all = importlib.import_module("run_all")
    for name, text in (("good", "print('a  b'); print('Written to x.')"), ("bad", "import sys; sys.exit(3)")):
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "late.py").write_text("print('late')")
    (tmp_path / "gpu.py").write_text("print('card')")
    monkeypatch.setattr(run_all, "FOLDER", tmp_path)
    monkeypatch.setattr(run_all, "RESULTS", tmp_path / "RESULTS.md")
    assert run_all.main(["late"]) == 0
    (tmp_path / "late.py").write_text("print('later')")
    assert run_all.main(["good", "bad"]) == 1
    assert "Failed: bad" in capsys.readouterr().err
    written = (tmp_path / "RESULTS.md").read_text()
    assert re.findall(r"^## (.*)", written, re.MULTILINE) == ["good", "late"]
    assert "```\na  b\n```" in written and "```\nlate\n```" in written and "Written" not in written
    run_all.main(["late"])
    assert "```\nlater\n```" in (tmp_path / "RESULTS.md").read_text()
    assert run_all.main(["worse"]) == 2
    assert "there is no benchmark worse; there are bad, good, gpu, late" in capsys.readouterr().err


@pytest.mark.slow_ci
def test_costs_are_measured_along_every_axis(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    task_scaling = importlib.import_module("task_scaling")
    plan = {**task_scaling.QUICK, "processes": []}  # they are started as those of training are
    table = task_scaling.measure(plan, quick=True)["table"]
    axes = {"tasks": [1, 2], "labels": [1, 3], "images": [16, 32]}
    assert [(row["axis"], row["number"]) for row in table] == [(axis, n) for axis in axes for n in axes[axis]]
    assert [row["heads_kb"] / table[0]["heads_kb"] for row in table[:2]] == [1, 2]
    assert all(row[name] > 0 and row["growth"][name] > 0 for row in table for name in task_scaling.SHOWN)
    json.dumps(table)
    task_scaling.print_table(table)
    assert "growth" in capsys.readouterr().out


@pytest.mark.slow
def test_the_memory_of_every_verb_is_measured(tmp_path):
    command = [sys.executable, str(FOLDER / "inference_memory.py"), "--backbone", "convnext_atto", "--images", "2"]
    subprocess.run([*command, "--image_size", "64", "--out", str(tmp_path / "results.json")], check=True)
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["verb"] for row in rows] == ["predict", "embed", "serve"] * 2
    assert all(0.3 < row["peak_gb"] < 4 and row["seconds"] > 0 for row in rows)


@pytest.mark.slow
def test_the_memory_of_a_whole_volume_is_measured(tmp_path):
    command = [sys.executable, str(FOLDER / "volume_memory.py"), "--width", "2", "--shape", "70", "70", "50"]
    subprocess.run([*command, "--out", str(tmp_path / "results.json")], check=True)
    cases = json.loads((tmp_path / "results.json").read_text())["cases"]
    assert all(0.3 < case["peak_gb"] < 4 and case["seconds"] > 0 for case in cases.values())


@pytest.mark.parametrize(
    "name",
    [
        "input_pipeline",
        "constant_memory",
        "cpu",
        "gpu",
        "segmentation",
        "peac_views",
        "genesis_deformation",
        "training_loop",
        "many_files",
        "inference_memory",
        "volume_memory",
        "activation_memory",
        "task_scaling",
    ],
)
def test_help_explains_a_benchmark(name, capsys, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        module.main()
    assert "--out" in capsys.readouterr().out

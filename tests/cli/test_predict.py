"""`ark-hf predict`: second opinions that agree with the predictions, warnings, heat maps, addresses, wrong files."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ark_hf.cli.main import main
from ark_hf.cli.predict import MAX_WARNINGS
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification
from tests.data.test_inputs import server  # noqa: F401
from tests.training.conftest import TINY
from tests.wrong_inputs import chest, encode, wrong_inputs  # noqa: F401

TASKS = [
    ArkTask("north", ["Edema", "Pleural Effusion"], thresholds={"Edema": 0.3}),
    ArkTask("south", ["normal", "Oedema", "TB"], "single_label_classification"),
    ArkTask("east", ["Effusion", "Rib fracture"], thresholds={"Effusion": 0.8}),
]
SHARED = {"Edema": ["north/Edema", "south/Oedema"], "Pleural Effusion": ["north/Pleural Effusion", "east/Effusion"]}
THRESHOLDS = {"north/Edema": 0.3, "east/Effusion": 0.8}


def save_model(folder, **kwargs) -> str:
    torch.manual_seed(0)
    settings = {name: TINY[name] for name in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}
    model = ArkForImageClassification(ArkConfig(**settings, **kwargs))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("heads."):
                parameter.normal_(std=2)
    model.save_pretrained(folder)
    ArkImageProcessor(size=32).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_model(tmp_path_factory.mktemp("model") / "ark-cxr", tasks=TASKS)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number, scale in enumerate((40, 90, 140, 190, 240, 255, 255)):
        plane = (generator.random((40, 50)) * scale).astype(np.uint8)
        Image.fromarray(plane).save(folder / f"{number}.png")
    (folder / "3a.png").write_text("not a picture")
    return folder


def test_second_opinions_are_those_of_the_predictions(model, pictures, tmp_path, capsys):
    out = tmp_path / "out" / "today.csv"
    assert main(["predict", model, str(pictures), "--out", str(out), "--second_opinion", "--batch_size", "3"]) == 0
    printed = capsys.readouterr().out
    names = ["today.csv", "today.second_opinion.csv", "today.unreadable.csv"]
    assert sorted(path.name for path in out.parent.iterdir()) == names
    predictions = {row["image"]: row for row in csv.DictReader(out.open())}
    rows = list(csv.DictReader((out.parent / names[1]).open()))
    assert len(predictions) == 7 and len(rows) == 14
    assert [row["image"] for row in rows[::2]] == list(predictions)

    disagreements = []
    for row in rows:
        values = {name: float(predictions[row["image"]][name]) for name in SHARED[row["finding"]]}
        calls = {name: value >= THRESHOLDS.get(name, 0.5) for name, value in values.items()}
        assert row["agree"] == ("yes" if len(set(calls.values())) == 1 else "no")
        assert float(row["mean"]) == pytest.approx(np.mean(list(values.values())), abs=2e-6)
        assert float(row["lowest"]) == min(values.values()) == values[row["lowest_label"]]
        assert float(row["highest"]) == max(values.values()) == values[row["highest_label"]]
        for name, called in calls.items():
            assert f"{name} {'yes' if called else 'no'} (" in row["calls"]
        if row["agree"] == "no":
            disagreements.append((row["image"].rsplit("/")[-1], row["finding"]))
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert (first["agree"], second["agree"]) != ("yes", "no")

    shown = [tuple(line.split(" | ")[:2]) for line in printed.splitlines() if line.startswith("| ")][1:]
    first_five = {str(name) for name in range(5)}
    expected = [(f"| {image}", finding) for image, finding in disagreements if image[0] in first_five]
    assert shown == expected and len(expected) < len(disagreements) < len(rows)
    assert "south/Oedema, north/Pleural Effusion: called positive from 0.5" in printed
    assert "No second opinion, known to one head only: " in printed and str(out.parent / names[1]) in printed

    before = out.read_bytes()
    plain = ["predict", model, str(pictures), "--out", str(tmp_path / "plain.csv"), "--batch_size", "3"]
    assert main(plain) == 0
    assert (tmp_path / "plain.csv").read_bytes() == before
    assert not (tmp_path / "plain.second_opinion.csv").exists()


def test_nothing_is_written_if_nothing_can_be_read(model, pictures, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert main(["predict", model, str(pictures / "3a.png"), "--out", str(out), "--second_opinion"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.unreadable.csv"]
    assert "out.csv is not written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_labels": 3}, "has no named heads"),
        ({"tasks": TASKS[:1]}, "has one head, 'north'"),
        ({"tasks": [TASKS[0], ArkTask("west", ["Mass"])]}, "No finding is known to two of the heads"),
    ],
)
def test_a_model_without_second_opinions_is_refused_before_any_work(kwargs, message, pictures, tmp_path, capsys):
    model = save_model(tmp_path / "model", **kwargs)
    out = tmp_path / "out" / "out.csv"
    assert main(["predict", model, str(pictures), "--out", str(out), "--second_opinion"]) == 2
    error = capsys.readouterr().err
    assert message in error.strip().splitlines()[-1] and "predicting" not in error
    assert not out.parent.exists()


def rows_of(path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def test_wrong_files_have_a_line_each(model, wrong_inputs, tmp_path, capsys):  # noqa: F811
    named = [each for each in wrong_inputs if each.path.is_file()]
    refused = {str(each.path): each for each in named if each.kind == "refused"}
    warned = {str(each.path): each for each in named if each.kind == "warned"}
    out = tmp_path / "out.csv"
    assert main(["predict", model, *refused, *warned, "--out", str(out)]) == 0
    assert rows_of(out).keys() == warned.keys()
    reasons = {image: row["reason"] for image, row in rows_of(tmp_path / "out.unreadable.csv").items()}
    assert reasons.keys() == refused.keys()
    for path, reason in reasons.items():
        assert refused[path].message in reason and "\n" not in reason
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Warning: ")]
    assert len(lines) == len(warned)
    for path, line in zip(warned, lines, strict=True):
        assert line.startswith(f"Warning: {path}: ") and warned[path].message in line


def test_what_is_not_there_stops_it_at_once(model, wrong_inputs, tmp_path, capsys):  # noqa: F811
    for name, message in [("missing.png", "does not exist"), ("folder.png", "No files with the suffixes")]:
        path = next(each.path for each in wrong_inputs if each.name == name)
        assert main(["predict", model, str(path), "--out", str(tmp_path / "out.csv")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line and str(path) in line
    assert not any(tmp_path.iterdir())


def test_a_folder_s_files_are_all_accounted_for(model, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, kind in (("a.png", "PNG"), ("b.jfif", "JPEG"), ("c.webp", "WEBP"), ("d.bmp", "BMP"), ("e.png", "PNG")):
        (folder / name).write_bytes(encode(chest(), kind))
    for name in ("f.gif", "g.nii.gz", "h.npy", "i.txt", "Thumbs.db", ".hidden.png"):
        (folder / name).write_bytes(b"x")
    assert main(["predict", model, str(folder), "--out", str(tmp_path / "out.csv")]) == 0
    told = capsys.readouterr()
    assert "5 images are in" in told.out and "(2 .png, 1 .jfif, 1 .webp, 1 .bmp; cpu, float32)." in told.out
    assert f"1 files left out, such as {folder / 'h.npy'}: no images by name and content." in told.err
    unreadable = rows_of(tmp_path / "out.unreadable.csv")
    assert list(unreadable) == [str(folder / "f.gif"), str(folder / "g.nii.gz")]


def test_many_warnings_are_counted(model, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    for number in range(MAX_WARNINGS + 3):
        (tmp_path / "pictures" / f"{number:02d}.png").write_bytes(encode(chest()[:40, :40]))
    assert main(["predict", model, str(tmp_path / "pictures"), "--out", str(tmp_path / "out.csv")]) == 0
    printed = capsys.readouterr()
    warned = [line for line in printed.err.splitlines() if "too few" in line]
    assert len(warned) == MAX_WARNINGS and "19.png" in warned[-1]
    assert printed.err.endswith("... and 3 more images with warnings.\n")
    assert f"{MAX_WARNINGS + 3} images are in" in printed.out


def test_addresses_are_predicted_like_files(model, server, tmp_path):  # noqa: F811
    path, address, missing = tmp_path / "chest.png", f"{server}/chest.png", f"{server}/nothing.png"
    path.write_bytes(encode(chest().astype(np.uint16) * 16 + 3))
    assert main(["predict", model, str(path), address, missing, "--out", str(tmp_path / "out.csv")]) == 0
    of_file, of_address = rows_of(tmp_path / "out.csv").values()
    assert of_address.pop("image") == address and of_file.pop("image") == str(path)
    assert of_file == of_address
    assert "404 Not Found" in rows_of(tmp_path / "out.unreadable.csv")[missing]["reason"]


def test_columns_are_named_in_the_order_of_the_outputs(pictures, tmp_path):
    model = save_model(tmp_path / "model", id2label={0: "cat", 1: "dog", 2: "eel"})
    picture = str(pictures / "3.png")
    assert main(["predict", model, picture, "--out", str(tmp_path / "ordered.csv")]) == 0
    values = json.loads((tmp_path / "model" / "config.json").read_text())
    values["id2label"] = dict(reversed(values["id2label"].items()))  # JSON has no order
    (tmp_path / "model" / "config.json").write_text(json.dumps(values))
    assert main(["predict", model, picture, "--out", str(tmp_path / "reversed.csv")]) == 0
    assert (tmp_path / "reversed.csv").read_text() == (tmp_path / "ordered.csv").read_text()
    row = rows_of(tmp_path / "ordered.csv")[picture]
    assert len(set(row.values())) == 4 and list(row) == ["image", *(f"classifier/{x}" for x in ("cat", "dog", "eel"))]


def test_heat_maps_of_addresses_do_not_tell_what_opened_them(server, tmp_path):  # noqa: F811
    model = save_model(tmp_path / "model", tasks=[ArkTask("both", ["A/B", "A B"], thresholds={"A/B": 0, "A B": 0})])
    address, out = f"{server}/chest.png?signature=SECRET", tmp_path / "out.csv"
    assert main(["predict", model, address, "--out", str(out), "--heatmaps", str(tmp_path / "maps")]) == 0
    names = ["00001_chest_000_both_A_B.png", "00001_chest_001_both_A_B.png"]
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == names


def test_heat_maps_are_written_for_what_is_called_positive(pictures, tmp_path, capsys):
    tasks = [
        ArkTask("both", ["Edema", "Pleural/Effusion"], thresholds={"Edema": 0, "Pleural/Effusion": 0}),
        ArkTask("neither", ["Mass", "No Finding"], thresholds={"Mass": 1}),
    ]
    model = save_model(tmp_path / "model", tasks=tasks)
    out, folder = tmp_path / "out.csv", tmp_path / "maps"
    command = ["predict", model, str(pictures), "--out", str(out), "--heatmaps", str(folder)]
    assert main(command) == 0
    assert f"Heat maps are in {folder}." in capsys.readouterr().out
    expected = set()
    for number, (image, row) in enumerate(rows_of(out).items(), start=1):
        name = f"{number:05d}_{image.rsplit('/')[-1].removesuffix('.png')}"
        mass, no_finding = (float(row[f"neither/{label}"]) for label in ("Mass", "No Finding"))
        expected |= {f"{name}_000_both_Edema.png", f"{name}_001_both_Pleural_Effusion.png"}
        expected.add(f"{name}_002_neither_Mass.png" if mass > no_finding else f"{name}_003_neither_No_Finding.png")
    assert {path.name for path in folder.iterdir()} == expected and len(expected) == 21
    for path in folder.iterdir():
        with Image.open(path) as overlay:
            assert overlay.mode == "RGB" and overlay.size == (50, 40)

    assert main(["predict", model, str(pictures), "--out", str(tmp_path / "plain.csv")]) == 0
    assert (tmp_path / "plain.csv").read_bytes() == out.read_bytes()
    assert main([*command, "--crops", "ten"]) == 2
    assert "whole pictures" in capsys.readouterr().err.splitlines()[-1]


def test_columns_of_a_model_of_one_task_name_it_too(pictures, tmp_path):
    model = save_model(tmp_path / "model", tasks=TASKS[:1])
    assert main(["predict", model, str(pictures / "3.png"), "--out", str(tmp_path / "out.csv")]) == 0
    (row,) = rows_of(tmp_path / "out.csv").values()
    assert list(row) == ["image", "north/Edema", "north/Pleural Effusion"]


def test_the_long_format_has_a_row_an_image_and_label(model, pictures, tmp_path):
    (tmp_path / "small.png").write_bytes(encode(chest()[:40, :40]))
    command = ["predict", model, str(pictures), str(tmp_path / "small.png"), "--batch_size", "3", "--out"]
    for arguments in (["wide.csv"], ["long.csv", "--format", "long"], ["long.jsonl", "--format", "long"], ["w.jsonl"]):
        assert main([*command, str(tmp_path / arguments[0]), *arguments[1:]]) == 0
    wide = rows_of(tmp_path / "wide.csv")
    with (tmp_path / "long.csv").open() as file:
        long = list(csv.DictReader(file))
    assert list(long[0]) == ["image", "task", "label", "probability", "threshold", "positive", "warnings"]
    names = [f"{task.name}/{label}" for task in TASKS for label in task.labels]
    assert [row["image"] for row in long[:: len(names)]] == list(wide) and len(long) == len(names) * len(wide)
    for row, name in zip(long, names * len(wide), strict=True):
        assert f"{row['task']}/{row['label']}" == name and row["probability"] == wide[row["image"]][name]
        threshold = THRESHOLDS.get(name)
        called = None if threshold is None else float(row["probability"]) >= threshold
        shown = ["" if value is None else str(value) for value in (threshold, called)]
        assert [row["threshold"], row["positive"]] == shown
    assert len({row["positive"] for row in long}) == 3
    assert "too few" in long[-1]["warnings"] and {row["warnings"] for row in long[:14]} != {long[-1]["warnings"]}

    lines = [json.loads(line) for line in (tmp_path / "long.jsonl").read_text().splitlines()]
    for line, row in zip(lines, long, strict=True):
        assert list(line) == list(row) and line["image"] == row["image"] and isinstance(line["warnings"], list)
        assert line["probability"] == float(row["probability"]) and "; ".join(line["warnings"]) == row["warnings"]
        assert str("" if line["positive"] is None else line["positive"]) == row["positive"]
        assert line["threshold"] == (float(row["threshold"]) if row["threshold"] else None)
    of_images = [json.loads(line) for line in (tmp_path / "w.jsonl").read_text().splitlines()]
    assert [{name: str(value) for name, value in each.items()} for each in of_images] == [
        {name: value if name == "image" else str(float(value)) for name, value in row.items()} for row in wide.values()
    ]


@pytest.mark.parametrize("name", ["out.xlsx", "out.json", "out.parquet", "out"])
def test_a_file_of_another_kind_is_refused_before_any_work(name, pictures, tmp_path, capsys):
    assert main(["predict", "no/model", str(pictures), "--out", str(tmp_path / name)]) == 2
    assert "predictions are written as .csv or .jsonl" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_processes_that_read_files_change_nothing(model, pictures, tmp_path):
    options = ["--format", "long", "--batch_size", "2", "--heatmaps"]
    for workers in ("0", "2"):
        folder = tmp_path / workers
        arguments = ["--out", str(folder / "out.csv"), *options, str(folder / "maps"), "--num_workers", workers]
        assert main(["predict", model, str(pictures), *arguments]) == 0
    one, other = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*.*")} for f in (tmp_path / "0", tmp_path / "2"))
    assert one == other and len(one) > 10


def test_device_and_precision_are_those_asked_for_and_said(model, pictures, tmp_path, capsys, monkeypatch):
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: False)
    command = ["predict", model, str(pictures), "--out", str(tmp_path / "out.csv")]
    assert main([*command, "--device", "cpu", "--dtype", "auto"]) == 0
    exact = rows_of(tmp_path / "out.csv")
    assert main([*command, "--device", "cpu", "--dtype", "bfloat16"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("; cpu, float32).") and second.endswith("; cpu, bfloat16).")
    for image, row in rows_of(tmp_path / "out.csv").items():
        differences = [abs(float(value) - float(exact[image][name])) for name, value in row.items() if name != "image"]
        assert 0 < max(differences) < 0.1
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert main([*command, "--device", "cpu", "--dtype", "auto"]) == 0
    assert capsys.readouterr().out.endswith("; cpu, bfloat16).\n")
    for device in ("gpu", "cuda:99", "cpu:x"):
        assert main([*command, "--device", device]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert f"device {device!r} cannot be used: " in line
    assert main([*command, "--num_workers", "-1"]) == 2


@pytest.mark.slow_ci
def test_several_processes_write_what_one_writes(model, pictures, tmp_path):
    options = ["--format", "long", "--batch_size", "2", "--second_opinion", "--heatmaps"]

    def command(name):
        folder = tmp_path / name
        return ["predict", model, str(pictures), "--out", str(folder / "out.csv"), *options, str(folder / "maps")]

    assert main(command("one")) == 0
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "ark_hf.cli"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    run = [sys.executable, "-m", *launcher, *command("two")]
    result = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("7 images are in") == 1
    one, other = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*.*")} for f in (tmp_path / "one", tmp_path / "two")
    )
    assert one == other and len(one) > 10

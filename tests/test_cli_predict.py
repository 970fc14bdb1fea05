"""`ark-hf predict --second_opinion`: its file agrees with the predictions beside it, and nothing is half done."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from ark_hf.cli import main
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification
from tests.training.conftest import TINY, fresh_accelerator_state  # noqa: F401

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
    assert main(["predict", model, str(pictures), "--out", str(tmp_path / "plain.csv")]) == 0
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

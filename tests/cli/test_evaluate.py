"""The verb `evaluate` beyond the plain table: two models, calibration, groups, and wrong input explained."""

import base64
import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

import ark_hf
from ark_hf.cli.main import main
from ark_hf.data import loading
from ark_hf.data.build.build import build_dataset
from ark_hf.data.loading import stored_picture
from ark_hf.data.sources.phantom_sites import build_phantom_sites, phantom_release
from ark_hf.data.task_dataset import load_task_dataset, read_task
from ark_hf.hub.model_card import model_card_files
from ark_hf.inference.load import load_ark
from ark_hf.metrics.auroc import auroc
from ark_hf.metrics.calibration import brier_score
from ark_hf.models.ark.configuration_ark import ArkConfig
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification
from tests.pages.html_page import Page
from tests.training.conftest import TINY

pytestmark = pytest.mark.usefixtures("no_figures")

NAMES = ["phantom_city", "phantom_coast"]
TOO_SURE = 5.0


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Phantom sites, and models with random encoders whose heads are fitted and then made far too sure."""
    root = tmp_path_factory.mktemp("evaluate")
    build_phantom_sites(root / "sites", {"train": 12, "validation": 40, "test": 60}, size=40)
    for name, sites, seed in (("ours", NAMES, 0), ("theirs", NAMES[:1], 1), ("foreign", ["phantom_hill"], 2)):
        torch.manual_seed(seed)
        settings = {key: TINY[key] for key in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}
        tasks = [read_task(str(root / "sites" / site)) for site in sites]
        model = ArkForImageClassification(ArkConfig(**settings, tasks=tasks)).eval()
        for task in tasks:
            fit_head(model, task.name, load_task_dataset(str(root / "sites" / task.name), "validation"))
        model.save_pretrained(root / name)
        ArkImageProcessor(size=32).save_pretrained(root / name)
    return root


@torch.no_grad()
def fit_head(model, name: str, rows) -> None:
    pixel_values = ArkImageProcessor(size=32)(list(rows["image"]), return_tensors="pt").pixel_values
    embeddings = model(pixel_values, task=name).embeddings
    centre, scale = embeddings.mean(dim=0), embeddings.std(dim=0)
    labels = np.array(rows["labels"][:], dtype=float)
    weights, biases = [], []
    for column in [labels] if labels.ndim == 1 else labels.T:
        known = ~np.isnan(column)
        fitted = LogisticRegression().fit(((embeddings - centre) / scale).numpy()[known], column[known])
        weights.append(fitted.coef_)
        biases.append(fitted.intercept_)
    weight = TOO_SURE * torch.tensor(np.concatenate(weights), dtype=torch.float32) / scale
    model.heads[name].weight.copy_(weight)
    model.heads[name].bias.copy_(TOO_SURE * torch.tensor(np.concatenate(biases)) - weight @ centre)


def run(root, out, *options, model="ours", names=NAMES) -> dict:
    sites = [str(root / "sites" / name) for name in names]
    assert main(["evaluate", str(root / model), *sites, "--out", str(out), "--bootstrap", "20", *options]) == 0
    return json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def plain(root, tmp_path_factory):
    """The folder and the report of a run without any option."""
    out = tmp_path_factory.mktemp("plain")
    return out, run(root, out)


def error_of(capsys, *argv) -> str:
    assert main(["evaluate", *argv]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("ark-hf evaluate: error:")
    return message


def test_a_model_against_itself(root, tmp_path, capsys):
    report = run(root, tmp_path, "--against", str(root / "ours"))
    for task in report["tasks"]:
        comparison = task["comparison"]
        assert (comparison["model"], comparison["other"]) == ("ours", "ours (other)")
        results = {result["label"]: result for result in comparison["results"]}
        assert list(results) == [label["label"] for label in task["labels"]] + ["mean"]
        for result in results.values():
            assert result["difference"] == result["ci_low"] == result["ci_high"] == 0
            assert result["p_value"] == result["p_adjusted"] == 1
    assert capsys.readouterr().out.count("+0.000 to +0.000") == 9


@pytest.mark.slow_ci
def test_difference_is_the_model_minus_the_other_and_a_new_head_is_said_to_be_new(root, tmp_path, capsys):
    report = run(root, tmp_path / "both", "--against", str(root / "theirs"))
    alone = run(root, tmp_path / "theirs", model="theirs", names=NAMES[:1])
    city, coast = report["tasks"]
    for result, ours, theirs in zip(
        city["comparison"]["results"],
        [*city["labels"], city["mean"]],
        [*alone["tasks"][0]["labels"], alone["tasks"][0]["mean"]],
        strict=True,
    ):
        assert result["auroc_b"] == pytest.approx(ours["auroc"], abs=1e-12)
        assert result["auroc_a"] == pytest.approx(theirs["auroc"], abs=1e-12)
        assert result["difference"] == pytest.approx(ours["auroc"] - theirs["auroc"], abs=1e-12)
    assert coast["comparison"] == {"model": "ours", "other": "theirs", "results": None}
    assert "New: theirs has no head 'phantom_coast' to compare with." in capsys.readouterr().out


def test_predictions_of_each_image_give_the_report(root, plain):
    folder, report = plain
    assert report["command"].startswith("ark-hf evaluate ours phantom_city phantom_coast --out ")
    assert report["command"].endswith(" --bootstrap 20") and report["bootstrap"] == 20
    for number, (name, task) in enumerate(zip(NAMES, report["tasks"], strict=True), start=1):
        with (folder / f"predictions-{number}-{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        test = load_task_dataset(root / "sites" / name, "test")
        assert [row["image_id"] for row in rows] == test["image_id"][:] and len(rows) == 60
        assert [row["patient_id"] for row in rows] == test["patient_id"][:]
        assert {"row", "sex", "age", "view"} < set(rows[0]) and {row["sex"] for row in rows} <= {"F", "M", "unknown"}
        for label in task["labels"]:
            known = [row for row in rows if row[f"truth/{label['label']}"]]
            truth, scores = ([float(row[f"{what}/{label['label']}"]) for row in known] for what in ("truth", "score"))
            assert len(known) == label["num_known"] and sum(truth) == label["num_positive"]
            assert label["auroc"] is None or label["auroc"] == auroc(np.array(truth), np.array(scores))


@pytest.mark.parametrize("options", [[], ["--crops", "ten"]])
def test_the_page_shows_the_gravest_errors_and_a_push_takes_them_out(root, plain, tmp_path, options):
    folder = tmp_path if options else plain[0]
    if options:
        run(root, folder, *options)
    text = (folder / "report.html").read_text()
    page = Page(text)
    pictures = re.findall(r'alt="([^"]*)" src="data:image/jpeg;base64,([^"]*)"', text)
    assert len(pictures) == page.tags["img"] > 12 and len(text) < 2_000_000
    heat = [base64.b64decode(jpeg) for name, jpeg in pictures if name == "heat map"]
    assert len(heat) == (0 if options else len(pictures) / 2)  # none of crops
    assert ("There are no heat maps" in text) == bool(options)
    colours = [np.ptp(np.asarray(Image.open(io.BytesIO(each))).astype(int), axis=2).max() for each in heat]
    assert not heat or np.median(colours) > 50
    city = json.loads((folder / "report.json").read_text())["tasks"][0]
    assert any(f"{city['labels'][0]['label']}: " in each for each in page.texts)
    sent = model_card_files(root / "ours", "someone/x", folder)
    assert sorted(name for name in sent if name.startswith("report/")) == [
        f"report/report.{ending}" for ending in ("html", "json", "md")
    ]
    assert Page(sent["report/report.html"].decode()).tags["img"] == 0
    assert "confident errors" in text and "confident errors" not in sent["report/report.html"].decode()


def test_errors_of_zero_shot_are_shown_too(root, tmp_path):
    arguments = [str(root / "ours"), str(root / "sites" / "phantom_lake"), "--zero_shot", "--bootstrap", "0"]
    assert main(["evaluate", *arguments, "--out", str(tmp_path)]) == 0
    assert Page((tmp_path / "report.html").read_text()).tags["img"] > 2
    assert (tmp_path / "predictions-1-phantom_lake.csv").is_file()


def test_a_calibration_in_bfloat16_says_so_and_keeps_the_weights_whole(root, tmp_path):
    new = tmp_path / "calibrated"
    report = run(root, tmp_path / "report", "--dtype", "bfloat16", "--calibrate", str(new), names=NAMES[:1])
    assert report["computed"] == "cpu, bfloat16"
    assert "Computed on cpu, bfloat16." in (tmp_path / "report" / "report.md").read_text()
    before, after = (load_ark(str(folder))[0] for folder in (root / "ours", new))
    (entry,) = json.loads((new / "calibration.json").read_text())
    assert entry["dtype"] == "bfloat16" and entry["thresholds"]
    for name, weight in before.state_dict().items():
        divided = weight / entry["temperature"] if name.startswith(f"heads.{NAMES[0]}.") else weight
        assert torch.equal(after.state_dict()[name], divided)
    task = next(task for task in after.config.tasks if task.name == NAMES[0])
    assert (task.thresholds, task.thresholds_dtype) == (entry["thresholds"], "bfloat16")


@torch.no_grad()
def test_calibration_is_of_validation_and_folded_into_the_new_model(root, plain, tmp_path, capsys, monkeypatch):
    new = tmp_path / "calibrated"
    before = plain[1]
    decoded = []
    with monkeypatch.context() as counting:
        counting.setattr(loading, "stored_picture", lambda *args: decoded.append(1) or stored_picture(*args))
        after = run(root, tmp_path / "after", "--calibrate", str(new))
    assert len(decoded) == len(NAMES) * (40 + 60)  # validation and test, each once
    assert (after["model"], after["calibrated_from"]) == ("calibrated", "ours")
    assert f"The calibrated model is in {new}." in capsys.readouterr().out
    again = run(root, tmp_path / "again", model=new)
    for name, old, task, repeated in zip(NAMES, before["tasks"], after["tasks"], again["tasks"], strict=True):
        assert task["fitted"]["temperature"] > 2 and task["fitted"]["num_images"] == 40
        assert task["calibration_before"] == old["calibration"]
        for found, measured in zip(task["calibration"], repeated["calibration"], strict=True):
            assert found.pop("label") == measured.pop("label")
            for figure, value in measured.items():  # of a real pass of the calibrated model
                np.testing.assert_allclose(np.array(found[figure], float), np.array(value, float), rtol=0, atol=1e-6)
        old_brier, brier = (np.mean([each["brier"] for each in each["calibration"]]) for each in (old, task))
        assert brier < old_brier - 0.02
        if old["problem_type"].startswith("multi"):
            for one, other in zip(old["labels"], task["labels"], strict=True):
                assert other["auroc"] == pytest.approx(one["auroc"], abs=2e-3)
        assert task["accuracy"] == old["accuracy"]
        assert old["thresholds_saved"] == [] and set(task["thresholds_saved"]) == set(task["fitted"]["thresholds"])
        assert {point["threshold"] for point in old["operating_points"]} == {0.5}

        # The saved operating points are Youden's on validation, which the stock model alone shows
        model, processor = load_ark(str(new))
        head = next(each for each in model.config.tasks if each.name == name)
        assert head.thresholds == task["fitted"]["thresholds"] and set(head.thresholds) <= set(head.labels)
        rows = load_task_dataset(str(root / "sites" / name), "validation")
        logits = model(processor(list(rows["image"]), return_tensors="pt").pixel_values, task=name).logits.double()
        single = head.problem_type.startswith("single")
        probabilities = (logits.softmax(-1) if single else logits.sigmoid()).numpy()
        labels = np.array(rows["labels"][:], dtype=float)
        labels = (labels[:, None] == np.arange(3)).astype(float) if single else labels
        for label, threshold in head.thresholds.items():
            column = head.labels.index(label)
            truth, scores = labels[:, column], probabilities[:, column]
            gains = [(scores >= t)[truth == 1].mean() - (scores >= t)[truth == 0].mean() for t in scores]
            chosen = (scores >= threshold)[truth == 1].mean() - (scores >= threshold)[truth == 0].mean()
            assert chosen == pytest.approx(max(gains), abs=1e-12)
        fitted = task["fitted"]
        assert brier_score(labels, probabilities) == pytest.approx(fitted["brier_after"], abs=1e-4)
    page = (tmp_path / "after" / "report.html").read_text()
    Page(page)
    assert "ECE before" in page


@pytest.mark.slow_ci
def test_python_says_the_same(root, tmp_path):
    ours, theirs = str(root / "ours"), str(root / "theirs")
    sites = [str(root / "sites" / name) for name in NAMES]
    options = ["--against", theirs, "--calibrate", str(tmp_path / "calibrated")]
    printed = run(root, tmp_path / "out", *options)["tasks"]
    fitted = ark_hf.calibrate(ours, sites, tmp_path / "new")
    assert [each.temperature for each in fitted] == [each["fitted"]["temperature"] for each in printed]
    city, coast = ark_hf.compare(str(tmp_path / "new"), theirs, sites, ark_hf.EvaluationArguments(bootstrap=20))
    assert coast.results is None
    for found, result in zip(city.results, printed[0]["comparison"]["results"], strict=True):
        assert (found.label, found.num_known) == (result["label"], result["num_known"])
        assert found.difference == pytest.approx(result["difference"], abs=1e-6)


def test_operating_points_of_a_sensitivity(root, tmp_path, capsys):
    report = run(root, tmp_path / "out", "--calibrate", str(tmp_path / "new"), "--sensitivity", "0.9", names=NAMES[:1])
    (task,) = report["tasks"]
    assert task["fitted"]["rule"] == "sensitivity of at least 0.9"
    (task,) = run(root, tmp_path / "again", "--split", "validation", model=tmp_path / "new", names=NAMES[:1])["tasks"]
    for point in task["operating_points"]:  # the highest that reach it
        assert 0.9 <= point["sensitivity"] < 0.9 + 1 / point["true_positives"]


def test_groups_that_are_asked_for(root, tmp_path, capsys):
    report = run(root, tmp_path, "--subgroups", "view", "sex")
    for task in report["tasks"]:
        assert list(task["subgroups"]) == ["view", "sex"]
        for result in task["subgroups"]["sex"]:
            assert [group["group"] for group in result["groups"]] == ["F", "M"]
            assert sum(group["num_images"] for group in result["groups"]) == 60
    printed = capsys.readouterr().out
    assert printed.count("By view, mean AUROC: ") == 2 and "By age" not in printed
    pages = {path.suffix: path.read_text() for path in tmp_path.glob("report.*")}
    assert set(pages) == {".json", ".md", ".html"}
    Page(pages[".html"])
    for text in pages.values():
        assert "phantom_city-test-" not in text and str(root) not in text


def test_one_head_on_two_datasets_is_compared_by_dataset(root, tmp_path, capsys):
    copy = tmp_path / "elsewhere"
    shutil.copytree(root / "sites" / "phantom_city", copy)
    sites = [str(root / "sites" / "phantom_city"), str(copy)]
    out = tmp_path / "out"
    assert main(["evaluate", str(root / "theirs"), *sites, "--out", str(out), "--bootstrap", "20"]) == 0
    report = json.loads((out / "report.json").read_text())
    overall = report["sites"]["phantom_city"][-1]
    assert [group["group"] for group in overall["groups"]] == ["elsewhere", "phantom_city"]
    assert overall["groups"][0]["auroc"]["value"] == overall["groups"][1]["auroc"]["value"]
    assert "dataset against dataset" in (out / "report.html").read_text()


def test_wrong_input_is_explained(root, tmp_path, capsys):
    ours, city, coast = str(root / "ours"), *(str(root / "sites" / name) for name in NAMES)
    new = ["--calibrate", str(tmp_path / "new")]
    assert "--subgroups ward: no dataset has such a column; they have [" in error_of(
        capsys, ours, city, "--subgroups", "ward"
    )
    assert "patient_id sorts nobody into groups" in error_of(capsys, ours, city, "--subgroups", "patient_id")
    message = error_of(capsys, ours, city, coast, "--against", str(root / "foreign"))
    assert "its heads ['phantom_hill'] are none of those tested, ['phantom_city', 'phantom_coast']" in message
    assert "add --calibrate" in error_of(capsys, ours, city, "--sensitivity", "0.9")
    assert "must lie in (0, 1]" in error_of(capsys, ours, city, *new, "--sensitivity", "1.5")
    assert "report on another one" in error_of(capsys, ours, city, *new, "--split", "validation")
    assert "leave out --crops" in error_of(capsys, ours, city, *new, "--crops", "ten")
    assert "leave out zero-shot" in error_of(capsys, ours, city, *new, "--zero_shot")
    assert "several for ['phantom_city']" in error_of(capsys, ours, city, city, *new)
    assert "exists and is not empty" in error_of(capsys, ours, city, "--calibrate", ours)
    build_dataset(phantom_release("phantom_city", {"test": 6}, 40, 0), tmp_path / "city", 40, num_workers=1)
    message = error_of(capsys, ours, str(tmp_path / "city"), *new)
    assert "--calibrate needs a validation split, and it has only ['test']" in message
    assert not (tmp_path / "new").exists()

    broken = tmp_path / "broken"
    model, processor = load_ark(ours)
    with torch.no_grad():
        model.heads["phantom_city"].weight[0, 0] = torch.nan
    model.save_pretrained(broken)
    processor.save_pretrained(broken)
    message = error_of(capsys, str(broken), city)
    assert "NaN or infinite outputs for task 'phantom_city' on 60 of 60 images" in message and "row 0" in message
    message = error_of(capsys, ours, city, "--against", str(broken))
    assert f"--against {broken}: The model gives NaN" in message

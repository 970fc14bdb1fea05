"""Calibration: what folding a temperature does to a head, and the operating points on what it gives."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from scipy.special import expit, logit, softmax
from transformers import pipeline

from ark_hf.data.build.build import encode_png
from ark_hf.data.loading import InferenceSamples
from ark_hf.data.open_dataset import TaskDataset
from ark_hf.evaluation.calibrate import calibrate_task, calibrated_scores, fold_temperature, save_calibrated
from ark_hf.evaluation.scoring import score_task
from ark_hf.inference.load import load_ark
from ark_hf.inference.predict import mean_probabilities, predict_logits, with_crops
from ark_hf.metrics.auroc import auroc, one_vs_rest
from ark_hf.metrics.calibration import (
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
)
from ark_hf.metrics.operating_point import threshold_metrics
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification
from tests.metrics.test_calibration import drawn
from tests.training.conftest import TINY

NAN = float("nan")
MULTI, SINGLE = "multi_label_classification", "single_label_classification"
TASKS = [ArkTask("findings", ["Edema", "Mass"]), ArkTask("kinds", ["normal", "bacterial", "viral"], SINGLE)]
NUM_IMAGES, OVERCONFIDENCE = 200, 4


def tiny_model(**kwargs) -> ArkForImageClassification:
    torch.manual_seed(0)
    settings = {name: TINY[name] for name in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}
    return ArkForImageClassification(ArkConfig(**settings, **kwargs)).eval()


@pytest.fixture(scope="module")
def processor() -> ArkImageProcessor:
    return ArkImageProcessor(size=32, image_mean=[0.5] * 3)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Noise of different brightness and contrast, so that the encoder tells them apart."""
    generator = np.random.default_rng(0)
    scales = generator.uniform(10, 255, NUM_IMAGES)
    return [(generator.random((32, 32)) * scale).astype(np.uint8) for scale in scales]


@pytest.fixture(scope="module")
def overconfident(processor, pictures):
    """
    A model whose logits are four times what they should be, and rows of each task whose labels were drawn from what
    they should be: the true temperature of both heads is 4.
    """
    model, generator = tiny_model(tasks=TASKS), np.random.default_rng(2)
    pixel_values = processor(pictures, return_tensors="pt").pixel_values
    rows, images = {}, [encode_png(picture) for picture in pictures]
    with torch.no_grad():
        embeddings = model(pixel_values).embeddings
        embeddings = (embeddings - embeddings.mean(dim=0)) / embeddings.std(dim=0)
        for task in TASKS:
            head, true = model.heads[task.name], torch.randn(embeddings.shape[1], len(task.labels))
            true = 2 * true / (embeddings @ true).std(dim=0)
            targets = drawn((embeddings @ true).double().numpy(), task.problem_type, generator)
            raw = model(pixel_values).embeddings
            head.weight.copy_(OVERCONFIDENCE * (true / raw.std(dim=0)[:, None]).T)
            head.bias.copy_(-head.weight @ raw.mean(dim=0))
            kind = Value("int64") if task.problem_type == SINGLE else List(Value("float32"))
            stored = np.where(np.isnan(targets) | (targets < 0), -1, targets).tolist()  # as `datasets` writes unknown
            features = Features({"image": Image(), "labels": kind})
            rows[task.name] = Dataset.from_dict({"image": images, "labels": stored}, features=features)
    return model, rows


@pytest.fixture
def model(overconfident) -> ArkForImageClassification:
    copy = tiny_model(tasks=TASKS)
    copy.load_state_dict(overconfident[0].state_dict())
    return copy


def logits_of(model, processor, rows, task, batch_size=64):
    return predict_logits([model], InferenceSamples(rows[task.name], task, processor), batch_size)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_miscalibrated_head_is_improved(model, processor, overconfident, task):
    rows = overconfident[1]
    before, targets = logits_of(model, processor, rows, task)
    other = next(each for each in TASKS if each.name != task.name)
    untouched, _ = logits_of(model, processor, rows, other)
    result = calibrate_task(model, processor, rows[task.name], task)
    after, _ = logits_of(model, processor, rows, task)

    assert result.is_fitted and result.temperature == pytest.approx(OVERCONFIDENCE, rel=0.15)
    np.testing.assert_allclose(after, before / result.temperature, atol=1e-4)
    assert result.nll_after < 0.6 * result.nll_before and result.ece_after < 0.5 * result.ece_before
    assert result.brier_after < result.brier_before
    measured = negative_log_likelihood(after, targets, task.problem_type)
    assert result.nll_after == pytest.approx(measured, abs=1e-6)
    probabilities = mean_probabilities(after, task)
    columns = targets if targets.ndim == 2 else one_vs_rest(targets, 3)
    assert result.ece_after == pytest.approx(expected_calibration_error(columns, probabilities), abs=1e-4)
    assert result.brier_after == pytest.approx(brier_score(columns, probabilities), abs=1e-6)
    known = ~np.isnan(columns)
    assert result.num_images == NUM_IMAGES
    assert result.num_known == (known.sum() if task.problem_type == MULTI else known[:, 0].sum())

    if task.problem_type == MULTI:
        for column in range(len(task.labels)):
            areas = [auroc(targets[:, column], logits[:, column]) for logits in (before, after)]
            assert areas[0] == pytest.approx(areas[1], abs=1e-12) and areas[0] > 0.75
    np.testing.assert_array_equal(after.argmax(axis=1), before.argmax(axis=1))
    np.testing.assert_array_equal(logits_of(model, processor, rows, other)[0], untouched)


def test_operating_points_are_chosen_on_calibrated_probabilities(model, processor, overconfident):
    rows = overconfident[1]
    for task in TASKS:
        result = calibrate_task(model, processor, rows[task.name], task, "sensitivity", 0.9)
        saved = next(each for each in model.config.tasks if each.name == task.name).thresholds
        assert saved == result.thresholds and set(saved) == set(task.labels) and not result.without_threshold
        assert result.rule == "sensitivity of at least 0.9"
        logits, targets = logits_of(model, processor, rows, task, batch_size=7)  # rounds otherwise than 32 at once
        columns = targets if targets.ndim == 2 else one_vs_rest(targets, 3)
        for column, label in enumerate(task.labels):
            scores = mean_probabilities(logits, task)[:, column]
            labels = columns[:, column]
            assert threshold_metrics(labels, scores, saved[label]).recall >= 0.9
            known = scores[~np.isnan(labels)]
            called = np.sort(known[known >= saved[label]])
            assert threshold_metrics(labels, scores, np.nextafter(called[0], 1)).recall < 0.9
            below = known[known < saved[label]].max(initial=0)
            assert saved[label] == pytest.approx((called[0] + below) / 2, abs=1e-6)
    assert [task.name for task in model.config.tasks] == ["findings", "kinds"]
    assert model.config.id2label[3] == "kinds/bacterial"


def test_every_user_of_the_saved_model_gets_calibrated_probabilities(
    model, processor, overconfident, pictures, tmp_path
):
    rows, folder = overconfident[1], tmp_path / "calibrated"
    before = {task.name: logits_of(model, processor, rows, task)[0] for task in TASKS}
    results = [calibrate_task(model, processor, rows[task.name], task) for task in TASKS]
    save_calibrated(model, processor, results, folder)

    expected = np.hstack(
        [
            expit(before["findings"] / results[0].temperature),
            softmax(before["kinds"] / results[1].temperature, axis=1),
        ]
    )
    classify = pipeline("image-classification", model=str(folder), image_processor=str(folder))
    names = list(model.config.id2label.values())
    for number in range(5):
        scores = {each["label"]: each["score"] for each in classify(PILImage.fromarray(pictures[number]), top_k=5)}
        np.testing.assert_allclose([scores[name] for name in names], expected[number], atol=1e-5)
    loaded, _ = load_ark(str(folder))
    assert [task.thresholds for task in loaded.config.tasks] == [result.thresholds for result in results]
    assert json.loads((folder / "calibration.json").read_text()) == [asdict(result) for result in results]
    assert [path.name for path in tmp_path.iterdir()] == ["calibrated"]
    assert [result.rule for result in results] == ["youden"] * 2 and not any(result.caveats for result in results)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_scores_before_tell_those_of_the_calibrated_model(model, processor, overconfident, task, tmp_path):
    data = TaskDataset("made", task, {"test": overconfident[1][task.name]})
    before = score_task(model, processor, data)
    result = calibrate_task(model, processor, data.splits["test"], task)
    save_calibrated(model, processor, [result], tmp_path / "calibrated")
    expected = score_task(*load_ark(str(tmp_path / "calibrated")), data)
    found = calibrated_scores(before, task, result.temperature)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found.labels, before.labels)
    assert np.abs(found.probabilities - before.probabilities).max() > 0.1


def test_the_card_of_the_weights_goes_along(model, processor, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: other\n---\n")
    save_calibrated(*load_ark(str(tmp_path / "model")), [], tmp_path / "calibrated")
    assert "license: other" in (tmp_path / "calibrated" / "README.md").read_text()


def test_a_second_calibration_keeps_the_record_of_the_first(model, processor, overconfident, tmp_path):
    rows = overconfident[1]
    first = calibrate_task(model, processor, rows["findings"], TASKS[0])
    save_calibrated(model, processor, [first], tmp_path / "first")
    again, _ = load_ark(str(tmp_path / "first"))
    other = calibrate_task(again, processor, rows["kinds"], TASKS[1])
    second = calibrate_task(again, processor, rows["findings"], TASKS[0], "sensitivity", 0.9)
    assert second.temperature == pytest.approx(1, abs=1e-3) and second.dtype == "float32"
    save_calibrated(again, processor, [other, second], tmp_path / "second")
    record = json.loads((tmp_path / "second" / "calibration.json").read_text())
    assert record == [asdict(result) for result in (first, other, second)]
    kept = {task.name: task for task in load_ark(str(tmp_path / "second"))[0].config.tasks}
    assert kept["findings"].thresholds == second.thresholds and kept["kinds"].thresholds == other.thresholds


def test_few_images_of_a_kind_are_named(model, processor, overconfident):
    rows = overconfident[1]["findings"]
    labels = [[float(number < 5), float(number % 2)] for number in range(24)]
    few = rows.select(range(24)).remove_columns("labels").add_column("labels", labels)
    result = calibrate_task(model, processor, few, TASKS[0], "sensitivity", 1)
    assert (result.num_positives, result.num_negatives) == ({"Edema": 5, "Mass": 12}, {"Edema": 19, "Mass": 12})
    about_points = [line for line in result.caveats if line.startswith("The operating point")]
    assert about_points == [
        "The operating point of Edema rests on 5 positive and 19 negative images alone: others would give another.",
        "The operating point of Mass rests on 12 positive and 12 negative images alone: others would give another.",
    ]


def test_a_head_without_an_optimum_is_left_as_it_is(model, processor, overconfident):
    """Labels that the head already tells apart without error say nothing about how sure it should be."""
    task, rows = TASKS[0], overconfident[1]["findings"]
    before, _ = logits_of(model, processor, overconfident[1], task)
    labels = [[float(row[0] > 0), 1.0] for row in before]
    easy = rows.remove_columns("labels").add_column("labels", labels).select(np.flatnonzero(before[:, 1] > 0))
    result = calibrate_task(model, processor, easy, task)
    assert not result.is_fitted and result.temperature == 1
    assert (result.nll_after, result.ece_after) == (result.nll_before, result.ece_before)
    np.testing.assert_array_equal(logits_of(model, processor, overconfident[1], task)[0], before)
    assert result.without_threshold == {"Mass": "all known images are 1"} and list(result.thresholds) == ["Edema"]
    assert result.caveats == [
        "No temperature between 0.05 and 20 is best on these images: the head is left as it was.",
        "No operating point for Mass: all known images are 1.",
    ]


def test_what_cannot_be_calibrated(model, processor, overconfident):
    task, rows = TASKS[0], overconfident[1]["findings"]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    unknown = rows.remove_columns("labels").add_column("labels", [[-1.0, -1.0]] * len(rows))
    with pytest.raises(ValueError, match="'findings' cannot be calibrated: no label is known.* use a split with"):
        calibrate_task(model, processor, unknown, task)
    with pytest.raises(ValueError, match="'findings' cannot be calibrated: .*not on several crops"):
        calibrate_task(model, with_crops(processor, 32, "ten"), rows.select(range(4)), task)
    with pytest.raises(ValueError, match=r"no head 'other' to calibrate; its heads are \['findings', 'kinds'\]"):
        calibrate_task(model, processor, rows, replace(task, name="other"))
    with pytest.raises(ValueError, match="needs a value in"):
        calibrate_task(model, processor, rows, task, "sensitivity")
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(task.thresholds is None for task in model.config.tasks)


@torch.no_grad()
@pytest.mark.parametrize("kwargs", [{"num_labels": 3}, {"tasks": TASKS[:1]}, {"tasks": TASKS}])
def test_folding_divides_the_logits_of_one_head(kwargs):
    model = tiny_model(**kwargs)
    name = None if "tasks" not in kwargs else "findings"
    pixel_values = torch.rand(4, 3, 32, 32)
    before = model(pixel_values).logits
    assert fold_temperature(model, name, 2.5) == []
    folded = before.clone()
    folded[:, : 3 if name is None else 2] /= 2.5
    torch.testing.assert_close(model(pixel_values).logits, folded)


@settings(max_examples=15)
@given(
    st.lists(st.floats(0.001, 0.999), min_size=1, max_size=20),
    st.floats(0.001, 0.999),
    st.floats(0.2, 5),
)
def test_a_folded_threshold_calls_the_same_images(scores, threshold, temperature):
    scores = np.array(scores)
    scores = scores[np.abs(logit(scores) - logit(threshold)) > 1e-9]
    model = FOLDABLE
    model.config.tasks = [replace(TASKS[0], thresholds={"Mass": threshold}), TASKS[1]]
    fold_temperature(model, "findings", temperature)
    moved = model.config.tasks[0].thresholds["Mass"]
    np.testing.assert_array_equal(expit(logit(scores) / temperature) >= moved, scores >= threshold)


FOLDABLE = tiny_model(tasks=TASKS)


def test_thresholds_at_the_ends_stay_and_those_of_a_softmax_are_dropped():
    ends = replace(TASKS[0], thresholds={"Edema": 0.0, "Mass": 1.0})
    model = tiny_model(tasks=[ends, replace(TASKS[1], thresholds={"viral": 0.4})])
    assert fold_temperature(model, "findings", 3.0) == []
    assert model.config.tasks[0].thresholds == {"Edema": 0.0, "Mass": 1.0}
    assert model.config.tasks[1].thresholds == {"viral": 0.4}
    assert fold_temperature(model, "kinds", 3.0) == ["viral"]
    assert model.config.tasks[1].thresholds is None


@pytest.mark.parametrize(
    ("kwargs", "name", "temperature", "message"),
    [
        ({"tasks": TASKS}, "other", 2, r"no head 'other'; its heads are \['findings', 'kinds'\]"),
        ({"tasks": TASKS}, None, 2, "no head None"),
        ({"num_labels": 3}, "findings", 2, r"no head 'findings'; its heads are \[\]"),
        ({"tasks": TASKS}, "kinds", 0, "positive and finite, not 0"),
        ({"tasks": TASKS}, "kinds", math.inf, "positive and finite, not inf"),
        ({"tasks": TASKS}, "kinds", NAN, "positive and finite, not nan"),
    ],
)
def test_what_cannot_be_folded(kwargs, name, temperature, message):
    with pytest.raises(ValueError, match=message):
        fold_temperature(tiny_model(**kwargs), name, temperature)

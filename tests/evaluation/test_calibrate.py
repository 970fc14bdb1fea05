"""Calibration: measures against scikit-learn, temperatures that are known, and what folding them does to a head."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage
from scipy.special import expit, logit, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss
from transformers import pipeline

from ark_hf.data.build.build import encode_png
from ark_hf.data.loading import InferenceSamples
from ark_hf.data.open_dataset import TaskDataset
from ark_hf.evaluation.calibrate import (
    TEMPERATURE_RANGE,
    brier_score,
    calibrate_task,
    calibrated_scores,
    expected_calibration_error,
    fit_temperature,
    fold_temperature,
    negative_log_likelihood,
    reliability_curve,
    save_calibrated,
)
from ark_hf.evaluation.scoring import score_task
from ark_hf.inference.predict import load_ark, mean_probabilities, predict_logits, with_crops
from ark_hf.metrics.auroc import auroc, one_vs_rest
from ark_hf.metrics.operating_point import threshold_metrics
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification
from tests.training.conftest import TINY

NAN = float("nan")
MULTI, SINGLE = "multi_label_classification", "single_label_classification"
TASKS = [ArkTask("findings", ["Edema", "Mass"]), ArkTask("kinds", ["normal", "bacterial", "viral"], SINGLE)]
NUM_IMAGES, OVERCONFIDENCE = 400, 4


@st.composite
def forecasts(draw):
    """Labels, some unknown, and probabilities of which many lie on the edges of ten bins."""
    n = draw(st.integers(1, 40))
    labels = draw(st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=n, max_size=n))
    probabilities = draw(st.lists(st.integers(0, 20), min_size=n, max_size=n))
    return np.array(labels), np.array(probabilities) / 20


@given(forecasts())
def test_measures_equal_to_scikit_learn(forecast):
    labels, probabilities = forecast
    known = ~np.isnan(labels)
    mean_probability, observed_share, counts = reliability_curve(labels, probabilities)
    assert counts.sum() == known.sum() and len(counts) == 10
    empty = counts == 0
    assert np.isnan(mean_probability[empty]).all() and np.isnan(observed_share[empty]).all()
    if not known.any():
        assert math.isnan(brier_score(labels, probabilities))
        assert math.isnan(expected_calibration_error(labels, probabilities))
        return
    share, mean = calibration_curve(labels[known], probabilities[known], n_bins=10)
    np.testing.assert_allclose(observed_share[~empty], share, atol=1e-12)
    np.testing.assert_allclose(mean_probability[~empty], mean, atol=1e-12)
    expected = brier_score_loss(labels[known], probabilities[known], pos_label=1)
    assert brier_score(labels, probabilities) == pytest.approx(expected, abs=1e-12)


def test_measures_by_hand():
    labels = [[0, 1], [1, NAN], [0, 1], [NAN, 0]]
    probabilities = [[0.1, 0.9], [0.3, 0.5], [0.2, 0.4], [0.6, 0.8]]
    # Two bins: 0.1, 0.2, 0.3, 0.4 of labels 0, 0, 1, 1 (claimed 0.25, true 0.5); 0.8, 0.9 of 0, 1 (0.85, 0.5)
    assert expected_calibration_error(labels, probabilities, 2) == pytest.approx((4 * 0.25 + 2 * 0.35) / 6)
    assert brier_score(labels, probabilities) == pytest.approx((0.01 + 0.04 + 0.49 + 0.36 + 0.64 + 0.01) / 6)
    mean_probability, observed_share, counts = reliability_curve(labels, probabilities, 3)
    np.testing.assert_allclose(mean_probability, [0.2, 0.4, 0.85])
    np.testing.assert_allclose(observed_share, [1 / 3, 1, 0.5])
    assert counts.tolist() == [3, 1, 2]
    # 0.6 is in the bin that ends there, 0 in the first
    assert reliability_curve([1, 1], [0.0, 0.6], 5)[2].tolist() == [1, 0, 1, 0, 0]


def test_likelihood_equal_to_scikit_learn():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(30, 3), scale=3)
    labels = generator.choice([0, 1, NAN], size=(30, 3))
    known = ~np.isnan(labels)
    expected = log_loss(labels[known], expit(logits)[known])
    assert negative_log_likelihood(logits, labels, MULTI) == pytest.approx(expected, abs=1e-12)
    classes = generator.choice([0, 1, 2, -100], size=30)
    expected = log_loss(classes[classes >= 0], softmax(logits, axis=1)[classes >= 0], labels=[0, 1, 2])
    assert negative_log_likelihood(logits, classes, SINGLE) == pytest.approx(expected, abs=1e-12)
    assert math.isnan(negative_log_likelihood(logits, np.full((30, 3), NAN), MULTI))
    assert math.isnan(negative_log_likelihood(logits, np.full(30, -100), SINGLE))


def drawn(logits: np.ndarray, problem_type: str, generator: np.random.Generator) -> np.ndarray:
    """Targets that are as likely as the logits say, every tenth unknown."""
    if problem_type == MULTI:
        targets = (generator.random(logits.shape) < expit(logits)).astype(float)
        targets[generator.random(logits.shape) < 0.1] = NAN
        return targets
    noise = generator.gumbel(size=logits.shape)
    targets = (logits + noise).argmax(axis=1)
    targets[generator.random(len(targets)) < 0.1] = -100
    return targets


@pytest.mark.parametrize("problem_type", [MULTI, SINGLE])
@pytest.mark.parametrize("temperature", [0.25, 1, 4])
def test_the_temperature_of_a_simulation_is_found(problem_type, temperature):
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(20_000, 3), scale=2)
    targets = drawn(logits, problem_type, generator)
    found = fit_temperature(temperature * logits, targets, problem_type)
    assert found == pytest.approx(temperature, rel=0.05)


@given(st.integers(0, 1000), st.sampled_from([MULTI, SINGLE]))
def test_no_other_temperature_is_better(seed, problem_type):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(12, 3), scale=5)
    targets = drawn(generator.normal(size=(12, 3)), problem_type, generator)
    found = fit_temperature(logits, targets, problem_type)
    best = negative_log_likelihood(logits / found, targets, problem_type)
    for other in [1, 0.99 * found, 1.01 * found, *TEMPERATURE_RANGE]:
        if TEMPERATURE_RANGE[0] <= other <= TEMPERATURE_RANGE[1]:
            assert best <= negative_log_likelihood(logits / other, targets, problem_type) + 1e-12


@pytest.mark.parametrize("scale", [1e-3, 1, 100])
def test_temperatures_without_an_optimum_are_bounded(scale):
    low, high = TEMPERATURE_RANGE
    sign = np.array([[-1.0], [2.0], [-3.0]])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert fit_temperature(scale * sign, sign > 0, MULTI) == low  # told apart without error
        assert fit_temperature(scale * sign, sign < 0, MULTI) == high  # always wrong
        assert fit_temperature(-scale * np.ones((4, 1)), np.zeros((4, 1)), MULTI) == low  # one class
        assert fit_temperature(scale * np.eye(3), [0, 1, 2], SINGLE) == low
        assert fit_temperature(scale * np.eye(3), [1, 2, 0], SINGLE) == high
        assert fit_temperature(1e300 * scale * sign, sign < 0, MULTI) == high
        # Where no temperature changes anything that a float64 can hold
        assert fit_temperature(1e300 * scale * sign, sign > 0, MULTI) == 1
    assert fit_temperature(np.zeros((3, 2)), [[0, 1], [1, 1], [NAN, 0]], MULTI) == 1


@pytest.mark.parametrize(
    ("logits", "targets", "problem_type", "message"),
    [
        (np.zeros((2, 1)), [[NAN], [NAN]], MULTI, "no label is known"),
        (np.zeros((2, 3)), [-100, -100], SINGLE, "no label is known"),
        (np.zeros((0, 3)), np.zeros((0, 3)), MULTI, "no label is known"),
        (np.zeros((2, 10, 1)), [[0], [1]], MULTI, "not on several crops"),
        (np.zeros((2, 2)), [[0], [1]], MULTI, "do not fit logits of shape"),
        (np.zeros((2, 2)), [0, 1, 1], SINGLE, "do not fit logits of shape"),
        (np.zeros((2, 2)), [0, 2], SINGLE, "2 is neither"),
        ([[NAN], [1]], [[0], [1]], MULTI, "must be finite"),
        ([[0], [1]], [[0], [0.5]], MULTI, "labels must be 0, 1 or NaN"),
    ],
)
def test_what_cannot_be_fitted(logits, targets, problem_type, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, targets, problem_type)


@pytest.mark.parametrize("measure", [brier_score, expected_calibration_error, reliability_curve])
@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 1], [0.5, 1.5], r"must lie in \[0, 1\]; logits need a sigmoid"),
        ([0, 1], [[0.5, 0.5]], "must have one shape"),
        ([0, 2], [0.5, 0.5], "labels must be 0, 1 or NaN"),
        ([0, NAN], [0.5, NAN], "must be finite"),
    ],
)
def test_what_cannot_be_measured(measure, labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        measure(labels, probabilities)


def test_a_curve_needs_a_bin():
    with pytest.raises(ValueError, match="num_bins must be at least 1, not 0"):
        reliability_curve([0], [0.5], 0)


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
            higher = scores[(labels == 1) & (logit(scores) > logit(saved[label]) + 1e-3)].min()
            assert threshold_metrics(labels, scores, higher).recall < 0.9
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

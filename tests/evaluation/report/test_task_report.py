"""The report of a head on its own task: its numbers against scikit-learn, and what its means are over."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset
from sklearn.metrics import brier_score_loss, confusion_matrix, f1_score, matthews_corrcoef

from ark_hf.data.open_dataset import TaskDataset
from ark_hf.data.task_dataset import load_task_dataset, read_task
from ark_hf.evaluation.report.task_report import compare_task, evaluate_task, report_task
from ark_hf.evaluation.report.text import report_text
from ark_hf.evaluation.scoring import load_evaluation_data, read_groups, score_task
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification
from tests.metrics.made_scores import made_scores
from tests.training.conftest import TINY


def tiny_model(task: ArkTask) -> ArkForImageClassification:
    torch.manual_seed(0)
    settings = {name: TINY[name] for name in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}
    model = ArkForImageClassification(ArkConfig(**settings, tasks=[task])).eval()
    with torch.no_grad():
        model.heads[task.name].weight.normal_()
    return model


def test_means_are_over_the_evaluated_labels(sites):
    site = str(sites["phantom_city"])
    task = read_task(site)
    evaluated = task.labels[1:3]
    model = tiny_model(ArkTask.from_dict({**task.to_dict(), "eval_labels": evaluated}))
    data = load_evaluation_data(model, site)
    report = evaluate_task(model, ArkImageProcessor(size=32), data, num_bootstrap=20)
    assert [result.label for result in report.labels] == task.labels
    for mean, labels in ((report.mean, report.labels), (report.baseline_mean, report.baseline_labels)):
        defined = [result.auroc for result in labels if result.label in evaluated and not np.isnan(result.auroc)]
        assert mean.num_labels == 2 and mean.auroc == pytest.approx(np.mean(defined))
    assert "of 2 evaluated**" in report_text([report])
    assert report.accuracy is None


@torch.no_grad()
def test_accuracy_of_a_single_label_task(sites):
    site = str(sites["phantom_coast"])
    model = tiny_model(read_task(site))
    processor = ArkImageProcessor(size=32)
    report = evaluate_task(model, processor, load_evaluation_data(model, site), num_bootstrap=0)
    rows = load_task_dataset(site, "test")
    chosen = model(processor(list(rows["image"]), return_tensors="pt").pixel_values).logits.argmax(dim=1)
    assert report.accuracy == pytest.approx(np.mean(chosen.numpy() == np.array(rows["labels"][:])))
    text = report_text([report])
    assert f"Accuracy of the most probable class: {report.accuracy:.3f}." in text and "evaluated" not in text


@pytest.mark.parametrize("thresholds", [None, {"a": 0.3, "c": 0.6}])
def test_calls_are_at_the_saved_operating_points_or_at_one_half(thresholds):
    task = ArkTask("clinic", ["a", "b", "c"], eval_labels=["a", "b"], thresholds=thresholds)
    data, scored, groups = made_scores(task)
    report = report_task(data, scored, 0, groups=groups)
    assert report.thresholds_saved == list(thresholds or {})
    f1, mcc = [], []
    for column, point in enumerate(report.operating_points):
        threshold = (thresholds or {}).get(point.label, 0.5)
        known = ~np.isnan(scored.labels[:, column])
        truth, called = scored.labels[known, column], scored.probabilities[known, column] >= threshold
        f1.append(f1_score(truth, called))
        mcc.append(matthews_corrcoef(truth, called))
        assert point.threshold == threshold
        assert (point.f1, point.mcc) == pytest.approx((f1[-1], mcc[-1]), abs=1e-12)
        brier = brier_score_loss(truth, scored.probabilities[known, column])
        assert report.calibration[column].brier == pytest.approx(brier, abs=1e-12)
        assert sum(report.calibration[column].curve_count) == known.sum()
        by_group = {group.group: group for group in report.subgroups["sex"][column].groups}
        for sex in ("F", "M"):
            inside = np.array(groups["sex"])[known] == sex
            assert by_group[sex].sensitivity.value == pytest.approx(called[inside & (truth == 1)].mean())
    assert (report.mean_f1, report.mean_mcc) == pytest.approx((np.mean(f1[:2]), np.mean(mcc[:2])))
    assert set(report.subgroups["sex"][-1].labels) <= {"a", "b"}


def test_confusion_of_classes():
    data, scored, groups = made_scores(ArkTask("wards", ["x", "y", "z"], "single_label_classification"))
    report = report_task(data, scored, 0, groups=groups)
    known = scored.classes != -100
    expected = confusion_matrix(scored.classes[known], scored.probabilities[known].argmax(axis=1))
    assert report.confusion == expected.tolist()
    assert report.accuracy == pytest.approx(np.trace(expected) / expected.sum())


def test_labels_are_grouped_by_their_share_of_positives_in_train():
    names = [f"label {number}" for number in range(6)]
    data, scored, _ = made_scores(ArkTask("clinic", names))
    labels = [
        [float(row % 2), float(row % 20 == 0), float(row % 20 == 0), row == 7, 0.0, np.nan] for row in range(200)
    ]
    picture = PIL.Image.fromarray(np.zeros((4, 4), np.uint8))
    train = Dataset.from_dict({"image": [picture] * 200, "labels": labels})
    data.splits = {"train": train, "test": train.select(range(120))}
    report = report_task(data, scored, 10, groups={})
    assert report.label_groups == {"head": names[:1], "medium": names[1:3], "tail": names[3:]}
    for group, labels in report.label_groups.items():
        aurocs = [result.auroc for result in report.labels if result.label in labels]
        assert report.label_group_means[group].auroc == pytest.approx(np.mean(aurocs))


def test_a_model_against_itself_is_no_different():
    data, ours, _ = made_scores(ArkTask("clinic", ["a", "b"]))
    *labels, mean = compare_task(data.task, ours, ours, 50)
    for result in [*labels, mean]:
        assert result.difference == result.ci_low == result.ci_high == 0 and result.p_value == result.p_adjusted == 1
    worse = replace(ours, probabilities=1 - ours.probabilities)
    *labels, mean = compare_task(data.task, ours, worse, 50)
    assert mean.difference == pytest.approx(np.mean([2 * result.auroc_b - 1 for result in labels])) and mean.ci_low > 0


def test_a_model_that_gives_nan_is_named_with_its_row(sites):
    site = str(sites["phantom_city"])
    model = tiny_model(read_task(site))
    with torch.no_grad():
        model.heads["phantom_city"].bias[1] = torch.nan
    data = load_evaluation_data(model, site)
    with pytest.raises(
        ValueError, match="NaN or infinite outputs for task 'phantom_city' on 12 of 12.*first in row 0"
    ):
        score_task(model, ArkImageProcessor(size=32), data)


def test_groups_are_those_columns_that_sort_patients(sites):
    site = str(sites["phantom_city"])
    data = load_evaluation_data(tiny_model(read_task(site)), site)
    groups = read_groups(data, "test")
    assert list(groups) == ["sex", "age", "view"] and set(groups["sex"]) <= {"F", "M"}
    assert set(groups["age"]) <= {"18-39", "40-59", "60-79", "80+"} and len(groups["view"]) == 12
    rows = data.splits["test"]
    empty = with_test(data, rows.remove_columns("view").add_column("view", [None] * 12))
    assert list(read_groups(empty, "test")) == ["sex", "age"]
    assert read_groups(empty, "test", ["view", "ward"]) == {"view": ["unknown"] * 12}
    with pytest.raises(ValueError, match="patient_id sorts nobody into groups"):
        read_groups(data, "test", ["patient_id"])
    many = with_test(data, rows.select(list(range(12)) * 2).add_column("bed", [str(n) for n in range(24)]))
    with pytest.raises(ValueError, match="'bed' has 24 values, more than the 20 groups"):
        read_groups(many, "test", ["bed"])


def with_test(data, rows):
    return TaskDataset(data.source, data.task, {"test": rows})

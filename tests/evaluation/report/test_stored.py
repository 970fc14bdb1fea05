"""A report that was written is read back as it was."""

import dataclasses
import json
import math

import pytest

from ark_hf.evaluation.calibrate import CalibrationResult
from ark_hf.evaluation.report.page import write_report
from ark_hf.evaluation.report.stored import read_report
from ark_hf.evaluation.report.task_report import Comparison, compare_task, report_task
from ark_hf.inference.zeroshot import PUBLISHED_TRANSFERS, LabelMatch
from ark_hf.models.ark.configuration_ark import ArkTask
from tests.metrics.made_scores import made_scores

CLINIC = ArkTask("clinic", ["Mass", "Never seen"], thresholds={"Mass": 0.4})
WARDS = ArkTask("wards", ["normal", "bacterial", "viral"], "single_label_classification")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    reports = []
    for task in (CLINIC, WARDS):
        data, scored, groups = made_scores(task)
        if task is CLINIC:
            scored.labels[:, 1] = 0  # undefined: NaN
        report = report_task(data, scored, 10, groups=groups)
        report.baseline_labels, report.baseline_mean = report.labels, report.mean
        report.comparison = Comparison("new", "old", compare_task(data.task, scored, scored, 10))
        reports.append(report)
    reports[0].matches = {"Mass": [LabelMatch("x", "Mass", "same name")], "Never seen": []}
    reports[0].transfer = PUBLISHED_TRANSFERS["node21"]
    reports[1].fitted = CalibrationResult("wards", 9, 9, 1.5, True, *[0.1] * 6, "youden", {"viral": 0.3}, {})
    reports[1].calibration_before = reports[1].calibration
    folder = tmp_path_factory.mktemp("report")
    write_report(reports, folder, {"model": "new", "weights_sha256": "abc"})
    return folder, reports


def plain(value):
    """Comparable: NaN and None are not equal to themselves and to each other."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


def test_every_number_comes_back_in_its_place_and_type(written):
    folder, reports = written
    facts, restored = read_report(folder)
    assert facts["model"] == "new" and facts["weights_sha256"] == "abc"
    assert plain(restored) == plain(reports)
    assert [type(each) for each in restored[0].subgroups["sex"]] == [
        type(each) for each in reports[0].subgroups["sex"]
    ]
    assert math.isnan(restored[0].labels[1].auroc) and restored[1].fitted.temperature == 1.5


def test_other_files_are_refused_with_a_remedy(written, tmp_path):
    with pytest.raises(ValueError, match="report.json does not exist; `ark-hf evaluate"):
        read_report(tmp_path)
    values = json.loads((written[0] / "report.json").read_text())
    del values["tasks"][0]["delong"]
    odd = {**values["tasks"][0], "num_images": 3, "mean_f1": "much"}
    for text in (
        "[" * 100_000,
        json.dumps({"tasks": [odd]}),
        "{",
        "[]",
        "{}",
        json.dumps(values),
        json.dumps({"tasks": [3]}),
        json.dumps({"tasks": None}),
    ):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(ValueError, match="report.json is not a report of this version .*; evaluate again"):
            read_report(tmp_path)


def test_a_report_says_what_it_is_and_one_of_before_that_is_read_with_defaults(written, tmp_path):
    values = json.loads((written[0] / "report.json").read_text())
    assert (values.pop("kind"), values.pop("version")) == ("evaluation", 1)
    for task in values["tasks"]:
        del task["fitted"], task["comparison"]
        task["later"] = "a field that this version does not know"
    (tmp_path / "report.json").write_text(json.dumps(values))
    facts, restored = read_report(tmp_path)
    assert facts["model"] == "new" and [each.task for each in restored] == ["clinic", "wards"]
    expected = [dataclasses.replace(each, fitted=None, comparison=None) for each in written[1]]
    assert plain(restored) == plain(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "federation"}, "is a report of the kind 'federation', not 'evaluation'; `ark-hf evaluate` writes"),
        ({"version": 2}, "is of a later version of ark-hf: update ark-hf, or evaluate again"),
        ({"version": None}, r"is not a report of this version \(TypeError"),
    ],
)
def test_reports_of_another_kind_or_a_later_version_are_refused(written, tmp_path, change, message):
    values = json.loads((written[0] / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps(values | change))
    with pytest.raises(ValueError, match=message) as caught:
        read_report(tmp_path)
    assert "\n" not in str(caught.value)

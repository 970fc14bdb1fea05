"""The report's files: every number of the JSON in the page and the Markdown, and nothing about a patient in either."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from ark_hf.evaluation.report.page import render_page, things_to_look_at, write_report
from ark_hf.evaluation.report.task_report import Comparison, compare_sites, compare_task, report_task
from ark_hf.evaluation.report.text import NOTICE, report_text
from ark_hf.metrics.subgroups import Estimate
from ark_hf.models.ark.configuration_ark import ArkTask
from ark_hf.provenance import package_version
from tests.metrics.made_scores import PATIENT, made_scores
from tests.pages.html_page import Page

CLINIC = ArkTask("clinic", ["Mass & <b>", "Nodule | small", "Never seen"], thresholds={"Mass & <b>": 0.4})
WARDS = ArkTask("wards", ["normal", "bacterial", "viral"], "single_label_classification")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    reports = []
    for task in (CLINIC, WARDS):
        data, scored, groups = made_scores(task)
        if task is CLINIC:
            scored.labels[:, 2] = 0
        report = report_task(data, scored, 30, groups=groups)
        report.baseline_labels, report.baseline_mean = report.labels, report.mean
        other = replace(scored, probabilities=scored.probabilities**2)
        other.probabilities[:10] = other.probabilities[10:20]
        report.comparison = Comparison("new", "old", compare_task(data.task, scored, other, 30))
        reports.append(report)
    tested = [made_scores(CLINIC, seed=seed)[:2] for seed in (0, 1)]
    path = write_report(reports, tmp_path_factory.mktemp("page"), {"model": "new"}, compare_sites(tested, 30))
    return path, reports


def test_page_is_sound(written):
    path, _ = written
    text = path.read_text()
    page = Page(text)
    assert path.name == "report.html" and "default-src 'none'" in text and "prefers-color-scheme: dark" in text
    assert page.tags["script"] == page.tags["link"] == page.tags["img"] == 0 and page.tags["svg"] == 12
    ids = set(re.findall(r'\bid="([^"]+)"', text))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', text)) <= ids
    assert NOTICE in page.texts and "<b>" not in text


def test_numbers_of_the_json_stand_in_the_page_and_in_the_markdown(written):
    path, _ = written

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    values = json.loads(path.with_name("report.json").read_text(), parse_constant=refuse)
    markdown = path.with_name("report.md").read_text()
    texts = Page(path.read_text()).texts
    cells = re.split(r" *(?<!\\)\| *", markdown.replace("\n", " | "))
    numbers = []
    for task in values["tasks"]:
        for each in [*task["labels"], task["mean"], *task["baseline_labels"]]:
            numbers += [each["auroc"], each["average_precision"], (each["ci_low"], each["ci_high"])]
        numbers += list(task["delong"].values())
        for point in task["operating_points"]:
            numbers += [point[name] for name in ("sensitivity", "specificity", "ppv", "npv", "f1", "mcc")]
            numbers += [(point[f"{name}_low"], point[f"{name}_high"]) for name in ("sensitivity", "specificity")]
        numbers += [task["mean_f1"], task["mean_mcc"]]
        for each in task["calibration"]:
            numbers += [each[name] for name in ("mean_probability", "observed_share", "ece", "brier")]
        for each in task["comparison"]["results"]:
            numbers += [each["auroc_a"], each["auroc_b"]]
            if each["difference"] is not None:
                assert f"{each['difference']:+.3f}" in texts and f"{each['difference']:+.3f}" in cells
    subgroups = [result for task in values["tasks"] for results in task["subgroups"].values() for result in results]
    subgroups += [result for results in values["sites"].values() for result in results]
    assert [each["label"] for each in subgroups] == [*CLINIC.labels, "mean", *WARDS.labels, "mean"] + [
        *CLINIC.labels,
        "mean",
    ]
    for result in subgroups:
        for metric in ("auroc", "sensitivity", "specificity"):
            for each in [result[f"{metric}_gap"], *(group[metric] for group in result["groups"])]:
                numbers += [each["value"], (each["low"], each["high"])]
    assert len(numbers) > 200
    for number in numbers:
        if isinstance(number, (tuple, list)):
            number = None if None in number else " to ".join(f"{each:.3f}" for each in number)
        elif number is not None:
            number = f"{number:.3f}"
        if number is not None:
            assert number in texts and number in cells, number
    for task in values["tasks"]:
        for point, name in zip(task["operating_points"], task["labels"], strict=True):
            star = "" if name["label"] in task["thresholds_saved"] else " *"
            assert f"{point['threshold']:.3f}{star}" in texts
    assert values["tasks"][1]["confusion"] is not None and values["tasks"][0]["confusion"] is None
    assert values["tasks"][0]["labels"][2]["auroc"] is None and "undefined" in texts and "undefined" in cells
    assert "Nodule \\| small" in markdown and values["notice"] == NOTICE


def test_no_patient_and_no_path_is_named(written):
    path, _ = written
    for file in path.parent.iterdir():
        text = file.read_text()
        assert PATIENT not in text and "somewhere" not in text and "clinic" in text


def test_summary_is_a_table_with_a_line_a_group(written):
    _, (clinic, wards) = written
    text = report_text([clinic, wards])
    gap = clinic.subgroups["sex"][-1].auroc_gap
    assert f"; gap {gap.value:.3f} ({gap.low:.3f} to {gap.high:.3f})." in text
    assert "By sex, mean AUROC: F 0." in text and "Against old:" in text
    clinic = replace(clinic, comparison=Comparison("new", "old", None), subgroups={})
    text = report_text([clinic])
    assert "New: old has no head 'clinic' to compare with." in text and "By sex" not in text
    assert "no such head to compare with" in render_page([clinic], {}, {})


def test_what_a_reader_should_not_miss(written):
    _, (clinic, _) = written
    undefined, easy, *others = things_to_look_at(clinic)
    assert undefined == "Only one class is known, so that nothing can be said: Never seen."
    assert "which proves nothing: Mass & <b> (" in easy and "Never seen" not in easy
    clear = replace(clinic, baseline_labels=[replace(each, auroc=0.1, ci_high=0.2) for each in clinic.labels])
    assert not any("which proves nothing" in each for each in things_to_look_at(clear))
    assert not any("no operating points" in each for each in others)
    *labels, mean = clinic.subgroups["sex"]
    apart = replace(mean, sensitivity_gap=Estimate(0.3, 0.1, 0.5), auroc_gap=Estimate(0.1, 0.0, 0.3))
    changed = replace(
        clinic,
        subgroups={"sex": [*labels, apart]},
        thresholds_saved=[],
        baseline_labels=None,
        calibration=[replace(each, ece=0.02 if number else 0.2) for number, each in enumerate(clinic.calibration)],
    )
    found = things_to_look_at(changed)
    assert "Sensitivity differs by sex: gap 0.300 (0.100 to 0.500)." in found
    assert any("(ECE): Mass & <b> (0.20)." in each for each in found)
    assert not any("AUROC differs" in each or "grey levels" in each for each in found)
    assert any("no operating points" in each for each in found)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [  # (value, low, high)
        ((0.60, 0.55, 0.65), (0.70, 0.66, 0.74), "Worse than what ten numbers of size, shape and grey levels reach"),
        ((0.70, 0.65, 0.75), (0.71, 0.66, 0.74), "Within the interval of what ten numbers of size, shape and grey "),
        ((0.90, 0.85, 0.95), (0.70, 0.66, 0.74), None),
        (
            (0.60, math.nan, math.nan),
            (0.70, math.nan, math.nan),
            "Worse than what ten numbers of size, shape and grey",
        ),
        (
            (0.30, 0.20, 0.40),
            (0.20, 0.10, 0.25),
            "AUROC below 0.5, so that the opposite of the score tells more than ",
        ),
        ((0.45, 0.35, 0.55), (0.20, 0.10, 0.25), "Cannot be told from chance, as the interval holds 0.5: "),
        ((0.55, 0.45, 0.65), (0.20, 0.10, 0.25), "Cannot be told from chance, as the interval holds 0.5: "),
    ],
)
def test_what_is_said_of_an_auroc_is_right_on_both_sides(written, ours, theirs, expected):
    _, (clinic, _) = written
    ours, theirs = (dict(zip(("auroc", "ci_low", "ci_high"), each, strict=True)) for each in (ours, theirs))
    label, baseline = replace(clinic.labels[0], **ours), replace(clinic.baseline_labels[0], **theirs)
    changed = replace(clinic, labels=[label], baseline_labels=[baseline], subgroups={}, calibration=[])
    found = things_to_look_at(changed)
    assert len(found) == (expected is not None)
    assert expected is None or found[0].startswith(expected) and f"{label.label} ({label.auroc:.2f}" in found[0]


def test_how_it_was_made_is_said(tmp_path, written, no_figures):
    _, reports = written
    facts = {"model": "new", "command": "ark-hf evaluate new data", "bootstrap": 1000, "seed": 3}
    path = write_report(reports, tmp_path, facts)
    values = json.loads(path.with_name("report.json").read_text())
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", values["date"]) and values["ark_hf"] == package_version()
    assert {name: values[name] for name in facts} == facts
    texts, lines = Page(path.read_text()).texts, path.with_name("report.md").read_text().splitlines()
    for line in (
        f"Made on {values['date']} by ark-hf {values['ark_hf']}.",
        "Command: ark-hf evaluate new data",
        "Intervals come from 1,000 resamples, seed 3.",
    ):
        assert line in texts and line in lines
    write_report(reports, tmp_path, {"bootstrap": 0})
    assert "Nothing was resampled: there are no intervals." in Page(path.read_text()).texts
    data, scored, groups = made_scores(CLINIC)
    assert "No bootstrap intervals: nothing was resampled" in report_text(
        [report_task(data, scored, 0, groups=groups)]
    )
    assert "Intervals: percentile bootstrap over patients." in report_text(reports)


def test_sites_are_compared_on_one_head():
    (first, one, _), (second, two, _) = made_scores(CLINIC, seed=0), made_scores(CLINIC, seed=1)
    other = made_scores(WARDS)[:2]
    found = compare_sites([(first, one), (second, two), other], num_bootstrap=20)
    assert list(found) == ["clinic"]
    names = [group.group for group in found["clinic"][0].groups]
    assert names == ["clinic (1)", "clinic (2)"]  # two datasets of one name are not one
    for group, scored in zip(found["clinic"][0].groups, (one, two), strict=True):
        assert group.num_images == len(scored.labels) and group.num_patients == 60  # whose ids are alike
        alone = report_task(first, scored, 0, groups={}).labels[0].auroc
        assert group.auroc.value == pytest.approx(alone, abs=1e-12)
    assert compare_sites([(first, one), other], num_bootstrap=0) == {}
    assert math.isfinite(found["clinic"][0].auroc_gap.value) and np.isfinite(found["clinic"][0].auroc_gap.high)

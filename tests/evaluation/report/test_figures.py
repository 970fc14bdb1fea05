"""Curves against scikit-learn, and figures that say what they are of, in the page's colours."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from ark_hf.evaluation.report.figures import auroc_picture, confusion_map, roc_panels, task_figures
from ark_hf.evaluation.report.task_report import report_task
from ark_hf.metrics.curves import MOST_POINTS, label_curves
from ark_hf.models.ark.configuration_ark import ArkTask
from tests.metrics.made_scores import made_scores


@pytest.mark.parametrize("distinct", [5, 60, 3000])
def test_points_are_scikit_learns(distinct):
    rng = np.random.default_rng(distinct)
    labels = (rng.random(3000) < 0.2).astype(float)
    scores = np.round(rng.normal(labels, 1) * distinct / 6) if distinct < 3000 else rng.normal(labels, 1)
    curves = label_curves("x", np.append(labels, np.nan), np.append(scores, 9))
    ours = np.transpose([curves.false_positive_rate, curves.true_positive_rate])
    theirs = np.transpose(roc_curve(labels, scores, drop_intermediate=False)[:2])
    steps = np.transpose([curves.recall, curves.precision])
    their_steps = np.transpose(precision_recall_curve(labels, scores)[1::-1])[::-1]
    for mine, reference in ((ours, theirs), (steps, their_steps)):
        if len(reference) <= MOST_POINTS:
            np.testing.assert_array_equal(mine, reference)
        else:
            assert len(mine) <= MOST_POINTS and set(map(tuple, mine)) <= set(map(tuple, reference))
            np.testing.assert_array_equal(mine[[0, -1]], reference[[0, -1]])
    assert auc(*ours.T) == pytest.approx(roc_auc_score(labels, scores), abs=2e-3)
    area = np.sum(np.diff(steps[:, 0]) * steps[1:, 1])
    assert area == pytest.approx(average_precision_score(labels, scores), abs=1e-2)


def test_what_is_undefined_has_no_points():
    for labels, scores in (([1, 1, np.nan], [0.1, 0.2, 0.3]), ([0, 1, 1], [np.nan] * 3)):
        curves = label_curves("x", labels, scores)
        assert curves.false_positive_rate == curves.recall == curves.precision == []


@pytest.mark.parametrize("count", [1, 3, 14])
def test_every_label_has_its_panel(count):
    names = [f"Finding <{number}>" for number in range(count)]
    data, scored, groups = made_scores(ArkTask("many", names))
    scored.labels[:, -1] = 0
    report = report_task(data, scored, num_bootstrap=0, groups={} if count > 3 else groups)
    report.calibration_before = report.calibration if count == 3 else None
    figures = task_figures("t0", report)
    assert ("Calibration; orange: before the temperature" in figures) == (count == 3)
    assert ("Subgroups" in figures) == (count == 3)  # one label, of one class, has nothing to show
    for caption, svg in figures.items():
        assert not re.search(r": #00000", svg) and "currentColor" in svg and svg.startswith("<svg")
        if caption != "Subgroups":
            assert all(f"Finding &lt;{number}&gt;" in svg for number in range(count))
    for caption in ("ROC, with the operating point", "Precision and recall, with the share of positives"):
        assert figures[caption].count(">undefined<") == 1  # one class only
        curves = re.findall(r'd="(M [^"]*)"[^>]*style="[^"]*stroke: var\(--blue\)', figures[caption])
        assert len(curves) == count - 1


def test_the_picture_of_a_card_is_a_png_in_colours():
    report = report_task(*made_scores(ArkTask("one", ["x"]))[:2], num_bootstrap=0, groups={})
    picture = Image.open(io.BytesIO(auroc_picture(report)))
    assert picture.format == "PNG" and picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert (0x2F, 0x6F, 0xB7) in {colour for _, colour in picture.convert("RGB").getcolors(2**20)}


def test_a_curve_goes_where_its_points_are():
    """The corner of a perfect classifier's panel is its upper left, and the operating point stands there."""
    curves = label_curves("x", [0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
    data, scored, _ = made_scores(ArkTask("one", ["x"], thresholds={"x": 0.5}))
    scored.probabilities[:] = np.where(scored.labels == 1, 0.8, 0.2)
    (point,) = report_task(data, scored, num_bootstrap=0, groups={}).operating_points
    assert point.sensitivity == point.specificity == 1
    svg = roc_panels("p", [curves], [point])
    frame, _, curve = (
        np.array(re.findall(r"([\d.]+) ([\d.]+)", path), dtype=float)
        for path in re.findall(r'd="(M [^"]*)" clip-path', svg)[:3]
    )
    (dot,) = re.findall(r'<use xlink:href="#[^"]*" x="([\d.]+)" y="([\d.]+)"[^>]*var\(--orange\)', svg)
    upper_left, upper_right = frame[0], [frame[2, 0], frame[0, 1]]
    assert np.abs(curve - upper_left).max(axis=1).min() < 0.01
    np.testing.assert_allclose(curve[-1], upper_right, atol=0.01)
    np.testing.assert_allclose(np.array(dot, dtype=float), upper_left, atol=0.01)


def test_the_confusion_map_has_counts_and_shares():
    svg = confusion_map("c", ["normal", "sick"], [[30, 10], [0, 7]])
    texts = re.findall(r">([^<>]+)</tspan>|>([^<>]+)</text>", svg)
    texts = [first or second for first, second in texts]
    assert {"75 %", "30", "25 %", "10", "100 %", "7"} <= set(texts) and "0 %" not in texts

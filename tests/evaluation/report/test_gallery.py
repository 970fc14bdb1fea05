"""The gallery: which errors are shown, and that the pictures leave a page that goes elsewhere."""

from dataclasses import replace

import numpy as np
import pytest

from ark_hf.evaluation.report import gallery as module
from ark_hf.evaluation.report.gallery import Error, gallery, gravest_errors, without_pictures
from ark_hf.evaluation.report.task_report import report_task
from ark_hf.models.ark.configuration_ark import ArkTask
from tests.metrics.made_scores import made_scores
from tests.pages.html_page import Page

CLINIC = ArkTask("clinic", ["Mass", "Nodule", "Edema"], thresholds={"Mass": 0.4})


@pytest.fixture(scope="module")
def tested():
    data, scored, groups = made_scores(CLINIC)
    return report_task(data, scored, 0, groups=groups), scored


def test_the_most_confident_errors_of_each_label_are_shown(tested):
    report, scored = tested
    expected = []
    for column, threshold in enumerate((0.4, 0.5, 0.5)):
        scores, truth = scored.probabilities[:, column], scored.labels[:, column]
        misses = [row for row in np.argsort(scores) if truth[row] == 1 and scores[row] < threshold]
        alarms = [row for row in np.argsort(-scores) if truth[row] == 0 and scores[row] >= threshold]
        assert len(misses) > 1 and len(alarms) > 1 and max(len(misses), len(alarms)) > 3
        expected += [(column, True, row) for row in misses[:3]] + [(column, False, row) for row in alarms[:3]]
    assert gravest_errors(report, scored) == expected


def test_of_many_errors_each_label_has_its_worst(tested, monkeypatch):
    report, scored = tested
    everything = gravest_errors(report, scored)
    monkeypatch.setattr(module, "IN_ALL", 7)
    chosen = gravest_errors(report, scored)
    worst = {each[:2]: each for each in reversed(everything)}.values()
    assert len(chosen) == 7 and set(worst) < set(chosen) < set(everything)
    perfect = replace(scored, probabilities=np.nan_to_num(scored.labels))
    assert gravest_errors(report, perfect) == []
    unscored = replace(scored, probabilities=np.full_like(scored.probabilities, np.nan))
    assert gravest_errors(report, unscored) == []


def test_the_pictures_stand_between_marks_and_nowhere_else():
    error = Error("Mass & <b>", True, 3, 0.1, 0.5, b"picture", b"heat")
    errors = [error, replace(error, missed=False, heat=None)]
    html = gallery(errors)
    page = Page(f'<div id="page">{html}</div>')
    assert page.tags["img"] == 3 and page.tags["figure"] == 2 and page.tags["b"] == 0
    assert "Mass & <b>: missed" in page.texts and "Mass & <b>: false alarms" in page.texts
    assert without_pictures(f"<p>one</p>{html}<p>two</p>{html}<p>three</p>") == "<p>one</p><p>two</p><p>three</p>"
    assert gallery([]) == "" and without_pictures("<p>none</p>") == "<p>none</p>"
    for wrong in ('<img src="data:image/png;base64,AAAA">', "x data:image/png y"):
        with pytest.raises(ValueError, match="pictures that `ark-hf evaluate` did not put there"):
            without_pictures(html + wrong)

"""The report of probes as Markdown."""

from ark_hf.evaluation.probing.probe import Regularisation
from ark_hf.evaluation.probing.probe_report import probe_text
from ark_hf.evaluation.probing.probe_task import ProbeReport
from ark_hf.evaluation.probing.retrieval import RetrievalResult
from ark_hf.metrics.auroc import LabelResult, MeanResult
from tests.pages.markdown_table import column

LABELS = ["Edema | mild", "Mass"]


def test_a_bar_in_a_label_does_not_end_its_cell():
    labels = [LabelResult(name, 0.75, 0.5, 1.0, 0.5, 8, 4, 8) for name in LABELS]
    mean = MeanResult(0.75, 0.5, 1.0, 2, 2)
    choices = [Regularisation(0.01, {}, 8, 4)] * 2
    found = [RetrievalResult(name, 0.5, 0.25, 4) for name in LABELS]
    text = probe_text([ProbeReport("t", "d", 8, 8, None, labels, mean, labels, mean, choices, None, 5, found)], None)
    assert column(text, "shortcut baseline") == ["0.750"] * 3
    assert column(text, "label") == [*LABELS, "**mean of 2 of 2**"]
    assert column(text, "test images with it") == ["4", "4"]

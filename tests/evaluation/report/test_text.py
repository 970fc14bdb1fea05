"""Reports as Markdown."""

from ark_hf.evaluation.report.task_report import report_task
from ark_hf.evaluation.report.text import full_text, report_text
from ark_hf.models.ark.configuration_ark import ArkTask
from tests.metrics.made_scores import made_scores
from tests.pages.markdown_table import column, tables_in

LABELS = ["Edema | mild", "Mass"]


def test_a_bar_in_a_label_does_not_end_its_cell():
    data, scored, groups = made_scores(ArkTask("clinic", LABELS))
    report = report_task(data, scored, 0, groups=groups)
    assert column(report_text([report]), "label") == [*LABELS, "**mean of 2 of 2**"]
    for table in tables_in(full_text([report])):
        assert {len(row) for row in table} == {len(table[0])}

"""Test results as Markdown: in short, to be printed, and in full."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...metrics.subgroups import SubgroupResult
from ...pages.formats import format_interval, format_number, markdown_table
from .tables import TextTable, auroc_cells, comparison_table, interval_note, mean_name, subgroup_tables, task_tables
from .task_report import TaskReport

NOTICE = "Research use only: these numbers are no evidence that the model is safe or useful for any patient."


def report_text(reports: Sequence[TaskReport]) -> str:
    """The reports in short, with what scored each label where it was not the task's own head."""
    parts = ["\n".join(_task_lines(report)) for report in reports]
    footnote = (
        "Shortcut baseline: logistic regression on ten global image statistics (of a volume eleven), fitted on train."
    )
    return "\n\n".join([*parts, footnote]) + "\n"


def full_text(
    reports: Sequence[TaskReport],
    sites: Mapping[str, list[SubgroupResult]] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> str:
    """All tables of the reports; `sites` from `report.compare_sites`, `facts` as for `page.write_report`."""
    lines = ["# Evaluation", "", NOTICE]
    for line in how_it_was_made(facts or {}):
        lines += ["", line]
    for report in reports:
        lines += ["", _title(report), *_leak_lines(report)]
        for table in task_tables(report):
            lines += ["", f"### {table.title}", "", *table_lines(table)]
        lines += matched_labels(report)
    for task, results in (sites or {}).items():
        for table in subgroup_tables("dataset", results):
            lines += ["", f"## {task}: {table.title}", "", *table_lines(table)]
    return "\n".join(lines) + "\n"


def how_it_was_made(facts: Mapping[str, Any]) -> list[str]:
    """Day, version, command, where and how the model computed, how its training ended, resamples: as far as known."""
    lines = []
    if "date" in facts:
        lines.append(f"Made on {facts['date']} by ark-hf {facts['ark_hf']}.")
    if "command" in facts:
        lines.append(f"Command: {facts['command']}")
    if "computed" in facts:
        lines.append(f"Computed on {facts['computed']}.")
    if "training" in facts:
        lines.append(facts["training"])
    if facts.get("bootstrap") == 0:
        lines.append("Nothing was resampled: there are no intervals.")
    elif "bootstrap" in facts:
        seed = f", seed {facts['seed']}" if "seed" in facts else ""
        lines.append(f"Intervals come from {facts['bootstrap']:,} resamples{seed}.")
    return lines


def matched_labels(report: TaskReport) -> list[str]:
    """Lines that say which of the model's labels scored each label of a foreign dataset, and why."""
    if report.matches is None:
        return []
    lines = ["", "Scores are the mean probability of the labels that stand for a label:", ""]
    unscored = "nothing matches, not scored" if report.transfer is None else "not scored by this transfer"
    for label, matches in report.matches.items():
        named = ", ".join(f"{match.task}/{match.label} ({match.reason})" for match in matches)
        lines.append(f"- {label}: {named or unscored}")
    if report.transfer is not None:
        low, high = report.transfer.interval
        published = f"Published for Ark+ on {report.transfer.dataset}: {report.transfer.auroc:.4f}"
        lines += ["", f"{published} ({low:.4f} to {high:.4f}). {report.transfer.note}"]
    return lines


def subgroup_line(attribute: str, results: Sequence[SubgroupResult]) -> str:
    """The groups' AUROC on the mean of the labels, or on the only label, and the gap, in a sentence."""
    overall = results[-1]
    what = "AUROC" if len(results) == 1 else "mean AUROC"
    compared = [f"{group.group} {format_number(group.auroc.value)}" for group in overall.groups if group.compared]
    others = [f"{group.group} ({group.num_images})" for group in overall.groups if not group.compared]
    line = f"By {attribute}, {what}: {', '.join(compared)}" if compared else f"By {attribute}:"
    if not math.isnan(overall.auroc_gap.value):
        interval = format_interval(overall.auroc_gap.low, overall.auroc_gap.high)
        line += f"; gap {format_number(overall.auroc_gap.value)}{f' ({interval})' if interval else ''}"
    if others:
        line += f"{'; ' if compared else ' '}too few cases to compare: {', '.join(others)}"
    return f"{line}."


def _task_lines(report: TaskReport) -> list[str]:
    lines = [_title(report), *_leak_lines(report), ""]
    header = ["label", "positives", "AUROC", "95 % interval", "shortcut baseline", "95 % interval"]
    unscored = "no match" if report.transfer is None else "not scored"
    rows = []
    for number, result in enumerate(report.labels):
        baseline = None if report.baseline_labels is None else report.baseline_labels[number]
        counts = f"{result.num_positive}/{result.num_known}"
        matched = report.matches is None or report.matches[result.label]
        cells = [*auroc_cells(result), *auroc_cells(baseline)] if matched else [unscored, "", "", ""]
        rows.append([result.label, counts, *cells])
    rows.append([f"**{mean_name(report)}**", "", *auroc_cells(report.mean), *auroc_cells(report.baseline_mean)])
    lines += markdown_table(header, rows)
    lines += ["", f"{interval_note(report)}."]
    if report.accuracy is not None:
        lines.append(f"Accuracy of the most probable class: {report.accuracy:.3f}.")
    lines += [subgroup_line(attribute, results) for attribute, results in report.subgroups.items()]
    if report.comparison is not None and report.comparison.results is None:
        lines += ["", f"New: {report.comparison.other} has no head {report.task!r} to compare with."]
    elif report.comparison is not None:
        table = comparison_table(report)
        lines += ["", f"{table.title}:", "", *table_lines(table)]
    return lines + matched_labels(report)


def _leak_lines(report: TaskReport) -> list[str]:
    return ["", *(f"**{sentence}**" for sentence in report.leaks)] if report.leaks else []


def _title(report: TaskReport) -> str:
    patients = "" if report.num_patients is None else f" of {report.num_patients} patients"
    zero_shot = "" if report.matches is None else ", zero-shot"
    return f"## {report.task} ({report.split}: {report.num_images} images{patients}){zero_shot}"


def table_lines(table: TextTable) -> list[str]:
    """The table, and below it its note."""
    lines = markdown_table(table.header, table.rows)
    return [*lines, "", table.note] if table.note else lines

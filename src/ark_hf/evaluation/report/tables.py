"""The numbers of a task's test as tables of text, for Markdown and for the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...inference.task_labels import DEFAULT_THRESHOLD
from ...metrics.auroc import LabelResult, MeanResult
from ...metrics.significance import PairedResult
from ...metrics.subgroups import MIN_CASES, Estimate, GroupResult, SubgroupResult
from ...pages.formats import format_defined, format_interval, format_number
from .task_report import TaskReport


@dataclass(frozen=True)
class TextTable:
    """`folded`: long, and shown when asked for."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    folded: bool = False


def task_tables(report: TaskReport) -> list[TextTable]:
    tables = [_auroc_table(report)]
    if report.comparison is not None and report.comparison.results is not None:
        tables.append(comparison_table(report))
    tables.append(_operating_point_table(report))
    if report.confusion is not None:
        tables.append(_confusion_table(report, report.confusion))
    tables.append(_calibration_table(report))
    if report.label_groups and report.label_group_means:
        tables.append(_label_group_table(report.label_groups, report.label_group_means))
    for attribute, results in report.subgroups.items():
        tables += subgroup_tables(attribute, results)
    return tables


def auroc_cells(result: LabelResult | MeanResult | None) -> list[str]:
    """AUROC and interval."""
    if result is None:
        return ["no train split", ""]
    if math.isnan(result.auroc):
        return ["undefined", ""]
    return [format_number(result.auroc), format_interval(result.ci_low, result.ci_high)]


def mean_name(report: TaskReport) -> str:
    evaluated = "" if report.mean.num_labels == len(report.labels) else " evaluated"
    return f"mean of {report.mean.num_defined} of {report.mean.num_labels}{evaluated}"


def interval_note(report: TaskReport) -> str:
    """What the intervals are of, without a stop."""
    if all(math.isnan(each.ci_low) for each in report.labels):
        return "No bootstrap intervals: nothing was resampled, or nothing is defined"
    return f"Intervals: percentile bootstrap over {'images' if report.num_patients is None else 'patients'}"


def unscored_labels(report: TaskReport) -> set[str]:
    return {label for label, matches in (report.matches or {}).items() if not matches}


def _auroc_table(report: TaskReport) -> TextTable:
    unscored = unscored_labels(report)
    rows = []
    for number, result in enumerate(report.labels):
        counts = f"{result.num_positive:,}/{result.num_known:,}"
        if result.label in unscored:
            rows.append([result.label, counts, "not scored", *[""] * 5])
            continue
        baseline = None if report.baseline_labels is None else report.baseline_labels[number]
        delong = format_interval(*report.delong[result.label])
        precision = format_number(result.average_precision)
        rows.append([result.label, counts, *auroc_cells(result), delong, precision, *auroc_cells(baseline)])
    mean = [*auroc_cells(report.mean), "", format_number(report.mean.average_precision)]
    rows.append([mean_name(report), "", *mean, *auroc_cells(report.baseline_mean)])
    header = ["label", "positives", "AUROC", "95 % interval", "DeLong", "average precision", "shortcut baseline",
              "95 % interval"]  # fmt: skip
    delong = "DeLong's" if report.num_patients is None else "Obuchowski's of DeLong's"
    note = (
        f"{interval_note(report)}; beside it {delong} interval. Shortcut baseline: logistic regression on ten global "
        "image statistics (of a volume eleven), fitted on train."
    )
    if report.accuracy is not None:
        note += f" Accuracy of the most probable class: {format_number(report.accuracy)}."
    return TextTable("AUROC", header, rows, note)


def comparison_table(report: TaskReport) -> TextTable:
    """Raises `ValueError` without a comparison."""
    if report.comparison is None or report.comparison.results is None:
        raise ValueError(f"task {report.task!r} was not compared with another model")
    *results, mean = report.comparison.results
    rows = [[r.label, f"{r.num_positive:,}/{r.num_known:,}", *_paired_cells(r)] for r in results]
    rows.append(["mean", "", *_paired_cells(mean)[:-1], ""])
    model, other = report.comparison.model, report.comparison.other
    note = (
        f"Difference: {model} minus {other}, on the same images. Interval and p from a paired bootstrap over "
        f"{'images' if report.num_patients is None else 'patients'}; Holm: p allowing for the number of labels."
    )
    header = ["label", "positives", model, other, "difference", "95 % interval", "p", "p (Holm)"]
    return TextTable(f"Against {other}", header, rows, note)


def _paired_cells(result: PairedResult) -> list[str]:
    if math.isnan(result.difference):
        values = [format_defined(value) for value in (result.auroc_b, result.auroc_a)]
        return [*values, "undefined", "", "", ""]
    return [
        format_number(result.auroc_b),
        format_number(result.auroc_a),
        format_number(result.difference, sign="+"),
        format_interval(result.ci_low, result.ci_high, sign="+"),
        format_p_value(result.p_value),
        format_p_value(result.p_adjusted),
    ]


def format_p_value(value: float) -> str:
    if math.isnan(value):
        return ""
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}"


def _operating_point_table(report: TaskReport) -> TextTable:
    rows = []
    for point in report.operating_points:
        threshold = format_number(point.threshold)
        if point.label not in report.thresholds_saved:
            threshold += " *"
        if point.true_positives is None:
            rows.append([point.label, threshold, "not scored", *[""] * 8])
            continue
        counts = (point.true_positives, point.false_positives, point.true_negatives, point.false_negatives)
        rows.append(
            [
                point.label,
                threshold,
                "/".join(f"{count:,}" for count in counts if count is not None),
                format_defined(point.sensitivity),
                format_interval(point.sensitivity_low, point.sensitivity_high),
                format_defined(point.specificity),
                format_interval(point.specificity_low, point.specificity_high),
                *(format_defined(value) for value in (point.ppv, point.npv, point.f1, point.mcc)),
            ]
        )
    means = [format_defined(value) for value in (report.mean_f1, report.mean_mcc)]
    rows.append([f"mean{' evaluated' if 'evaluated' in mean_name(report) else ''}", *[""] * 8, *means])
    header = ["label", "threshold", "TP/FP/TN/FN", "sensitivity", "95 % interval", "specificity", "95 % interval",
              "PPV", "NPV", "F1", "MCC"]  # fmt: skip
    note = "PPV and NPV hold for the share of positives among these images. Means are over the labels with a value."
    if set(report.thresholds_saved) < {point.label for point in report.operating_points}:
        note += (
            f" * No operating point is saved with the model: {DEFAULT_THRESHOLD} of the probability. "
            "`ark-hf evaluate --calibrate` chooses them on validation images."
        )
    return TextTable("At the operating points", header, rows, note)


def _confusion_table(report: TaskReport, confusion: Sequence[Sequence[int]]) -> TextTable:
    names = [result.label for result in report.labels]
    rows = [[name, *(f"{count:,}" for count in counts)] for name, counts in zip(names, confusion, strict=True)]
    return TextTable("Confusion", ["class", *names], rows, "Rows: the class. Columns: the most probable class.")


def _calibration_table(report: TaskReport) -> TextTable:
    header = ["label", "mean probability", "share of positives", "ECE", "Brier score"]
    before = report.calibration_before
    rows = []
    for number, each in enumerate(report.calibration):
        values = [each.mean_probability, each.observed_share, each.ece, each.brier]
        if before is not None:
            values += [before[number].ece, before[number].brier]
        rows.append([each.label, *map(format_defined, values)])
    note = "ECE: expected calibration error, 15 bins of equal width."
    if before is not None:
        header += ["ECE before", "Brier before"]
    if report.fitted is not None:
        temperature = f"Temperature {format_number(report.fitted.temperature)}"
        if not report.fitted.is_fitted:
            temperature = "No temperature, since none is best on so few or so easy images,"
        note += (
            f" {temperature} and operating points ({report.fitted.rule}) come from {report.fitted.num_images:,} "
            f"validation images. {' '.join(report.fitted.caveats)}".rstrip()
        )
    return TextTable("Calibration", header, rows, note)


def _label_group_table(groups: dict[str, list[str]], means: dict[str, MeanResult]) -> TextTable:
    rows = [
        [
            name,
            ", ".join(labels) or "none",
            *(auroc_cells(means[name]) if labels else ["", ""]),
            format_number(means[name].average_precision),
        ]
        for name, labels in groups.items()
    ]
    header = ["group", "labels", "mean AUROC", "95 % interval", "mean average precision"]
    note = "By the share of positives in train: head above 10 %, medium 1 to 10 %, tail below 1 %."
    return TextTable("Frequent and rare labels", header, rows, note)


def subgroup_tables(attribute: str, results: Sequence[SubgroupResult]) -> list[TextTable]:
    """The groups on the mean of the labels, or on the only label; and folded, on each label."""
    *labels, overall = results
    metrics = ["AUROC", "95 % interval", "less the rest", "95 % interval", "sensitivity", "95 % interval",
               "specificity", "95 % interval"]  # fmt: skip
    counts = ["images", "patients", "positives"]
    note = (
        f"Groups with fewer than {MIN_CASES} positives or negatives (*) do not count in the gap, the largest less the "
        "smallest value; its interval holds for all pairs of groups at once. Less the rest: the group's AUROC minus "
        "that of all other images. Low sensitivity in a group: its findings are missed."
    )
    if labels:
        over = ", ".join(overall.labels) or "no label: none has enough cases in each group"
        note = f"Means over {over}. {note}"
    first = [*(_group_row(group) for group in overall.groups), _gap_row(overall)]
    tables = [TextTable(f"By {attribute}", [attribute, *counts, *metrics], first, note)]
    if labels:
        rows = [
            [result.label, *row]
            for result in labels
            for row in [*(_group_row(group) for group in result.groups), _gap_row(result)]
        ]
        header = ["label", attribute, *counts, *metrics]
        tables.append(TextTable(f"By {attribute}, each label", header, rows, folded=True))
    return tables


def _group_row(group: GroupResult) -> list[str]:
    patients = "" if group.num_patients is None else f"{group.num_patients:,}"
    difference = group.difference
    return [
        group.group if group.compared else f"{group.group} *",
        f"{group.num_images:,}",
        patients,
        f"{group.num_positive:,}/{group.num_known:,}",
        *_estimate_cells(group.auroc),
        format_number(difference.value, sign="+"),
        format_interval(difference.low, difference.high, sign="+"),
        *_estimate_cells(group.sensitivity),
        *_estimate_cells(group.specificity),
    ]


def _gap_row(result: SubgroupResult) -> list[str]:
    gaps = [_estimate_cells(gap) for gap in (result.auroc_gap, result.sensitivity_gap, result.specificity_gap)]
    return ["gap", "", "", "", *gaps[0], "", "", *gaps[1], *gaps[2]]


def _estimate_cells(estimate: Estimate) -> list[str]:
    return [format_defined(estimate.value), format_interval(estimate.low, estimate.high)]

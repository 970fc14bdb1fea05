"""A data report as one HTML file: its numbers in tables and figures, without a script or anything from elsewhere."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...files import write_json, write_text
from ...metrics.shortcut import SHORTCUT_STATISTICS
from ...pages.figures import interval_plot
from ...pages.formats import format_interval, format_number
from ...pages.html import (
    document,
    escape,
    html_figures,
    html_table,
    look_at,
    side_by_side,
)
from .figures import SPLIT_COLOURS, age_lines, box_plots, share_map, state_bars
from .numbers import Thumbnail

RARE, LARGELY_UNKNOWN, SHORTCUT = 10, 0.5, 0.7
MAP_THAT_FITS = 16  # labels; the map of more is wider than a phone and scrolls
PLOTTED_STATISTICS = {
    "aspect_ratio": "width / height",
    "mean": "mean grey level (0 black, 1 white)",
    "std": "spread of grey levels",
    "dark_fraction": "share of dark pixels",
}


def write_data_report(report: dict[str, Any], thumbnails: Mapping[str, Sequence[Thumbnail]], output_dir: Path) -> Path:
    """Writes `report.json` and `report.html`, which has the same numbers and images; returns the latter's path."""
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / "report.json", report)
    write_text(output_dir / "report.html", render_page(report, thumbnails))
    return output_dir / "report.html"


def render_page(report: dict[str, Any], thumbnails: Mapping[str, Sequence[Thumbnail]]) -> str:
    """The page of what [`describe_datasets`] gives; a function of its arguments to the byte."""
    names = list(report["datasets"])
    parts = [
        f"<h1>Data report: {escape(', '.join(names))}</h1>",
        '<p class="note">Labels, patients and demographics are counted over all rows. Sizes, grey levels and the '
        f"shortcut test are of at most {report['images_a_split']:,} images per split, drawn at random and the same "
        "ones every time. Intervals are 95 % intervals.</p>",
    ]
    if len(names) > 1:
        parts += [_overview(report["datasets"])]
    parts += [_duplicates(report["duplicates"])]
    for number, (name, dataset) in enumerate(report["datasets"].items()):
        parts.append(_dataset(f"d{number}", name, dataset, report["duplicates"], thumbnails.get(name, ())))
    return document(f"Data report: {', '.join(names)}", parts)


def things_to_look_at(name: str, dataset: Mapping[str, Any], duplicates: Mapping[str, Any]) -> list[str]:
    """Sentences on what may spoil training or a test on this dataset, the gravest first."""
    found = []
    for what, pairs in dataset["overlap"].items():
        for pair, count in pairs.items():
            if count:
                found.append(f"{what.capitalize()} both in {' and in '.join(pair.split('/'))}: {count:,}.")
    for pair in duplicates["pairs"]:
        if name in pair["datasets"]:
            counts = f"{pair['equal']:,} equal, {pair['near']:,} nearly equal"
            found.append(f"Pictures both in {' and in '.join(pair['splits'])}: {counts}.")
    for split, numbers in dataset["splits"].items():
        if numbers["unreadable_rows"]:
            rows = ", ".join(map(str, numbers["unreadable_rows"][:10]))
            count = len(numbers["unreadable_rows"])
            seen = count + numbers["images_looked_at"]
            found.append(f"Images in {split} that cannot be decoded: {count:,} of {seen:,} looked at (rows {rows}).")
        if not numbers["rows"]:
            found.append(f"{split} has no rows.")
    if dataset["left_out"]:
        found.append(f"Rows or files that the builder left out: {dataset['left_out']:,} (build_report.json says why).")
    found += [f"Not what the release has: {each}." for each in dataset["unexpected"]]
    found += [
        f"There is no split {split}." for split in ("train", "validation", "test") if split not in dataset["splits"]
    ]
    return found + _about_labels(dataset)


def _about_labels(dataset: Mapping[str, Any]) -> list[str]:
    splits, labels = dataset["splits"], dataset["task"]["labels"]
    total = sum(numbers["rows"] for numbers in splits.values())
    known = {label: sum(numbers["prevalence"][label]["known"] for numbers in splits.values()) for label in labels}
    found = {"No row knows": [label for label in labels if not known[label]]}
    half = [label for label in labels if 0 < known[label] < LARGELY_UNKNOWN * total]
    found["Known on less than half of the rows"] = [f"{label} ({100 * known[label] / total:.0f} %)" for label in half]
    for split, numbers in splits.items():
        positive = {label: numbers["prevalence"][label]["positive"] for label in labels if known[label]}
        rare = [f"{label} ({count})" for label, count in positive.items() if count < RARE and numbers["rows"]]
        found[f"Fewer than {RARE} positive rows in {split}"] = rare
    shortcut = dataset["shortcut"]["labels"] if dataset["shortcut"] else {}
    easy = {
        label: each["auroc"] for label, each in shortcut.items() if each["auroc"] >= SHORTCUT and each["low"] > 0.5
    }
    found["Told by size, shape and grey levels alone, which a model may learn in place of disease (AUROC)"] = [
        f"{label} ({auroc:.2f})" for label, auroc in easy.items()
    ]
    return [f"{what}: {', '.join(which)}." for what, which in found.items() if which]


def _overview(datasets: Mapping[str, Any]) -> str:
    rows = []
    for name, dataset in datasets.items():
        splits = dataset["splits"].values()
        patients = [numbers["patients"] for numbers in splits]
        rows.append(
            [
                name,
                str(len(dataset["task"]["labels"])),
                *(
                    f"{dataset['splits'][split]['rows']:,}" if split in dataset["splits"] else ""
                    for split in ("train", "validation", "test")
                ),
                "unknown" if None in patients else f"{sum(patients):,}",
            ]
        )
    return html_table(["dataset", "labels", "train", "validation", "test", "patients"], rows)


def _duplicates(duplicates: Mapping[str, Any]) -> str:
    parts = ["<h3>Pictures that stand in two splits or datasets</h3>"]
    if duplicates["not_searched"]:
        names = ", ".join(duplicates["not_searched"])
        parts.append(f"<p>Not searched, for lack of image_hashes.parquet (build it anew): {escape(names)}.</p>")
    rows = []
    for pair in duplicates["pairs"]:
        examples = ", ".join("/".join(map(str, each["rows"])) for each in pair["examples"][:5])
        rows.append([" and ".join(pair["splits"]), f"{pair['equal']:,}", f"{pair['near']:,}", examples])
    if rows:
        parts.append(html_table(["in", "equal", "nearly equal", "rows, the first ones"], rows))
    elif duplicates["searched"]:
        parts.append("<p>None among the datasets searched.</p>")
    for place, count in duplicates["repeated_in_split"].items():
        parts.append(f"<p>{escape(place)} holds {count:,} pictures that equal an earlier one of the same split.</p>")
    return "\n".join(parts)


def _dataset(
    key: str, name: str, dataset: Mapping[str, Any], duplicates: Mapping[str, Any], thumbnails: Sequence[Thumbnail]
) -> str:
    task, splits = dataset["task"], dataset["splits"]
    labels = task["labels"]
    what = f"Task {escape(task['name'])}, {_kind(task)}, {len(labels)} labels." if labels else "Images without labels."
    parts = [f"<h2>{escape(name)}</h2>", f"<p>{what}</p>"]
    for what, text in dataset["source"].items():
        parts.append(f'<p class="note">{escape(what.capitalize())}: {escape(text)}</p>')
    parts.append(look_at(things_to_look_at(name, dataset, duplicates)))
    parts += ["<h3>Splits</h3>", _split_table(splits, bool(labels))]
    if labels:
        figures = html_figures(_label_figures(key, labels, splits))
        parts += ["<h3>Labels</h3>", side_by_side(_label_table(labels, splits), figures)]
    if any(numbers["areas"] for numbers in splits.values()):
        parts += ["<h3>Masks</h3>", _area_table(labels, splits)]
    if dataset["co_occurrence"]:
        parts += ["<h3>Labels that stand together</h3>", _co_occurrence(key, labels, dataset["co_occurrence"])]
    if demographics := _demographics(key, splits):
        parts += ["<h3>Patients</h3>", demographics]
    parts += ["<h3>Images</h3>", _images(key, splits)]
    if labels:
        parts += ["<h3>Shortcuts</h3>", _shortcut(key, labels, dataset["shortcut"])]
    parts += ["<h3>Contact sheet</h3>", _contact_sheet(labels or list(splits), thumbnails, "positive " * bool(labels))]
    return "\n".join(parts)


def _kind(task: Mapping[str, Any]) -> str:
    if "problem_type" in task:
        return task["problem_type"].replace("_classification", "").replace("_", "-")
    return f"segmentation, {'overlapping' if task['overlapping'] else 'exclusive'}"


def _area_table(labels: Sequence[str], splits: Mapping[str, Any]) -> str:
    rows = [
        [label, split, *(f"{100 * value:.2f}" for value in numbers["areas"][label].values())]
        for label in labels
        for split, numbers in splits.items()
        if label in numbers["areas"]
    ]
    header = ["label", "split", "smallest", "5 %", "25 %", "median", "75 %", "95 %", "largest"]
    note = (
        "How much of an image the label covers, in %, of the images that have a pixel of it, which are its positives."
    )
    return f'{html_table(header, rows)}<p class="note">{note}</p>'


def _split_table(splits: Mapping[str, Any], labelled: bool) -> str:
    header = ["split", "rows", "patients", "rows per patient", *["no known label"] * labelled, "no patient"]
    rows = []
    for name, numbers in splits.items():
        patients = "unknown" if numbers["patients"] is None else f"{numbers['patients']:,}"
        known = numbers["rows"] - numbers["rows_without_patient"]
        per_patient = f"{known / numbers['patients']:.2f}" if numbers["patients"] else ""
        without = [f"{numbers['rows_without_known_label']:,}"] * labelled + [f"{numbers['rows_without_patient']:,}"]
        rows.append([name, f"{numbers['rows']:,}", patients, per_patient, *without])
    return html_table(header, rows)


def _label_table(labels: Sequence[str], splits: Mapping[str, Any]) -> str:
    by_patient = any(numbers["patients"] for numbers in splits.values())
    rows = []
    for label in labels:
        for split, numbers in splits.items():
            states, share = numbers["labels"][label], numbers["prevalence"][label]
            counts = [f"{states[state]:,}" for state in ("positive", "negative", "uncertain", "unknown")]
            intervals = [format_interval(share["low"], share["high"], 100, 1)]
            if by_patient:
                intervals.append(format_interval(share["patient_low"], share["patient_high"], 100, 1))
            rows.append([label, split, *counts, format_number(share["share"], 100, 1), *intervals])
    header = ["label", "split", "positive", "negative", "uncertain", "unknown", "%", "interval"]
    note = "Prevalence is among the rows where the label is known. Interval: Wilson's, as if images were independent"
    if by_patient:
        header.append("by patient")
        note += "; by patient: the same at the number of images that counts after images of one patient are alike"
    return f'{html_table(header, rows)}<p class="note">{note}.</p>'


def _label_figures(key: str, labels: Sequence[str], splits: Mapping[str, Any]) -> dict[str, str]:
    series = {}
    for split, numbers in splits.items():
        shares = [numbers["prevalence"][label] for label in labels]
        bounds = ("patient_low", "patient_high") if numbers["patients"] else ("low", "high")
        series[split] = [[_percent(share[bound]) for bound in ("share", *bounds)] for share in shares]
    figures = {
        "Prevalence": interval_plot(
            f"{key}-prevalence", labels, series, SPLIT_COLOURS, "% of the rows where it is known", 0
        )
    }
    totals = {
        label: {
            state: sum(numbers["labels"][label][state] for numbers in splits.values())
            for state in ("positive", "negative", "uncertain", "unknown")
        }
        for label in labels
    }
    figures["What is known, all splits"] = state_bars(f"{key}-states", totals)
    return figures


def _co_occurrence(key: str, labels: Sequence[str], counts: Mapping[str, Any]) -> str:
    both, known = np.array(counts["both"], dtype=float), np.array(counts["known"], dtype=float)
    shares = np.divide(both, known, out=np.full_like(both, np.nan), where=known > 0)
    svg = share_map(f"{key}-together", labels, shares)
    caption = "Of the images with the row's label, % that have the column's (where that is known), all splits"
    table = html_table(
        ["images with both", *labels],
        [[label, *(f"{int(count):,}" for count in row)] for label, row in zip(labels, both, strict=True)],
    )
    wide = ' class="map"' if len(labels) > MAP_THAT_FITS else ""
    figure = f"<figure{wide}><figcaption>{caption}</figcaption>{svg}</figure>"
    return f"{figure}\n<details><summary>Counts</summary>{table}</details>"


def _demographics(key: str, splits: Mapping[str, Any]) -> str:
    rows = []
    for what in ("sex", "view"):
        for value in sorted({value for numbers in splits.values() for value in numbers[what]}):
            rows.append([f"{what} {value}", *(_count_of(n[what].get(value, 0), n["rows"]) for n in splits.values())])
        if any(numbers[what] for numbers in splits.values()):
            missing = [numbers["rows"] - sum(numbers[what].values()) for numbers in splits.values()]
            rows.append([f"{what} unknown", *map(_count_of, missing, (n["rows"] for n in splits.values()))])
    ages = {split: numbers["age"] for split, numbers in splits.items()}
    if any(ages.values()):
        for title, text in (("age, mean", "{mean:.1f}"), ("age, range", "{min:.0f} to {max:.0f}")):
            rows.append([title, *(text.format(**age) if age else "" for age in ages.values())])
        missing = [numbers["rows"] - (numbers["age"] or {"known": 0})["known"] for numbers in splits.values()]
        rows.append(["age unknown", *map(_count_of, missing, (n["rows"] for n in splits.values()))])
    if not rows:
        return ""
    figures = {}
    decades = {split: numbers["ages_by_decade"] for split, numbers in splits.items() if numbers["ages_by_decade"]}
    if decades:
        figures["Age"] = age_lines(f"{key}-age", decades)
    return side_by_side(html_table(["rows", *splits], rows), html_figures(figures))


def _images(key: str, splits: Mapping[str, Any]) -> str:
    seen = {split: numbers for split, numbers in splits.items() if numbers["statistics"]}
    if not seen:
        return "<p>No image could be read.</p>"
    rows = []
    for statistic in SHORTCUT_STATISTICS:
        for split, numbers in seen.items():
            quantiles = numbers["statistics"][statistic]
            digits = 0 if statistic in ("width", "height") else 3
            rows.append([statistic.replace("_", " "), split, *(f"{value:.{digits}f}" for value in quantiles.values())])
    header = ["of an image", "split", "smallest", "5 %", "25 %", "median", "75 %", "95 %", "largest"]
    sizes = [
        f"{split}, {numbers['images_looked_at']:,} images: "
        + ", ".join(
            f"{size.replace(' x ', '×')} ({100 * count / numbers['images_looked_at']:.0f} %)"
            for size, count in numbers["sizes"].items()
        )
        for split, numbers in seen.items()
    ]
    figures = {
        title[0].upper() + title[1:]: box_plots(
            f"{key}-{statistic}", title, {split: numbers["statistics"][statistic] for split, numbers in seen.items()}
        )
        for statistic, title in PLOTTED_STATISTICS.items()
    }
    return (
        "".join(f"<p>Commonest sizes in {escape(text)}.</p>" for text in sizes)
        + html_figures(figures)
        + f"<details><summary>Sizes and grey levels in numbers</summary>{html_table(header, rows)}</details>"
    )


def _shortcut(key: str, labels: Sequence[str], shortcut: Mapping[str, Any] | None) -> str:
    if shortcut is None:
        return "<p>Not tested: it takes a train split and another.</p>"
    found = [shortcut["labels"][label] for label in labels]
    rows = [
        [label, format_number(each["auroc"]), format_interval(each["low"], each["high"]), f"{each['positive']:,}",
         f"{each['known']:,}"]
        for label, each in zip(labels, found, strict=True)
    ]  # fmt: skip
    series = {shortcut["tested_on"]: [[each["auroc"], each["low"], each["high"]] for each in found]}
    figure = interval_plot(f"{key}-shortcut", labels, series, SPLIT_COLOURS, "AUROC of ten global image numbers", 0.5)
    text = (
        f"AUROC of a logistic regression on ten numbers of an image (size, shape, grey levels) fitted on "
        f"{shortcut['fitted_on']} and tested on {shortcut['tested_on']}, on the images looked at. Far above 0.5: the "
        "label can be told without looking at a lung, and a model may do so."
    )
    header = ["label", "AUROC", "interval", "positive", "known"]
    return f'<p class="note">{text}</p>' + side_by_side(
        html_table(header, rows), html_figures({"AUROC without looking at a lung": figure})
    )


def _contact_sheet(labels: Sequence[str], thumbnails: Sequence[Thumbnail], which: str) -> str:
    parts = []
    for label in labels:
        images = "".join(
            f'<span><img alt="{escape(each.split)}, row {each.row}" '
            f'src="data:image/jpeg;base64,{base64.b64encode(each.jpeg).decode()}">'
            f"<small>{escape(each.split)} {each.row}</small></span>"
            for each in thumbnails
            if each.label == label
        )
        content = f"<div>{images}</div>" if images else f"<p>No {which}image.</p>"
        parts.append(f"<figure><figcaption>{escape(label)}</figcaption>{content}</figure>")
    note = (
        f"Drawn at random among the {which}images; split and row stand below. These are the dataset's images: share "
        "this page only as they may be shared."
    )
    return f'<p class="note">{note}</p><div class="sheet">{"".join(parts)}</div>'


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _count_of(count: int, total: int) -> str:
    return f"{count:,} ({100 * count / total:.0f} %)" if total else "0"

"""A data report as one HTML file: its numbers in tables and figures, without a script or anything from elsewhere."""

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_json, write_text
from .data_report import Thumbnail
from .data_report_figures import age_lines, box_plots, interval_plot, share_map, state_bars
from .shortcut import SHORTCUT_STATISTICS

RARE, LARGELY_UNKNOWN, SHORTCUT = 10, 0.5, 0.7
MAP_THAT_FITS = 16  # labels; the map of more is wider than a phone and scrolls
PLOTTED_STATISTICS = {
    "aspect_ratio": "width / height",
    "mean": "mean grey level (0 black, 1 white)",
    "std": "spread of grey levels",
    "dark_fraction": "share of dark pixels",
}
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2126; --note: #59626c; --soft: #8b949e;
  --faint: #d5dae0; --panel: #f5f6f8; --blue: #2f6fb7; --orange: #c2691a; --green: #2a8c5d; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e4e7eb; --note: #a3adb7; --soft: #7c858f;
  --faint: #3a424b; --panel: #1d2228; --blue: #5a9be0; --orange: #e0914a; --green: #4fb487; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; }
h2 { font-size: 1.35rem; margin: 2.5rem 0 .5rem; padding-top: 1rem; border-top: 2px solid var(--faint); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .4rem; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
p { margin: .4rem 0; }
ul { margin: .4rem 0; padding-left: 1.2rem; }
a { color: var(--blue); }
.note { color: var(--note); font-size: .875rem; }
.look { background: var(--panel); border-left: 4px solid var(--orange); padding: .5rem .9rem; border-radius: .25rem; }
.wide { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem .25rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--faint); }
th { font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper);
  min-width: 5.5rem; max-width: min(20rem, 40vw); white-space: normal; overflow-wrap: break-word; }
.side { display: flex; flex-wrap: wrap; gap: 0 2.5rem; align-items: flex-start; }
.side > * { min-width: 0; max-width: 100%; }
.side > * + * { flex: 1 1 22rem; }
@media (max-width: 50rem) { .side > * + * { order: -1; } }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1rem 2rem;
  align-items: start; }
figure { margin: .5rem 0; min-width: 0; }
figure > svg { width: 100%; max-width: 30rem; height: auto; display: block; font-family: inherit; }
figure.map { overflow-x: auto; }
figure.map > svg { width: auto; max-width: none; }
figcaption { font-size: .875rem; font-weight: 600; margin-bottom: .25rem; overflow-wrap: anywhere; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: .75rem 2rem; }
.sheet div { display: grid; grid-template-columns: repeat(4, 1fr); gap: .3rem; }
.sheet img { width: 100%; height: auto; background: #000; display: block; }
.sheet small { color: var(--note); font-size: .7rem; line-height: 1.25; display: block; }
"""


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
        f"<h1>Data report: {_escape(', '.join(names))}</h1>",
        '<p class="note">Labels, patients and demographics are counted over all rows. Sizes, grey levels and the '
        f"shortcut test are of at most {report['images_a_split']:,} images a split, drawn at random and the same ones "
        "every time. Intervals are 95 % intervals.</p>",
    ]
    if len(names) > 1:
        parts += [_overview(report["datasets"])]
    parts += [_duplicates(report["duplicates"])]
    for number, (name, dataset) in enumerate(report["datasets"].items()):
        parts.append(_dataset(f"d{number}", name, dataset, report["duplicates"], thumbnails.get(name, ())))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>Data report: {_escape(', '.join(names))}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


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
    return _table(["dataset", "labels", "train", "validation", "test", "patients"], rows)


def _duplicates(duplicates: Mapping[str, Any]) -> str:
    parts = ["<h3>Pictures that stand in two splits or datasets</h3>"]
    if duplicates["not_searched"]:
        names = ", ".join(duplicates["not_searched"])
        parts.append(f"<p>Not searched, for lack of image_hashes.parquet (build it anew): {_escape(names)}.</p>")
    rows = []
    for pair in duplicates["pairs"]:
        examples = ", ".join("/".join(map(str, each["rows"])) for each in pair["examples"][:5])
        rows.append([" and ".join(pair["splits"]), f"{pair['equal']:,}", f"{pair['near']:,}", examples])
    if rows:
        parts.append(_table(["in", "equal", "nearly equal", "rows, the first ones"], rows))
    elif duplicates["searched"]:
        parts.append("<p>None among the datasets searched.</p>")
    for place, count in duplicates["repeated_in_split"].items():
        parts.append(f"<p>{_escape(place)} holds {count:,} pictures that equal an earlier one of the same split.</p>")
    return "\n".join(parts)


def _dataset(
    key: str, name: str, dataset: Mapping[str, Any], duplicates: Mapping[str, Any], thumbnails: Sequence[Thumbnail]
) -> str:
    task, splits = dataset["task"], dataset["splits"]
    labels, kind = task["labels"], task["problem_type"].replace("_classification", "").replace("_", "-")
    parts = [
        f"<h2>{_escape(name)}</h2>",
        f"<p>Task {_escape(task['name'])}, {kind}, {len(labels)} labels.</p>",
    ]
    for what, text in dataset["source"].items():
        parts.append(f'<p class="note">{_escape(what.capitalize())}: {_escape(text)}</p>')
    if found := things_to_look_at(name, dataset, duplicates):
        items = "".join(f"<li>{_escape(each)}</li>" for each in found)
        parts.append(f'<div class="look"><strong>Look at</strong><ul>{items}</ul></div>')
    parts += ["<h3>Splits</h3>", _split_table(splits)]
    figures = _figures(_label_figures(key, labels, splits))
    parts += ["<h3>Labels</h3>", _side(_label_table(labels, splits), figures)]
    if dataset["co_occurrence"]:
        parts += ["<h3>Labels that stand together</h3>", _co_occurrence(key, labels, dataset["co_occurrence"])]
    if demographics := _demographics(key, splits):
        parts += ["<h3>Patients</h3>", demographics]
    parts += ["<h3>Images</h3>", _images(key, splits)]
    parts += ["<h3>Shortcuts</h3>", _shortcut(key, labels, dataset["shortcut"])]
    parts += ["<h3>Contact sheet</h3>", _contact_sheet(labels, thumbnails)]
    return "\n".join(parts)


def _split_table(splits: Mapping[str, Any]) -> str:
    rows = []
    for name, numbers in splits.items():
        patients = "unknown" if numbers["patients"] is None else f"{numbers['patients']:,}"
        known = numbers["rows"] - numbers["rows_without_patient"]
        per_patient = f"{known / numbers['patients']:.2f}" if numbers["patients"] else ""
        rows.append(
            [name, f"{numbers['rows']:,}", patients, per_patient, f"{numbers['rows_without_known_label']:,}",
             f"{numbers['rows_without_patient']:,}"]
        )  # fmt: skip
    return _table(["split", "rows", "patients", "rows a patient", "no known label", "no patient"], rows)


def _label_table(labels: Sequence[str], splits: Mapping[str, Any]) -> str:
    by_patient = any(numbers["patients"] for numbers in splits.values())
    rows = []
    for label in labels:
        for split, numbers in splits.items():
            states, share = numbers["labels"][label], numbers["prevalence"][label]
            counts = [f"{states[state]:,}" for state in ("positive", "negative", "uncertain", "unknown")]
            intervals = [_interval(share["low"], share["high"], 100)]
            if by_patient:
                intervals.append(_interval(share["patient_low"], share["patient_high"], 100))
            rows.append([label, split, *counts, _number(share["share"], 100), *intervals])
    header = ["label", "split", "positive", "negative", "uncertain", "unknown", "%", "interval"]
    note = "Prevalence is among the rows where the label is known. Interval: Wilson's, as if images were independent"
    if by_patient:
        header.append("by patient")
        note += "; by patient: the same at the number of images that counts after images of one patient are alike"
    return f'{_table(header, rows)}<p class="note">{note}.</p>'


def _label_figures(key: str, labels: Sequence[str], splits: Mapping[str, Any]) -> dict[str, str]:
    series = {}
    for split, numbers in splits.items():
        shares = [numbers["prevalence"][label] for label in labels]
        bounds = ("patient_low", "patient_high") if numbers["patients"] else ("low", "high")
        series[split] = [[_percent(share[bound]) for bound in ("share", *bounds)] for share in shares]
    figures = {"Prevalence": interval_plot(f"{key}-prevalence", labels, series, "% of the rows where it is known", 0)}
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
    table = _table(
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
    return _side(_table(["rows", *splits], rows), _figures(figures))


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
        "".join(f"<p>Commonest sizes in {_escape(text)}.</p>" for text in sizes)
        + _figures(figures)
        + f"<details><summary>Sizes and grey levels in numbers</summary>{_table(header, rows)}</details>"
    )


def _shortcut(key: str, labels: Sequence[str], shortcut: Mapping[str, Any] | None) -> str:
    if shortcut is None:
        return "<p>Not tested: it takes a train split and another.</p>"
    found = [shortcut["labels"][label] for label in labels]
    rows = [
        [label, _number(each["auroc"], 1, 3), _interval(each["low"], each["high"], 1, 3), f"{each['positive']:,}",
         f"{each['known']:,}"]
        for label, each in zip(labels, found, strict=True)
    ]  # fmt: skip
    series = {shortcut["tested_on"]: [[each["auroc"], each["low"], each["high"]] for each in found]}
    figure = interval_plot(f"{key}-shortcut", labels, series, "AUROC of ten global image numbers", 0.5)
    text = (
        f"AUROC of a logistic regression on ten numbers of an image (size, shape, grey levels) fitted on "
        f"{shortcut['fitted_on']} and tested on {shortcut['tested_on']}, on the images looked at. Far above 0.5: the "
        "label can be told without looking at a lung, and a model may do so."
    )
    header = ["label", "AUROC", "interval", "positive", "known"]
    return f'<p class="note">{text}</p>' + _side(
        _table(header, rows), _figures({"AUROC without looking at a lung": figure})
    )


def _contact_sheet(labels: Sequence[str], thumbnails: Sequence[Thumbnail]) -> str:
    parts = []
    for label in labels:
        images = "".join(
            f'<span><img alt="{_escape(each.split)}, row {each.row}" '
            f'src="data:image/jpeg;base64,{base64.b64encode(each.jpeg).decode()}">'
            f"<small>{_escape(each.split)} {each.row}</small></span>"
            for each in thumbnails
            if each.label == label
        )
        content = f"<div>{images}</div>" if images else "<p>No positive image.</p>"
        parts.append(f"<figure><figcaption>{_escape(label)}</figcaption>{content}</figure>")
    note = (
        "Drawn at random among the positive images; split and row stand below. These are the dataset's images: share "
    )
    note += "this page only as they may be shared."
    return f'<p class="note">{note}</p><div class="sheet">{"".join(parts)}</div>'


def _side(*parts: str) -> str:
    """Beside one another where the screen is wide enough."""
    return f'<div class="side">{"".join(f"<div>{part}</div>" for part in parts if part)}</div>'


def _figures(figures: Mapping[str, str]) -> str:
    drawn = "".join(
        f"<figure><figcaption>{_escape(title)}</figcaption>{svg}</figure>" for title, svg in figures.items()
    )
    return f'<div class="figures">{drawn}</div>' if drawn else ""


def _table(header: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{_escape(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{_escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _escape(text: str) -> str:
    return html.escape(str(text))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _number(value: float | None, scale: float, digits: int = 1) -> str:
    return "" if value is None or math.isnan(value) else f"{scale * value:.{digits}f}"


def _interval(low: float | None, high: float | None, scale: float, digits: int = 1) -> str:
    bounds = _number(low, scale, digits), _number(high, scale, digits)
    return " to ".join(bounds) if all(bounds) else ""


def _count_of(count: int, total: int) -> str:
    return f"{count:,} ({100 * count / total:.0f} %)" if total else "0"

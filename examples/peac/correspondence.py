"""
The same anatomy in two patients, and in two views of one: how far from the truth are the places that a model finds?

    python examples/peac/correspondence.py MODEL [MODEL ...] FOLDER
    python examples/peac/correspondence.py MODEL [MODEL ...] FOLDER --pictures PICTURES

The first writes to FOLDER errors.json and errors.md, for phantoms: each model beside an untrained encoder of the
first one's architecture and beside the same place in the other picture, by landmark and by group; and figures of what
was found. The second, for pictures without landmarks, draws places of two files that are each other's nearest.
"""

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import figures
import numpy as np
import phantoms

import ark_hf

IMAGES = 12  # a site
SHOWN = 3  # pairs of real pictures
LINES = 24  # mutual neighbours of each
KINDS = {"patients": "Across patients", "views": "Two views of one patient"}
UNTRAINED = "untrained"


def main(models: list[str], folder: Path, pictures: Path | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    loaded = {figures.shown_name(each): ark_hf.load_ark(each, ark_hf.ArkModel) for each in models}
    if len(loaded) < len(models):
        raise SystemExit("The models' folders must have different names.")
    if pictures is not None:
        draw_neighbours(loaded, pictures, folder)
        return
    model, processor = next(iter(loaded.values()))
    loaded[UNTRAINED] = phantoms.untrained(model), processor
    drawn = phantoms.draw(IMAGES)
    features = {name: describe(name, *each, [picture["image"] for picture in drawn]) for name, each in loaded.items()}
    patients = [each["patient_id"] for each in drawn]
    pairs = {"patients": ark_hf.pair_patients(patients), "views": ark_hf.pair_views(patients)}
    told = [each["landmarks"] for each in drawn], [each["image"].size for each in drawn], patients
    reports = {
        kind: ark_hf.correspondence_report(*told, each, features, phantoms.groups(drawn))
        for kind, each in pairs.items()
    }
    results = {kind: defined(asdict(report)) for kind, report in reports.items()}
    (folder / "errors.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    page = "\n\n".join(section(KINDS[kind], report) for kind, report in reports.items())
    (folder / "errors.md").write_text(page + "\n", encoding="utf-8")
    print(page)
    draw_errors(reports["patients"], folder / "errors.png")
    draw_found(drawn, features, {kind: each[len(each) // 2] for kind, each in pairs.items()}, folder / "found.png")


def describe(name: str, model: ark_hf.ArkModel, processor: ark_hf.ArkImageProcessor, pictures: list) -> np.ndarray:
    """What places are compared by: whitened features, and those of what is around."""
    return ark_hf.with_surroundings(ark_hf.whiten(ark_hf.dense_features(model, processor, pictures, description=name)))


def defined(value: Any) -> Any:
    """As JSON has it: what is not defined is null."""
    if isinstance(value, dict):
        return {key: defined(each) for key, each in value.items()}
    if isinstance(value, list):
        return [defined(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def section(title: str, report: ark_hf.CorrespondenceReport) -> str:
    """The tables as Markdown."""
    models = list(report.errors)
    lines = [f"## {title}", ""]
    lines += [f"{report.num_pairs} pairs of {report.num_pictures} phantoms of {report.num_patients} patients. Errors"]
    lines[-1] += " in percent of the picture's longer side, with 95 % intervals from resampled patients."
    lines += [""]
    rows = [
        [each[0].label.replace("_", " "), str(each[0].num_defined), *map(interval, each)]
        for each in zip(*report.errors.values(), strict=True)
    ]
    rows[-1][0] = "**mean over landmarks**"
    lines += [*table(["landmark", "pairs", *models], rows), ""]
    rows = [
        [f"{each.model} less {each.other}", interval(each.results[-1], "difference", "+"), number(each.results[-1])]
        for each in report.differences
    ]
    lines += [*table(["mean error", "difference", "p"], rows), ""]
    rows = [
        [attribute, each.group, str(each.num_pairs), str(each.num_patients)]
        + [interval(each.errors[model]) + apart(each.differences[model].value) for model in models]
        for attribute, found in report.groups.items()
        for each in found
    ]
    lines += ["By group of both patients, and after the semicolon less all other pairs:", ""]
    return "\n".join(lines + table(["", "group", "pairs", "patients", *models], rows))


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows]]


def interval(result: Any, value: str = "mean", sign: str = "") -> str:
    shown = f"{getattr(result, value):{sign}.1f}"
    if math.isnan(result.ci_low):
        return shown
    return f"{shown} ({result.ci_low:{sign}.1f} to {result.ci_high:{sign}.1f})"


def apart(difference: float) -> str:
    """Nothing where all pairs are of one group."""
    return "" if math.isnan(difference) else f"; {difference:+.1f}"


def number(result: Any) -> str:
    return f"{result.p_value:.3f}"


def draw_errors(report: ark_hf.CorrespondenceReport, path: Path) -> None:
    """Error and interval of each landmark and model."""
    labels = [each.label for each in next(iter(report.errors.values()))]
    figure, axes = figures.plt.subplots(figsize=(7, 0.6 + 0.1 * len(labels) * (1 + len(report.errors))))
    figure.set_layout_engine("constrained")
    for place, (name, results) in enumerate(report.errors.items()):
        means = np.array([(each.mean, each.mean - each.ci_low, each.ci_high - each.mean) for each in results]).T
        heights = np.arange(len(labels)) + (place - (len(report.errors) - 1) / 2) * 0.7 / len(report.errors)
        colour = "black" if place == len(report.errors) - 1 else f"C{place}"
        axes.errorbar(means[0], heights, xerr=means[1:], fmt="o", ms=3, lw=1.2, color=colour, label=name)
    axes.set_yticks(range(len(labels)), [each.replace("_", " ") for each in labels], fontsize=8)
    axes.axhline(len(labels) - 1.5, color="grey", lw=0.8)
    axes.set(
        ylim=(len(labels) - 0.5, -0.5), xlabel="error in percent of the picture's longer side, with 95 % interval"
    )
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(report.errors), frameon=False, fontsize=8)
    figures.save(figure, path)


def draw_found(drawn: list[dict], features: dict[str, np.ndarray], pairs: dict[str, np.ndarray], path: Path) -> None:
    """A row a pair: the first picture with its landmarks, then where each model finds them in the second."""
    figure, axes = figures.sheet(len(pairs), 1 + len(features), 3.2)
    for row, (kind, (first, second)) in zip(axes, pairs.items(), strict=True):
        one, other = drawn[first], drawn[second]
        names = sorted(one["landmarks"].keys() & other["landmarks"].keys(), key=lambda name: one["landmarks"][name][1])
        asked, truth = (np.array([each["landmarks"][name] for name in names]) for each in (one, other))
        colour = figures.colours(len(names))
        figures.show(row[0], one["image"], f"{KINDS[kind]}: the landmarks")
        figures.dots(row[0], asked, colour)
        for axes_, (name, maps) in zip(row[1:], features.items(), strict=True):
            found, _ = ark_hf.corresponding_places(ark_hf.features_at(maps[first], asked), maps[second])
            figures.show(axes_, other["image"], f"{name}: dots found, rings true")
            figures.misses(axes_, truth, found, colour)
    figures.save(figure, path)


def draw_neighbours(loaded: dict[str, Any], pictures: Path, folder: Path) -> None:
    """A row a model: pairs of files that follow each other, with lines between mutual nearest neighbours."""
    files = figures.files(pictures)
    pairs = list(zip(files[::2], files[1::2], strict=False))[:SHOWN]
    figure, axes = figures.sheet(len(loaded), len(pairs), 4.2)
    figure.set_figheight(2.5 * len(loaded))
    for row, (name, each) in zip(axes, loaded.items(), strict=True):
        shown = [file for pair in pairs for file in pair]
        maps = describe(name, *each, shown)
        for number, (axes_, pair) in enumerate(zip(row, pairs, strict=True)):
            first, second, _ = ark_hf.mutual_neighbours(maps[2 * number], maps[2 * number + 1])
            title = f"{name}: {min(len(first), LINES)} of {len(first)} mutual neighbours"
            figures.joined(axes_, *pair, (first[:LINES], second[:LINES]), title)
    figures.save(figure, folder / "neighbours.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--pictures", type=Path)
    args = parser.parse_args()
    main(args.models, args.folder, args.pictures)

"""A federation's rounds as files: JSON with every number, Markdown, and one HTML page with tables and figures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_json, write_text
from ..pages.figures import BLUE, GREEN, ORANGE, legend, new_axes, style, to_svg
from ..pages.formats import format_number, markdown_table
from ..pages.html import document, escape, html_figures, html_table, look_at
from ..provenance import package_version
from .recipe import FederatedArguments

ROLES = {"student": BLUE, "teacher": GREEN, "master": ORANGE}
NOTE = (
    "AUROCs are means over the labels of a site's validation split, as the site tells them. student and teacher: "
    "after the site's own cycles of the round. master: the average of the round, with the site's own head."
)
History = Sequence[Mapping[str, Any]]


def write_report(folder: Path, args: FederatedArguments, history: History, stopped: str | None = None) -> Path:
    """
    Writes `report.json`, `report.md` and `report.html` into the folder; returns the last one's path.

    Args:
        stopped: Why the federation has ended before its last round.
    """
    header, rows = ["round", "site", "task loss", *ROLES, "images"], _site_rows(history)
    lines, line_header = _round_rows(history), ["round", "seconds", "MB down", "MB up", "sites", "left out"]
    title = f"Federation of {len(_sites(history))} sites"
    facts = {"ark_hf": package_version(), "stopped": stopped, "recipe": args.to_dict()}
    write_json(folder / "report.json", {**facts, "history": history})
    stops = [f"Stopped: {stopped}"] if stopped else []
    text = [
        f"# {title}",
        "",
        NOTE,
        "",
        *stops,
        "",
        *markdown_table(header, rows),
        "",
        *markdown_table(line_header, lines),
    ]
    write_text(folder / "report.md", "\n".join(text) + "\n")
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(NOTE)}</p>",
        look_at([*stops, *_left_out(history)]),
        html_figures(_figures(history)),
        "<h2>Rounds</h2>",
        html_table(line_header, lines),
        "<h2>Sites</h2>",
        html_table(header, rows),
    ]
    write_text(folder / "report.html", document(title, parts))
    return folder / "report.html"


def aurocs(history: History, site: str, role: str) -> list[tuple[int, float]]:
    """(round, AUROC) of what the site told; that of a round's master is told in the next."""
    told = [(entry["round"], entry["sites"].get(site, {})) for entry in history]
    if role == "master":
        told = [(number - 1, values) for number, values in told]
        told += [(entry["round"], {"auroc": entry.get("finished", {}).get(site, {})}) for entry in history[-1:]]
    found = [(number, values.get("auroc", {}).get(role)) for number, values in told]
    return [(number, value) for number, value in found if value is not None]


def _sites(history: History) -> list[str]:
    return sorted({name for entry in history for name in (*entry["sites"], *entry["failures"])})


def _left_out(history: History) -> list[str]:
    return [
        f"Round {entry['round']}: {site} is left out ({reason})."
        for entry in history
        for site, reason in entry["failures"].items()
    ]


def _site_rows(history: History) -> list[list[str]]:
    known = {(site, role): dict(aurocs(history, site, role)) for site in _sites(history) for role in ROLES}
    return [
        [
            str(entry["round"]),
            site,
            format_number(values.get("task_loss"), digits=4),
            *(format_number(known[site, role].get(entry["round"])) for role in ROLES),
            f"{values['samples']:,}" if "samples" in values else "",
        ]
        for entry in history
        for site, values in entry["sites"].items()
    ]


def _round_rows(history: History) -> list[list[str]]:
    return [
        [
            str(entry["round"]),
            format_number(entry["seconds"], digits=1),
            format_number(entry["bytes_down"] / 1e6, digits=1),
            format_number(entry["bytes_up"] / 1e6, digits=1),
            ", ".join(entry["sites"]),
            ", ".join(f"{site} ({reason})" for site, reason in entry["failures"].items()),
        ]
        for entry in history
    ]


def _figures(history: History) -> dict[str, str]:
    figures = {}
    with style():
        for number, site in enumerate(_sites(history)):
            curves = {role: aurocs(history, site, role) for role in ROLES}
            if any(curves.values()):
                figures[f"AUROC of {site}"] = _lines(f"a{number}", curves, ROLES, "mean validation AUROC")
        losses = {site: _losses(history, site) for site in _sites(history)}
        if any(losses.values()):
            colours = {site: f"C{number}" for number, site in enumerate(losses)}
            figures["Task loss"] = _lines("loss", losses, colours, "mean task loss")
    return figures


def _losses(history: History, site: str) -> list[tuple[int, float]]:
    told = [(entry["round"], entry["sites"].get(site, {}).get("task_loss")) for entry in history]
    return [(number, value) for number, value in told if value is not None and math.isfinite(value)]


def _lines(name: str, curves: Mapping[str, Sequence[tuple[int, float]]], colours: Mapping[str, str], axis: str) -> str:
    axes = new_axes(2.2)
    for label, curve in curves.items():
        rounds, values = zip(*curve, strict=True) if curve else ((), ())
        axes.plot(rounds, values, marker="o", ms=2.5, lw=1.2, color=colours[label], label=label)
    axes.set(xlabel="round", ylabel=axis)
    axes.xaxis.get_major_locator().set_params(integer=True)
    legend(axes, len(curves))
    return to_svg(axes.figure, name)

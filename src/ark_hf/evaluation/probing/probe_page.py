"""The report of probes as one page: tables, figures, and pictures beside those that are most like them."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from ...pages.figures import BLUE, ORANGE, interval_plot
from ...pages.html import document, escape, html_figures, html_table
from ..report.tables import TextTable
from ..report.text import NOTICE
from .neighbours import Picture, Similar
from .probe_task import ProbeReport


def render_page(
    reports: Sequence[ProbeReport],
    tables: Mapping[str, Sequence[TextTable]],
    last: Sequence[TextTable],
    facts: Mapping[str, Any],
    footnote: str,
    similar: Mapping[str, Sequence[Similar]],
) -> str:
    """
    The page; a function of its arguments to the byte.

    Args:
        tables: By dataset; the first is of the probes.
        last: Tables over all datasets.
        facts: The name of the `model`, and its `layer`.
        similar: By dataset.
    """
    title = f"Linear probes: {facts['model']}"
    parts = [f"<h1>{escape(title)}</h1>", f"<p><strong>{escape(NOTICE)}</strong></p>"]
    parts.append(f'<p class="note">Layer {escape(facts["layer"])}. {escape(footnote)}</p>')
    for number, report in enumerate(reports):
        first, *others = tables[report.dataset]
        parts += [f"<h2>{escape(first.title)}</h2>", html_figures({"AUROC on test": _figure(f"d{number}", report)})]
        parts.append(_body(first))
        for table in others:
            parts += [f"<h3>{escape(table.title)}</h3>", _body(table)]
        if similar.get(report.dataset):
            parts += ["<h3>Test images and their neighbours in train</h3>", _pictures(similar[report.dataset])]
    for table in last:
        parts += [f"<h2>{escape(table.title)}</h2>", _body(table)]
    return document(title, parts)


def _figure(key: str, report: ProbeReport) -> str:
    series = {
        name: [(each.auroc, each.ci_low, each.ci_high) for each in results]
        for name, results in {"probe": report.labels, "shortcut baseline": report.baseline_labels}.items()
    }
    colours = {"probe": BLUE, "shortcut baseline": ORANGE}
    return interval_plot(f"{key}-auroc", [each.label for each in report.labels], series, colours, "AUROC", 0.5)


def _body(table: TextTable) -> str:
    rows = [[cell.replace("**", "") for cell in row] for row in table.rows]
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return html_table(table.header, rows) + note


def _pictures(similar: Sequence[Similar]) -> str:
    note = "These are the dataset's images: share this page only as they may be shared."
    shown = "".join(
        f"<figure><figcaption>{escape(each.query.name)}</figcaption>"
        f"<div>{''.join(_picture(picture) for picture in (each.query, *each.found))}</div></figure>"
        for each in similar
    )
    return f'<p class="note">{note}</p><div class="sheet">{shown}</div>'


def _picture(picture: Picture) -> str:
    encoded = base64.b64encode(picture.jpeg).decode()
    return (
        f'<span><img alt="{escape(picture.name)}" src="data:image/jpeg;base64,{encoded}">'
        f"<small>{escape(picture.caption)}</small></span>"
    )

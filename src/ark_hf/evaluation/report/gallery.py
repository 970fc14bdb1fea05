"""The gravest errors of a test as small pictures: positives that were missed, and false alarms, with heat maps."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...data.loading import open_rows, stored_picture
from ...data.open_dataset import TaskDataset
from ...inference.heatmaps import ExplainedPass
from ...inference.overlays import check_whole_picture, overlay
from ...inference.task_labels import labels_by_task
from ...models.ark.configuration_ark import ArkConfig
from ...models.ark.image_processing_ark import ArkImageProcessor
from ...models.ark.modeling_ark import ArkForImageClassification
from ...models.ark.tasks_ark import is_in_colour
from ...pages.formats import format_number
from ...pages.html import escape
from ..scoring import ScoredTask
from .task_report import TaskReport

OF_A_KIND, IN_ALL = 3, 60  # pictures: of the misses, or false alarms, of a label; of a task
SIDE = 192
BATCH = 8
BEGIN, END = "<!-- pictures of the dataset -->", "<!-- end of the pictures -->"
NOTE = (
    "The misses are the positives with the lowest scores, the false alarms the negatives with the highest, at the "
    f"operating points: at most {OF_A_KIND} of each a label, {IN_ALL} in all. The predictions beside this page say "
    "which images the rows are. The pictures are the dataset's: share this page only as they may be shared. `ark-hf "
    "push` sends it without them."
)
WITH_MAPS = "Beside each picture is what spoke for the label: what the model used, not where disease is."
WITHOUT_MAPS = "There are no heat maps: they are of whole pictures, and of encoders whose layout is known."


@dataclass(frozen=True)
class Error:
    """One image that a label was called wrongly on; the pictures are JPEG, `heat` is None without a heat map."""

    label: str
    missed: bool
    row: int
    score: float
    threshold: float | None
    picture: bytes
    heat: bytes | None


def gravest_errors(report: TaskReport, scored: ScoredTask) -> list[tuple[int, bool, int]]:
    """
    The most confident misses and false alarms, at most `OF_A_KIND` of each a label, the worst of all `IN_ALL` at most.

    Returns:
        Number of the label, whether its finding was missed, and the row; by label, misses first, the worst first.
    """
    ranked = []
    for column, point in enumerate(report.operating_points):
        scores, truth = scored.probabilities[:, column], scored.labels[:, column]
        for missed in (True, False):
            wrong = (truth == 1) & (scores < point.threshold) if missed else (truth == 0) & (scores >= point.threshold)
            margin = np.where(wrong, np.abs(scores - point.threshold), -1)
            worst = np.argsort(-margin, kind="stable")[: min(OF_A_KIND, int(wrong.sum()))]
            ranked += [(rank, -margin[row], column, not missed, int(row)) for rank, row in enumerate(worst)]
    chosen = sorted(ranked)[:IN_ALL]  # every label's worst before any label's second
    return [
        (column, not alarm, row)
        for _, _, column, alarm, row in sorted(chosen, key=lambda each: (each[2], each[3], each[0]))
    ]


def draw_errors(
    model: ArkForImageClassification,
    processor: ArkImageProcessor,
    data: TaskDataset,
    scored: ScoredTask,
    report: TaskReport,
) -> list[Error]:
    """The pictures of [`gravest_errors`], with heat maps where the encoder and the processor's view allow them."""
    errors = gravest_errors(report, scored)
    rows = sorted({row for _, _, row in errors})
    columns = _output_columns(model.config, report, scored)
    stored: Any = data.splits[scored.split]
    in_colour = is_in_colour(data.task.modality)
    pictures = {
        row: stored_picture(opened, AS_STORED, in_colour).numpy()
        for row, opened in zip(rows, open_rows(stored, rows, in_colour), strict=True)
    }
    wanted = [(pictures[row], columns[column]) for column, _, row in errors]
    maps = _heat_maps(model, processor.of(data.task.modality), wanted)
    drawn = []
    for number, (column, missed, row) in enumerate(errors):
        point = report.operating_points[column]
        drawn.append(
            Error(
                point.label,
                missed,
                row,
                float(scored.probabilities[row, column]),
                point.threshold,
                _jpeg(pictures[row], np.zeros((1, 1), np.float32)),
                None if maps is None else _jpeg(pictures[row], maps[number]),
            )
        )
    return drawn


def gallery(errors: Sequence[Error]) -> str:
    """HTML between marks, by which [`without_pictures`] finds it."""
    if not errors:
        return ""
    figures = []
    for label in dict.fromkeys(error.label for error in errors):
        for missed, what in ((True, "missed"), (False, "false alarms")):
            shown = "".join(_cells(error) for error in errors if (error.label, error.missed) == (label, missed))
            if shown:
                caption = f"<figcaption>{escape(label)}: {what}</figcaption>"
                figures.append(f"<figure>{caption}<div>{shown}</div></figure>")
    maps = WITHOUT_MAPS if all(error.heat is None for error in errors) else WITH_MAPS
    note = f'<p class="note">{escape(NOTE)} {escape(maps)}</p>'
    sheet = f'<div class="sheet">{"".join(figures)}</div>'
    return f"{BEGIN}<h3>The most confident errors</h3>{note}{sheet}{END}"


def without_pictures(page: str) -> str:
    """
    A report's page without its galleries.

    Raises:
        ValueError: It holds pictures elsewhere.
    """
    start, *galleries = page.split(BEGIN)
    rest = [start, *(each.partition(END)[2] for each in galleries)]
    if any("<img" in part or "data:image" in part for part in rest):
        raise ValueError("The report's page holds pictures that `ark-hf evaluate` did not put there; evaluate again.")
    return "".join(rest)


def _cells(error: Error) -> str:
    score = f"{format_number(error.score)}, positive from {format_number(error.threshold)}"
    words = f"<small>row {error.row}: {score}</small>"
    heat = "<span></span>" if error.heat is None else f"<span>{_image(error.heat, 'heat map')}</span>"
    return f"<span>{_image(error.picture, f'row {error.row}')}{words}</span>{heat}"


def _image(jpeg: bytes, name: str) -> str:
    return f'<img alt="{escape(name)}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'


AS_STORED = ArkImageProcessor(do_resize=False, do_normalize=False)


def _jpeg(picture: np.ndarray, heat_map: np.ndarray) -> bytes:
    small = overlay(picture, heat_map)
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _output_columns(config: ArkConfig, report: TaskReport, scored: ScoredTask) -> list[list[int]]:
    """Of each label the model's outputs that give its score."""
    by_task = labels_by_task(config)
    places = {(task, label.name): label.column for task, labels in by_task.items() for label in labels}
    if scored.zero_shot is None:
        return [[places[report.task, each.label]] for each in report.labels]
    return [
        [places[match.task, match.label] for match in scored.zero_shot.matches.get(each.label, ())]
        for each in report.labels
    ]


def _heat_maps(
    model: ArkForImageClassification,
    processor: ArkImageProcessor,
    wanted: Sequence[tuple[np.ndarray, list[int]]],
) -> list[np.ndarray] | None:
    """Of each picture what speaks for the outputs together; None where no heat maps are to be had."""
    maps: list[np.ndarray] = []
    try:
        check_whole_picture(processor)
        for start in range(0, len(wanted), BATCH):
            pictures, columns = zip(*wanted[start : start + BATCH], strict=True)
            pixel_values = processor(list(pictures), return_tensors="pt")["pixel_values"]
            maps += [each.mean(axis=0) for each in ExplainedPass(model, pixel_values).heat_maps(columns)]
    except ValueError:  # of crops, or of an encoder whose layout is not known
        return None
    return maps

"""The train images that are most like each test image: as a table, and as pictures for the page."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...data.loading import open_rows
from ...data.open_dataset import TaskDataset
from ...data.radiograph import picture_values
from ...data.report.numbers import small_jpeg
from ...files import replacing
from ...inference.embeddings import image_names
from ...models.ark.configuration_ark import ArkTask
from ...models.ark.tasks_ark import is_in_colour
from .probe_task import SPLITS_OF_A_PROBE, Embeddings
from .retrieval import nearest_neighbours

SHOWN_OF_A_LABEL, MOST_SHOWN, NEIGHBOURS_SHOWN = 2, 30, 7  # of the pictures with their neighbours on the page


@dataclass(frozen=True)
class Picture:
    """What a page shows of an image: its name, what is known of it, and a small JPEG."""

    name: str
    caption: str
    jpeg: bytes


@dataclass(frozen=True)
class Similar:
    """A test image and the train images that are most like it, the most similar first."""

    query: Picture
    found: list[Picture]


def find_neighbours(data: TaskDataset, embeddings: Embeddings, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """The train images of other patients that are most like each test image, as [`nearest_neighbours`] gives them."""
    patients = data.patients("train")
    return nearest_neighbours(
        embeddings["train"], embeddings["test"], neighbours, patients, patients and data.patients("test")
    )


def write_neighbours(path: Path, data: TaskDataset, rows: np.ndarray, similarities: np.ndarray) -> None:
    """
    Writes a CSV of the most similar train images of each test image: row numbers in their splits, names, similarity,
    labels.
    """
    train, test = data.targets("train"), data.targets("test")
    names = {split: image_names(data.splits[split]) for split in SPLITS_OF_A_PROBE}
    with replacing(path) as new, open(new, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        header = ["test_row", "test_image_id", "rank", "train_row", "train_image_id", "similarity"]
        writer.writerow([*header, "test_labels", "train_labels"])
        for query, (found, alike) in enumerate(zip(rows.tolist(), similarities.tolist(), strict=True)):
            for rank, (row, similarity) in enumerate(zip(found, alike, strict=True), start=1):
                labels = [_named(columns[at], data.task) for columns, at in ((test, query), (train, row))]
                found_name = names["train"][row] if row >= 0 else ""
                writer.writerow([query, names["test"][query], rank, row, found_name, f"{similarity:.4f}", *labels])


def similar_pictures(data: TaskDataset, rows: np.ndarray, similarities: np.ndarray) -> list[Similar]:
    """The first test images of each label with their neighbours, for the page."""
    train, test = data.targets("train"), data.targets("test")
    shown = dict.fromkeys(int(query) for column in test.T for query in np.flatnonzero(column == 1)[:SHOWN_OF_A_LABEL])
    names = {split: image_names(data.splits[split]) for split in SPLITS_OF_A_PROBE}
    pictures = []
    for query in list(shown)[:MOST_SHOWN]:
        found = [
            _picture(data, "train", row, names["train"][row], f"{similarity:.2f} {_named(train[row], data.task)}")
            for row, similarity in zip(rows[query].tolist(), similarities[query].tolist(), strict=True)
            if row >= 0
        ]
        asked = _picture(data, "test", query, names["test"][query], _named(test[query], data.task))
        pictures.append(Similar(asked, found[:NEIGHBOURS_SHOWN]))
    return pictures


def _picture(data: TaskDataset, split: str, row: int, name: str, caption: str) -> Picture:
    rows: Any = data.splits[split]
    in_colour = is_in_colour(data.task.modality)
    (opened,) = open_rows(rows, [row], in_colour)
    return Picture(name, f"{split} {name} {caption}", small_jpeg(picture_values(opened, in_colour)))


def _named(columns: np.ndarray, task: ArkTask) -> str:
    return "; ".join(label for label, value in zip(task.labels, columns, strict=True) if value == 1)

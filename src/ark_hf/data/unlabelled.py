"""Images without labels, or whose labels do not count: what stands in a task's place, and their columns."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import pyarrow as pa
from datasets import Dataset, Image, Nifti

from ..models.ark.tasks_ark import DEFAULT_MODALITY, ArkTask, SegmentationTask, check_modality
from .rows import OPTIONAL_COLUMNS

METADATA_COLUMNS = ("image_id", *OPTIONAL_COLUMNS)


@dataclass(frozen=True)
class Unlabelled:
    """
    Images that nothing is said of, for training without labels.

    Args:
        name: What they are called together, `^[a-z][a-z0-9_]*$`, in place of a task's name: in figures, and as a part
            of the seed of everything that is drawn for them.
        modality: As in [`ArkTask`].

    Raises:
        ValueError: A field is not as described above.
    """

    name: str
    modality: str = DEFAULT_MODALITY
    labels: ClassVar[list[str]] = []

    def __post_init__(self):
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(
                f"Name {self.name!r} of unlabelled images: use lower-case letters, digits and underscores, a letter "
                "first."
            )
        check_modality(self.modality, f"Unlabelled images {self.name!r}: modality")

    def to_dict(self) -> dict[str, Any]:
        """JSON form, without the modality of radiographs."""
        return {"name": self.name} | ({} if self.modality == DEFAULT_MODALITY else {"modality": self.modality})


AnyTask: TypeAlias = ArkTask | SegmentationTask | Unlabelled


def select_images(rows: Dataset, split: str, columns: Mapping[str, Any] | None, name_or_path: str | Path) -> Dataset:
    """Rows with `image`, or of volumes `volume`, `image_id` and metadata alone; see [`image_column`]."""
    if columns is None and "volume" in rows.column_names and "image" not in rows.column_names:
        rows = rows.select_columns(["volume", *(name for name in METADATA_COLUMNS if name in rows.column_names)])
        return rows if rows.features["volume"] == Nifti() else rows.cast_column("volume", Nifti())
    column = image_column(columns, rows.data.schema, split, name_or_path)
    kept = [name for name in METADATA_COLUMNS if name in rows.column_names and name != column]
    rows = rows.select_columns([column, *kept])
    if column != "image":
        rows = rows.rename_column(column, "image")
    return rows if rows.features["image"] == Image() else rows.cast_column("image", Image())


def image_column(columns: Mapping[str, Any] | None, schema: pa.Schema, split: str, name_or_path: str | Path) -> str:
    """
    The column of the images, where labels do not count.

    Args:
        columns: `{"image": COLUMN}` unless it is called "image"; any `labels` in it are not looked at.
        schema: Of the split.

    Raises:
        ValueError: It is not there, or holds something else.
    """
    columns = {"image": "image"} if columns is None else columns
    if not isinstance(columns.get("image"), str) or set(columns) - {"image", "labels"}:
        raise ValueError(f"{str(name_or_path)!r}: columns must be {{image: COLUMN}}, got {dict(columns)}.")
    column = columns["image"]
    where = f"Split {split!r} of {str(name_or_path)!r}"
    remedy = "Name the column of the images: columns: {image: ...}."
    if column not in schema.names:
        raise ValueError(f"{where} has no column {column!r}; it has {schema.names}. {remedy}")
    try:
        Image().cast_storage(pa.array([], schema.field(column).type))
    except (pa.ArrowException, TypeError, ValueError):
        kind = schema.field(column).type
        raise ValueError(f"{where}: the column {column!r} holds no images, but {kind}. {remedy}") from None
    return column

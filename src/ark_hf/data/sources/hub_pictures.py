"""Images and volumes of a Hub dataset, where `datasets` keeps them. Needs no torch."""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from datasets import Dataset, Image, Nifti

from ...files import printable
from ...models.ark.tasks_ark import is_in_colour
from ..images.dicom import doubt_modality, read_modality, read_open_metadata
from ..images.image_files import UnreadableImageError, open_image_file
from ..radiograph import open_radiograph, picture_values
from ..rows import Row
from ..volumes.reading import read_open_volume
from ..volumes.volume import Volume


@dataclass(frozen=True)
class HubPictures:
    """
    Reads the images or volumes of the rows; `path` of a row is the file that `datasets` keeps it in, then its number
    there.

    Args:
        column: Of the images.
        folders: Where images may lie that are but named by a path: a dataset from elsewhere must not take in any other
            picture of this machine.
        modality: Of the images.
    """

    column: str
    folders: tuple[str, ...]
    modality: str

    def __call__(self, row: Row) -> np.ndarray:
        with self._file(row) as (file, name):
            doubt_modality(read_modality(file, name), self.modality)
            file.seek(0)
            in_colour = is_in_colour(self.modality)
            return picture_values(open_radiograph(file, name, in_colour), in_colour)

    def read_volume(self, row: Row) -> Volume:
        """The volume of a row."""
        with self._file(row) as (file, name):
            return read_open_volume(file, name)

    def read_tags(self, row: Row, fields: Sequence[str]) -> dict[str, float | str | None]:
        """As [`read_dicom_metadata`]."""
        with self._file(row) as (file, name):
            return read_open_metadata(file, name, fields)

    @contextmanager
    def _file(self, row: Row) -> Iterator[tuple[BinaryIO, Path]]:
        """The row's open file and its name, "" if it has none."""
        picture = _open(str(row.path.parent), self.column)[int(row.path.name)][self.column]
        if picture is None:
            raise UnreadableImageError("the row has no image")
        name = Path(picture["path"] or "")
        try:
            if picture["bytes"] is None:
                path = os.path.abspath(name)
                if not any(path.startswith(folder + os.sep) for folder in self.folders):
                    raise UnreadableImageError("the image is but a path, and leads out of the dataset")
                with open_image_file(name) as file:
                    yield file, name
            else:
                yield io.BytesIO(picture["bytes"]), name
        except UnreadableImageError as refusal:
            raise UnreadableImageError(str(refusal).removeprefix(f"{printable(name)}: ")) from None
        except Exception as error:  # Pillow and its codecs raise anything on a damaged file
            raise UnreadableImageError(f"the image is damaged ({type(error).__name__})") from None


@lru_cache(maxsize=4)
def _open(file: str, column: str) -> Dataset:
    rows = Dataset.from_file(file).select_columns(column)
    kind = Nifti if isinstance(rows.features[column], Nifti) else Image
    return rows.cast_column(column, kind(decode=False))

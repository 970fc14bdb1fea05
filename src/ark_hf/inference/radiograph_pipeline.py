"""What our pipelines share: whatever holds a radiograph is read, and one that cannot be read does not stop others."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset as TorchDataset
from transformers import Pipeline
from transformers.pipelines.pt_utils import KeyDataset

from ..data.images.image_files import IMAGE_SUFFIXES, UnreadableImageError, image_files_in
from ..data.inputs import RadiographInput, input_name
from .model_input import model_input, read_for
from .task_labels import check_has_modality, heads_not_asked, modalities_of


class RadiographPipeline(Pipeline):
    """Stands before a pipeline of transformers, whose way of reading it replaces."""

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        if inputs is None:
            raise ValueError("the pipeline was given None; give it a radiograph, or several as a list.")
        if isinstance(inputs, (str, os.PathLike)) and os.path.isdir(inputs):
            files = image_files_in(Path(inputs))
            if not files:
                raise UnreadableImageError(f"{inputs}: this is a folder without files in {', '.join(IMAGE_SUFFIXES)}")
            inputs = [str(path) for path in files]
        elif hasattr(inputs, "cast_column"):
            inputs = _image_column(inputs)
        elif isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes, bytearray)):
            inputs = list(inputs)  # a tuple, or a column of a dataset
        if isinstance(inputs, list) and not inputs:
            return []
        return super().__call__(inputs, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """
        Saves model and image processor.

        The pipeline's own code, which transformers would copy beside them, needs this package and stays in it.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.image_processor.save_pretrained(save_directory, **kwargs)

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        # This is where several inputs go through, and one that cannot be read must not stop the others.
        preprocess_params = {**preprocess_params, "go_on": True}
        return super().get_iterator(
            inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params
        )

    def preprocess(self, image: Any, go_on: bool = False, modality: str | None = None) -> dict[str, Any]:
        about: dict[str, Any]
        try:
            read = read_for(image, self.image_processor, modality)
            about = {"image": read.name, "warnings": [*read.warnings]} | self.about_modality(read.modality)
        except UnreadableImageError as refusal:
            if not go_on:
                raise
            # Something has to take its place in the batch, and is forgotten afterwards.
            nothing = np.zeros((1, 1, 1), np.uint8)
            read = RadiographInput(nothing, input_name(image), [], modality=self.image_processor.modality)
            about = {"image": read.name, "error": str(refusal)}
        pixel_values = model_input([read], self.image_processor)
        geometry = {"size": read.pixels.shape[-2:], "pixel_spacing": read.pixel_spacing}
        return {"pixel_values": pixel_values.to(self.dtype), "about": about, "geometry": geometry}

    def modality_options(self, modality: str | None) -> dict[str, str]:
        """What is told of the pictures' modality, once it is known that the model has heads for it."""
        if modality is None:
            return {}
        check_has_modality(self.model.config, modality)
        return {"modality": modality}

    def about_modality(self, modality: str) -> dict[str, Any]:
        """What the answer of a model of several modalities says of a picture's."""
        if len(modalities_of(self.model.config)) < 2:
            return {}
        return {"modality": modality, "not_asked": heads_not_asked(self.model.config, modality)}


class _Cells(TorchDataset):
    """Rows of images with their modality, as [`read_input`] takes them."""

    def __init__(self, rows: Any):
        self.rows = rows.select_columns(["image", "modality"])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return _cell(self.rows[number])


def _cell(row: dict[str, Any]) -> Any:
    return row["image"] | {"modality": row["modality"]} if isinstance(row["image"], dict) else row["image"]


def _image_column(rows: Any) -> Any:
    """
    The pictures of a dataset as they are stored, because `datasets` decodes neither DICOM nor all depths; a column
    `modality` goes with them.
    """
    from datasets import Image

    told = "modality" in (rows.column_names or [])
    if "image" not in (rows.column_names or ["image"]):
        raise ValueError(
            f"The dataset needs a column `image`; it has {rows.column_names}. Choose a split, or rename one."
        )
    if isinstance((rows.features or {}).get("image"), Image):
        rows = rows.cast_column("image", Image(decode=False))
    if not hasattr(rows, "__len__"):
        return (_cell(row) if told else row["image"] for row in rows)
    return _Cells(rows) if told else KeyDataset(rows.select_columns("image"), "image")

"""What our pipelines share: whatever holds a radiograph is read, and one that cannot be read does not stop others."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import Pipeline
from transformers.pipelines.pt_utils import KeyDataset

from ..data.images.image_files import IMAGE_SUFFIXES, UnreadableImageError, image_files_in
from ..data.inputs import RadiographInput, input_name, read_input


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

    def preprocess(self, image: Any, go_on: bool = False) -> dict[str, Any]:
        about: dict[str, Any]
        try:
            read = read_input(image)
            about = {"image": read.name, "warnings": read.warnings}
        except UnreadableImageError as refusal:
            if not go_on:
                raise
            # Something has to take its place in the batch, and is forgotten afterwards.
            read = RadiographInput(np.zeros((1, 1, 1), np.uint8), input_name(image), [])
            about = {"image": read.name, "error": str(refusal)}
        pixel_values = self.image_processor(images=read.pixels, return_tensors="pt")["pixel_values"]
        geometry = {"size": read.pixels.shape[-2:], "pixel_spacing": read.pixel_spacing}
        return {"pixel_values": pixel_values.to(self.dtype), "about": about, "geometry": geometry}


def _image_column(rows: Any) -> Any:
    """The pictures of a dataset as they are stored, because `datasets` decodes neither DICOM nor all depths."""
    from datasets import Image

    if "image" not in (rows.column_names or ["image"]):
        raise ValueError(
            f"The dataset needs a column `image`; it has {rows.column_names}. Choose a split, or rename one."
        )
    if isinstance((rows.features or {}).get("image"), Image):
        rows = rows.cast_column("image", Image(decode=False))
    if not hasattr(rows, "__len__"):
        return (row["image"] for row in rows)
    return KeyDataset(rows.select_columns("image"), "image")

"""A picture of whatever modality as a model's input; this module loads neither datasets nor models."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..data.images.image_files import UnreadableImageError
from ..data.inputs import RadiographInput, read_input
from ..files import printable
from ..models.ark.image_processing_ark import ArkImageProcessor


def read_for(source: Any, processor: ArkImageProcessor, modality: str | None = None) -> RadiographInput:
    """
    A picture for a model, as [`read_input`] reads it.

    Args:
        processor: The model's, whose first modality a picture is of that tells none itself.
        modality: What it was taken with; unless set what its file says.

    Raises:
        UnreadableImageError: It cannot be read, or its file says that it is of a modality that the model lacks.
    """
    image = read_input(source, modality, processor.modality)
    if modality is None and image.modality not in processor.all_modalities:
        named = f"{printable(image.name)}: " if image.name else ""
        takes = " and ".join(processor.all_modalities)
        raise UnreadableImageError(
            f"{named}its header says that it is of modality {image.modality}, and this model takes {takes}; if it is "
            f"one of these, say so: modality {processor.modality}"
        )
    return image


def model_input(images: Sequence[RadiographInput], processor: ArkImageProcessor) -> torch.Tensor:
    """What the processor makes of pictures, each in its modality: float (n, C, H, W), or (n, crops, C, H, W)."""
    places: dict[str, list[int]] = {}
    for place, image in enumerate(images):
        places.setdefault(image.modality, []).append(place)
    parts = [
        processor.of(modality)([images[place].pixels for place in some], return_tensors="pt")["pixel_values"]
        for modality, some in places.items()
    ]
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts)[np.argsort(sum(places.values(), []))]

"""What a segmenter finds in files: the masks of each, and what is measured on them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ..data.inputs import RadiographInput
from ..models.ark.configuration_ark import SegmentationTask
from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.modeling_ark_segmentation import ArkForSemanticSegmentation
from .measurements import Measurements, measure
from .overlays import check_whole_picture
from .predict import compute_files


@torch.no_grad()
def segment_files(
    model: ArkForSemanticSegmentation,
    processor: ArkImageProcessor,
    paths: Sequence[Path | str],
    batch_size: int = 16,
    on_image: Callable[[RadiographInput, Measurements, np.ndarray | None], None] | None = None,
    num_workers: int = 0,
    modality: str | None = None,
) -> Iterator[tuple[Path | str, Measurements | str]]:
    """
    What a segmenter with a named task finds in image files and addresses that [`read_for`] reads.

    Under `accelerate launch` each process does its share of the batches, and gets the measurements of all.

    Args:
        on_image: Is given each image that can be read, its measurements and its masks, bool (labels, height, width),
            before they are yielded; an image that another process has read comes without its pixels and masks.
        num_workers: Processes that read files; 0 reads them in this one.
        modality: What they were taken with; unless set what each file says.

    Yields:
        Each path in order, with the measurements, or with the reason why the file cannot be read.

    Raises:
        ValueError: The image processor cuts crops out of pictures.
    """
    check_whole_picture(processor, "Masks")
    task: SegmentationTask = model.config.segmentation

    def compute(
        images: list[RadiographInput], pixel_values: torch.Tensor
    ) -> Iterable[tuple[Measurements, np.ndarray]]:
        logits = model(pixel_values.to(model.device, model.dtype)).logits
        for image, each in zip(images, logits, strict=True):
            masks, measured = measure(each, task, image.pixels.shape[-2:], image.pixel_spacing)
            yield measured, np.packbits(masks, axis=-1)  # a batch of films with all their labels takes gigabytes

    def tell(image: RadiographInput, measured: Measurements, packed: np.ndarray | None) -> None:
        if on_image is not None:
            width = image.pixels.shape[-1]
            on_image(image, measured, None if packed is None else np.unpackbits(packed, axis=-1, count=width) > 0)

    yield from compute_files(paths, processor, batch_size, num_workers, compute, tell, modality=modality)

"""Image files as a model's input: read by other processes, beside the model, or in this one."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from ..data.images.image_files import UnreadableImageError
from ..data.inputs import RadiographInput, read_input
from ..data.loader import Loader, is_of_dead_process
from ..data.loading import cores_of_process
from ..files import printable
from ..models.ark.image_processing_ark import ArkImageProcessor

Noted = TypeVar("Noted")
GROUP = 4  # files a message of a process: in larger ones the processes wait for each other's last, smaller ones cost
WORTH = 16  # files for which a process is started
MOST = 16  # processes


def default_readers(files: int) -> int:
    """Processes that read so many files where no number is asked for: one a core, and none for a few files."""
    readers = min(cores_of_process(), files // WORTH, MOST)
    return readers if readers > 1 else 0


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


def read_files(
    batches: Sequence[Sequence[Path | str]],
    processor: ArkImageProcessor,
    num_workers: int,
    note: Callable[[RadiographInput], Noted],
    modality: str | None = None,
) -> Iterator[tuple[list[Noted | str], torch.Tensor | None]]:
    """
    Batches of image files and addresses that [`read_for`] reads, in order.

    Args:
        num_workers: Processes that read; 0 reads in this one.
        note: What is wanted of each picture beside the model's input. The less it is, the less the processes send.
        modality: What they were taken with; unless set what each file says.

    Yields:
        Of each file what is noted of it, or the reason why it cannot be read; and what the processor makes of those
        that can, float (readable, C, H, W), or (readable, crops, C, H, W), None if there are none.

    Raises:
        ChildProcessError: A process died.
    """
    files = [path for batch in batches for path in batch]
    groups, start = [], 0
    for batch in batches:
        numbers = np.arange(start, start + len(batch))
        groups.append([numbers[at : at + GROUP] for at in range(0, len(batch), GROUP)])
        start += len(batch)
    with Loader(lambda: {"": _Files(files, processor, note, modality)}, num_workers) as loader:
        loaded = loader.load([("", group) for of_batch in groups for group in of_batch])
        try:
            for of_batch in groups:
                noted, pixel_values = zip(*(next(loaded) for _ in of_batch), strict=True)
                readable = [each for each in pixel_values if each is not None]
                yield sum(noted, []), torch.cat(readable) if readable else None
        except Exception as error:
            if not is_of_dead_process(error):
                raise
            raise ChildProcessError(
                "A process that reads files ended without a word; it may have lacked memory, or shared memory "
                "(/dev/shm). num_workers 0 reads them in this one."
            ) from error


class _Files(Generic[Noted]):
    """Files as samples of a [`Loader`], of which each group is read and goes through the processor together."""

    def __init__(
        self,
        files: Sequence[Path | str],
        processor: ArkImageProcessor,
        note: Callable[[RadiographInput], Noted],
        modality: str | None,
    ):
        self.files, self.processor, self.note, self.modality = files, processor, note, modality

    def __getitems__(self, numbers: np.ndarray) -> list[RadiographInput | str]:
        return [self._read(self.files[number]) for number in numbers]

    def _read(self, path: Path | str) -> RadiographInput | str:
        try:
            return read_for(path, self.processor, self.modality)
        except UnreadableImageError as error:
            return str(error)

    def collate(self, read: list[RadiographInput | str]) -> tuple[list[Noted | str], torch.Tensor | None]:
        noted = [each if isinstance(each, str) else self.note(each) for each in read]
        pictures = [each for each in read if not isinstance(each, str)]
        return noted, model_input(pictures, self.processor) if pictures else None

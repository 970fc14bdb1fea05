"""Image files as a model's input: read by other processes, beside the model, or in this one."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch

from ..data.images.image_files import UnreadableImageError
from ..data.inputs import RadiographInput
from ..data.loader import Loader, is_of_dead_process
from ..data.loading import cores_of_process
from ..models.ark.image_processing_ark import ArkImageProcessor
from .model_input import model_input, read_for

Noted = TypeVar("Noted")
GROUP = 4  # files a message of a process: in larger ones the processes wait for each other's last, smaller ones cost
WORTH = 16  # files for which a process is started
MOST = 16  # processes


def default_readers(files: int) -> int:
    """Processes that read so many files where no number is asked for: one a core, and none for a few files."""
    readers = min(cores_of_process(), files // WORTH, MOST)
    return readers if readers > 1 else 0


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

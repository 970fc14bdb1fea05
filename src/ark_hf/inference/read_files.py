"""Image files as a model's input: read by other processes, beside the model, or in this one."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from ..data.images.image_files import UnreadableImageError
from ..data.inputs import RadiographInput, read_input
from ..data.loading import usable_cores
from ..models.ark.image_processing_ark import ArkImageProcessor

Noted = TypeVar("Noted")
GROUP = 4  # files a message of a process: in larger ones the processes wait for each other's last, smaller ones cost
WORTH = 16  # files for which a process is started
MOST = 16  # processes


def default_readers(files: int) -> int:
    """Processes that read so many files where no number is asked for: one a core, and none for a few files."""
    share = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # which launchers of several processes set
    readers = min(share, files // WORTH, MOST)
    return readers if readers > 1 else 0


def read_files(
    batches: Sequence[Sequence[Path | str]],
    processor: ArkImageProcessor,
    num_workers: int,
    note: Callable[[RadiographInput], Noted],
) -> Iterator[tuple[list[Noted | str], torch.Tensor | None]]:
    """
    Batches of image files and addresses that [`read_input`] reads, in order.

    Args:
        num_workers: Processes that read; 0 reads in this one.
        note: What is wanted of each picture beside the model's input. The less it is, the less the processes send.

    Yields:
        Of each file what is noted of it, or the reason why it cannot be read; and what the processor makes of those
        that can, float (readable, C, H, W), or (readable, crops, C, H, W), None if there are none.

    Raises:
        ChildProcessError: A process died.
    """
    groups = [batch[start : start + GROUP] for batch in batches for start in range(0, len(batch), GROUP)]
    loaded = _received(
        DataLoader(_Groups(groups, processor, note), batch_size=None, num_workers=num_workers, collate_fn=_as_it_is)
    )
    for batch in batches:
        noted, pixel_values = zip(*(next(loaded) for _ in range(0, len(batch), GROUP)), strict=True)
        readable = [each for each in pixel_values if each is not None]
        yield sum(noted, []), torch.cat(readable) if readable else None


def _received(loader: DataLoader) -> Iterator[Any]:
    try:
        yield from loader
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise ChildProcessError(
            "A process that reads files ended without a word; it may have lacked memory, or shared memory (/dev/shm). "
            "num_workers 0 reads them in this one."
        ) from error


class _Groups(Dataset, Generic[Noted]):
    def __init__(
        self,
        groups: Sequence[Sequence[Path | str]],
        processor: ArkImageProcessor,
        note: Callable[[RadiographInput], Noted],
    ):
        self.groups, self.processor, self.note = groups, processor, note

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, number: int) -> tuple[list[Noted | str], torch.Tensor | None]:
        noted: list[Noted | str] = []
        pictures = []
        for path in self.groups[number]:
            try:
                image = read_input(path)
            except UnreadableImageError as error:
                noted.append(str(error))
                continue
            noted.append(self.note(image))
            pictures.append(image.pixels)
        return noted, self.processor(pictures, return_tensors="pt")["pixel_values"] if pictures else None


def _as_it_is(group: Any) -> Any:
    return group

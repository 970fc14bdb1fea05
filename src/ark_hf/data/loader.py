"""Batches of several samples by processes that are started once, and copies of batches to a device."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import cached_property
from multiprocessing import connection
from traceback import walk_tb
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from .streaming import StreamedRows, read_ahead

BATCHES_AHEAD = 2  # that a stream reads before they are asked for
CPU = torch.device("cpu")


class Loader:
    """
    Loads batches in other processes, of one thread each, or in this one.

    The processes start with the first batch and serve every later [`load`], whichever samples it asks for and in
    whichever cycle, until [`close`]: starting them for a pass of some hundred pictures would take as long as the pass.

    Args:
        samples: Gives all samples that will be asked for, by name: of pictures ([`RowSamples`]), or anything else that
            has `__getitems__` and `collate`. Called once, when they are first needed.
        num_workers: Other processes; 0 loads in this one.
        device: Where the batches go: for CUDA they lie in pinned memory, see [`to_device`].
    """

    def __init__(
        self, samples: Callable[[], Mapping[Hashable, Any]], num_workers: int, device: torch.device = CPU
    ) -> None:
        self._make_samples, self.num_workers, self.device = samples, num_workers, device
        self._asked: Iterable = ()
        self._loader: DataLoader | None = None
        self._batches: Any = None

    @cached_property
    def samples(self) -> Mapping[Hashable, Any]:
        return self._make_samples()

    def load(
        self, batches: Iterable[tuple[Hashable, np.ndarray]], cycle: int | None = None
    ) -> Iterator[dict[str, torch.Tensor]]:
        """
        The batches in order.

        Args:
            batches: Of each the name of its samples and their numbers, int (batch,).
            cycle: That of all that is drawn, see [`DrawnSamples.at`]; samples are taken as they are unless given.

        Raises:
            RuntimeError: This is asked for more batches after a later call: a loader serves one at a time.
        """
        batches = list(batches)
        if self._loader is None:
            self._loader = DataLoader(
                _Served(self.samples),
                sampler=_Asked(self),  # type: ignore[arg-type]
                batch_size=None,
                collate_fn=_as_it_is,
                num_workers=self.num_workers,
                pin_memory=self.device.type == "cuda",
                persistent_workers=self.num_workers > 0,
            )
        asked = self._asked = self._requests(batches, cycle)
        self._batches = iter(self._loader)
        for batch in self._batches:
            yield batch
            if self._asked is not asked:
                raise RuntimeError("These batches were given up: the loader has been asked for others since.")

    def _requests(self, batches: list[tuple[Hashable, np.ndarray]], cycle: int | None) -> Iterator[tuple]:
        """What the processes are sent for each batch: numbers, or of a stream its rows, which this process reads."""
        waiting: dict[Hashable, Iterator] = {}
        for name in dict.fromkeys(name for name, _ in batches):
            rows, numbers = getattr(self.samples[name], "rows", None), [each for of, each in batches if of == name]
            stream = rows.read(numbers) if isinstance(rows, StreamedRows) else None
            waiting[name] = iter(numbers) if stream is None else read_ahead(stream, BATCHES_AHEAD)
        return ((name, cycle, next(waiting[name])) for name, _ in batches)

    def close(self) -> None:
        """Ends the processes; a later [`load`] starts others."""
        if self.num_workers and self._batches is not None:
            self._batches._shutdown_workers()  # torch leaves it to the garbage collection, which a traceback puts off
        self._loader = self._batches = None
        self._asked = ()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class _Asked:
    """What a loader is asked for at present: the order of a `DataLoader` that serves it."""

    def __init__(self, loader: Loader):
        self.loader = loader

    def __iter__(self) -> Iterator[tuple]:
        return iter(self.loader._asked)


class _Served(TorchDataset):
    """Whole batches of several samples by what [`Loader`] sends for them."""

    def __init__(self, samples: Mapping[Hashable, Any]):
        self.samples = samples

    def __getitem__(self, request: tuple) -> dict[str, torch.Tensor]:
        name, cycle, rows = request
        samples = self.samples[name] if cycle is None else self.samples[name].at(cycle)
        return samples.collate(samples.__getitems__(rows))


def _as_it_is(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return batch


def to_device(batch: dict[str, torch.Tensor], device: torch.device | str) -> dict[str, torch.Tensor]:
    """A batch on `device`; on CUDA without waiting for copies from pinned memory, which kernels wait for there."""
    unwaited = torch.device(device).type == "cuda"
    return {name: value.to(device, non_blocking=unwaited) for name, value in batch.items()}


def is_of_dead_process(error: BaseException | None) -> bool:
    """
    Whether an error, or what it comes from, is that a process of a `DataLoader` has died. Torch tells of some deaths;
    of others only the connection to the process does, which no stream of data uses.
    """
    while error is not None:
        if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
            return True
        if isinstance(error, (OSError, EOFError)) and any(
            frame.f_code.co_filename == connection.__file__ for frame, _ in walk_tb(error.__traceback__)
        ):
            return True
        error = error.__cause__ or error.__context__
    return False

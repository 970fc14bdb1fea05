"""What ends a run before its end: signals, a full disk, a loader process that dies, a second run in its folder."""

import errno
import functools
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import AcquireReturnProxy, FileLock, Timeout

from ..data.loader import is_of_dead_process
from ..signals import handled_signals

LOCK_FILE = ".run.lock"
PATIENCE = 3.0  # seconds: processes of a run that was killed are gone by then
# Of the errors of libraries that are no `OSError`: safetensors' and torch's
FULL = (
    "No space left on device",
    "Disk quota exceeded",
    "PytorchStreamWriter failed writing",
    "iostream error",
)


class StopRequest:
    """
    Whether SIGTERM or SIGINT has asked a run to stop: all its processes get the same answer, whichever of them it
    reached.

    Args:
        num_processes: Of the run.
    """

    def __init__(self, num_processes: int):
        self.num_processes = num_processes
        self._number, self._listening = 0, False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are noted inside the block; outside of it they do what they did."""
        self._number, self._listening = 0, True
        try:
            with handled_signals(self._note):
                yield
        finally:
            self._listening = False

    def _note(self, number: int) -> None:
        self._number = number

    def signal(self) -> signal.Signals | None:
        """The signal that came, if one did. All processes have to ask, each as often."""
        if not self._listening:
            return None
        number = self._number
        if self.num_processes > 1:
            told = torch.tensor(number)
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX, _group_of_cpus())
            number = int(told)
        return signal.Signals(number) if number else None


@functools.cache
def _group_of_cpus() -> "torch.distributed.ProcessGroup | None":
    """By which processes agree without waiting for their accelerators."""
    return None if torch.distributed.get_backend() == "gloo" else torch.distributed.new_group(backend="gloo")


def lock_run(folder: Path) -> AcquireReturnProxy:
    """
    Keeps other processes out of a run's folder, which is made, until the context that this returns is left. When this
    process dies, however it does, the kernel lets the next one in. In this process it may be taken again.

    Raises:
        ValueError: Another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.resolve() / LOCK_FILE, timeout=PATIENCE, thread_local=False, is_singleton=True)
    try:
        return lock.acquire()
    except Timeout:
        raise ValueError(
            f"Another process trains in {folder}: wait for its end, or choose another output_dir."
        ) from None


@contextmanager
def explained_faults(folder: Path, what_is_kept: Callable[[], str]) -> Iterator[None]:
    """
    Says in plain words what libraries say of a disk that is full and of a loader process that died.

    Args:
        folder: Of the run.
        what_is_kept: For the end of the message: how the run goes on.

    Raises:
        OSError: There is no room, or a process died.
    """
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            free = shutil.disk_usage(folder).free
            raise OSError(
                errno.ENOSPC,
                f"There is no room for what the run writes to {folder}, where {free / 1e6:,.0f} MB are free: make "
                f"room, or lower save_total_limit.{what_is_kept()}",
            ) from error
        if is_of_dead_process(error):
            raise ChildProcessError(
                "A process that loads samples ended without a word; it may have lacked memory, or shared memory "
                f"(/dev/shm). Lower dataloader_num_workers if it happens again.{what_is_kept()}"
            ) from error
        raise


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what it comes from, is that nothing more can be written."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(error) for words in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False

"""Batches of several samples: the same from any number of processes, which are started once and end when told."""

import multiprocessing
import socket

import numpy as np
import pytest
import torch

from ark_hf.data import loader as loading
from ark_hf.data.loader import Loader, is_of_dead_process, to_device


class Numbers:
    """Samples that are their own number, in a cycle; number 13 is damaged."""

    def __init__(self, base: int, cycle: int = 0):
        self.base, self.cycle = base, cycle

    def at(self, cycle):
        return Numbers(self.base, cycle)

    def __getitems__(self, batch):
        if 13 in batch:
            raise ValueError("Task 'numbers', row 13: the image cannot be decoded.")
        return [self.base + 1000 * self.cycle + int(number) for number in batch]

    def collate(self, samples):
        return {"values": torch.tensor(samples)}


def make(num_workers: int) -> Loader:
    return Loader(lambda: {"low": Numbers(0), ("high", 2): Numbers(100)}, num_workers)


def values(batches) -> list[list[int]]:
    return [batch["values"].tolist() for batch in batches]


def asked(count: int):
    """Of one and of the other by turns."""
    return [(("low", ("high", 2))[number % 2], np.array([number, number + 1])) for number in range(count)]


@pytest.fixture
def started(monkeypatch) -> list:
    """The processes that are started."""
    processes, start = [], multiprocessing.process.BaseProcess.start
    monkeypatch.setattr(
        multiprocessing.process.BaseProcess, "start", lambda self: (processes.append(self), start(self))[1]
    )
    return processes


def test_two_processes_serve_pass_after_pass_what_this_one_would(started):
    with make(0) as alone, make(2) as shared:
        for cycle, count in ((0, 5), (3, 1), (None, 7)):
            batches = values(shared.load(asked(count), cycle))
            assert batches == values(alone.load(asked(count), cycle))
        assert batches[0] == [0, 1] and batches[1] == [101, 102]
        assert values(shared.load(asked(1), 3)) == [[3000, 3001]]
        assert len(started) == 2 and all(process.is_alive() for process in started)
    assert not any(process.is_alive() for process in started)
    assert values(shared.load(asked(1))) == [[0, 1]] and len(started) == 4  # after its end it begins anew
    shared.close()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_that_are_given_up_are_not_mixed_with_later_ones(num_workers):
    with make(num_workers) as loader:
        first = loader.load(asked(9))
        assert next(first)["values"].tolist() == [0, 1]
        later = loader.load(asked(3), 1)
        assert next(later)["values"].tolist() == [1000, 1001]
        with pytest.raises(RuntimeError, match="given up"):
            next(first)
        assert values(later) == [[1101, 1102], [1002, 1003]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_row_is_told_and_ends_the_processes(num_workers, started):
    with pytest.raises(ValueError, match="Task 'numbers', row 13: the image cannot be decoded") as caught:
        with make(num_workers) as loader:
            list(loader.load([("low", np.array([number])) for number in (1, 13, 2)]))
    assert caught.tb is not None and not any(process.is_alive() for process in started)  # a traceback keeps frames


def test_processes_end_with_an_interrupt(started):
    with pytest.raises(KeyboardInterrupt), make(2) as loader:
        for _ in loader.load(asked(9)):
            raise KeyboardInterrupt
    assert len(started) == 2 and not any(process.is_alive() for process in started)


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda", True)])
def test_batches_for_cuda_alone_lie_in_pinned_memory_and_are_not_waited_for(monkeypatch, device, pinned):
    settings, moves = [], []
    monkeypatch.setattr(loading, "DataLoader", lambda *args, **kwargs: settings.append(kwargs) or [])

    class Moved:
        def to(self, *args, **kwargs):
            moves.append((*args, kwargs))

    assert list(Loader(lambda: {"low": Numbers(0)}, 0, torch.device(device)).load(asked(1))) == []
    assert settings[0]["pin_memory"] is pinned and not settings[0]["persistent_workers"]
    to_device({"values": Moved()}, device)
    assert moves == [(device, {"non_blocking": pinned})]


def test_a_broken_connection_is_of_a_process_or_of_a_stream():
    here, there = multiprocessing.Pipe()
    there.close()
    with pytest.raises(EOFError) as of_process:
        here.recv()
    assert is_of_dead_process(of_process.value)
    with pytest.raises(ValueError, match="in other words") as told:
        try:
            here.send(1)
        except OSError as error:
            raise ValueError("in other words") from error
    assert is_of_dead_process(told.value)
    one, other = socket.socketpair()
    other.close()
    with pytest.raises(OSError) as of_stream:
        for _ in range(2):
            one.sendall(b"0")
    assert not is_of_dead_process(of_stream.value)
    assert is_of_dead_process(RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed."))
    assert not is_of_dead_process(RuntimeError("another one"))

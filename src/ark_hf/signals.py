"""SIGTERM and Ctrl-C: an end that clears up and says what comes of it."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def handled_signals(handle: Callable[[int], object], numbers: Sequence[int] = ENDING) -> Iterator[None]:
    """
    The signals call `handle` with their number inside the block, and are what they were after it. In other
    threads than the main one, where Python has no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda number, frame: handle(number)) for number in numbers}
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)


@contextmanager
def ended_by_signals(last_words: str | None = None, numbers: Sequence[int] = ENDING) -> Iterator[None]:
    """
    SIGTERM and Ctrl-C, or those that are named, end the block as `SystemExit` of 128 and their number, so that it can
    clear up. `last_words` are told on stderr then, after the signal's name.
    """

    def leave(number: int) -> Any:
        if last_words is not None:
            print(f"\n{signal.Signals(number).name}: {last_words}", file=sys.stderr)
        raise SystemExit(128 + number)

    with handled_signals(leave, numbers):
        yield

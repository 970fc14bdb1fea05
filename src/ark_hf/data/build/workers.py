"""Shards built by several processes at once."""

import multiprocessing
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from .shards import Shard, ShardBuilder

PROCESS_NAME = "ark-hf build"  # by which the package knows that it need not load torch

_READY, _IMAGE = "ready", "image"


def build_shards(
    builder: ShardBuilder, shards: list[Shard], num_workers: int, count_image: Callable[[], object]
) -> None:
    """
    Builds shards, each by one process that holds one image at a time; `count_image` is called after each row.

    Raises:
        OSError: A shard cannot be written, or a process was killed. The finished shards stay.
        RuntimeError: Anything else went wrong in a process.
    """
    if num_workers == 1:
        for shard in shards:
            builder.build(shard, count_image)
        return
    waiting = iter(shards)
    context = multiprocessing.get_context("spawn")
    processes: dict[Any, Any] = {}
    try:
        for _ in range(num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, builder), name=PROCESS_NAME, daemon=True)
            process.start()
            theirs.close()
            processes[ours] = process
        while processes:
            connections: list[Any] = wait(list(processes))
            for connection in connections:
                message = _receive(connection, processes[connection])
                if message == _IMAGE:
                    count_image()
                elif message == _READY:
                    following = next(waiting, None)
                    connection.send(following)
                    if following is None:
                        processes.pop(connection).join()
                else:
                    raise message
    finally:
        for process in processes.values():
            process.terminate()
            process.join()


def _receive(connection: Any, process: Any) -> Any:
    try:
        return connection.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        raise ChildProcessError(
            f"A process of the build ended without a word (exit code {process.exitcode}); it may have lacked memory. "
            "What is built is kept: the same command continues, with fewer --num_workers if need be."
        ) from None


def _work(connection: Connection, builder: ShardBuilder) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent sees to its end
    try:
        connection.send(_READY)
        while (shard := connection.recv()) is not None:
            builder.build(shard, lambda: connection.send(_IMAGE))
            connection.send(_READY)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent was killed, so what is half-written is of no use
    except OSError as error:
        connection.send(error)
    except Exception:
        connection.send(RuntimeError(traceback.format_exc()))

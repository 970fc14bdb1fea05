"""Flower's programs as children of ours: what they may not do, and that none outlives us."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

FLOWER = "1.42."
FEDERATION = "ARK_HF_FEDERATION"  # names the file that tells the server's app what to do
SITE_PATH = "site"  # what a node's configuration calls the path of site.yaml
HOME = "flower"  # the folder for Flower's own files
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONUNBUFFERED": "1",
}
LOOPBACK = "127.0.0.1,localhost,::1"
SECONDS_TO_END, SECONDS_FOR_FLOWER = 15.0, 5.0
APPS = ("flwr-serverapp", "flwr-clientapp")
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
SIGNAL_OF_PARENTS_DEATH = 1  # PR_SET_PDEATHSIG


def check_flower() -> None:
    """Raises `ValueError` if Flower is missing, or is not the version whose ways we know."""
    try:
        found = version("flwr")
    except PackageNotFoundError:
        found = ""
    if not found.startswith(FLOWER):
        state = f"version {found} is installed" if found else "it is not installed"
        raise ValueError(
            f'sites as processes of their own need Flower {FLOWER}*, and {state}: pip install "ark-hf[federated]".'
        )


@contextmanager
def flower_home(folder: Path, patience: float = 5.0) -> Iterator[Path]:
    """
    A new folder for Flower's own files, ours as long as the block lasts: Flower runs what it finds there.

    Raises:
        ValueError: Another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f".{HOME}.lock", timeout=patience):
            home = folder.resolve() / HOME
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(mode=0o700)
            yield home
    except Timeout:
        raise ValueError(f"{folder} is in use: the same command is running already.") from None


def environment(home: Path, **more: str) -> dict[str, str]:
    """Ours without settings for Flower: it reports to nobody, installs nothing, and reaches this machine directly."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")}
    direct = ",".join(filter(None, [os.environ.get("NO_PROXY", os.environ.get("no_proxy", "")), LOOPBACK]))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**kept, **QUIET, "PATH": path, "NO_PROXY": direct, "no_proxy": direct, "FLWR_HOME": str(home), **more}


def start(command: Sequence[str], environment: dict[str, str], end: int, **settings: Any) -> subprocess.Popen:
    """
    Starts a program in a session of its own. On Linux the kernel sends it `end` when we are gone, even by SIGKILL.
    Call it in the main thread: the kernel takes the end of the thread for ours.
    """
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=None if LIBC is None else lambda: LIBC.prctl(SIGNAL_OF_PARENTS_DEATH, end),
        **settings,
    )


def end_with_parent() -> None:
    """
    Ends this process soon after its parent, if it is one of Flower's apps. Flower means to do so, but an app that
    waits for the bytes of a link that is gone does not hear it: it would wait, and hold its folder, for ever.
    """
    if Path(sys.argv[0]).name in APPS:
        watch_parent(SECONDS_FOR_FLOWER)


def watch_parent(patience: float = 0.0) -> None:
    """Ends this process when its parent is gone, at the latest half a second and `patience` seconds later."""
    threading.Thread(target=_watch, args=(os.getppid(), patience), daemon=True).start()


def _watch(parent: int, patience: float) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    time.sleep(patience)
    os._exit(1)


def stop(program: subprocess.Popen) -> None:
    """Ends a program, and what it has started in its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(program.pid, number)
        except ProcessLookupError:
            pass
        try:
            program.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            pass


def free_port() -> int:
    """One of the loopback's that nobody listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]

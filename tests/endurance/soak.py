"""
    python -m tests.endurance.soak --minutes 30 --out soak.json

Trains, builds and serves for some minutes while processes are killed and stopped, checkpoints cut, workers shot, files
spoilt, commands changed and started twice; and looks after each what must always be so: the command ends as it
promises, in plain words, leaves no process behind, and in the end the same bytes as an undisturbed one. What was
found wrong goes to stdout and `--out`, and the exit status is 1 then.
"""

import argparse
import base64
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ark_hf.signals import ended_by_signals
from ark_hf.training.checkpoint import newest_checkpoint
from tests.endurance.jobs import JOBS, Job, forks, make_jobs, start
from tests.endurance.kills import PATIENCE, finish

STOPPED = {signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGINT: 128 + signal.SIGINT}
WITH_WORKERS = ("ark", "peac", "genesis", "finetune")
MOST_GROWTH = 2**29  # bytes of the page's memory beyond those after its first answers


class Work:
    """One job in one folder: commands that are disturbed, until it may end."""

    def __init__(self, context: Any, job: Job, folder: Path, seconds: float, moments: random.Random):
        self.context, self.job, self.seconds, self.moments = context, job, seconds, moments
        folder.mkdir(parents=True)
        self.out, self.log = folder / "out", folder / "log.txt"

    def disturb(self) -> str:
        """Disturbs it once, unless it is a build that has ended, which has nothing to go on with; what was done."""
        if self.job.name == "build" and self.out.exists():
            return "over"
        ways: list[Callable[[], None]] = [self.killed, self.stopped, self.damaged, self.started_twice]
        ways += [self.without_worker] if self.job.name in (*WITH_WORKERS, "build") else []
        ways += [self.changed] if self.job.name != "build" else [self.spoilt]
        way = self.moments.choice(ways)
        way()
        return way.__name__

    def start(self, *more: str, log: Path | None = None) -> Any:
        return start(self.context, [*self.job.command(self.out), *more], log or self.log)

    def wait(self, process: Any, allowed: tuple[int, ...], words: str = "", log: Path | None = None) -> None:
        """Lets a command end, and checks its status and its last words, and that nothing of it is left."""
        process.join(PATIENCE)
        said = (log or self.log).read_text()
        tail = f"{self.job.name}: exit status {process.exitcode}\n{said[-2000:]}"
        assert process.exitcode in allowed, tail
        if process.exitcode > 0:
            assert re.search(words, said), tail
        assert "Traceback" not in said, tail
        end = time.monotonic() + 60
        while left := _session(process.pid):
            assert time.monotonic() < end, f"{self.job.name}: {left} outlive their command"
            time.sleep(0.2)
        (log or self.log).write_text("")

    def some_time(self) -> float:
        return self.moments.uniform(0.5, max(self.seconds, 1.0))

    def killed(self) -> None:
        process = self.start()
        process.join(self.some_time())
        process.kill()
        self.wait(process, (0, -signal.SIGKILL))

    def stopped(self) -> None:
        process, number = self.start(), self.moments.choice([*STOPPED])
        process.join(self.some_time())
        if process.exitcode is None:
            os.kill(process.pid, number)
        self.wait(process, (0, STOPPED[number]), "same command|is stopped")

    def damaged(self) -> None:
        """
        Cuts or deletes a file of the newest checkpoint or master, or of a build a finished shard. What a site of a
        federation has lost nobody else has, and it does not come out the same.
        """
        places = (
            f".{self.out.name}.building/dataset/data/*.parquet",
            "out/checkpoints/step-*/**/*",
            "out/masters/round-*/*",
            "out/seed-*/checkpoints/checkpoint-*/*",
        )
        files = [path for place in places for path in self.out.parent.glob(place) if path.is_file()]
        if not files:
            return
        newest = max(files, key=lambda path: path.stat().st_mtime).parent
        path = self.moments.choice([each for each in files if each.parent == newest])
        if self.moments.random() < 0.5:
            path.unlink()
        else:
            os.truncate(path, path.stat().st_size // 2)

    def started_twice(self) -> None:
        first = self.start()
        first.join(min(1.5, self.seconds / 2))
        other = self.log.with_name("other.txt")
        if first.exitcode is None:
            second = self.start(log=other)
            self.wait(second, (0, 2), "Another (process|build)|exists and is not empty", other)
        self.wait(first, (0, 2), "exists and is not empty|Another (process|build)")

    def changed(self) -> None:
        """Goes on with another recipe, if there is something to go on from."""
        begun = [*self.out.glob("masters/round-*"), *self.out.glob("seed-*")]
        if begun or newest_checkpoint(self.out / "checkpoints") is not None:
            self.wait(self.start("--learning_rate", "0.003"), (2,), "learning_rate was .*, now 0.003")

    def without_worker(self) -> None:
        more = () if self.job.name == "build" else ("--dataloader_num_workers", "1")
        process = self.start(*more)
        process.join(self.some_time())
        workers = [pid for pid in _session(process.pid) if pid != process.pid]
        if process.exitcode is None and workers:
            try:
                os.kill(self.moments.choice(workers), signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.wait(process, (0, 2), "ended without a word|exists and is not empty")

    def spoilt(self) -> None:
        """A picture of a release is no picture while it is built, and is mended then."""
        raw = Path(self.job.command(self.out)[self.job.command(self.out).index("--raw") + 1])
        picture = self.moments.choice(sorted(raw.glob("*.png")))
        content, times = picture.read_bytes(), (picture.stat().st_atime_ns, picture.stat().st_mtime_ns)
        picture.write_bytes(content[: self.moments.randrange(len(content))])
        try:
            self.wait(self.start(), (0, 2), "cannot be used|--skip_bad|exists and is not empty|kept for the next try")
        finally:
            picture.write_bytes(content)
            os.utime(picture, ns=times)

    def end(self, expected: dict[str, bytes]) -> None:
        """Lets it end in peace, and compares."""
        if not (self.job.name == "build" and self.out.exists()):
            process = self.start()
            self.wait(process, (0,))
        left = [str(path) for path in self.out.rglob(".step-*")]
        assert not left, f"{self.job.name}: {left} are left"
        assert self.job.contents(self.out) == expected, f"{self.job.name}: the results differ"


def _session(number: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[3] == str(number) and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


class Page:
    """The page of a model in a process of its own."""

    def __init__(self, model: Path, folder: Path, moments: random.Random):
        self.model, self.folder, self.moments = model, folder, moments
        self.process: subprocess.Popen | None = None
        self.least = 0

    def disturb(self) -> str:
        """Sends it right and wrong files, and now and then ends it."""
        if self.process is None:
            self._open()
        right = (self.folder / "right.png").read_bytes()
        assert "<" in self._send("right.png", right), "a right file has no answer"
        for wrong in (right[: self.moments.randrange(len(right))], self.moments.randbytes(2000), b""):
            assert self._send(self.moments.choice(["a.png", "b.dcm", "../c.tiff"]), wrong), (
                "a wrong file has no answer"
            )
        memory = _memory(self.process.pid)
        self.least = self.least or memory
        assert memory < self.least + MOST_GROWTH, (
            f"the page takes {memory / 1e6:.0f} MB, {self.least / 1e6:.0f} before"
        )
        if self.moments.random() < 0.15:
            self.close(self.moments.choice([signal.SIGTERM, signal.SIGINT, signal.SIGKILL]))
        return "page"

    def _open(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        command = [sys.executable, "-m", "ark_hf.cli", "serve", str(self.model), "--port", str(self.port)]
        with open(self.folder / "page.txt", "w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.least = 0
        for _ in range(1200):
            if "The page is at" in (self.folder / "page.txt").read_text():
                break
            assert self.process.poll() is None, (self.folder / "page.txt").read_text()
            time.sleep(0.1)
        config = json.loads(self._request("GET", "/config"))
        self.component = next(each["id"] for each in config["components"] if each["type"] == "html")

    def _request(self, method: str, path: str, body: str | None = None) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, f"{path}: {answer.status} {text[:300]}"
        return text

    def _send(self, name: str, data: bytes) -> str:
        upload = {"name": name, "data": base64.b64encode(data).decode()}
        message = {"data": upload, "component_id": self.component, "fn_name": "read", "session_hash": "soak"}
        return json.loads(self._request("POST", "/gradio_api/component_server/", json.dumps(message)))

    def close(self, number: int = signal.SIGTERM) -> None:
        if self.process is None:
            return
        os.kill(self.process.pid, number)
        status = self.process.wait(60)
        assert status in (0, 128 + number, -signal.SIGKILL), f"the page's exit status is {status}"
        said = (self.folder / "page.txt").read_text()
        assert "Traceback" not in said, said
        assert not _session(self.process.pid), "the page leaves processes behind"
        self.process = None


def _memory(pid: int) -> int:
    """Resident bytes."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def soak(folder: Path, minutes: float, seed: int, tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Disturbs jobs until the time is over; how often each was in each way, and what was wrong."""
    moments = random.Random(seed)
    jobs, context = make_jobs(folder), forks()
    expected, seconds = {}, {}
    for name, job in jobs.items():
        seconds[name] = finish(
            start(context, job.command(folder / "whole" / name), folder / "log.txt"), folder / "log.txt"
        )
        expected[name] = job.contents(folder / "whole" / name)
    (folder / "right.png").write_bytes(next((folder / "raw").glob("*.png")).read_bytes())
    page = Page(folder / "whole" / "ark" / "ark-cxr", folder, moments)
    done: Counter[str] = Counter()
    wrong: list[str] = []
    started, turn = time.monotonic(), 0
    try:
        while time.monotonic() < started + 60 * minutes:
            name = JOBS[turn % len(JOBS)]
            work = Work(context, jobs[name], folder / "work" / f"{turn:04d}-{name}", seconds[name], moments)
            turn += 1
            try:
                for _ in range(moments.choice((1, 2, 3))):
                    done[f"{name}: {work.disturb()}"] += 1
                work.end(expected[name])
                done[f"{name}: equal"] += 1
                done[page.disturb()] += 1
            except AssertionError as error:
                wrong.append(str(error))
                print(f"WRONG, turn {turn}: {error}", file=sys.stderr, flush=True)
            found = {"minutes": round((time.monotonic() - started) / 60, 1), "done": dict(sorted(done.items()))}
            tell(found | {"wrong": wrong})
    finally:
        page.close()
    return found | {"wrong": wrong}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is done when")
    parser.add_argument("--out", type=Path, help="JSON file of what was done and what was wrong")
    args = parser.parse_args()

    def tell(found: dict[str, Any]) -> None:
        if args.out is not None:
            args.out.write_text(json.dumps(found, indent=1) + "\n")

    with ended_by_signals(), tempfile.TemporaryDirectory(prefix="ark_hf_soak_", ignore_cleanup_errors=True) as folder:
        found = soak(Path(folder), args.minutes, args.seed, tell)
    print(json.dumps(found, indent=1))
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())

"""
Fuzzes every reader: `python -m tests.fuzz --cases 10000`, or one reader or one case alone, `--only dicom --case 17`.

Each case is made from (seed, reader, number), so that one can be read again. A process of its own reads them, within
limits of memory and computing; where it dies or hangs it is started anew and the case counted as wrong. Outcomes are
noted in a file as they come: stopped, the same command goes on where it was. Nothing depends on a clock.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import MARKER
from .report import write_report
from .shares import shares

STILL = 300  # looks, a tenth of a second apart, at a process that waits for something that does not come


class Worker:
    """The process that reads; another one after a death."""

    def __init__(self, log: Path):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
            )
        os.set_blocking(self.process.stdout.fileno(), False)
        if self._answer() != "ready":
            raise RuntimeError(f"the worker does not start; see {log}")

    def ask(self, reader: str, seed: str) -> dict[str, Any]:
        self.process.stdin.write(f"{reader} {seed}\n".encode())
        self.process.stdin.flush()
        answer = self._answer()
        if answer is not None:
            return json.loads(answer)
        how = self.process.poll()
        why = (
            "it hangs" if how is None else f"the process died of signal {-how}" if how < 0 else f"it exits with {how}"
        )
        self.stop()
        return {"kind": "?", "answer": "wrong", "why": why, "message": "", "seconds": 0.0, "bytes": 0}

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answer(self) -> str | None:
        """Its next line; None if it has died or does nothing."""
        said, looks, still, used = b"", 0, 0, -1
        while not said.endswith(b"\n"):
            try:
                piece = os.read(self.process.stdout.fileno(), 2**16)
            except BlockingIOError:
                looks += 1
                if looks < 100:  # most cases take milliseconds
                    time.sleep(0.002)
                    continue
                time.sleep(0.1)
                state, ticks = self._state()
                still = still + 1 if state in "SD" and ticks == used else 0
                used = ticks
                if still > STILL:
                    return None
                continue
            if not piece:
                self.process.wait()
                return None
            said += piece
        return said.decode().strip()

    def _state(self) -> tuple[str, int]:
        """Of the process: R, S, T, ..., and how long it has computed."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[11]) + int(fields[12])


def remaining(args: argparse.Namespace, done: set[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    for reader, count in shares(args.cases, args.only).items():
        for number in range(count) if args.case is None else [args.case]:
            if (reader, number) not in done:
                yield reader, number


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="of all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="readers")
    parser.add_argument("--case", type=int, help="the number of one case, which is read and told")
    parser.add_argument("--log", type=Path, default=Path("fuzz.jsonl"), help="where outcomes are noted")
    parser.add_argument("--out", type=Path, help="folder of RESULTS.md and results.json")
    args = parser.parse_args()
    known = [json.loads(line) for line in args.log.read_text().splitlines()] if args.log.exists() else []
    known = [each for each in known if each["seed"] == args.seed and args.case is None]
    worker = None
    with args.log.open("a") as log:
        for reader, number in remaining(args, {(each["reader"], each["number"]) for each in known}):
            if worker is None or worker.process.poll() is not None:
                worker = Worker(args.log.with_suffix(".err"))
            outcome = {"reader": reader, "number": number, "seed": args.seed}
            outcome |= worker.ask(reader, f"{args.seed} {reader} {number}")
            known.append(outcome)
            log.write(json.dumps(outcome) + "\n")
            log.flush()
            if outcome["answer"] == "wrong" or args.case is not None:
                told = outcome["why"] or outcome["message"]
                print(f"{reader} {number} ({outcome['kind']}): {outcome['answer']} {told}")
    if worker is not None:
        worker.stop()
    errors = args.log.with_suffix(".err")
    if errors.exists() and MARKER in errors.read_text(errors="replace"):
        print(f"wrong: what libraries print themselves quotes a file, see {errors}")
        return 1
    wrong = sum(each["answer"] == "wrong" for each in known)
    print(f"{len(known):,} cases: {dict(Counter(each['answer'] for each in known))}")
    if args.out is not None:
        write_report(args.out, known, args.seed)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

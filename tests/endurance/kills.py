"""
    python -m tests.endurance.kills --kills 20 --out kills.json

Ends small jobs of every kind with SIGKILL at random moments, lets them go on, and compares what they leave with what
an undisturbed one leaves, byte for byte. Each job is killed one to three times before it may end; a kill counts only
if it came before the job's own end. The table goes to stdout, and with every kill's moment to `--out`.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ark_hf.signals import ended_by_signals
from tests.endurance.jobs import JOBS, Job, forks, make_jobs, start

PATIENCE = 3600.0  # seconds after which a job that has not ended is taken for one that hangs


def kill_at_random(context: Any, job: Job, folder: Path, kills: int, moments: random.Random) -> dict[str, Any]:
    """
    Kills runs of a job until `kills` have met one before its end.

    Returns:
        `kills`, each with the `seconds` after which it came, the `checkpoint` that was the newest then, and whether
        one was being `saved`; `runs`, and of these those that were `equal` to the undisturbed one; its `seconds`.
    """
    whole, log = folder / "whole", folder / "log.txt"
    duration, expected = finish(start(context, job.command(whole), log), log), job.contents(whole)
    assert expected, f"{job.name} left nothing"
    found: dict[str, Any] = {"kills": [], "runs": 0, "equal": 0, "seconds": round(duration, 1)}
    while len(found["kills"]) < kills:
        out = folder / f"run-{found['runs']}"
        for _ in range(min(moments.choice((1, 2, 3)), kills - len(found["kills"]))):
            killed = _kill(context, job, out, log, moments.uniform(0, duration))
            if killed is None:
                duration *= 0.9  # the machine was busy when it was measured
                break
            found["kills"].append(killed)
        if not (job.name == "build" and out.exists()):  # which a build that has ended would refuse
            finish(start(context, job.command(out), log), log)
        found["runs"] += 1
        found["equal"] += job.contents(out) == expected
    return found


def _kill(context: Any, job: Job, out: Path, log: Path, seconds: float) -> dict[str, Any] | None:
    """What there was when a job was killed; None if it had ended before."""
    process = start(context, job.command(out), log)
    process.join(seconds)
    saved = [path.name for path in out.rglob("*-*") if path.parent.name in ("checkpoints", "masters", ".building")]
    process.kill()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        return None
    return {
        "seconds": round(seconds, 2),
        "checkpoint": max((name for name in saved if not name.startswith(".")), default=None, key=_number),
        "saved": any(name.endswith(".new") for name in saved),
    }


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def finish(process: Any, log: Path) -> float:
    """Waits for a job's end: the seconds. An `AssertionError` with what it said if that is not a good one."""
    started = time.monotonic()
    process.join(PATIENCE)
    if process.exitcode != 0:
        process.kill()
        raise AssertionError(f"exit status {process.exitcode}: {log.read_text()[-3000:]}")
    return time.monotonic() - started


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| job | SIGKILLs | before the first checkpoint | while one was saved | runs that end equal |",
        "|---|---|---|---|---|",
    ]
    for name, of in found.items():
        kills = of["kills"]
        first, saved = sum(each["checkpoint"] is None for each in kills), sum(each["saved"] for each in kills)
        lines.append(f"| {name} | {len(kills)} | {first} | {saved} | {of['equal']} of {of['runs']} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    parser.add_argument("--kills", type=int, default=20, help="of each job (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="JSON file of all kills")
    args = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with ended_by_signals(), tempfile.TemporaryDirectory(prefix="ark_hf_kills_") as folder:
        jobs, context = make_jobs(Path(folder)), forks()
        for name in args.jobs:
            work = Path(folder, "work", name)
            work.mkdir(parents=True)
            moments = random.Random(f"{args.seed} {name}")
            found[name] = kill_at_random(context, jobs[name], work, args.kills, moments)
            print(f"{name}: {found[name]['equal']} of {found[name]['runs']} equal", file=sys.stderr, flush=True)
            if args.out is not None:
                args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    return 0 if all(each["equal"] == each["runs"] for each in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

"""
Runs the benchmarks one after another and writes RESULTS.md beside this script, with what each has printed.

    python benchmarks/run_all.py [NAME ...]

With names (`cpu`, `input_pipeline`, ...) only those run, and only their parts of RESULTS.md change. Each script also
writes its figures as JSON into results/. `gpu` runs where torch finds a CUDA device. All of them take an hour and a
half on two cores; run them on a machine that does nothing else. `federated`, `precision` and `unlike`, which need
runs, models or pictures, are run on their own.
"""

import datetime
import os
import re
import subprocess
import sys
from pathlib import Path

import torch
from cpu import cpu_features

FOLDER = Path(__file__).resolve().parent
# In this folder: no benchmarks, and those that must be told what to measure
OTHERS = ("run_all", "steps", "federated", "precision", "unlike")
RESULTS = FOLDER / "RESULTS.md"
TITLE = "# What the benchmarks printed\n\n`make bench` writes this file; each part says when and on what it ran.\n"


def main(names: list[str]) -> int:
    known = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in OTHERS)
    if unknown := sorted(set(names) - set(known)):
        print(
            f"run_all.py: error: there is no benchmark {', '.join(unknown)}; there are {', '.join(known)}.",
            file=sys.stderr,
        )
        return 2
    if not names and not torch.cuda.is_available():
        known.remove("gpu")
    failed = []
    for name in names or known:
        print(f"== {name}", flush=True)
        done = subprocess.run([sys.executable, FOLDER / f"{name}.py"], stdout=subprocess.PIPE, text=True)
        print(done.stdout, flush=True)
        if done.returncode:  # its message stands on stderr
            failed.append(name)
        else:
            write_part(name, done.stdout)
    if failed:
        print(f"Failed: {', '.join(failed)}; their parts of {RESULTS.name} are as before.", file=sys.stderr)
    return 1 if failed else 0


def write_part(name: str, printed: str) -> None:
    """Puts what a benchmark printed in its place among the parts, which are in the order of their names."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    parts = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    lines = [line for line in printed.strip().splitlines() if not line.startswith("Written to ")]
    body = "\n".join(lines)
    parts[name] = f"\n{datetime.date.today()}, {machine()}\n\n```\n{body}\n```\n\n"
    RESULTS.write_text(
        TITLE + "".join(f"\n## {each}\n{parts[each].rstrip()}\n" for each in sorted(parts)), encoding="utf-8"
    )


def machine() -> str:
    """What ran it: cores, the CPU's features that matter here, and the GPU, if there is one."""
    features = " ".join(cpu_features()) or "unknown CPU"
    gpu = f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} cores ({features}){gpu}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

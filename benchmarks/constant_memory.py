"""
Memory over time while a large generated dataset is built, and while one cycle is trained on it, loaded and streamed.

Phantom radiographs of one site are built by the engine behind `ark-hf data build`; then a tiny model is trained for
one cycle, with validation, once from the loaded dataset and once with `streaming: true`. Each part runs in a process
of its own. What is sampled is the memory that the process and its children have for themselves: resident pages less
those of files, which a loaded dataset maps from its copy on disk and the system takes back when it needs them.

Growth is the median of the last fifth of a part's samples less that of the second fifth; the bound allows for noise.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import psutil

BOUND = 40  # MB
INTERVAL = 0.25  # seconds between samples
SITE = "phantom_city"
TINY = {
    "backbone": "convnext_atto",
    "backbone_kwargs": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "image_size": 32,
    "projector_dim": 16,
    "cycles": 1,
    "batch_size": 64,
    "learning_rate": 0.01,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000, help="images, 4 %% of them for validation (50000)")
    parser.add_argument("--size", type=int, default=96, help="longer side of the images in pixels (96)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "constant_memory.json")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        return PARTS[args.part](args)
    with tempfile.TemporaryDirectory() as folder:
        results = {part: watch(part, Path(folder), args) for part in PARTS}
    print_table(results)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    settings = {"images": args.images, "size": args.size, "bound_mb": BOUND}
    args.out.write_text(json.dumps({"settings": settings, "parts": results}, indent=1) + "\n")
    print(f"Written to {args.out}.")
    if any(result["growth_mb"] > BOUND for result in results.values()):
        sys.exit(f"Memory has grown by more than {BOUND} MB.")


def build(args: argparse.Namespace) -> None:
    from ark_hf import build_dataset, phantom_release

    validation = args.images // 25
    counts = {"train": args.images - validation, "validation": validation}
    release = phantom_release(SITE, counts, args.size, seed=0)
    # Of so many phantoms some come out the same to the pixel
    build_dataset(release, args.folder / SITE, size=args.size, allow_patient_overlap=True)


def train(args: argparse.Namespace, streaming: bool = False) -> None:
    from ark_hf import CyclicPretrainer, PretrainingArguments, TaskSpec, load_tasks

    output_dir = args.folder / ("streamed" if streaming else "loaded")
    settings = PretrainingArguments(output_dir=str(output_dir), streaming=streaming, **TINY)
    tasks = load_tasks([TaskSpec(str(args.folder / SITE))], ".", streaming)
    CyclicPretrainer(settings, tasks).train()


PARTS = {"build": build, "train, loaded": train, "train, streamed": lambda args: train(args, streaming=True)}


def watch(part: str, folder: Path, args: argparse.Namespace) -> dict:
    """Runs a part in a process of its own and samples what memory it and its children have for themselves."""
    options = ["--part", part, "--folder", str(folder), "--images", str(args.images), "--size", str(args.size)]
    environment = os.environ | {"HF_DATASETS_CACHE": str(folder / "cache")}
    started, samples = time.monotonic(), []
    process = subprocess.Popen([sys.executable, __file__, *options], env=environment)
    while process.poll() is None:
        samples.append(private_megabytes(psutil.Process(process.pid)))
        time.sleep(INTERVAL)
    if process.returncode:
        sys.exit(f"Part {part!r} failed.")
    thinned = samples[:: max(len(samples) // 100, 1)]
    return {
        "seconds": round(time.monotonic() - started),
        "peak_mb": round(max(samples)),
        "growth_mb": growth(samples),
        "samples_mb": [round(sample) for sample in thinned],
    }


def growth(samples: list[float]) -> float:
    """From the median of the second fifth to that of the last."""
    fifth = max(len(samples) // 5, 1)
    return round(statistics.median(samples[-fifth:]) - statistics.median(samples[fifth : 2 * fifth]), 1)


def private_megabytes(process: psutil.Process) -> float:
    total = 0
    try:
        for each in [process, *process.children(recursive=True)]:
            memory = each.memory_info()
            total += memory.rss - getattr(memory, "shared", 0)
    except psutil.NoSuchProcess:
        pass
    return total / 1e6


def print_table(results: dict) -> None:
    print(f"{'':18}{'seconds':>9}{'peak MB':>9}{'growth MB':>11}   over time, MB")
    for part, result in results.items():
        samples = result["samples_mb"]
        course = " ".join(f"{samples[i * (len(samples) - 1) // 9]}" for i in range(10))
        print(f"{part:18}{result['seconds']:9}{result['peak_mb']:9}{result['growth_mb']:11}   {course}")


if __name__ == "__main__":
    main()

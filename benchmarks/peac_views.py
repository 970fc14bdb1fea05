"""
Time from stored radiographs to the pictures of PEAC, against that to the two views of Ark, in one run and one thread.

Both read the same shards, which `ark-hf data build` makes of phantom radiographs with the noise of a detector, at 1024
pixels, through their training loaders (`TrainingSamples` and `PeacSamples`, `iterate`), and make pictures of 448.

Ark: the student's view and the whole picture, resized.
PEAC: a resize by area, two crops of 14 x 14 cells, half of the first ones distorted, and which cells match.

`total` is decoding, views and collating. Its parts follow: decoding is common to both; views are of pictures at hand,
of 8 bits and as the floats that deeper ones are; normalising is of two pictures a sample for Ark, and three for PEAC.

The two take turns, and figures are medians over the turns: of CPU time, which work beside it on the machine changes
less than the time that passes, and of the ratio within a turn.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

SIZE, CELL = 448, 32
WAYS = ("ark", "peac")
GOAL = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32, help="different radiographs (32)")
    parser.add_argument("--turns", type=int, default=11, help="turns that each way takes (11)")
    parser.add_argument("--batch_size", type=int, default=8, help="images a batch (8)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "peac_views.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = str(Path(folder) / "cache")
        results = measure(Path(folder), args)
    print_table(results)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"Written to {args.out}.")


def measure(folder: Path, args: argparse.Namespace) -> dict:
    import datasets
    from input_pipeline import STORED, draw_radiographs

    from ark_hf.data.build.build import build_dataset
    from ark_hf.data.loading import TrainingSamples, ViewSettings, iterate
    from ark_hf.data.rows import Release, Row
    from ark_hf.data.task_dataset import load_task_dataset
    from ark_hf.data.views import resize_side
    from ark_hf.models.ark.configuration_ark import ArkTask
    from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
    from ark_hf.training.peac.grid import Grid
    from ark_hf.training.peac.samples import PeacSamples

    datasets.disable_progress_bars()
    load = os.getloadavg()[0]
    task = ArkTask("benchmark", ["Nodule"])
    listed = [
        Row(str(number), path, "train", [0.0], {"image_id": str(number)})
        for number, path in enumerate(draw_radiographs(folder / "png", args.images))
    ]
    build_dataset(Release(task, listed), folder / "shards", size=STORED, num_workers=1)
    rows = load_task_dataset(folder / "shards", "train")
    processor = ArkImageProcessor(size={"height": SIZE, "width": SIZE})
    views = ViewSettings(resize_side(SIZE), SIZE, 0.08, "resize")
    numbers = np.arange(len(rows))
    batches = np.array_split(numbers, range(args.batch_size, len(rows), args.batch_size))
    stored: list[dict] = []
    pictures: list[torch.Tensor] = []

    def samples(way: str, turn: int) -> TrainingSamples | PeacSamples:
        if way == "ark":
            return TrainingSamples(rows, task, None, processor, views, seed=0, cycle=turn)
        return PeacSamples(rows, task, processor, seed=0, epoch=turn, grid=Grid(SIZE, CELL))

    def total(way: str, turn: int) -> Callable[[], object]:
        loaded = samples(way, turn)
        return lambda: [None for _ in iterate(loaded, batches, 0)]

    def decode(way: str, turn: int) -> Callable[[], object]:
        loaded = samples(way, turn)
        return lambda: [loaded.picture(number, row) for number, row in enumerate(stored)]

    def eight_bits(way: str, turn: int) -> Callable[[], object]:
        loaded = samples(way, turn)
        return lambda: loaded.samples(numbers.tolist(), stored, pictures)

    def floats(way: str, turn: int) -> Callable[[], object]:
        loaded, deep = samples(way, turn), [picture / 255 for picture in pictures]
        return lambda: loaded.samples(numbers.tolist(), stored, deep)

    def normalise(way: str, turn: int) -> Callable[[], object]:
        loaded = samples(way, turn)
        batch = loaded.collate(loaded.samples(numbers.tolist(), stored, pictures))
        return lambda: loaded.normalise(batch, "cpu")

    steps = {"total": total, "decode": decode, "views, 8 bits": eight_bits, "views, floats": floats,
             "normalise": normalise}  # fmt: skip
    opened = samples("ark", 0)
    stored += opened.stored.__getitems__(numbers.tolist())
    pictures += [opened.picture(number, row) for number, row in enumerate(stored)]
    taken: dict[tuple[str, str], list[float]] = {(part, way): [] for part in steps for way in WAYS}
    for turn in range(args.turns):
        for part, prepare in steps.items():
            for way in WAYS if turn % 2 else reversed(WAYS):
                step = prepare(way, turn)
                started = time.process_time()
                step()
                taken[part, way].append((time.process_time() - started) / len(rows) * 1000)
    table = [
        {
            "part": part,
            "ark_ms": round(statistics.median(taken[part, "ark"]), 2),
            "peac_ms": round(statistics.median(taken[part, "peac"]), 2),
            "ratio": round(statistics.median(map(_ratio, taken[part, "peac"], taken[part, "ark"])), 2),
        }
        for part in steps
    ]
    return {
        "table": table,
        "goal": GOAL,
        "stored_kilobytes": round(sum(len(row["image"]["bytes"]) for row in stored) / len(rows) / 1000),
        "settings": {key: getattr(args, key) for key in ("images", "turns", "batch_size")},
        "machine": {"cores": os.cpu_count(), "load_at_start": round(load, 1), "python": platform.python_version()},
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "datasets": datasets.__version__},
    }


def print_table(results: dict) -> None:
    print(f"Shards: {results['stored_kilobytes']} kB an image; CPU milliseconds an image")
    print(f"{'':16}{'Ark':>8}{'PEAC':>8}{'ratio':>8}")
    for row in results["table"]:
        print(f"{row['part']:16}{row['ark_ms']:8.2f}{row['peac_ms']:8.2f}{row['ratio']:8.2f}")
    ratio = results["table"][0]["ratio"]
    print(f"Goal {results['goal']}x: {'met' if ratio <= results['goal'] else 'missed'} ({ratio:.2f}x).")


def _ratio(one: float, other: float) -> float:
    return one / other


if __name__ == "__main__":
    main()

"""
How the rate of `predict` and `embed` over many image files grows with the cores that read them.

Grey PNG files that are drawn here, and a model so small that decoding decides. One core reads and computes, which is
the reference; then as many processes as cores read beside the model. By turns, with as many cores as this process may
use; figures are medians over the turns, the share of the ideal is the median of those within a turn. Run it on a
machine that does nothing else.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image

import ark_hf

MODEL = {
    "backbone": "convnext_atto", "backbone_kwargs": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "image_size": 224, "projector_dim": 16, "tasks": [ark_hf.ArkTask("site", ["Edema"])],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=400, help="how many (400)")
    parser.add_argument("--size", type=int, default=1500, help="their side in pixels (1500)")
    parser.add_argument("--turns", type=int, default=3, help="of each way (3)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "many_files.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), args)
    print_table(results)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"Written to {args.out}.")


def measure(folder: Path, args: argparse.Namespace) -> dict:
    load, cores = os.getloadavg()[0], sorted(os.sched_getaffinity(0))
    paths = draw(folder / "files", args.files, args.size)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ark_hf.ArkForImageClassification(ark_hf.ArkConfig(**MODEL)).eval()
    processor = ark_hf.ArkImageProcessor(size=MODEL["image_size"])
    for part in (model, processor):
        part.save_pretrained(folder / "ark-cxr")

    def predict(workers: int) -> None:
        for _ in ark_hf.predict_files(model, processor, paths, num_workers=workers):
            pass

    def embed(workers: int) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as store:
            ark_hf.embed(str(folder / "ark-cxr"), [str(folder / "files")], store, num_workers=workers)

    rows = []
    for name, run in (("predict", predict), ("embed", embed)):
        turns = [turn(run, cores, len(paths)) for _ in range(args.turns)]
        one, many = (statistics.median(each) for each in zip(*turns, strict=True))
        share = statistics.median(every / (single * len(cores)) for single, every in turns)
        rows.append({"verb": name, "one_core": one, "all_cores": many, "share_of_ideal": share})
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    return {"rows": rows, "cores": len(cores), "settings": settings, "load_at_start": load}


def turn(run: Callable[[int], None], cores: list[int], files: int) -> tuple[float, float]:
    """Files a second of one core, and of all."""
    rates = []
    for used in (cores[:1], cores):
        os.sched_setaffinity(0, used)
        started = time.perf_counter()
        run(len(used) if len(used) > 1 else 0)
        rates.append(files / (time.perf_counter() - started))
    return rates[0], rates[1]


def draw(folder: Path, count: int, side: int) -> list[Path]:
    """Grey PNG files of smooth shades and noise."""
    folder.mkdir()
    rows, columns = np.mgrid[:side, :side] / side
    generator = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        shades = 120 + 80 * np.sin(6 * columns + number) * np.cos(5 * rows)
        noisy = shades + generator.normal(0, 3, (side, side))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    return paths


def print_table(results: dict) -> None:
    settings = results["settings"]
    print(f"{settings['files']} grey PNG files of {settings['size']} pixels, {results['cores']} cores")
    print(f"{'':<10}{'one core':>12}{'all cores':>12}   share of the ideal")
    for row in results["rows"]:
        print(
            f"{row['verb']:<10}{row['one_core']:>8.1f} / s{row['all_cores']:>8.1f} / s   {row['share_of_ideal']:.2f}"
        )


if __name__ == "__main__":
    main()

"""
Does a pretrained encoder help to outline lungs? Three starts, the same encoder, steps and images.

    python examples/real_radiographs/lungs.py DATASET WEIGHTS ARK_CXR RUNS

DATASET has masks (README.md beside this file has the command that builds it). ImageNet's WEIGHTS, an ARK_CXR and
random weights are fine-tuned on all, 25 and 10 training images; the step with the best validation Dice is kept, and
the test split is scored once. Differences are paired: all starts are scored on the same resampled patients. Jobs run
side by side, a core each; running again resumes. Results: lungs.json and lungs.md in RUNS.
"""

import functools
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ark_hf

STEPS = {None: 1000, 25: 150, 10: 150}  # by the number of training images, None: all
TRAINING: dict[str, Any] = {
    "backbone": "tf_efficientnet_lite0",
    "image_size": 224,
    "decoder_type": "fpn",
    "decoder_channels": 64,
    "drop_path_rate": 0.0,
    "learning_rate": 2e-3,
    "batch_size": 16,
    "eval_steps": 50,
    "min_crop_scale": 0.5,
    "channels_last": True,
}
LABELS = ["lungs"]


def train(dataset: str, start: str, init: str, images: int | None, runs: Path) -> None:
    torch.set_num_threads(1)
    args = ark_hf.FinetuningArguments(
        str(run_folder(runs, start, images)), images=images, max_steps=STEPS[images], **TRAINING
    )
    ark_hf.finetune(init, dataset, args)


def run_folder(runs: Path, start: str, images: int | None) -> Path:
    return runs / f"{start}-{images or 'all'}"


def compare(dataset: str, runs: Path, starts: list[str]) -> list[dict[str, Any]]:
    """Of each number of images and start its scores, and Dice minus that of random weights with its interval."""
    patients = ark_hf.open_dataset(dataset, ["test"]).patients("test")
    rows = []
    for images in STEPS:
        scores = {
            start: np.load(run_folder(runs, start, images) / "seed-0" / "test_predictions.npz") for start in starts
        }
        for start, found in scores.items():
            (of_lungs, _) = ark_hf.overlap_results(LABELS, found["dice"], patients)
            (distance, _) = ark_hf.overlap_results(LABELS, found["hd95"], patients)
            row = {"images": images, "start": start, "dice": asdict(of_lungs), "hd95": asdict(distance)}
            row["worst"] = float(np.nanmin(found["dice"]))
            if start != "scratch":
                gain = ark_hf.compare_overlap(LABELS, scores["scratch"]["dice"], found["dice"], patients)
                row["over scratch"] = asdict(gain[0])
            rows.append(row)
    metrics = json.loads((run_folder(runs, starts[0], None) / "seed-0" / "metrics.json").read_text())
    return [*rows, {"start": "mean-mask prior", "images": None, "dice": metrics["test"]["prior_dice"][0]}]


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| training images | start | Dice | 95 % interval | worst image | HD95 (pixels) | Dice over scratch |"]
    lines += [f"|{'---|' * 7}"]
    for row in rows:
        dice, gain, distance = row["dice"], row.get("over scratch"), row.get("hd95")
        cells = [str(row["images"] or "all"), row["start"], f"{dice['mean']:.4f}"]
        cells += [f"{dice['ci_low']:.4f} to {dice['ci_high']:.4f}", f"{row['worst']:.3f}" if "worst" in row else ""]
        cells += [f"{distance['mean']:.1f}" if distance else ""]
        cells += [f"{gain['difference']:+.4f} ({gain['ci_low']:+.4f} to {gain['ci_high']:+.4f})" if gain else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(dataset: str, weights: str, ark_cxr: str, folder: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    runs, starts = Path(folder), {"imagenet": weights, "ark-cxr": ark_cxr, "scratch": "none"}
    jobs = [
        functools.partial(train, dataset, start, init, images, runs)
        for images in STEPS
        for start, init in starts.items()
    ]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()
    rows = compare(dataset, runs, list(starts))
    (runs / "lungs.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (runs / "lungs.md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])

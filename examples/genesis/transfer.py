"""
Do weights of Models Genesis help where few volumes are labelled? Against random weights, and a network of slices.

    python examples/genesis/transfer.py PHANTOMS FOLDER MODEL

PHANTOMS holds what `phantoms.py` beside this file builds, MODEL is the folder `genesis` of a run. Outlines of lungs,
vessels and nodules, and whether a cube holds a nodule, on drawn volumes of no unit. Settings were chosen on the
validation splits; the test splits are scored once, beside eleven numbers of each cube. Differences are paired, on the
same resampled volumes, of scores that are means over the seeds. Running again resumes. Results: transfer.json in
FOLDER.
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
import slices
import torch

import ark_hf

OUTLINES, NODULES = "phantom_mr_structures", "phantom_mr_candidates"
GENESIS, RANDOM, FLAT, NUMBERS = "Models Genesis", "random weights", "slices alone", "eleven numbers"
SEEDS = {OUTLINES: range(4), NODULES: range(8)}
VIEW: dict[str, list[int]] = {OUTLINES: [32, 32, 32], NODULES: [16, 16, 16]}
SETTINGS: dict[str, dict[str, Any]] = {
    OUTLINES: {"images": 4, "max_steps": 120, "learning_rate": 2e-3, "batch_size": 8},
    NODULES: {"images": 60, "max_steps": 150, "learning_rate": 3e-4, "batch_size": 8},
}
RISING = {"hu_window": [0, 1000], "mixed_precision": "bf16", "channels_last": True}


def tune(name: str, start: str, model: str, seed: int, phantoms: Path, folder: Path) -> None:
    """Fine-tunes and tests one model."""
    torch.set_num_threads(1)
    settings = SETTINGS[name]
    fresh: dict[str, Any] = {"width": 8} if start == RANDOM else {}
    args = ark_hf.FinetuningArguments(
        str(run_of(name, start, seed, folder)), seeds=[seed], eval_steps=settings["max_steps"], cube_size=VIEW[name],
        **settings, **RISING, **fresh,
    )  # fmt: skip
    ark_hf.finetune("none" if start == RANDOM else model, str(phantoms / name), args)


def flatten(name: str, seed: int, phantoms: Path, folder: Path) -> None:
    """The same of the network of slices, on the volumes that the others had."""
    torch.set_num_threads(1)
    done = run_of(name, FLAT, seed, folder) / "scores.npy"
    if done.exists():
        return
    data = ark_hf.open_dataset(phantoms / name, ["train", "test"])
    numbers = np.random.default_rng([seed, 3]).permutation(len(data.splits["train"]))[: SETTINGS[name]["images"]]
    network = slices.finetune(data, numbers, seed, VIEW[name], SETTINGS[name])
    scores = (slices.dice if name == OUTLINES else slices.probabilities)(network, data, "test")
    done.parent.mkdir(parents=True, exist_ok=True)
    np.save(done, scores)


def run_of(name: str, start: str, seed: int, folder: Path) -> Path:
    return folder / f"{name}-{start.replace(' ', '-')}-{seed}"


def scores_of(name: str, start: str, folder: Path) -> np.ndarray:
    """(seeds, volumes, labels): Dice, or probabilities."""
    if start == FLAT:
        return np.stack([np.load(run_of(name, start, seed, folder) / "scores.npy") for seed in SEEDS[name]])
    runs = [run_of(name, start, seed, folder) / f"seed-{seed}" / "test_predictions.npz" for seed in SEEDS[name]]
    return np.stack([np.load(run)["dice" if name == OUTLINES else "probabilities"] for run in runs])


def compare_outlines(phantoms: Path, folder: Path) -> list[dict[str, Any]]:
    data = ark_hf.open_dataset(phantoms / OUTLINES, ["test"])
    names, patients = data.task.labels, data.patients("test")
    means = {start: scores_of(OUTLINES, start, folder).mean(axis=0) for start in (GENESIS, RANDOM, FLAT)}
    return [
        {"other": other} | asdict(each)
        for other in (RANDOM, FLAT)
        for each in ark_hf.compare_overlap(names, means[other], means[GENESIS], patients)
    ]


def compare_nodules(phantoms: Path, folder: Path) -> list[dict[str, Any]]:
    data = ark_hf.open_dataset(phantoms / NODULES, ["train", "test"])
    truth, patients = data.targets("test"), data.patients("test")
    statistics = [ark_hf.dataset_statistics(data, split) for split in ("train", "test")]
    ours = scores_of(NODULES, GENESIS, folder)
    numbers = ark_hf.shortcut_baseline(statistics[0], data.targets("train"), statistics[1])
    others = {start: scores_of(NODULES, start, folder) for start in (RANDOM, FLAT)}
    others[NUMBERS] = np.broadcast_to(numbers, ours.shape)
    return [
        {"other": other} | asdict(ark_hf.compare_seeds(truth, scores, ours, patients))
        for other, scores in others.items()
    ]


def check(phantoms: Path, model: str) -> None:
    """Ends the script, before any training, if a dataset or the model is not there."""
    for name in (OUTLINES, NODULES):
        if not Path(phantoms, name, "README.md").is_file():
            raise SystemExit(f"{phantoms} has no {name}: `python examples/genesis/phantoms.py {phantoms}` builds it.")
    if not Path(model, "config.json").is_file():
        raise SystemExit(f"{model} holds no model: name the folder genesis of a run.")


def main(phantoms: Path, folder: Path, model: str) -> None:
    check(phantoms, model)
    os.environ["OMP_NUM_THREADS"] = "1"
    where = {"phantoms": phantoms, "folder": folder}
    jobs = [
        functools.partial(tune, name, start, model, seed, **where)
        for name in (OUTLINES, NODULES)
        for seed in SEEDS[name]
        for start in (GENESIS, RANDOM)
    ]
    jobs += [functools.partial(flatten, name, seed, **where) for name in (OUTLINES, NODULES) for seed in SEEDS[name]]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        for each in [pool.submit(job) for job in jobs]:
            each.result()
    results = {"outlines": compare_outlines(**where), "nodules": compare_nodules(**where)}
    (folder / "transfer.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for row in results["outlines"]:
        print(f"Dice, {row['label']}: {GENESIS} {row['mean_b']:.3f}, {row['other']} {row['mean_a']:.3f}, {gain(row)}")
    for row in results["nodules"]:
        print(f"AUROC: {GENESIS} {row['auroc_b']:.3f}, {row['other']} {row['auroc_a']:.3f}, {gain(row)}")


def gain(found: dict[str, Any]) -> str:
    return f"{found['difference']:+.3f} ({found['ci_low']:+.3f} to {found['ci_high']:+.3f})"


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])

"""
What do colours tell? Photographs of the eye in colour and the same in grey, at 224 pixels from ImageNet weights.

    python examples/modalities/colour.py DATA_ROOT WEIGHTS runs/colour

DATA_ROOT holds fundus_dr and fundus_dr_grey, which `build_fundus.py` makes. One task of Ark alone, three seeds each;
the teacher of the last cycle is tested, once, by ten crops. Jobs run side by side, a core each; running again resumes.
Results: colour.json and colour.md in the run folder.
"""

import functools
import itertools
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

RECIPE = Path(__file__).with_name("recipe.yaml")
DATASETS = ("fundus_dr", "fundus_dr_grey")
# Chosen on validation; README.md beside this file has what was tried
SETTINGS = {"image_size": 224, "cycles": 24}
CROPS = {"size": 256, "crop_size": 224, "do_ten_crop": True}
SEEDS = [0, 1, 2]


def train(dataset: str, seed: int, data_root: Path, weights: Path, runs: Path) -> None:
    """One run, and the probabilities of its last teacher for the test photographs."""
    torch.set_num_threads(1)
    folder = runs / f"{dataset}-{seed}"
    recipe = {**ark_hf.read_recipe(RECIPE), **SETTINGS, "output_dir": str(folder), "seed": seed, "init": str(weights)}
    del recipe["tasks"]
    tasks = ark_hf.load_tasks([ark_hf.TaskSpec(dataset)], str(data_root))
    ark_hf.CyclicPretrainer(ark_hf.PretrainingArguments(**recipe), tasks).train()
    if not (folder / "test.npy").exists():
        model, processor = ark_hf.load_ark(str(folder / "ark-cxr"))
        crops = ark_hf.ArkImageProcessor.from_dict({**processor.to_dict(), **CROPS})
        rows = ark_hf.load_task_dataset(data_root / dataset, "test")
        samples = ark_hf.InferenceSamples(rows, tasks[0].task, crops)
        logits, _ = ark_hf.predict_logits([model], samples, 8)
        np.save(folder / "test.npy", ark_hf.mean_probabilities(logits, samples.task))


def compare(data_root: Path, runs: Path) -> dict[str, Any]:
    """AUROC of each label with intervals over patients, of each seed, and the differences over the seeds."""
    data = ark_hf.open_dataset(data_root / DATASETS[0], ["train", "test"])
    truth, patients, labels = data.targets("test"), data.patients("test"), data.task.labels
    found = {name: np.stack([np.load(runs / f"{name}-{seed}" / "test.npy") for seed in SEEDS]) for name in DATASETS}
    statistics = [ark_hf.dataset_statistics(data, split) for split in ("train", "test")]
    shortcut = ark_hf.shortcut_baseline(statistics[0], data.targets("train"), statistics[1])
    found["ten numbers"] = np.stack([shortcut] * len(SEEDS))
    pairs = (DATASETS, (DATASETS[0], "ten numbers"))
    return {
        "images": len(truth),
        "patients": len(set(patients)),
        "seeds": {name: [of_labels(truth, one, labels, patients) for one in scores] for name, scores in found.items()},
        "differences": {
            f"{one} - {other}": asdict(ark_hf.compare_seeds(truth, found[other], found[one], patients))
            for one, other in pairs
        },
    }


def of_labels(truth: np.ndarray, scores: np.ndarray, labels: list[str], patients: list[str]) -> list[dict[str, Any]]:
    each, mean = ark_hf.evaluate_labels(truth, scores, labels, clusters=patients)
    return [*map(asdict, each), {"label": "**mean**", **asdict(mean)}]


def table(results: dict[str, Any]) -> str:
    lines = ["| photographs | label | AUROC of each seed, 95 % interval over patients |", "|---|---|---|"]
    for name, seeds in results["seeds"].items():
        for of_label in zip(*seeds[: 1 if name == "ten numbers" else None], strict=True):
            values = ", ".join(
                f"{each['auroc']:.3f} ({each['ci_low']:.3f} to {each['ci_high']:.3f})" for each in of_label
            )
            lines.append(f"| {name} | {of_label[0]['label']} | {values} |")
    lines += ["", "| difference of the means | | 95 % interval | of the seeds |", "|---|---|---|---|"]
    for name, pair in results["differences"].items():
        values = " ".join(f"{value:+.3f}" for value in pair["seed_differences"])
        aurocs = f"{pair['auroc_b']:.3f} - {pair['auroc_a']:.3f} = {pair['difference']:+.3f}"
        lines.append(f"| {name} | {aurocs} | {pair['ci_low']:+.3f} to {pair['ci_high']:+.3f} | {values} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    data_root, weights, runs = (Path(argument).resolve() for argument in sys.argv[1:4])
    os.environ["OMP_NUM_THREADS"] = "1"
    jobs = itertools.product(DATASETS, SEEDS)
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        list(
            pool.map(
                functools.partial(train, data_root=data_root, weights=weights, runs=runs), *zip(*jobs, strict=True)
            )
        )
    results = compare(data_root, runs)
    (runs / "colour.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (runs / "colour.md").write_text(table(results), encoding="utf-8")
    print(table(results))

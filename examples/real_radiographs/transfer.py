"""
Does a teacher help on a dataset that it never saw? Fine-tuned teachers against the same training from scratch.

    python examples/real_radiographs/transfer.py DATA_ROOT WEIGHTS runs/transfer

For each target a teacher is pretrained on the five other sets of `recipe.yaml`, from ImageNet's weights. The teacher,
random weights and ImageNet's weights alone are then fine-tuned on the target with the same steps, and with the same
search of the learning rate on the validation split. At the chosen rate five seeds of the teacher and of random weights
are trained and tested once. Jobs run side by side, a core each; running again resumes. Results: transfer.json and
transfer.md in the run folder.
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
TARGETS = ("kermany", "nih_multilabel", "nih64")
# The six commonest findings of the NIH sample; the others have a handful of test images
EVALUATED = {"nih_multilabel": ["Atelectasis", "Effusion", "Infiltration", "Pneumonia", "Edema", "No_Finding"]}
ARMS = ("teacher", "scratch", "imagenet")
TESTED = ("teacher", "scratch")  # ImageNet's weights alone are looked at on validation only
RATES = (3e-4, 1e-3)
SEEDS = list(range(5))
PRETRAINING = {"image_size": 128, "cycles": 10}
FINETUNING: dict[str, Any] = {"image_size": 96, "max_steps": 150, "min_crop_scale": 0.65, "channels_last": True}


def pretrain(target: str, data_root: Path, weights: Path, runs: Path) -> None:
    """The teacher of all sets but the target."""
    torch.set_num_threads(1)
    recipe = {
        **ark_hf.read_recipe(RECIPE),
        **PRETRAINING,
        "init": str(weights),
        "output_dir": str(runs / f"without_{target}"),
    }
    tasks = [task for task in recipe.pop("tasks") if task["dataset"] != target]
    specs = ark_hf.parse_tasks(tasks, str(RECIPE))
    args = ark_hf.PretrainingArguments(**recipe)
    ark_hf.CyclicPretrainer(args, ark_hf.load_tasks(specs, str(data_root))).train()


def tune(
    arm: str, target: str, rate: float, seed: int, data_root: Path, weights: Path, runs: Path, test: bool
) -> float:
    """One run of fine-tuning; its mean AUROC on the validation split."""
    torch.set_num_threads(1)
    start = {"scratch": "none", "imagenet": str(weights), "teacher": str(runs / f"without_{target}" / "ark-cxr")}[arm]
    args = ark_hf.FinetuningArguments(
        str(run_folder(runs, arm, target, rate, seed)),
        backbone="tf_efficientnet_lite0",
        projector_dim=1376,
        drop_path_rate=0.0,
        learning_rate=rate,
        seeds=[seed],
        test=test,
        **FINETUNING,
    )
    return ark_hf.finetune(start, str(data_root / target), args)["seeds"][0]["validation"]["mean_auroc"]


def run_folder(runs: Path, arm: str, target: str, rate: float, seed: int) -> Path:
    return runs / "finetuned" / f"{target}-{arm}-{rate:g}-{seed}"


def compare(target: str, rates: dict[str, float], data_root: Path, runs: Path) -> dict[str, Any]:
    """Test AUROCs of the arms, and the differences between them, over the seeds."""
    patients = ark_hf.load_task_dataset(data_root / target, "test")["patient_id"][:]
    scores = {}
    for arm in TESTED:
        folders = [run_folder(runs, arm, target, rates[arm], seed) / f"seed-{seed}" for seed in SEEDS]
        saved = [np.load(folder / "test_predictions.npz") for folder in folders]
        scores[arm] = np.stack([each["probabilities"] for each in saved])
        labels, names = saved[0]["targets"], saved[0]["labels"].tolist()
    evaluated = [names.index(label) for label in EVALUATED.get(target, names)]
    scores["shortcut"] = np.stack([shortcut_scores(data_root / target)] * len(SEEDS))
    pairs = {}
    for a, b in (("scratch", "teacher"), ("shortcut", "teacher")):
        columns = labels[:, evaluated], scores[a][..., evaluated], scores[b][..., evaluated]
        pairs[f"{b} - {a}"] = asdict(ark_hf.compare_seeds(*columns, patients))
    return {
        "images": len(labels),
        "labels": [names[column] for column in evaluated],
        "learning_rates": rates,
        "differences": pairs,
    }


def shortcut_scores(folder: Path) -> np.ndarray:
    """What ten global image numbers say of the test images, (images, labels)."""
    data = ark_hf.open_dataset(folder, ["train", "test"])
    train, test = (ark_hf.dataset_statistics(data, split) for split in ("train", "test"))
    return ark_hf.shortcut_baseline(train, data.targets("train"), test)


def table(results: dict[str, dict[str, Any]]) -> str:
    lines = ["| target | labels | arms | AUROC | difference | 95 % interval | differences of the seeds |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for target, result in results.items():
        for arms, pair in result["differences"].items():
            seeds = " ".join(f"{value:+.3f}" for value in pair["seed_differences"])
            aurocs = f"{pair['auroc_b']:.3f} - {pair['auroc_a']:.3f}"
            interval = f"{pair['ci_low']:+.3f} to {pair['ci_high']:+.3f}"
            what = f"{target} | {len(result['labels'])} | {arms}"
            lines.append(f"| {what} | {aurocs} | {pair['difference']:+.3f} | {interval} | {seeds} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    data_root, weights, runs = (Path(argument).resolve() for argument in sys.argv[1:4])
    paths = {"data_root": data_root, "weights": weights, "runs": runs}
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        list(pool.map(functools.partial(pretrain, **paths), TARGETS))
        search = list(itertools.product(ARMS, TARGETS, RATES))
        found = pool.map(functools.partial(tune, seed=SEEDS[0], test=False, **paths), *zip(*search, strict=True))
        validation = dict(zip(search, found, strict=True))
        best = {
            (arm, target): max(RATES, key=lambda rate: validation[arm, target, rate])
            for arm, target in itertools.product(TESTED, TARGETS)
        }
        final = [(arm, target, rate, seed) for (arm, target), rate in best.items() for seed in SEEDS]
        list(pool.map(functools.partial(tune, test=True, **paths), *zip(*final, strict=True)))
    results = {
        target: compare(target, {arm: best[arm, target] for arm in TESTED}, data_root, runs) for target in TARGETS
    }
    for target, result in results.items():
        result["search"] = {f"{arm} {rate:g}": validation[arm, target, rate] for arm in ARMS for rate in RATES}
    (runs / "transfer.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (runs / "transfer.md").write_text(table(results), encoding="utf-8")
    print(table(results))

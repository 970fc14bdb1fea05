"""
Does a second modality help the first? Radiographs and photographs of the eye: alone, in one cycle, and mixed.

    python examples/modalities/arms.py DATA_ROOT WEIGHTS runs/modalities

DATA_ROOT holds kermany, nih_multilabel and fundus_dr; README.md beside this file has the commands that build them.
Every arm sees as many images as whole cycles allow, 9,368 to 9,660, from the weights of ImageNet and from scratch,
with three seeds; the teacher of the last cycle is tested, once. Beside that, on the photographs, linear probes of
encoders that never saw one: a teacher of radiographs alone, and ImageNet's weights. Jobs run side by side, a core
each; running again resumes. Results: arms.json and arms.md in the run folder.
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
CHESTS, EYES = ["kermany", "nih_multilabel"], ["fundus_dr"]
# The six commonest findings of the NIH sample; the others have a handful of test images
EVALUATED = {"nih_multilabel": ["Atelectasis", "Effusion", "Infiltration", "Pneumonia", "Edema", "No_Finding"]}
ARMS: dict[str, dict[str, Any]] = {
    "radiographs": {"tasks": CHESTS, "cycles": 8},
    "photographs": {"tasks": EYES, "cycles": 23},
    "cycle": {"tasks": CHESTS + EYES, "cycles": 6},
    "mixed": {"tasks": CHESTS + EYES, "cycles": 6, "strategy": "concurrent"},
}
ALONE = dict.fromkeys(CHESTS, "radiographs") | dict.fromkeys(EYES, "photographs")
STARTS = ("imagenet", "scratch")
SEEDS = [0, 1, 2]
SHOTS = 10  # images of each label, of a probe of few


# Training ------------------------------------------------------------------------------------------------------------


def train(arm: str, start: str, seed: int, data_root: Path, weights: Path, runs: Path) -> None:
    """One arm, and the probabilities of its last teacher for the test images of its tasks."""
    torch.set_num_threads(1)
    folder, settings = run_folder(runs, arm, start, seed), dict(ARMS[arm])
    names = settings.pop("tasks")
    recipe = {**ark_hf.read_recipe(RECIPE), **settings, "output_dir": str(folder), "seed": seed}
    del recipe["tasks"]
    args = ark_hf.PretrainingArguments(**recipe, init="none" if start == "scratch" else str(weights))
    specs = [ark_hf.TaskSpec(name) for name in names]
    ark_hf.CyclicPretrainer(args, ark_hf.load_tasks(specs, str(data_root))).train()
    model, processor = ark_hf.load_ark(str(folder / "ark-cxr"))
    for name in names:
        if not (folder / f"{name}.npy").exists():
            samples = ark_hf.InferenceSamples(
                ark_hf.load_task_dataset(data_root / name, "test"), ark_hf.read_task(data_root / name), processor
            )
            logits, _ = ark_hf.predict_logits([model], samples, 32)
            np.save(folder / f"{name}.npy", ark_hf.mean_probabilities(logits, samples.task))


def run_folder(runs: Path, arm: str, start: str, seed: int) -> Path:
    return runs / f"{arm}-{start}-{seed}"


def encoder_of_imagenet(weights: Path, runs: Path) -> Path:
    """An ark-cxr of ImageNet's weights alone, of the recipe's network."""
    folder, recipe = runs / "imagenet", ark_hf.read_recipe(RECIPE)
    if not (folder / "config.json").exists():
        size = recipe["image_size"]
        model = ark_hf.ArkModel(ark_hf.ArkConfig(backbone=recipe["backbone"], image_size=size, projector_dim=None))
        ark_hf.load_encoder_weights(model.encoder, weights)
        model.save_pretrained(folder)
        ark_hf.ArkImageProcessor(size=size).save_pretrained(folder)
    return folder


# Probes --------------------------------------------------------------------------------------------------------------


def probe(encoder: Path, shots: int | None, seed: int, data_root: Path, runs: Path) -> np.ndarray:
    """
    Probabilities of the test photographs, (images, labels), by logistic regressions on what an encoder gives.

    Args:
        shots: Images of each label to fit on, drawn by the seed; all unless given.
    """
    model, processor = ark_hf.load_ark(str(encoder), ark_hf.ArkModel)
    store = ark_hf.open_store(runs / "embeddings", model, processor, "pooler_output", encoder)
    data = ark_hf.open_dataset(data_root / EYES[0], ["train", "test"])
    found = {}
    for split, rows in data.splits.items():
        keys, _ = ark_hf.embed_rows(model, processor, rows, data.task, store)
        found[split] = store.load(keys)
    targets, patients = data.targets("train"), data.patients("train")
    rows = np.arange(len(targets))
    if shots is not None:
        none_of_them = (targets == 0).all(axis=1, keepdims=True).astype(float)
        rows = ark_hf.rows_per_class(np.concatenate([targets, none_of_them], axis=1), shots, seed)
    fitted = ark_hf.fit_probe(found["train"][rows], targets[rows], [patients[row] for row in rows])
    return fitted.predict(found["test"])


# Results -------------------------------------------------------------------------------------------------------------


def difference(target: str, one: np.ndarray, other: np.ndarray, data_root: Path) -> dict[str, Any]:
    """The paired difference, `one` minus `other`, of probabilities (seeds, images, labels)."""
    data = ark_hf.open_dataset(data_root / target, ["test"])
    columns = [data.task.labels.index(label) for label in EVALUATED.get(target, data.task.labels)]
    truth, patients = data.targets("test")[:, columns], data.patients("test")
    return asdict(ark_hf.compare_seeds(truth, other[..., columns], one[..., columns], patients))


def scores(target: str, arm: str, start: str, runs: Path) -> np.ndarray:
    return np.stack([np.load(run_folder(runs, arm, start, seed) / f"{target}.npy") for seed in SEEDS])


def shortcut(target: str, data_root: Path) -> np.ndarray:
    """What ten global image numbers say of the test images, (seeds, images, labels)."""
    data = ark_hf.open_dataset(data_root / target, ["train", "test"])
    train_set, test = (ark_hf.dataset_statistics(data, split) for split in ("train", "test"))
    return np.stack([ark_hf.shortcut_baseline(train_set, data.targets("train"), test)] * len(SEEDS))


def compare(data_root: Path, weights: Path, runs: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """All differences, by question and by what is compared."""
    both: dict[str, Any] = {}
    for target, start in itertools.product(ALONE, STARTS):
        alone = scores(target, ALONE[target], start, runs)
        for arm in ("cycle", "mixed"):
            pair = difference(target, scores(target, arm, start, runs), alone, data_root)
            both[f"{target}, {start}: {arm} - {ALONE[target]}"] = pair
        pair = difference(target, alone, shortcut(target, data_root), data_root)
        both[f"{target}, {start}: {ALONE[target]} - ten numbers"] = pair
    probes: dict[str, Any] = {}
    imagenet = encoder_of_imagenet(weights, runs)
    for shots in (None, SHOTS):
        seen = functools.partial(probe, shots=shots, data_root=data_root, runs=runs)
        plain = np.stack([seen(imagenet, seed=seed) for seed in SEEDS])
        found = {
            arm: np.stack([seen(run_folder(runs, arm, "imagenet", seed) / "ark-cxr", seed=seed) for seed in SEEDS])
            for arm in ("radiographs", "cycle")
        }
        name = "all images" if shots is None else f"{shots} of each label"
        for one, other in (("radiographs", "imagenet"), ("cycle", "imagenet"), ("cycle", "radiographs")):
            pair = difference(EYES[0], found[one], found.get(other, plain), data_root)
            probes[f"{EYES[0]}, {name}: {one} - {other}"] = pair
    return {"a second modality": both, "probes of photographs": probes}


def table(results: dict[str, dict[str, Any]]) -> str:
    lines = ["| what | AUROC | difference | 95 % interval | differences of the seeds |", "|---|---|---|---|---|"]
    for pairs in results.values():
        for what, pair in pairs.items():
            seeds = " ".join(f"{value:+.3f}" for value in pair["seed_differences"])
            aurocs = f"{pair['auroc_b']:.3f} - {pair['auroc_a']:.3f}"
            interval = f"{pair['ci_low']:+.3f} to {pair['ci_high']:+.3f}"
            lines.append(f"| {what} | {aurocs} | {pair['difference']:+.3f} | {interval} | {seeds} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    data_root, weights, runs = (Path(argument).resolve() for argument in sys.argv[1:4])
    paths = {"data_root": data_root, "weights": weights, "runs": runs}
    os.environ["OMP_NUM_THREADS"] = "1"
    jobs = [(arm, start, seed) for seed in SEEDS for start in STARTS for arm in ARMS]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        list(pool.map(functools.partial(train, **paths), *zip(*jobs, strict=True)))
    results = compare(**paths)
    (runs / "arms.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (runs / "arms.md").write_text(table(results), encoding="utf-8")
    print(table(results))

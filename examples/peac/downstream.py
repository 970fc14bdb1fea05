"""
Is an encoder of PEAC of use on real radiographs? Linear probes, fine-tuning with few labels, and outlines of lungs.

    python examples/peac/downstream.py DATA_ROOT FOLDER MODEL [MODEL ...]

DATA_ROOT holds kermany, nih_multilabel, nih64 and kermany_lungs; README.md beside this file has the commands that
build them. Each MODEL, an ark-cxr without heads, stands beside the same network with random weights, beside those
MODELs after it that have the same network, and the probes beside ten global numbers of the images, too. The test
splits are scored once. Differences are paired, on the same resampled patients. Jobs run side by side, a core each;
running again resumes. Results: downstream.json and downstream.md in FOLDER.
"""

import functools
import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import figures
import numpy as np
import phantoms
import torch

import ark_hf

TARGETS = ("kermany", "nih_multilabel", "nih64")
# The six commonest findings of the NIH sample; the others have a handful of test images
EVALUATED = {"nih_multilabel": ["Atelectasis", "Effusion", "Infiltration", "Pneumonia", "Edema", "No_Finding"]}
TEN_NUMBERS = "ten numbers"
FEW, FEW_TARGETS = 50, ("kermany", "nih_multilabel")  # labelled images, and of what
SEEDS = [0, 1]
FINETUNING: dict[str, Any] = {
    "max_steps": 60, "batch_size": 16, "learning_rate": 1e-3, "min_crop_scale": 0.65, "channels_last": True,
}  # fmt: skip
LUNGS: dict[str, Any] = {
    "decoder_channels": 64, "learning_rate": 2e-3, "batch_size": 16, "eval_steps": 50, "min_crop_scale": 0.5,
    "channels_last": True,
}  # fmt: skip
LUNG_IMAGES = {25: 150, 521: 400}  # training images, and steps


# What is compared -------------------------------------------------------------------------------------------------


def starts(models: list[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """By name what training starts from, and which network: the models, and random weights of each architecture."""
    found = {}
    for model in models:
        config = ark_hf.ArkConfig.from_pretrained(model)
        network = {"image_size": config.image_size, "drop_path_rate": 0.0}
        fresh = {"backbone": config.backbone, "backbone_kwargs": config.backbone_kwargs, "projector_dim": None}
        found[figures.shown_name(model)] = model, network
        found[random_weights(model)] = "none", network | fresh
    return found


def check(models: list[str]) -> None:
    """Ends the script if a folder holds no model, two have one name, or two one backbone in different shapes."""
    names, shapes = [figures.shown_name(model) for model in models], {}
    if len(set(names)) < len(names):
        raise SystemExit("The models' folders must have different names.")
    for model in models:
        if not Path(model, "config.json").is_file():
            raise SystemExit(f"{model} holds no model: name the folder ark-cxr of a run.")
        config = ark_hf.ArkConfig.from_pretrained(model)
        shape = config.backbone_kwargs, config.image_size
        if shapes.setdefault(config.backbone, shape) != shape:
            raise SystemExit(
                f"{model} has another size or other backbone_kwargs than a model before it: run them apart."
            )


def random_weights(model: str) -> str:
    """The name of a model's network with random weights."""
    return f"random {ark_hf.ArkConfig.from_pretrained(model).backbone}"


def rivals(model: str, models: list[str]) -> list[str]:
    """Names of what a model is compared with: random weights, and the later models of its network."""
    later = models[models.index(model) + 1 :]
    alike = [figures.shown_name(each) for each in later if random_weights(each) == random_weights(model)]
    return [random_weights(model), *alike]


# Linear probes ----------------------------------------------------------------------------------------------------


def probe(models: list[str], target: str, data_root: Path, folder: Path) -> list[dict[str, Any]]:
    """Of each model the test AUROC of a linear probe, and what it has over others and over ten numbers."""
    torch.set_num_threads(1)
    data = ark_hf.open_dataset(data_root / target, ["train", "test"])
    names, patients = data.task.labels, data.patients("test")
    columns = [names.index(label) for label in EVALUATED.get(target, names)]
    truth = data.targets("test")[:, columns]
    statistics = [ark_hf.dataset_statistics(data, split) for split in ("train", "test")]
    scores = {TEN_NUMBERS: ark_hf.shortcut_baseline(statistics[0], data.targets("train"), statistics[1])}
    for model in models:
        network, processor = ark_hf.load_ark(model, ark_hf.ArkModel)
        for name, weights in (
            (figures.shown_name(model), network),
            (random_weights(model), phantoms.untrained(network)),
        ):
            store = ark_hf.open_store(folder / "embeddings", weights, processor, "pooler_output", model)
            found = {}
            for split, rows in data.splits.items():
                keys, _ = ark_hf.embed_rows(weights, processor, rows, data.task, store)
                found[split] = store.load(keys)
            fitted = ark_hf.fit_probe(found["train"], data.labels("train"), data.patients("train"), len(names))
            scores[name] = fitted.predict(found["test"])
    return [
        {"target": target, "images": len(truth), "model": figures.shown_name(model), "other": other}
        | asdict(
            ark_hf.compare_seeds(
                truth, *(scores[each][None][..., columns] for each in (other, figures.shown_name(model))), patients
            )
        )
        for model in models
        for other in [TEN_NUMBERS, *rivals(model, models)]
    ]


# Few labels, and lungs --------------------------------------------------------------------------------------------


def tune(start: str, target: str, seed: int, models: list[str], data_root: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    init, network = starts(models)[start]
    run = folder / "few" / f"{target}-{slug(start)}-{seed}"
    args = ark_hf.FinetuningArguments(str(run), images=FEW, seeds=[seed], **FINETUNING, **network)
    ark_hf.finetune(init, str(data_root / target), args)


def outline(start: str, images: int, models: list[str], data_root: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    init, network = starts(models)[start]
    run = folder / "lungs" / f"{images}-{slug(start)}"
    args = ark_hf.FinetuningArguments(str(run), images=images, max_steps=LUNG_IMAGES[images], **LUNGS, **network)
    ark_hf.finetune(init, str(data_root / "kermany_lungs"), args)


def slug(start: str) -> str:
    return start.replace("/", "_").replace(" ", "-")


def compare_few(models: list[str], target: str, data_root: Path, folder: Path) -> list[dict[str, Any]]:
    """Test AUROCs of models and others, fine-tuned alike, over the seeds."""
    patients = ark_hf.open_dataset(data_root / target, ["test"]).patients("test")
    scores = {}
    for start in starts(models):
        runs = [folder / "few" / f"{target}-{slug(start)}-{seed}" / f"seed-{seed}" for seed in SEEDS]
        saved = [np.load(run / "test_predictions.npz") for run in runs]
        names = saved[0]["labels"].tolist()
        columns = [names.index(label) for label in EVALUATED.get(target, names)]
        truth = saved[0]["targets"][:, columns]
        scores[start] = np.stack([each["probabilities"][:, columns] for each in saved])
    return [
        {"target": target, "model": figures.shown_name(model), "other": other}
        | asdict(ark_hf.compare_seeds(truth, scores[other], scores[figures.shown_name(model)], patients))
        for model in models
        for other in rivals(model, models)
    ]


def compare_lungs(models: list[str], images: int, data_root: Path, folder: Path) -> list[dict[str, Any]]:
    """Test Dice of models and others, fine-tuned alike."""
    data = ark_hf.open_dataset(data_root / "kermany_lungs", ["test"])
    names, patients = data.task.labels, data.patients("test")
    dice = {
        start: np.load(folder / "lungs" / f"{images}-{slug(start)}" / "seed-0" / "test_predictions.npz")["dice"]
        for start in starts(models)
    }
    rows = []
    for model in models:
        for other in rivals(model, models):
            pair = dice[other], dice[figures.shown_name(model)]
            means = [ark_hf.overlap_results(names, each, patients)[-1].mean for each in pair]
            gained = asdict(ark_hf.compare_overlap(names, *pair, patients)[-1])
            rows.append({"images": images, "model": figures.shown_name(model), "other": other, "dice": means} | gained)
    return rows


# All together -----------------------------------------------------------------------------------------------------


def report(results: dict[str, list[dict[str, Any]]]) -> str:
    """The tables as Markdown."""
    parts = []
    for title, key in (
        ("AUROC of a linear probe", "probes"),
        (f"AUROC after fine-tuning on {FEW} images", "few labels"),
    ):
        lines = [f"{title}:", "", "| test set | model | | other | | difference |", "|---|---|---|---|---|---|"]
        for row in results[key]:
            cells = [row["target"], row["model"], f"{row['auroc_b']:.3f}", row["other"], f"{row['auroc_a']:.3f}"]
            lines.append(f"| {' | '.join([*cells, gain(row)])} |")
        parts.append("\n".join(lines))
    lines = [
        "Dice of the lungs:",
        "",
        "| training images | model | | other | | difference |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["lungs"]:
        cells = [str(row["images"]), row["model"], f"{row['dice'][1]:.3f}", row["other"], f"{row['dice'][0]:.3f}"]
        lines.append(f"| {' | '.join([*cells, gain(row)])} |")
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"


def gain(found: dict[str, Any]) -> str:
    return f"{found['difference']:+.3f} ({found['ci_low']:+.3f} to {found['ci_high']:+.3f})"


def main(data_root: Path, folder: Path, models: list[str]) -> None:
    check(models)
    os.environ["OMP_NUM_THREADS"] = "1"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"data_root": data_root, "folder": folder}
    jobs: list[Callable] = [
        functools.partial(tune, start, target, seed, models, **paths)
        for target in FEW_TARGETS
        for start in starts(models)
        for seed in SEEDS
    ]
    jobs += [
        functools.partial(outline, start, images, models, **paths)
        for images in LUNG_IMAGES
        for start in starts(models)
    ]
    probes: list[dict[str, Any]] = []
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        probing = [pool.submit(probe, models, target, **paths) for target in TARGETS]
        tuning = [pool.submit(job) for job in jobs]
        for each in probing:
            probes += each.result()
        for each in tuning:
            each.result()
    results = {
        "probes": probes,
        "few labels": [row for target in FEW_TARGETS for row in compare_few(models, target, **paths)],
        "lungs": [row for images in LUNG_IMAGES for row in compare_lungs(models, images, **paths)],
    }
    (folder / "downstream.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "downstream.md").write_text(report(results), encoding="utf-8")
    print(report(results))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])

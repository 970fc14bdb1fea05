"""
What is a PEAC encoder worth on labelled radiographs? Linear probes, and few labels or masks, beside other starts.

    python examples/peac/downstream.py MODEL DATA_ROOT RUNS [WEIGHTS]

MODEL is the ark-cxr of a run of PEAC. DATA_ROOT holds the sets of examples/real_radiographs: `kermany`,
`nih_multilabel` and `nih64`, and with masks `kermany_lungs`. Probes of MODEL's encoder stand beside those of the same
one with random weights and beside what ten global image numbers reach. Fine-tuned on few images, it stands beside
random weights and, if they are given, beside ImageNet's WEIGHTS of the same architecture: with the same settings and
steps, the weights of the best validation score, and a test split that is scored once. Differences are paired, on the
same resampled patients. Running again resumes. Results: downstream.json and downstream.md in RUNS.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import phantoms

import ark_hf

# Labels that are probed, all unless named; the others of NIH's sample have a handful of test images
PROBED = {
    "kermany": None,
    "nih_multilabel": ["Atelectasis", "Effusion", "Infiltration", "Pneumonia", "Edema", "No_Finding"],
    "nih64": None,
}
SHORTCUT, MASKS = "ten numbers", "kermany_lungs"
IMAGES = {"kermany": 50, MASKS: 25}  # that are trained on
TUNING: dict[str, Any] = {
    "max_steps": 150, "batch_size": 16, "learning_rate": 1e-3, "eval_steps": 50, "min_crop_scale": 0.5,
    "drop_path_rate": 0.0,
}  # fmt: skip


def main(model: str, data_root: str, folder: str, weights: str | None = None) -> None:
    root, runs = Path(data_root), Path(folder)
    results = {
        "linear probes": {name: probe(model, root / name, labels) for name, labels in PROBED.items()},
        "fine-tuned": {name: tune(model, root / name, images, runs, weights) for name, images in IMAGES.items()},
    }
    runs.mkdir(parents=True, exist_ok=True)
    (runs / "downstream.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    page = "\n".join(table(title, found) for title, found in results.items())
    (runs / "downstream.md").write_text(page, encoding="utf-8")
    print(page)


def probe(model: str, dataset: Path, labels: list[str] | None) -> list[dict[str, Any]]:
    """MODEL's probe beside that of random weights and that of ten global image numbers."""
    network, processor = ark_hf.load_ark(model, ark_hf.ArkModel)
    data = ark_hf.open_dataset(dataset, ["train", "test"])
    columns = [data.task.labels.index(label) for label in labels or data.task.labels]
    scores = {}
    for name, encoder in {"peac": network, "random": phantoms.untrained(network)}.items():
        train, test = (
            ark_hf.dense_features(encoder, processor, data.splits[split]["image"], description=f"{name}, {split}")
            .mean(axis=(1, 2))
            for split in ("train", "test")
        )  # fmt: skip
        fitted = ark_hf.fit_probe(train, data.labels("train"), data.patients("train"), len(data.task.labels))
        scores[name] = fitted.predict(test)
    statistics = [ark_hf.dataset_statistics(data, split) for split in ("train", "test")]
    scores[SHORTCUT] = ark_hf.shortcut_baseline(statistics[0], data.targets("train"), statistics[1])
    targets, patients = data.targets("test")[:, columns], data.patients("test")
    return compare({name: each[:, columns] for name, each in scores.items()}, targets, patients)


def compare(scores: dict[str, np.ndarray], targets: np.ndarray, patients: list | None) -> list[dict[str, Any]]:
    """PEAC's scores beside each of the others."""
    pairs = {
        name: ark_hf.compare_seeds(targets, each[None], scores["peac"][None], patients)
        for name, each in scores.items()
        if name != "peac"
    }
    return [
        {"beside": name, "images": len(targets), "score": "AUROC", "peac": each.auroc_b, "other": each.auroc_a}
        | {"difference": each.difference, "ci_low": each.ci_low, "ci_high": each.ci_high}
        for name, each in pairs.items()
    ]


def tune(model: str, dataset: Path, images: int, runs: Path, weights: str | None) -> list[dict[str, Any]]:
    """MODEL fine-tuned on few images beside the other starts: AUROC, or Dice where there are masks."""
    network, _ = ark_hf.load_ark(model, ark_hf.ArkModel)
    config = network.config
    own = {"backbone": config.backbone, "backbone_kwargs": config.backbone_kwargs, "image_size": config.image_size}
    starts = {"peac": model, "random": "none"} | ({"imagenet": weights} if weights else {})
    found = {}
    for name, init in starts.items():
        folder = runs / f"{dataset.name}-{name}"
        settings = {**TUNING, **own, "images": images, "projector_dim": None}
        if dataset.name == MASKS:
            settings |= {"decoder_type": "fpn", "decoder_channels": 64}
        ark_hf.finetune(init, str(dataset), ark_hf.FinetuningArguments(str(folder), **settings))
        found[name] = dict(np.load(folder / "seed-0" / "test_predictions.npz"))
    data = ark_hf.open_dataset(dataset, ["test"])
    patients = data.patients("test")
    if dataset.name != MASKS:
        return compare({name: each["probabilities"] for name, each in found.items()}, data.targets("test"), patients)
    pairs = {
        name: ark_hf.compare_overlap(data.task.labels, each["dice"], found["peac"]["dice"], patients)[-1]
        for name, each in found.items()
        if name != "peac"
    }
    return [
        {"beside": name, "images": each.num_defined, "score": "Dice", "peac": each.mean_b, "other": each.mean_a}
        | {"difference": each.difference, "ci_low": each.ci_low, "ci_high": each.ci_high}
        for name, each in pairs.items()
    ]


def table(title: str, results: dict[str, list[dict[str, Any]]]) -> str:
    lines = [f"## {title}", "", "| test set | score | peac | beside | its score | peac less it | 95 % interval |"]
    lines += [f"|{'---|' * 7}"]
    for name, pairs in results.items():
        for pair in pairs:
            cells = [f"{name} ({pair['images']})", pair["score"], f"{pair['peac']:.3f}", pair["beside"]]
            cells += [f"{pair['other']:.3f}", f"{pair['difference']:+.3f}"]
            cells += [f"{pair['ci_low']:+.3f} to {pair['ci_high']:+.3f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])

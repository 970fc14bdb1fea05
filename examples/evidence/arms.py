"""What the evidence trains: each function does one job with one thread, and does nothing if its result is there."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

import ark_hf

CYCLES = 20
UNSEEN = "phantom_lake"
# Those of `ark-hf demo`, at fewer pixels
TRAINING: dict[str, Any] = {
    "backbone": "test_resnet",
    "image_size": 64,
    "projector_dim": 128,
    "drop_path_rate": 0.0,
    "batch_size": 32,
    "optim": "adamw",
    "learning_rate": 2e-3,
    "ema_mode": "iteration",
    "consistency": 0.1,
    "min_crop_scale": 0.7,
    "save_steps": 10**6,
}
# By arm: the sites, and what differs from TRAINING. "only" has as many steps on its site as Ark has on all of them
# together, "passes" as many passes over the site's images as Ark has.
PRETRAINED: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "ark": (tuple(ark_hf.PHANTOM_SITES), {}),
    "no_consistency": (tuple(ark_hf.PHANTOM_SITES), {"consistency": 0.0}),
    "concurrent": (tuple(ark_hf.PHANTOM_SITES), {"strategy": "concurrent"}),
    "single_head": (tuple(ark_hf.PHANTOM_SITES), {"strategy": "single_head"}),
    "without_unseen": (tuple(site for site in ark_hf.PHANTOM_SITES if site != UNSEEN), {}),
    **{f"only_{site}": ((site,), {"cycles": CYCLES * len(ark_hf.PHANTOM_SITES)}) for site in ark_hf.PHANTOM_SITES},
    **{f"passes_{site}": ((site,), {}) for site in ark_hf.PHANTOM_SITES},
}
# Of these, what fine-tuning and training from scratch have too
SHARED_SETTINGS = ("backbone", "image_size", "projector_dim", "drop_path_rate", "min_crop_scale")
SHOTS = (1, 5, 20, 50)
TUNED = ("teacher", "scratch")
SEARCH_SHOTS = 20  # the number of images a label at which the learning rate is chosen
RATES = (5e-4, 2e-3)


def pretrain(arm: str, seed: int, sites: dict[str, Path], runs: Path) -> None:
    """Trains one arm and saves its test probabilities on each site that it can be tested on."""
    folder = runs / "pretrained" / f"{arm}-{seed}"
    if (folder / "scores.npz").exists():
        return
    torch.set_num_threads(1)
    names, settings = PRETRAINED[arm]
    args = ark_hf.PretrainingArguments(output_dir=str(folder), seed=seed, **{"cycles": CYCLES, **TRAINING, **settings})
    specs = [ark_hf.TaskSpec(str(sites[name]), uncertain="lsr_ones") for name in names]
    ark_hf.pretrain(args, specs)
    tested = [UNSEEN] if arm == "without_unseen" else names
    np.savez(folder / "scores.npz", **{name: probabilities(folder / "ark-cxr", sites[name]) for name in tested})


def probabilities(model_folder: Path, site: Path) -> np.ndarray:
    """
    Test probabilities of a site's labels, float64 (images, labels): from its own head, from the columns of those names
    in a merged head, or else from the heads that know them by a synonym.
    """
    model, processor = ark_hf.load_ark(str(model_folder))
    task, tasks = ark_hf.read_task(site), {each.name: each for each in model.config.tasks}
    samples = ark_hf.InferenceSamples(ark_hf.load_task_dataset(site, "test"), task, processor)
    if task.name in tasks:
        return ark_hf.mean_probabilities(ark_hf.predict_logits([model], samples, 64)[0], task)
    logits, _ = ark_hf.predict_logits([model], samples, 64, all_heads=True)
    every = ark_hf.mean_probabilities(logits, model.config)
    if "merged" in tasks:
        columns = [ark_hf.normalise_label(label) for label in tasks["merged"].labels]
        return every[:, [columns.index(ark_hf.normalise_label(label)) for label in task.labels]]
    unmatched = np.full(len(every), np.nan)
    matches = ark_hf.match_dataset(task, model.config.tasks, ark_hf.read_synonyms())
    scores = [
        ark_hf.zero_shot_scores(every, found, model.config.tasks) if found else unmatched for found in matches.values()
    ]
    return np.stack(scores, axis=1)


def tune(method: str, shots: int, rate: float, seed: int, sites: dict[str, Path], runs: Path, test: bool) -> float:
    """Fine-tunes a teacher that never saw the site, or trains from scratch, on few images; the validation AUROC."""
    torch.set_num_threads(1)
    start = "none" if method == "scratch" else str(runs / "pretrained" / f"without_unseen-{seed}" / "ark-cxr")
    args = ark_hf.FinetuningArguments(
        str(tuned_folder(runs, method, shots, rate, seed)),
        **{
            key: TRAINING[key]
            for key in ("backbone", "image_size", "projector_dim", "drop_path_rate", "min_crop_scale")
        },
        per_class=shots,
        max_steps=100,
        eval_steps=20,
        learning_rate=rate,
        seeds=[seed],
        test=test,
        bootstrap=0,
    )
    return ark_hf.finetune(start, str(sites[UNSEEN]), args)["seeds"][0]["validation"]["mean_auroc"]


def tuned_folder(runs: Path, method: str, shots: int, rate: float, seed: int) -> Path:
    return runs / "few_shot" / f"{method}-{shots}-{rate:g}-{seed}"


def probe(seed: int, sites: dict[str, Path], runs: Path) -> None:
    """Linear probes on the embeddings of a teacher that never saw the site, for each number of images a class."""
    path = runs / "few_shot" / f"probe-{seed}.npz"
    if path.exists():
        return
    torch.set_num_threads(1)
    folder = runs / "pretrained" / f"without_unseen-{seed}" / "ark-cxr"
    model, processor = ark_hf.load_ark(str(folder), ark_hf.ArkModel)
    store = ark_hf.open_store(runs / "embeddings", model, processor, "pooler_output", folder)
    task = ark_hf.read_task(sites[UNSEEN])
    rows = {split: ark_hf.load_task_dataset(sites[UNSEEN], split) for split in ("train", "test")}
    features = {
        split: store.load(ark_hf.embed_rows(model, processor, each, task, store)[0]) for split, each in rows.items()
    }
    labels = np.stack([ark_hf.resolve_labels(each, task) for each in rows["train"]["labels"]])
    patients = np.array(rows["train"]["patient_id"][:])
    scores = {}
    for shots in SHOTS:
        chosen = ark_hf.rows_per_class(labels, shots, seed)
        fitted = ark_hf.fit_probe(features["train"][chosen], labels[chosen], patients[chosen].tolist())
        scores[str(shots)] = fitted.predict(features["test"])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **scores)

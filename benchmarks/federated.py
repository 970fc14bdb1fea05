"""
What a federation gains over each site alone, and what it loses against all images in one place, on drawn sites.

Three phantom sites have one label space, with patients and scanners of their own. Of two others, whose patients are
children, one has another label space: two of the same findings by other names, and a third that nobody else labels;
the other asks another question, which of three classes it is. A scenario says which take part, with how many training
images. By the same settings, for as many cycles, each seed trains the federation, each site alone, and all sites in
one place, which is Ark itself. On a site's test images are scored the master with the site's own head, and of the
others the student or the teacher: that which is better on the validation splits, over all sites and seeds of the
scenario.

A difference is one of mean AUROCs over a site's labels, averaged over the seeds, with the 95 % interval of a paired
bootstrap: all models are scored on the same resampled test patients. Beside it stands the AUROC of a logistic
regression on ten global image statistics, fitted on the site's training images.

Jobs run side by side, a core each, about an hour on two; the same command resumes. Phantom data is drawn, not
measured, and no evidence about patients.
"""

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

import ark_hf

LABELS = ("Effusion", "Cardiomegaly", "Nodule")
CHILDREN: dict[str, Any] = {"ages": (1, 17), "ap_share": 0.8, "aspect": 1.15, "blur": 0.5, "noise": 0.03}
SITES = {
    site.name: site
    for site in (
        ark_hf.PhantomSite("north", LABELS, unknown=0.04),
        ark_hf.PhantomSite("east", LABELS, ages=(40, 95), ap_share=0.6, noise=0.025, wires=0.6),
        ark_hf.PhantomSite("west", LABELS, aspect=0.9, contrast=0.75, blur=1.2),
        ark_hf.PhantomSite("coast", ("Pleural Effusion", "Enlarged Heart", "Pneumothorax"), **CHILDREN),
        ark_hf.PhantomSite("south", ("normal", "bacterial", "viral"), "single_label_classification", **CHILDREN),
    )
}
# By scenario: the sites, and the training images of each
SCENARIOS = {
    "equal sites": {"north": 100, "east": 100, "west": 100},
    "unequal sites": {"north": 200, "east": 100, "west": 40},
    "another label space": {"north": 100, "east": 100, "coast": 100},
    "another question": {"north": 100, "east": 100, "south": 100},
}
HELD_OUT = {"validation": 30, "test": 400}
PIXELS = 80
SEEDS = (1, 2, 3)
ROUNDS = 40  # of one cycle
# Those of `ark-hf demo`, at fewer pixels, in smaller batches, as there are fewer images, and at a higher rate: the
# average of sites moves less than each of them
TRAINING: dict[str, Any] = {
    "backbone": "test_resnet",
    "image_size": 64,
    "projector_dim": 128,
    "drop_path_rate": 0.0,
    "batch_size": 8,
    "optim": "adamw",
    "learning_rate": 5e-3,
    "ema_mode": "iteration",
    "consistency": 0.1,
    "min_crop_scale": 0.7,
    # Each image is drawn by itself; of so many small ones a few come out nearly alike
    "allow_shared_images": True,
}
ROLES = {"student": "student", "teacher": "ark-cxr"}  # and the folder of each in that of a run
LEAST_GAIN, GREATEST_LOSS = -0.01, 0.02
RESAMPLES = 2000
RESULTS = Path(__file__).parent / "results" / "federated.json"
FIGURE = Path(__file__).parents[1] / "docs" / "federated.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the sites and runs; the same folder resumes")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results (results/federated.json)")
    parser.add_argument("--figure", type=Path, default=FIGURE, help="file of the figure (docs/federated.png)")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    for name, images in sorted({site for sites in SCENARIOS.values() for site in sites.items()}):
        build_site(args.runs, name, images)
    jobs: list[partial] = []
    for seed in SEEDS:
        for scenario, sites in SCENARIOS.items():
            jobs += [partial(federate, args.runs, scenario, seed), partial(pretrain, args.runs, sites, seed)]
            jobs += [partial(pretrain, args.runs, {name: images}, seed) for name, images in sites.items()]
    unique = {(job.func.__name__, str(job.args)): job for job in jobs}
    with ProcessPoolExecutor(
        os.cpu_count(), multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)
    ) as pool:
        for done in [pool.submit(job) for job in unique.values()]:
            done.result()
    results = {
        "scenarios": {scenario: compare(args.runs, sites, scenario) for scenario, sites in SCENARIOS.items()},
        "settings": {
            "seeds": SEEDS, "rounds": ROUNDS, "held_out": HELD_OUT, "resamples": RESAMPLES, "training": TRAINING,
        },
    }  # fmt: skip
    print_table(results["scenarios"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results["scenarios"], args.figure)
    print(f"Written to {args.out} and {args.figure}.")


def site_folder(runs: Path, name: str, images: int) -> Path:
    return runs / "sites" / f"{name}-{images}"


def build_site(runs: Path, name: str, images: int) -> None:
    """Draws the site's task dataset; fewer training images are the first of more, what is held out is the same."""
    if site_folder(runs, name, images).is_dir():
        return
    site, rows = SITES[name], []
    for split, count in {"train": images, **HELD_OUT}.items():
        for index in range(count):
            told = ark_hf.describe_phantom_image(site, split, index)
            labels, image_id = told.pop("labels"), told.pop("sample_id")
            rows.append(
                ark_hf.Row(f"{split} image {index}", Path(str(index)), split, labels, {"image_id": image_id, **told})
            )

    def read(row: ark_hf.Row) -> np.ndarray:
        return np.asarray(ark_hf.draw_phantom_image(site, row.split, int(row.path.name), PIXELS)["image"])[None]

    task = ark_hf.ArkTask(name, list(site.labels), site.problem_type)
    release = ark_hf.Release(task, rows, facts={"phantom": True}, read_image=read)
    ark_hf.build_dataset(release, site_folder(runs, name, images), PIXELS, num_workers=1)


def federation_folder(runs: Path, scenario: str, seed: int) -> Path:
    return runs / f"federation-{scenario.replace(' ', '-')}-{seed}"


def pretraining_folder(runs: Path, sites: dict[str, int], seed: int) -> Path:
    return runs / "-".join(["pretraining", *(f"{name}-{images}" for name, images in sites.items()), str(seed)])


def federate(runs: Path, scenario: str, seed: int) -> None:
    folder = federation_folder(runs, scenario, seed)
    if (folder / "report.json").exists():
        return
    args = ark_hf.FederatedArguments(
        output_dir=str(folder), rounds=ROUNDS, cycles_per_round=1, sites_at_once=1, seed=seed, **TRAINING
    )
    sites = [
        ark_hf.SiteSpec(name, [ark_hf.TaskSpec(str(site_folder(runs, name, images)))])
        for name, images in SCENARIOS[scenario].items()
    ]
    ark_hf.federate(args, sites)


def pretrain(runs: Path, sites: dict[str, int], seed: int) -> None:
    """All the given sites in one place; a single one is a site alone."""
    folder = pretraining_folder(runs, sites, seed)
    args = ark_hf.PretrainingArguments(output_dir=str(folder), cycles=ROUNDS, save_steps=10**6, seed=seed, **TRAINING)
    tasks = [ark_hf.TaskSpec(str(site_folder(runs, name, images))) for name, images in sites.items()]
    ark_hf.pretrain(args, tasks)


def compare(runs: Path, sites: dict[str, int], scenario: str) -> dict[str, Any]:
    """Of each site AUROCs, gain and loss; and the means over the sites."""
    alone = {
        name: [pretraining_folder(runs, {name: images}, seed) for seed in SEEDS] for name, images in sites.items()
    }
    pooled = [pretraining_folder(runs, sites, seed) for seed in SEEDS]
    roles = {"alone": better_role(folder for each in alone.values() for folder in each), "pooled": better_role(pooled)}
    found, resampled = {}, []
    for number, (name, images) in enumerate(sites.items()):
        dataset = site_folder(runs, name, images)
        federations = [federation_folder(runs, scenario, seed) / "sites" / name for seed in SEEDS]
        models = {
            "alone": [folder / ROLES[roles["alone"]] for folder in alone[name]],
            "master": [folder / "master" for folder in federations],
            "pooled": [folder / ROLES[roles["pooled"]] for folder in pooled],
            "site's teacher": [folder / "ark-cxr" for folder in federations],
        }
        data = ark_hf.open_dataset(dataset, ["train", "test"])
        labels, patients = data.targets("test"), data.patients("test")
        scores = {way: [probabilities(model, dataset) for model in each] for way, each in models.items()}
        train, test = (ark_hf.dataset_statistics(data, split) for split in ("train", "test"))
        scores["ten numbers"] = [ark_hf.shortcut_baseline(train, data.targets("train"), test)]
        # (1 + resamples, seeds): the mean AUROC over labels, first as it is
        table = {
            way: np.stack([mean_aurocs(labels, each, patients, number) for each in of_seeds], axis=1)
            for way, of_seeds in scores.items()
        }
        found[name] = {"images": images, **figures(table)}
        resampled.append(table)
    # Sites share no patients, and their resamples are drawn apart
    whole = {way: np.mean([table[way] for table in resampled], axis=0) for way in resampled[0]}
    return {"roles": roles, "sites": found, "mean": figures(whole)}


def better_role(folders: Iterable[Path]) -> str:
    """Student or teacher, by the mean AUROC of the runs' last validations."""
    last = [json.loads((folder / "metrics.json").read_text())["history"][-1]["validation"] for folder in folders]
    return max(ROLES, key=lambda role: np.mean([each[role]["mean_auroc"] for each in last]))


def probabilities(model_folder: Path, dataset: Path) -> np.ndarray:
    """Of the test images, (images, labels), by the head of the dataset's name."""
    model, processor = ark_hf.load_ark(str(model_folder))
    task = ark_hf.read_task(dataset)
    samples = ark_hf.InferenceSamples(ark_hf.load_task_dataset(dataset, "test"), task, processor)
    return ark_hf.mean_probabilities(ark_hf.predict_logits([model], samples, 64)[0], task)


def mean_aurocs(labels: np.ndarray, scores: np.ndarray, patients: list, seed: int) -> np.ndarray:
    """(1 + resamples,) means over the labels: of the images as they are, then of each resample of the patients."""
    whole = [ark_hf.auroc(*column) for column in zip(labels.T, scores.T, strict=True)]
    return np.vstack([whole, ark_hf.bootstrap_aurocs(labels, scores, patients, RESAMPLES, seed)]).mean(axis=1)


def figures(table: dict[str, np.ndarray]) -> dict[str, Any]:
    """AUROCs, and the differences with intervals, of (1 + resamples, seeds) AUROCs a way of training."""
    return {
        "auroc": {way: float(values[0].mean()) for way, values in table.items()},
        "gain": difference(table["master"] - table["alone"]),
        "loss": difference(table["pooled"] - table["master"]),
    }


def difference(values: np.ndarray) -> dict[str, Any]:
    over_seeds = values.mean(axis=1)
    low, high = np.percentile(over_seeds[1:], [2.5, 97.5]).tolist()
    return {"mean": float(over_seeds[0]), "low": low, "high": high, "seeds": values[0].tolist()}


def print_table(scenarios: dict[str, Any]) -> None:
    ways = ("alone", "master", "pooled", "site's teacher", "ten numbers")
    columns = ["site", "images", *ways, "master - alone", "pooled - master"]
    for scenario, found in scenarios.items():
        print(f"\n{scenario} (alone: {found['roles']['alone']}, pooled: {found['roles']['pooled']})\n")
        print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for name, each in [*found["sites"].items(), ("mean", found["mean"])]:
            aurocs = [f"{each['auroc'][way]:.3f}" for way in ways]
            cells = [name, str(each.get("images", "")), *aurocs, shown(each["gain"]), shown(each["loss"])]
            print(f"| {' | '.join(cells)} |")
    for scenario, found in scenarios.items():
        print(f"\n{scenario}:")
        for goal, met in goals(found).items():
            print(f"- {goal}: {'met' if met else 'missed'}")


def shown(found: dict[str, Any]) -> str:
    return f"{found['mean']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"


def goals(found: dict[str, Any]) -> dict[str, bool]:
    """What a scenario is to show, and whether it does."""
    sites = list(found["sites"].values())
    return {
        f"gain of each site, lower bound above {LEAST_GAIN}": all(site["gain"]["low"] > LEAST_GAIN for site in sites),
        "gain in the mean over the sites above 0": found["mean"]["gain"]["mean"] > 0,
        f"loss of each site, upper bound at most {GREATEST_LOSS}": all(
            site["loss"]["high"] <= GREATEST_LOSS for site in sites
        ),
    }


def draw(scenarios: dict[str, Any], path: Path) -> None:
    """Gain and loss of each site with their intervals, a panel a scenario; dotted: the bounds to keep."""
    kinds = {"gain": ("master - alone", "C0", LEAST_GAIN), "loss": ("pooled - master", "C1", GREATEST_LOSS)}
    drawn, panels = plt.subplots(1, len(scenarios), figsize=(11, 3), sharex=True, layout="constrained")
    for axes, (scenario, found) in zip(panels, scenarios.items(), strict=True):
        rows = {f"{name}, {each['images']}": each for name, each in found["sites"].items()} | {"mean": found["mean"]}
        heights = np.arange(len(rows))[::-1]
        for offset, (kind, (label, colour, bound)) in zip((0.12, -0.12), kinds.items(), strict=True):
            means, low, high = (np.array([row[kind][key] for row in rows.values()]) for key in ("mean", "low", "high"))
            axes.errorbar(
                means,
                heights + offset,
                xerr=[means - low, high - means],
                fmt="o",
                color=colour,
                capsize=3,
                label=label,
            )
            axes.axvline(bound, color=colour, lw=1, ls=":")
        axes.axvline(0, color="grey", lw=1)
        axes.set_yticks(heights, rows)
        axes.set(title=scenario, xlabel="difference of AUROCs")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=110)
    plt.close(drawn)


if __name__ == "__main__":
    main()

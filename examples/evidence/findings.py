"""What the runs show: the comparisons, and the page and figures that tell of them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import arms
import matplotlib.pyplot as plt
import numpy as np
import planted_bias
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sites import BIASED_COUNTS, COUNTS

from ark_hf import PHANTOM_SITES, compare_seeds, open_dataset

# By claim: how it is said, the arm that it is made of and the one that it is made against
CLAIMS = {
    "many_sites": ("Many sites, a head each, beat each site alone, at equal steps.", "ark", "only"),
    "many_sites_passes": ("The same, at equal passes over the images of each site.", "ark", "passes"),
    "cycles": ("One site after another, in cycles, beats batches that mix them.", "ark", "concurrent"),
    "heads": ("A head a site beats one head of the merged label list.", "ark", "single_head"),
    "consistency": ("Holding the student's embeddings close to the teacher's helps.", "ark", "no_consistency"),
}
SINGLE_SITE = ("only", "passes")  # these are one model a site


def collect(
    built: dict[str, Path], runs: Path, seeds: tuple[int, ...], rates: dict[str, float], transfer: Path | None
) -> dict[str, Any]:
    """All comparisons, ready for JSON."""
    labels, patients = stack_labels(built)
    claims = {}
    for claim, (_, arm, other) in CLAIMS.items():
        scores = [stack_scores(runs, each, seeds) for each in (other, arm)]
        claims[claim] = asdict(compare_seeds(labels, *scores, patients))
    unseen = test_labels(built[arms.UNSEEN])
    return {
        "seeds": list(seeds),
        "images": {"sites": COUNTS, "biased": BIASED_COUNTS},
        "cycles": arms.CYCLES,
        "training": arms.TRAINING,
        "claims": claims,
        "few_shot": {"learning_rates": rates, "shots": few_shot(unseen, runs, seeds, rates)},
        "zero_shot": zero_shot(unseen, runs, seeds),
        "planted_bias": planted_bias.collect(runs),
        "real": None if transfer is None else json.loads(transfer.read_text(encoding="utf-8")),
    }


def test_labels(site: Path) -> tuple[np.ndarray, list[str], list[str]]:
    """Test labels (images, labels) in 0, 1, NaN; the patients; the labels' names."""
    data = open_dataset(site, ["test"])
    return data.targets("test"), data.patients("test"), data.task.labels


def stack_labels(built: dict[str, Path]) -> tuple[np.ndarray, list[str]]:
    """The test labels of all sites as one table, unknown where a site does not have a label; and the patients."""
    tables = [test_labels(built[site]) for site in PHANTOM_SITES]
    return stack([table for table, _, _ in tables], np.nan), [patient for _, each, _ in tables for patient in each]


def stack(tables: list[np.ndarray], empty: float) -> np.ndarray:
    """Tables along the diagonal of one, (sum of rows, sum of columns), `empty` elsewhere."""
    whole = np.full(np.sum([table.shape for table in tables], axis=0), empty)
    row = column = 0
    for table in tables:
        whole[row : row + table.shape[0], column : column + table.shape[1]] = table
        row, column = row + table.shape[0], column + table.shape[1]
    return whole


def stack_scores(runs: Path, arm: str, seeds: tuple[int, ...]) -> np.ndarray:
    """An arm's test probabilities (seeds, images, labels) in the table of [`stack_labels`]."""
    models = {site: f"{arm}_{site}" if arm in SINGLE_SITE else arm for site in PHANTOM_SITES}
    return np.stack(
        [stack([pretrained_scores(runs, model, seed)[site] for site, model in models.items()], 0.0) for seed in seeds]
    )


def pretrained_scores(runs: Path, arm: str, seed: int) -> Any:
    return np.load(runs / "pretrained" / f"{arm}-{seed}" / "scores.npz")


def few_shot(
    unseen: tuple[np.ndarray, list[str], list[str]], runs: Path, seeds: tuple[int, ...], rates: dict[str, float]
) -> dict[str, Any]:
    """For each number of images a class: probe and fine-tuned teacher, each against training from scratch."""
    labels, patients, _ = unseen
    found: dict[str, Any] = {}
    for shots in arms.SHOTS:
        scores = {
            method: np.stack(
                [
                    np.load(arms.tuned_folder(runs, method, shots, rates[method], seed) / f"seed-{seed}" / TESTED)[
                        "probabilities"
                    ]
                    for seed in seeds
                ]
            )
            for method in arms.TUNED
        }
        scores["probe"] = np.stack([np.load(runs / "few_shot" / f"probe-{seed}.npz")[str(shots)] for seed in seeds])
        found[str(shots)] = {
            method: asdict(compare_seeds(labels, scores["scratch"], scores[method], patients))
            for method in ("probe", "teacher")
        }
    return found


TESTED = "test_predictions.npz"


def zero_shot(
    unseen: tuple[np.ndarray, list[str], list[str]], runs: Path, seeds: tuple[int, ...]
) -> dict[str, dict[str, Any]]:
    """By label of the unseen site that the heads of the others know: against chance, and against its own head."""
    labels, patients, names = unseen
    scores = np.stack([pretrained_scores(runs, "without_unseen", seed)[arms.UNSEEN] for seed in seeds])
    trained = np.stack([pretrained_scores(runs, "ark", seed)[arms.UNSEEN] for seed in seeds])
    found = {}
    for column, name in enumerate(names):
        if np.isnan(scores[..., column]).all():
            continue
        mine, own = scores[..., [column]], trained[..., [column]]
        chance = np.zeros_like(mine)
        found[name] = {
            "against_chance": asdict(compare_seeds(labels[:, [column]], chance, mine, patients)),
            "against_own_head": asdict(compare_seeds(labels[:, [column]], own, mine, patients)),
        }
    return found


def write(results: dict[str, Any], folder: Path) -> None:
    """results.json, README.md and the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    draw_claims(results["claims"], folder / "claims.png")
    draw_few_shot(results["few_shot"]["shots"], folder / "few_shot.png")
    planted_bias.draw(results["planted_bias"], folder / "planted_bias.png")
    (folder / "README.md").write_text(render(results), encoding="utf-8")


def render(results: dict[str, Any]) -> str:
    """The page as Markdown: a function of the results alone."""
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined)
    facts = {
        "sentences": {claim: said for claim, (said, *_) in CLAIMS.items()},
        "verdict": verdict,
        "unseen": arms.UNSEEN,
    }
    return templates.get_template("page.md.jinja").render(**results, **facts).strip() + "\n"


def verdict(found: dict[str, Any]) -> str:
    """What a difference's interval says."""
    if found["ci_low"] > 0:
        return "shows"
    return "the opposite shows" if found["ci_high"] < 0 else "does not show"


def draw_claims(claims: dict[str, Any], path: Path) -> None:
    """The differences with their intervals, and those of the single seeds."""
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for height, found in enumerate(reversed(claims.values())):
        errors = [[found["difference"] - found["ci_low"]], [found["ci_high"] - found["difference"]]]
        axes.errorbar(found["difference"], height, xerr=errors, fmt="o", color="C0", capsize=3)
        axes.plot(found["seed_differences"], [height - 0.22] * len(found["seed_differences"]), "|", color="C1")
    axes.axvline(0, color="grey", lw=1)
    axes.set_yticks(
        range(len(claims)), [f"{CLAIMS[claim][1]} against {CLAIMS[claim][2]}" for claim in reversed(claims)]
    )
    axes.set_xlabel("difference of the mean AUROC, with 95 % interval; strokes: single seeds")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_few_shot(shots: dict[str, Any], path: Path) -> None:
    """Mean AUROC on the unseen site by images a class."""
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    numbers = [int(number) for number in shots]
    lines = {
        "linear probe of the teacher": [found["probe"]["auroc_b"] for found in shots.values()],
        "teacher, fine-tuned": [found["teacher"]["auroc_b"] for found in shots.values()],
        "from scratch": [found["probe"]["auroc_a"] for found in shots.values()],
    }
    for name, values in lines.items():
        axes.plot(numbers, values, "o-", label=name)
    axes.axhline(0.5, color="grey", lw=1)
    axes.set(xscale="log", xlabel="images a label", ylabel="mean AUROC of the unseen site", ylim=(0.4, 1))
    axes.set_xticks(numbers, numbers)
    axes.minorticks_off()
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)

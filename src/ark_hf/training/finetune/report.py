"""What the seeds of a fine-tuning run give together: means, intervals, and the tables that are printed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...metrics.resampling import t_interval
from ...pages.formats import format_defined, format_interval, markdown_table


def summarise(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """
    Args:
        seeds: Of each seed its metrics, as [`finetune.train_seed`] and [`finetune.score_test`] give them.

    Returns:
        `seeds`, and over them `validation` and `test`: [`seed_interval`] of the mean AUROC; None where no seed has it.
    """
    validation = [each["validation"]["mean_auroc"] for each in seeds if each["validation"]]
    test = [each["test"]["mean"]["auroc"] for each in seeds if each.get("test")]
    return {
        "seeds": seeds,
        "validation": seed_interval(validation) if validation else None,
        "test": seed_interval(test) if test else None,
    }


def seed_interval(values: Sequence[float | None], confidence: float = 0.95) -> dict[str, float]:
    """
    Mean over seeds and its t interval, NaN with fewer than two: what other seeds would change, on the same images.

    Args:
        values: One a seed; undefined ones, NaN or None, do not count.
        confidence: Coverage of the interval, between 0 and 1.

    Returns:
        `mean`, `ci_low`, `ci_high` and `num_seeds`, the number of values that are defined.
    """
    mean, low, high, number = t_interval(values, confidence)
    return {"mean": mean, "ci_low": low, "ci_high": high, "num_seeds": number}


def best_seed(results: Mapping[str, Any]) -> dict[str, Any]:
    """The seed of the best mean validation AUROC; the first where none is defined."""

    def validation(seed: dict[str, Any]) -> float:
        value = (seed["validation"] or {}).get("mean_auroc")
        return -math.inf if value is None or math.isnan(value) else value

    return max(results["seeds"], key=validation)


def results_text(results: Mapping[str, Any]) -> str:
    """The results as Markdown: a row per seed, then the labels of test for the seed of the best validation."""
    lines = [
        f"# `{results['model']}` fine-tuned on `{results['dataset']}`, task `{results['task']['name']}`",
        "",
    ]
    header = ["seed", "training images", "step kept", "validation mean AUROC", "test mean AUROC", "95 % interval"]
    rows = []
    for seed in results["seeds"]:
        validation = seed["validation"] and seed["validation"]["mean_auroc"]
        test = seed.get("test") and seed["test"]["mean"]
        cells = [format_defined(test["auroc"]), interval(test)] if test else ["not scored", ""]
        kept = f"{seed['best_step']} of {seed['steps']}"
        rows.append([seed["seed"], seed["train_images"], kept, format_defined(validation), *cells])
    if len(results["seeds"]) > 1:
        means = [results[split] or {"mean": None, "ci_low": None} for split in ("validation", "test")]
        overall = [f"{format_defined(mean['mean'])} ({interval(mean) or 'no interval'})" for mean in means]
        rows.append(["**mean** (t interval over seeds)", "", "", *overall, ""])
    lines += markdown_table(header, rows)
    chosen = best_seed(results)
    if chosen.get("test"):
        lines += ["", *label_lines(chosen, results)]
    elif results["test"] is None:
        lines += ["", "The test split was not scored."]
    return "\n".join(lines) + "\n"


def label_lines(chosen: Mapping[str, Any], results: Mapping[str, Any]) -> list[str]:
    """Lines of a table of one seed's test AUROC by label, beside the shortcut baseline and the mean over all seeds."""
    test = chosen["test"]
    patients = "" if test["num_patients"] is None else f" of {test['num_patients']} patients"
    lines = [
        f"Test split ({test['num_images']} images{patients}), seed {chosen['seed']}:",
        "",
    ]
    header = ["label", "positives", "AUROC", "95 % interval", "mean over seeds", "shortcut baseline", "95 % interval"]
    rows = []
    scored = [seed["test"] for seed in results["seeds"] if seed.get("test")]
    for row, (label, baseline) in enumerate(zip(test["labels"], test["baseline_labels"], strict=True)):
        over_seeds = seed_interval([each["labels"][row]["auroc"] for each in scored])["mean"]
        counts = f"{label['num_positive']}/{label['num_known']}"
        rows.append([label["label"], counts, *_cells(label), format_defined(over_seeds), *_cells(baseline)])
    mean, baseline = test["mean"], test["baseline_mean"]
    title = f"**mean of {mean['num_defined']} of {mean['num_labels']}**"
    rows.append([title, "", *_cells(mean), format_defined(results["test"]["mean"]), *_cells(baseline)])
    lines += markdown_table(header, rows)
    unit = "images" if test["num_patients"] is None else "patients"
    return [
        *lines,
        "",
        f"Intervals of a row: percentile bootstrap over {unit}. Shortcut baseline: logistic regression on ten global "
        "image statistics, fitted on the same training images.",
    ]


def interval(result: Mapping[str, Any], sign: str = "") -> str:
    return format_interval(result["ci_low"], result.get("ci_high"), sign=sign)


def _cells(result: Mapping[str, Any]) -> list[str]:
    return [format_defined(result["auroc"]), interval(result)]

"""What the seeds of a fine-tuning run give together: means, intervals, and the tables that are printed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...metrics.resampling import t_interval
from ...pages.formats import format_defined, format_interval, markdown_table

SCORES = {"mean_auroc": "AUROC", "mean_dice": "Dice"}  # by the name of the mean that chooses the weights
MASK_SCORES = ("dice", "iou", "hd95", "prior_dice")


def summarise(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """
    Args:
        seeds: Of each seed its metrics, as [`finetune.train_seed`] and [`finetune.score_test`] give them.

    Returns:
        `seeds`, and over them `validation` and `test`: [`seed_interval`] of the mean AUROC, or of masks the mean Dice;
        None where no seed has it.
    """
    validation = [validation_score(each) for each in seeds if each["validation"]]
    test = [test_score(each) for each in seeds if each.get("test")]
    return {
        "seeds": seeds,
        "validation": seed_interval(validation) if validation else None,
        "test": seed_interval(test) if test else None,
    }


def validation_score(seed: Mapping[str, Any]) -> float | None:
    """The mean AUROC of a seed's last validation, or of masks the mean Dice; None without one."""
    validation = seed["validation"] or {}
    return validation.get("mean_dice", validation.get("mean_auroc"))


def test_score(seed: Mapping[str, Any]) -> float | None:
    """The same of the test split; None where it is not scored, or undefined."""
    test = seed.get("test")
    if not test:
        return None
    return test["dice"][-1]["mean"] if "dice" in test else test["mean"]["auroc"]


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
    """The seed of the best mean validation AUROC or Dice; the first where none is defined."""

    def validation(seed: dict[str, Any]) -> float:
        value = validation_score(seed)
        return -math.inf if value is None or math.isnan(value) else value

    return max(results["seeds"], key=validation)


def results_text(results: Mapping[str, Any]) -> str:
    """The results as Markdown: a row per seed, then the labels of test for the seed of the best validation."""
    lines = [
        f"# `{results['model']}` fine-tuned on `{results['dataset']}`, task `{results['task']['name']}`",
        "",
    ]
    score = "Dice" if "overlapping" in results["task"] else "AUROC"
    header = ["seed", "training images", "step kept", f"validation mean {score}", f"test mean {score}"]
    header += ["95 % interval"]
    rows = []
    for seed in results["seeds"]:
        test = seed.get("test") and (seed["test"]["dice"][-1] if "dice" in seed["test"] else seed["test"]["mean"])
        cells = [format_defined(test_score(seed)), interval(test)] if test else ["not scored", ""]
        kept = f"{seed['best_step']} of {seed['steps']}"
        rows.append([seed["seed"], seed["train_images"], kept, format_defined(validation_score(seed)), *cells])
    if len(results["seeds"]) > 1:
        means = [results[split] or {"mean": None, "ci_low": None} for split in ("validation", "test")]
        overall = [f"{format_defined(mean['mean'])} ({interval(mean) or 'no interval'})" for mean in means]
        rows.append(["**mean** (t interval over seeds)", "", "", *overall, ""])
    lines += markdown_table(header, rows)
    chosen = best_seed(results)
    if chosen.get("test"):
        lines += ["", *(mask_lines if score == "Dice" else label_lines)(chosen, results)]
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
        "image statistics (of a volume eleven), fitted on the same training images.",
    ]


def mask_lines(chosen: Mapping[str, Any], results: Mapping[str, Any]) -> list[str]:
    """Lines of a table of one seed's test Dice by label, beside the mean-mask prior."""
    test = chosen["test"]
    patients = "" if test["num_patients"] is None else f" of {test['num_patients']} patients"
    header = ["label", "images", "Dice", "95 % interval", "IoU", f"HD95 ({test['distance_unit']})", "prior's Dice"]
    rows = []
    for of_dice, of_iou, distance, prior in zip(*(test[name] for name in MASK_SCORES), strict=True):
        values = [format_defined(of_dice["mean"]), interval(of_dice), format_defined(of_iou["mean"])]
        values += [format_defined(distance["mean"], 1), format_defined(prior["mean"])]
        rows.append([of_dice["label"], of_dice["num_defined"], *values])
    unit = "images" if test["num_patients"] is None else "patients"
    return [
        f"Test split ({test['num_images']} images{patients}), seed {chosen['seed']}:",
        "",
        *markdown_table(header, rows),
        "",
        f"Intervals of a row: percentile bootstrap over {unit}. HD95: the larger of the two directed 95th percentiles "
        "of border distances. Prior: the mean mask of the same training images, whatever the picture shows.",
    ]


def interval(result: Mapping[str, Any], sign: str = "") -> str:
    return format_interval(result["ci_low"], result.get("ci_high"), sign=sign)


def _cells(result: Mapping[str, Any]) -> list[str]:
    return [format_defined(result["auroc"]), interval(result)]

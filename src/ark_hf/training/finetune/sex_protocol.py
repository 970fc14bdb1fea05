"""
The sex protocol: models trained on images of men, of women, and of both, in equal numbers, each tested on both sexes.

As in Larrazabal et al., PNAS 2020, and the robustness tests of the Ark papers.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from ...data.open_dataset import TaskDataset
from ...evaluation.scoring import evaluated_columns, score_task
from ...files import write_json, write_text
from ...inference.load import load_model
from ...metrics.auroc import bootstrap_aurocs
from ...metrics.resampling import percentile_interval, row_means
from ...models.ark.configuration_ark import SegmentationTask
from ...pages.formats import format_defined, markdown_table
from ...provenance import shown_name
from ..initial_weights import start_facts
from ..run import write_recipe
from ..selection import label_aurocs
from .arguments import FinetuningArguments
from .data import check_leaks, load_finetuning_data
from .report import interval, seed_interval
from .run import check_same_run, run_facts, train_seed
from .scores import save_predictions
from .seed_folder import PREDICTIONS_FILE, seed_model

SEXES = {"male": "M", "female": "F"}
ARMS = ("male", "female", "mixed")


def sex_protocol(
    model: str,
    dataset: str,
    args: FinetuningArguments,
    max_images: int | None = None,
    data: TaskDataset | None = None,
) -> dict[str, Any]:
    """
    Fine-tunes `model` three times a seed, on images of male patients, of female ones and of both, as many of each, and
    tests each on the male and on the female images of the test split.

    `args.output_dir` then holds a run of [`finetune.finetune`]'s layout a group of training images and seed,
    `sex_protocol.json` and `sex_protocol.md`. The same call again resumes it.

    Args:
        model, dataset, args, data: As in [`finetune.finetune`]. A group's weights are chosen on validation images of
            its own kind.
        max_images: Training images per group, at most; as many as the sex with fewer has, unless set.

    Returns:
        What `sex_protocol.json` holds: `images` a group; `auroc` of each group, by the sex of the test images: the
        mean over the seeds of the mean AUROC, its percentile interval over patients, the values (`seeds`) and their t
        interval (`over_seeds`); and `gaps`: for each sex the AUROC with models of its own sex less that with models
        of the other, on the same images, paired by seed and patient. NaN where undefined.

    Raises:
        ValueError: The dataset has no test split, or no `sex` column with both sexes in train and test; or as in
            [`finetune.finetune`].
    """
    if any(value is not None for value in (args.percent, args.per_class, args.images)):
        raise ValueError("The sex protocol chooses the training images itself; limit them by max_images.")
    data = check_leaks(data or load_finetuning_data(dataset, args), start_facts(model), args.allow_shared_images)
    if isinstance(data.task, SegmentationTask):
        raise ValueError(f"{data.name} holds segmentation masks; the sex protocol compares AUROCs of labels.")
    of_test, of_train = _rows_of(data, "test"), _rows_of(data, "train")
    images = min(len(rows) for rows in of_train.values())
    images = images if max_images is None else min(images, max_images)
    folder = Path(args.output_dir)
    facts = run_facts(model, data) | {"images": images}
    state = PartialState()
    with state.main_process_first():
        check_same_run(folder, {**args.lasting_settings(), "protocol": "sex", **facts})
    if state.is_main_process:
        limits = {"protocol": "sex", "max_images": max_images}
        write_recipe(folder, {"model": model, "dataset": dataset, **dataclasses.asdict(args), **limits})
    probabilities: dict[str, list[np.ndarray]] = {arm: [] for arm in ARMS}
    for seed in args.seeds:
        chosen = choose_groups(data.patients("train"), of_train, images, seed)
        for arm in ARMS:
            seed_folder = folder / arm / f"seed-{seed}"
            arm_data = with_validation_of(data.select("train", chosen[arm]), arm)
            train_seed(model, arm_data, args, seed, seed_folder)
            probabilities[arm].append(_test_probabilities(arm_data, args, seed_folder))
    results = {
        **facts,
        "model": shown_name(model),
        "seeds": args.seeds,
        "settings": args.lasting_settings(),
        **compare_groups(data, of_test, probabilities, args.bootstrap),
    }
    if state.is_main_process:
        write_json(folder / "sex_protocol.json", results)
        write_text(folder / "sex_protocol.md", protocol_text(results))
    state.wait_for_everyone()
    return results


def _rows_of(data: TaskDataset, split: str) -> dict[str, np.ndarray]:
    """Row numbers of each sex. Raises `ValueError` if one has none."""
    if split not in data.splits:
        raise ValueError(f"{data.name} has no split {split!r}, which the sex protocol needs.")
    values = data.column(split, "sex")
    if values is None:
        raise ValueError(f"{data.name} has no column `sex` (M or F), which the sex protocol needs.")
    sexes = np.array(values, dtype=object)
    found = {name: np.flatnonzero(sexes == code) for name, code in SEXES.items()}
    for name, numbers in found.items():
        if not len(numbers):
            known = {code: int((sexes == code).sum()) for code in SEXES.values()}
            raise ValueError(f"{data.name}, split {split!r}: no image is known to be {name} (found {known}).")
    return found


def choose_groups(
    patients: Sequence[Any] | None, of_sex: Mapping[str, np.ndarray], images: int, seed: int
) -> dict[str, np.ndarray]:
    """
    The training images of each group: patients in random order, with all their images until `images` are reached.

    Args:
        patients: Of the train split, one or None an image; None where no patient is known.
        of_sex: Row numbers of the "male" and "female" images.
        images: Images a group, at most as many as either sex has. The mixed group has half of each.
        seed: Seed of the order.

    Returns:
        Row numbers in rising order, `images` in each of "male", "female" and "mixed".
    """
    ordered = {}
    for position, (sex, numbers) in enumerate(of_sex.items()):
        by_patient: dict[Any, list[int]] = {}
        for row in numbers.tolist():
            by_patient.setdefault((patients and patients[row]) or row, []).append(row)
        groups = list(by_patient.values())
        order = np.random.default_rng([seed, position]).permutation(len(groups))
        ordered[sex] = np.array([row for number in order for row in groups[number]])
    half = images // 2
    mixed = np.concatenate([ordered["male"][:half], ordered["female"][: images - half]])
    return {sex: np.sort(rows[:images]) for sex, rows in ordered.items()} | {"mixed": np.sort(mixed)}


def with_validation_of(data: TaskDataset, arm: str) -> TaskDataset:
    """With the validation images of the kind that a group is trained on; without the split where there are none."""
    if "validation" not in data.splits or arm == "mixed":
        return data
    sexes = np.array(data.column("validation", "sex"), dtype=object)
    numbers = np.flatnonzero(sexes == SEXES[arm])
    if len(numbers):
        return data.select("validation", numbers)
    return dataclasses.replace(data, splits={name: rows for name, rows in data.splits.items() if name != "validation"})


def _test_probabilities(data: TaskDataset, args: FinetuningArguments, folder: Path) -> np.ndarray:
    """float64 (rows, labels) over the whole test split; computed once, then read back."""
    if not (folder / PREDICTIONS_FILE).exists():
        model, processor = load_model(str(seed_model(folder)))
        scored = score_task(model, processor, data, "test", args.eval_batch_size)
        if PartialState().is_main_process:
            save_predictions(folder, scored, data.task)
    PartialState().wait_for_everyone()
    return np.load(folder / PREDICTIONS_FILE)["probabilities"]


def compare_groups(
    data: TaskDataset,
    of_test: Mapping[str, np.ndarray],
    probabilities: Mapping[str, list[np.ndarray]],
    num_bootstrap: int,
) -> dict[str, Any]:
    """
    Args:
        data: With the test split.
        of_test: Its row numbers by sex.
        probabilities: By group of training images, for each seed float (rows, labels) over the test split.
        num_bootstrap: Resamples of patients behind each interval.

    Returns:
        `auroc` and `gaps`, as in [`sex_protocol`].
    """
    columns, targets, patients = evaluated_columns(data.task), data.targets("test"), data.patients("test")
    aurocs: dict[str, dict[str, Any]] = {arm: {} for arm in ARMS}
    replicates: dict[tuple[str, str], np.ndarray] = {}
    for sex, rows in of_test.items():
        clusters = None if patients is None else [patients[row] for row in rows]
        for arm in ARMS:
            scores = [each[rows] for each in probabilities[arm]]
            seeds = [label_aurocs(each, targets[rows], data.task)["mean_auroc"] for each in scores]
            draws = [bootstrap_aurocs(targets[rows], each, clusters, num_bootstrap)[:, columns] for each in scores]
            replicates[arm, sex] = np.mean([row_means(each) for each in draws], axis=0)
            aurocs[arm][sex] = _with_interval(seeds, replicates[arm, sex])
    gaps = {}
    for sex, other in (("male", "female"), ("female", "male")):
        seeds = np.subtract(aurocs[sex][sex]["seeds"], aurocs[other][sex]["seeds"]).tolist()
        gaps[sex] = _with_interval(seeds, replicates[sex, sex] - replicates[other, sex])
    return {
        "test_images": {sex: len(rows) for sex, rows in of_test.items()},
        "auroc": aurocs,
        "gaps": gaps,
    }


def _with_interval(seeds: list[float], replicates: np.ndarray) -> dict[str, Any]:
    low, high = percentile_interval(replicates, 0.95)
    over_seeds = seed_interval(seeds)
    return {"mean": over_seeds["mean"], "ci_low": low, "ci_high": high, "seeds": seeds, "over_seeds": over_seeds}


def protocol_text(results: Mapping[str, Any]) -> str:
    """The results as Markdown: a row per group of training images, a column per sex of test images, and the gaps."""
    tested = results["test_images"]
    lines = [
        f"# Sex protocol: `{results['model']}` on `{results['dataset']}`, task `{results['task']['name']}`",
        "",
        f"Mean AUROC over {len(results['seeds'])} seeds and its 95 % interval over patients; {results['images']} "
        "training images in each row.",
        "",
    ]
    header = ["trained on", *(f"tested on {sex} ({tested[sex]} images)" for sex in SEXES)]
    rows = [[arm, *(_cell(results["auroc"][arm][sex]) for sex in SEXES)] for arm in ARMS]
    rows.append(["own sex less the other", *(_cell(results["gaps"][sex], sign="+") for sex in SEXES)])
    return "\n".join([*lines, *markdown_table(header, rows)]) + "\n"


def _cell(result: Mapping[str, Any], sign: str = "") -> str:
    mean, bounds = format_defined(result["mean"], sign=sign), interval(result, sign)
    return f"{mean} ({bounds})" if bounds else mean

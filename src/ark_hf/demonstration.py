"""The built-in demonstration: phantom sites, pretraining, evaluation and prediction, in minutes on two cores."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from .data.sources.phantom import SITES
from .data.sources.phantom_sites import build_phantom_sites
from .data.task_dataset import load_task_dataset
from .evaluation.report.page import write_report
from .evaluation.report.task_report import TaskReport, evaluate_task
from .evaluation.report.text import report_text
from .evaluation.scoring import load_evaluation_data
from .files import replace_folder
from .inference.load import load_ark
from .inference.predict import predict_files
from .inference.prediction_files import write_predictions
from .inference.task_labels import task_label_names
from .provenance import weights_sha256
from .training.ark.pretrainer import CyclicPretrainer
from .training.ark.recipe import PretrainingArguments, TaskSpec
from .training.ark.tasks import load_tasks

IMAGE_SIZE = 96
NUM_PICTURES = 8
SETTINGS: dict[str, Any] = {
    "backbone": "test_resnet",
    "image_size": IMAGE_SIZE,
    "projector_dim": 128,
    "drop_path_rate": 0.0,
    "cycles": 24,
    "batch_size": 32,
    "optim": "adamw",
    "learning_rate": 2e-3,
    "ema_mode": "iteration",
    # Batch statistics differ from site to site, so the embeddings of student and teacher cannot be held very close
    "consistency": 0.1,
    "min_crop_scale": 0.7,
}


def train_demo(output_dir: Path, seed: int = 0, **changes: Any) -> list[TaskReport]:
    """
    Trains on the phantom sites, in `output_dir/run`, and tests the teacher on the held-out phantoms of each.

    Running again with the same folder resumes. Sites that are in `output_dir/phantom` already are taken as they are.

    Args:
        changes: Fields of `PretrainingArguments` that are to differ from the demo's, such as `mixed_precision`.

    Returns:
        A report a site.
    """
    sites = output_dir / "phantom"
    if sites.is_dir():  # written whole or not at all
        folders = {name: sites / name for name in SITES}
    else:
        folders = build_phantom_sites(sites, size=IMAGE_SIZE + 32, seed=seed)
    args = PretrainingArguments(output_dir=str(output_dir / "run"), seed=seed, **(SETTINGS | changes))
    specs = [TaskSpec(str(folder), uncertain="lsr_ones") for folder in folders.values()]
    CyclicPretrainer(args, load_tasks(specs, ".")).train()
    model, processor = load_ark(str(output_dir / "run" / "ark-cxr"))
    return [
        evaluate_task(model, processor, load_evaluation_data(model, str(folder)), seed=seed)
        for folder in folders.values()
    ]


def demo(output_dir: str | Path = "runs/demo", model_dir: str | Path = "ark-cxr", seed: int = 0) -> float:
    """
    Trains on the phantom sites, puts the teacher into `model_dir`, and reports its AUROC on the held-out phantoms.

    Running again with the same folder resumes.

    Returns:
        The mean over sites of the held-out mean AUROC.

    Raises:
        ValueError: `model_dir` holds something that is not a model of this demo.
    """
    output_dir, model_dir = Path(output_dir), Path(model_dir)
    _check_replaceable(model_dir)
    reports = train_demo(output_dir, seed)
    replace_folder(model_dir, functools.partial(_copy, output_dir / "run" / "ark-cxr"))
    mean = float(np.mean([report.mean.auroc for report in reports]))
    facts = {"held_out_mean_auroc": mean, "weights_sha256": weights_sha256(str(model_dir))}
    report_file = write_report(reports, output_dir / "report", facts)
    print(report_text(reports))

    pictures = _write_pictures(output_dir / "phantom", output_dir / "pictures")
    model, processor = load_ark(str(model_dir))
    results = predict_files(model, processor, pictures)
    write_predictions(output_dir / "predictions.csv", task_label_names(model.config), results)
    print(f"The model is in {model_dir}: import ark_hf; pipeline('chest-xray-classification', model='{model_dir}').")
    print(f"Its probabilities for {len(pictures)} held-out phantoms are in {output_dir / 'predictions.csv'}.")
    print(f"Held-out phantom AUROC, mean over {len(reports)} sites: {mean:.3f}. The report is in {report_file}.")
    return mean


def _check_replaceable(model_dir: Path) -> None:
    config = model_dir / "config.json"
    tasks = json.loads(config.read_text()).get("tasks") or [] if config.is_file() else []
    if model_dir.exists() and [task["name"] for task in tasks] != list(SITES):
        raise ValueError(f"{model_dir} exists and is not a model of this demo; choose another --model_dir.")


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)


def _write_pictures(sites: Path, target: Path) -> list[Path]:
    """A few held-out phantoms as files, as a user would have them."""
    target.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in SITES:
        rows = load_task_dataset(sites / name, "test").select(range(NUM_PICTURES // len(SITES)))
        for number, row in enumerate(rows):
            paths.append(target / f"{name}_{number}.png")
            row["image"].save(paths[-1])
    return paths

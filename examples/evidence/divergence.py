"""
What makes Ark's consistency loss diverge, and what cures it: the table of docs/divergence.md.

    python examples/evidence/divergence.py runs/divergence              # all
    python examples/evidence/divergence.py runs/divergence --arms was "pilot, now"

Six phantom sites whose findings overlap under other names. A run ends when its consistency loss is beyond all use.
Running again goes on; divergence.json beside this file is written, and the table printed, after each arm.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

import ark_hf

HERE = Path(__file__).parent
RESULTS = HERE / "divergence.json"
WIDTH, EVERY = 128, 5  # of the embeddings; cycles between two measurements of them
DIVERGED = 100.0  # of a mean squared distance; where all is well it is below 3


def site(name: str, **changes: Any) -> ark_hf.PhantomSite:
    return ark_hf.PhantomSite(name, (), **{"noise": 0.06, "contrast": 0.8, "blur": 1.2, **changes})


# Of each site how its images are, and what its labels are called here and to those who draw them
SITES: tuple[tuple[ark_hf.PhantomSite, dict[str, str]], ...] = (
    (
        site("s1"),
        {"Effusion": "Effusion", "Cardiomegaly": "Cardiomegaly", "Nodule": "Nodule", "Consolidation": "bacterial"},
    ),
    (
        site("s2", ap_share=0.7, wires=0.5),
        {"Effus.": "Effusion", "Big heart": "Cardiomegaly", "PTX": "Pneumothorax"},
    ),
    (
        site("s3", aspect=0.9, contrast=0.65),
        {"Spot": "Nodule", "Infiltrate": "bacterial", "TB": "Tuberculosis"},
    ),
    (
        site("s4", ages=(40, 95), noise=0.09),
        {"Fluid": "Effusion", "Pneumothorax": "Pneumothorax", "Haze": "viral"},
    ),
    (
        site("s5", blur=1.8),
        {"CTR>0.5": "Cardiomegaly", "Lesion": "Nodule", "Tuberculosis": "Tuberculosis"},
    ),
    (
        site("s6", ages=(1, 17), aspect=1.15),
        {"Interstitial": "viral", "Consolidation": "bacterial", "Effusion": "Effusion"},
    ),
)
TRAINING: dict[str, Any] = {
    "backbone": "test_resnet",
    "image_size": 32,
    "projector_dim": WIDTH,
    "drop_path_rate": 0.0,
    "cycles": 180,
    "batch_size": 16,
    "optim": "adamw",
    "learning_rate": 2e-3,
    "weight_decay": 0.05,
    "ema_mode": "iteration",
    "consistency": 0.5,
    "min_crop_scale": 0.7,
    "dataloader_num_workers": 0,
}
STORED, COUNTS = 48, {"train": 40, "validation": 40}
# As large as the pilot in which it was found
PILOT: dict[str, Any] = {"image_size": 64, "batch_size": 32}
PILOT_STORED, PILOT_COUNTS = 96, {"train": 80, "validation": 40}
RUNNING = {"teacher_batch_norm": "running"}
GROUPS = {"backbone_kwargs": {"norm_layer": "groupnorm1"}}
SGD = {"optim": "sgd", "learning_rate": 0.3, "weight_decay": 0.0, "ema_mode": "epoch"}
SHORT = 100  # cycles, where only the cause is asked for: as it was, all is lost by the 80th
# By arm: what differs from TRAINING, and after how many of the 180 cycles it is left
ARMS: dict[str, tuple[dict[str, Any], int]] = {
    "was": (RUNNING, 180),
    "was, mixed batches": (RUNNING | {"strategy": "concurrent"}, SHORT),
    "was, bounded distance": (RUNNING, SHORT),
    "was, group norm": (RUNNING | GROUPS, SHORT),
    "was, copied statistics": (RUNNING, SHORT),
    "was, rate 5e-4": (RUNNING | {"learning_rate": 5e-4}, SHORT),
    "was, EMA by pass": (RUNNING | {"ema_mode": "epoch"}, SHORT),
    "now": ({}, 180),
    "now, seed 1": ({"seed": 1}, 180),
    "now, test_efficientnet": ({"backbone": "test_efficientnet"}, 180),
    "now, test_convnext": ({"backbone": "test_convnext"}, 180),
    "now, test_vit": ({"backbone": "test_vit"}, 180),
    "now, SGD 0.3 and EMA by pass": (SGD, 180),
    "pilot, was": (PILOT | RUNNING, 180),
    "pilot, now": (PILOT, 180),
}


def build_sites(folder: Path, counts: dict[str, int], size: int) -> list[Path]:
    """The six sites; drawn once."""
    for each, names in SITES:
        if not (folder / each.name).is_dir():
            ark_hf.build_dataset(_release(each, names, counts, size), folder / each.name, size, num_workers=1)
    return [folder / each.name for each, _ in SITES]


def _release(each: ark_hf.PhantomSite, names: dict[str, str], counts: dict[str, int], size: int) -> ark_hf.Release:
    drawn = ark_hf.PhantomSite(**{**vars(each), "labels": tuple(names.values())})
    rows = []
    for split, count in counts.items():
        for index in range(count):
            described = ark_hf.describe_phantom_image(drawn, split, index)
            labels, image_id = described.pop("labels"), described.pop("sample_id")
            metadata = {"image_id": image_id, **described}
            rows.append(ark_hf.Row(f"{split} image {index}", Path(str(index)), split, labels, metadata))

    def draw(row: ark_hf.Row) -> np.ndarray:
        return np.asarray(ark_hf.draw_phantom_image(drawn, row.split, int(row.path.name), size)["image"])[None]

    return ark_hf.Release(ark_hf.ArkTask(each.name, list(names)), rows, facts={"phantom": True}, read_image=draw)


class Left(Exception):
    """The run has shown what it was asked for."""


class Watched(ark_hf.CyclicPretrainer):
    """Notes after each cycle how large the embeddings are, and stops where they are beyond all use, or at `until`."""

    def __init__(self, *given: Any, until: int):
        super().__init__(*given)
        self.until = until
        self.path = self.output_dir / "sizes.json"
        self.sizes = json.loads(self.path.read_text()) if self.path.exists() else []

    def write_metrics(self) -> None:
        super().write_metrics()
        if self.state.cycle % EVERY == 1:
            self.sizes = [each for each in self.sizes if each["cycle"] < self.state.cycle] + [self._measured()]
            self.path.write_text(json.dumps(self.sizes))
        if self.state.cycle >= self.until or summarise(self.output_dir)["diverged"] is not None:
            raise Left

    @torch.no_grad()
    def _measured(self) -> dict[str, Any]:
        """Root mean squares over a batch of each site: of the student's embeddings as it trains, of the teacher's."""
        found: dict[str, list[float]] = {"student": [], "teacher by batch": [], "teacher by averages": []}
        for data in self.passes:
            samples = self.loader.samples["train", data.name]
            batch = samples.normalise(samples.collate(samples.at(0).__getitems__(np.arange(16))), "cpu")
            for name, model in (("student", self.student), ("teacher by batch", self.teacher)):
                found[name].append(_size(model, batch, by_batch=True))
            found["teacher by averages"].append(_size(self.teacher, batch, by_batch=False))
        return {"cycle": self.state.cycle, **{name: float(np.mean(values)) for name, values in found.items()}}


def _size(model: Any, batch: dict[str, torch.Tensor], by_batch: bool) -> float:
    norms = [module for module in model.eval().modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.training, norm.track_running_stats = by_batch, not by_batch
    embeddings = model(batch["teacher_pixel_values"]).embeddings
    for norm in norms:
        norm.training, norm.track_running_stats = False, True
    return embeddings.square().mean().sqrt().item()


def bound(trainer: ark_hf.CyclicPretrainer) -> None:
    """Student and teacher are compared by the directions of their embeddings: their mean square is always 1."""

    def normalise(model: Any, inputs: Any, outputs: Any) -> Any:
        outputs.embeddings = F.normalize(outputs.embeddings, dim=1) * math.sqrt(WIDTH)
        return outputs

    for model in (trainer.student, trainer.teacher):
        model.register_forward_hook(normalise)


def copy_statistics(trainer: ark_hf.CyclicPretrainer) -> None:
    """The teacher's running averages are the student's, in place of a mean of them."""

    def copy(model: Any, inputs: Any) -> None:
        for ours, theirs in zip(model.buffers(), trainer.student.buffers(), strict=True):
            ours.copy_(theirs)

    trainer.teacher.register_forward_pre_hook(copy)


CHANGES: dict[str, Callable[[ark_hf.CyclicPretrainer], None]] = {
    "was, bounded distance": bound,
    "was, copied statistics": copy_statistics,
}


def run(arm: str, runs: Path) -> dict[str, Any]:
    """Trains an arm, or goes on with it; what [`summarise`] says of it."""
    changes, until = ARMS[arm]
    folder = runs / arm.replace(",", "").replace(" ", "_")
    if not (folder / "left").exists():
        is_pilot = arm.startswith("pilot")
        counts, stored = (PILOT_COUNTS, PILOT_STORED) if is_pilot else (COUNTS, STORED)
        sites = build_sites(runs / f"sites-{counts['train']}", counts, stored)
        args = ark_hf.PretrainingArguments(output_dir=str(folder), **{**TRAINING, **changes})
        trainer = Watched(args, ark_hf.load_tasks([ark_hf.TaskSpec(str(each)) for each in sites]), until=until)
        if arm in CHANGES:
            CHANGES[arm](trainer)
        try:
            trainer.train()
        except Left:
            pass
        (folder / "left").touch()
    return {"settings": changes, "until": until, **summarise(folder)}


def summarise(folder: Path) -> dict[str, Any]:
    """Of a run's history what the table says, with what the guards told and when."""
    history = json.loads((folder / "metrics.json").read_text())["history"]
    consistency = [
        float(np.mean([loss for name, loss in each["train"].items() if name.endswith("/consistency_loss")]))
        for each in history
    ]
    aurocs = [each["validation"]["teacher"]["mean_auroc"] for each in history]
    told, sizes = folder / "troubles.jsonl", folder / "sizes.json"
    troubles = [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []
    return {
        "cycles": len(history),
        "diverged": next((number for number, loss in enumerate(consistency, 1) if loss > DIVERGED), None),
        "told": troubles[0]["cycle"] if troubles else None,
        "consistency": consistency,
        "aurocs": aurocs,
        "sizes": json.loads(sizes.read_text()) if sizes.exists() else [],
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """As Markdown, a row an arm; sizes are root mean squares of the teacher's embeddings, by the batch."""
    lines = [
        "| arm | cycles | largest consistency loss | size, cycle 21 | 41 | 61 | last | AUROC, best | last | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm, found in results.items():
        sizes = {each["cycle"]: each["teacher by batch"] for each in found["sizes"]}
        shown = [f"{sizes[cycle]:.2f}" if cycle in sizes else "" for cycle in (21, 41, 61, max(sizes))]
        end = f"**diverged in cycle {found['diverged']}**" if found["diverged"] else "whole"
        end += f", first told in cycle {found['told']}" if found["told"] else ""
        lines.append(
            f"| {arm} | {found['cycles']} | {max(found['consistency']):.3g} | {' | '.join(shown)} | "
            f"{max(found['aurocs']):.3f} | {found['aurocs'][-1]:.3f} | {end} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What makes the consistency loss diverge; see docs/divergence.md.")
    parser.add_argument("runs", type=Path, help="folder of the sites and runs; the same folder resumes")
    parser.add_argument("--arms", nargs="*", default=[*ARMS], help="those that are trained; all unless given")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for arm in options.arms:
        results[arm] = run(arm, options.runs)
        ordered = {name: results[name] for name in ARMS if name in results}
        RESULTS.write_text(json.dumps(ordered, indent=1) + "\n")
        print(table(ordered), flush=True)

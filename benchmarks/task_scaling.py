"""
What pretraining costs as tasks, labels, images and processes grow: a step, a cycle, a validation, and the heads.

A tiny ConvNeXt on phantom radiographs of 32 pixels, so that what each image costs is small and what is paid beside it
shows. Whole cycles run through `CyclicPretrainer`, with one thread, without loader processes and without a validation;
a validation, of student and teacher, is timed apart. One axis grows at a time:

- tasks: each has the same number of images and labels, so a cycle should grow with the tasks and a step not at all;
- labels: of one task, drawn at random; a step should hardly grow, the AUROCs of a validation should in proportion;
- images: of one task; a cycle and a validation should grow in proportion;
- processes: they share the images of one task by DDP, larger ones in larger batches; what all of them spend together
  should stay what one spends.

Times are in CPU time, which work beside it on the machine changes less than the time that passes, and medians of the
turns after a first cycle that does not count. `growth` is the ratio to the smallest row, divided by how the axis has
grown where a cost should grow in proportion: 1 is ideal, below 1 something fixed is shared by more.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

SITE = "phantom_city"
TINY: dict[str, Any] = {
    "backbone": "convnext_atto",
    "backbone_kwargs": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "image_size": 32,
    "projector_dim": 64,
    "batch_size": 16,
    "learning_rate": 0.01,
    "warmup_steps": 1,
    "dataloader_num_workers": 0,
}
FULL: dict[str, Any] = {
    "images": 1024,  # of a split
    "turns": 2,
    "tasks": [1, 4, 16],
    "task_images": 64,
    "labels": [1, 10, 100, 1000],
    "label_images": 128,
    "pass_images": [64, 256, 1024],
    "processes": [1, 2],
    "process_images": 256,
}
QUICK: dict[str, Any] = {
    "images": 32, "turns": 1, "tasks": [1, 2], "task_images": 16, "labels": [1, 3], "label_images": 16,
    "pass_images": [16, 32], "processes": [1, 2], "process_images": 32,
}  # fmt: skip
# What of a row's costs should grow with its axis; the others should stay
PROPORTIONAL = {
    "tasks": ("cycle_s", "validation_s", "heads_kb"),
    "labels": ("heads_kb",),
    "images": ("cycle_s", "validation_s"),
    "processes": (),
}
SHOWN = {"step_ms": "step, ms", "cycle_s": "cycle, s", "validation_s": "validation, s", "heads_kb": "heads, kB"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a handful of images, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "task_scaling.json")
    parser.add_argument("--site", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    plan = QUICK if args.quick else FULL
    if args.site:  # one of several processes
        tasks = [share(open_site(args.site), plan["process_images"])]
        return print(json.dumps(costs(tasks, plan["turns"], image_size=128, batch_size=64)))
    results = measure(plan, args.quick)
    print_table(results["table"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"Written to {args.out}.")


def measure(plan: dict[str, Any], quick: bool) -> dict[str, Any]:
    from ark_hf import build_dataset, phantom_release

    with tempfile.TemporaryDirectory() as folder:
        release = phantom_release(SITE, dict.fromkeys(("train", "validation"), plan["images"]), 40, seed=0)
        build_dataset(release, Path(folder) / SITE, size=40, allow_patient_overlap=True)
        site = open_site(Path(folder) / SITE)
        table = [
            *axis("tasks", plan["tasks"], lambda number: as_tasks(site, number, plan["task_images"]), plan["turns"]),
            *axis(
                "labels", plan["labels"], lambda number: as_labels(site, number, plan["label_images"]), plan["turns"]
            ),
            *axis("images", plan["pass_images"], lambda number: [share(site, number)], plan["turns"]),
            *processes(Path(folder) / SITE, plan["processes"], quick),
        ]
    for row in table:
        first = next(each for each in table if each["axis"] == row["axis"])
        row["growth"] = growth(row, first)
    return {
        "table": table,
        "settings": plan,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {"torch": torch.__version__},
    }


def axis(name: str, numbers: list[int], tasks_of: Callable[[int], list[Any]], turns: int) -> list[dict[str, Any]]:
    rows = []
    for number in numbers:
        rows.append({"axis": name, "number": number, **costs(tasks_of(number), turns)})
        print(f"{name} {number}: done", file=sys.stderr, flush=True)
    return rows


def processes(site: Path, numbers: list[int], quick: bool) -> list[dict[str, Any]]:
    """What all processes of a run spend together; DDP's waiting for one another is CPU time, too."""
    rows = []
    for number in numbers:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(number)]
        command = [*launcher, __file__, "--site", str(site), *(["--quick"] if quick else [])]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        spent = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
        together = {
            name: round(sum(each[name] for each in spent), 3) for name in ("step_ms", "cycle_s", "validation_s")
        }
        rows.append({"axis": "processes", "number": number, **together, "heads_kb": spent[0]["heads_kb"]})
        print(f"processes {number}: done", file=sys.stderr, flush=True)
    return rows


def open_site(folder: Path) -> Any:
    from ark_hf import TaskSpec, load_tasks

    return load_tasks([TaskSpec(str(folder))], ".")[0]


def share(site: Any, images: int) -> Any:
    return replace(site, splits={name: rows.select(range(images)) for name, rows in site.splits.items()}, _columns={})


def as_tasks(site: Any, number: int, images: int) -> list[Any]:
    """The same images again and again, as tasks of their own."""
    part = share(site, images)
    return [replace(part, task=replace(part.task, name=f"task_{each}"), _columns={}) for each in range(number)]


def as_labels(site: Any, number: int, images: int) -> list[Any]:
    from ark_hf import ArkTask

    part, generator = share(site, images), np.random.default_rng(0)
    splits = {
        name: rows.remove_columns("labels").add_column("labels", generator.integers(0, 2, (images, number)).tolist())
        for name, rows in part.splits.items()
    }
    return [
        replace(part, task=ArkTask("drawn", [f"label {each}" for each in range(number)]), splits=splits, _columns={})
    ]


def costs(tasks: list[Any], turns: int, **changed: int) -> dict[str, float]:
    from ark_hf import CyclicPretrainer, PretrainingArguments

    with tempfile.TemporaryDirectory() as folder:
        args = PretrainingArguments(output_dir=folder, cycles=turns + 1, allow_shared_images=True, **TINY | changed)
        trainer = CyclicPretrainer(args, tasks)
        cycles = [cpu_seconds(trainer.run_cycle) for _ in range(turns + 1)][1:]
        validations = [cpu_seconds(trainer.validate) for _ in range(turns + 1)][1:]
        steps = sum(trainer.steps_in_pass(each) for each in trainer.passes)
        heads = sum(parameter.nbytes for parameter in trainer.teacher.heads.parameters())
    return {
        "step_ms": round(1000 * statistics.median(cycles) / steps, 3),
        "cycle_s": round(statistics.median(cycles), 3),
        "validation_s": round(statistics.median(validations), 3),
        "heads_kb": round(heads / 1e3, 3),
    }


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def growth(row: dict[str, Any], first: dict[str, Any]) -> dict[str, float]:
    grown = row["number"] / first["number"]
    return {
        name: round(row[name] / first[name] / (grown if name in PROPORTIONAL[row["axis"]] else 1), 3) for name in SHOWN
    }


def print_table(table: list[dict[str, Any]]) -> None:
    print(f"{'':16}" + "".join(f"{shown:>15}{'growth':>8}" for shown in SHOWN.values()))
    for row in table:
        figures = "".join(f"{row[name]:15.2f}{row['growth'][name]:8.2f}" for name in SHOWN)
        print(f"{row['axis']:10}{row['number']:6}{figures}")


if __name__ == "__main__":
    main()

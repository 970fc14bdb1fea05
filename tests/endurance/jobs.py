"""
Small jobs of every kind that must survive its end: their data, their commands, and what they leave.

Each runs as `ark-hf` does, in a process of its own that is forked from one which has imported everything: a job takes
seconds then, and a kill meets its work, not its imports.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SHAPE = {
    "backbone": "convnext_atto",
    "backbone_kwargs": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "image_size": 32,
    "drop_path_rate": 0.2,
    "batch_size": 8,
}
RECIPES: dict[str, dict[str, Any]] = {
    "ark": {
        **SHAPE,
        "projector_dim": 16,
        "learning_rate": 0.05,
        "cycles": 6,
        "ema_mode": "iteration",
        "save_steps": 2,
    },
    "peac": {
        "method": "peac",
        "backbone": "vit_tiny_patch16_224",
        "backbone_kwargs": {"depth": 2, "embed_dim": 24, "num_heads": 3, "patch_size": 8},
        "image_size": 32,
        "drop_path_rate": 0.2,
        "global_projector_dims": [16, 16, 16],
        "local_projector_dims": [12, 12, 12],
        "epochs": 6,
        "batch_size": 8,
        "learning_rate": 0.01,
        "global_weight": 100.0,
        "save_steps": 2,
    },
    "genesis": {
        "method": "genesis",
        "width": 2,
        "depth": 2,
        "cube_size": [16, 16, 16],
        "cubes_per_volume": 6,
        "epochs": 8,
        "batch_size": 4,
        "learning_rate": 0.5,
        "save_steps": 2,
    },
    "finetune": {**SHAPE, "learning_rate": 1e-3, "epochs": 8, "eval_steps": 2, "test": False},
    "federate": {
        **SHAPE,
        "projector_dim": 16,
        "drop_path_rate": 0.0,
        "rounds": 4,
        "cycles_per_round": 2,
        "learning_rate": 0.05,
        "publish_heads": True,
        "sites_at_once": 1,
    },
}
JOBS = (*RECIPES, "build")
IMPORTED = [
    "ark_hf.cli.main", "ark_hf.training.pretrain", "ark_hf.training.finetune.run", "ark_hf.federated.simulation",
    "ark_hf.cli.finetune", "ark_hf.cli.federate", "ark_hf.cli.data", "ark_hf.auto", "ark_hf.data.sources.generic",
    "timm", "matplotlib.figure", "scipy.stats", "tests.endurance.jobs",
]  # fmt: skip


@dataclass(frozen=True)
class Job:
    """
    A command that goes on when it is given again.

    Args:
        name: One of `JOBS`.
        command: Of a folder for what it writes the words after `ark-hf`.
        results: Of that folder the files that must come out the same to the byte.
    """

    name: str
    command: Callable[[Path], list[str]]
    results: Callable[[Path], list[Path]] = field(default=lambda folder: sorted(folder.rglob("*.safetensors")))

    def contents(self, folder: Path) -> dict[str, bytes]:
        """What the job has left there, without its checkpoints."""
        files = [path for path in self.results(folder) if not any(part in KEPT for part in path.parts)]
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


KEPT = ("checkpoints", "masters")  # folders of what a run goes on from


def make_jobs(folder: Path, images: int = 20) -> dict[str, Job]:
    """Builds the phantom datasets and writes the recipes; `images` are those that a site trains on."""
    from ark_hf.data.sources.phantom_sites import build_phantom_sites
    from ark_hf.data.sources.phantom_volumes import build_phantom_volumes

    counts = {"train": images, "validation": 12, "test": 12}
    sites = [*build_phantom_sites(folder / "sites", counts, size=40).values()][:3]
    volumes = build_phantom_volumes(folder / "cts", {"train": 6, "validation": 2, "test": 2}, size=32)
    raw = _write_pictures(folder / "raw", 40 * images)
    tasks = [{"dataset": str(site)} for site in sites]
    data: dict[str, dict[str, Any]] = {
        "ark": {"tasks": tasks},
        "peac": {"tasks": tasks[:2]},
        "genesis": {"tasks": [{"dataset": str(volumes["phantom_ct_nodule"])}]},
        "finetune": {"model": "none", "dataset": str(sites[0])},
        "federate": {"sites": [{"name": name, "tasks": [task]} for name, task in zip("ab", tasks[:2], strict=True)]},
    }
    verbs = {"finetune": "finetune", "federate": "federate"}
    jobs = {"build": _build_job(raw)}
    for name, recipe in RECIPES.items():
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**recipe, **data[name]}))
        words = [verbs.get(name, "pretrain"), str(path), "--output_dir"]
        jobs[name] = Job(name, lambda out, words=words: [*words, str(out)])
    return jobs


def _build_job(raw: Path) -> Job:
    words = ["data", "build", "generic", "--raw", str(raw), "--label_column", "finding", "--num_workers", "2", "--out"]
    return Job(
        "build", lambda out: [*words, str(out)], lambda out: sorted(path for path in out.rglob("*") if path.is_file())
    )


def _write_pictures(folder: Path, count: int) -> Path:
    """A folder of one's own pictures of two classes, and their table, for the generic builder."""
    import numpy as np
    import PIL.Image

    folder.mkdir(parents=True)
    drawn, lines = np.random.default_rng(0), ["image,finding,patient_id"]
    for number in range(count):
        PIL.Image.fromarray(drawn.integers(0, 256, (96, 96), dtype=np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{'sick' if number % 2 else 'healthy'},p{number}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def forks() -> Any:
    """The context whose processes begin with everything imported, which it is when this returns."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    first = context.Process(target=int)
    first.start()
    first.join()
    return context


def start(context: Any, words: list[str], log: Path) -> Any:
    """Starts `ark-hf` with the words; what it prints is added to the log."""
    process = context.Process(target=_run, args=(words, log))
    process.start()
    return process


def _run(words: list[str], log: Path) -> None:
    os.setsid()  # so that it and what it starts can be looked for, and killed
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(log, "a", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        from ark_hf.cli.main import main

        sys.exit(main(words))

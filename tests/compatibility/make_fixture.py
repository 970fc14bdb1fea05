"""
Makes `written_by_91dc8e3.tar.xz`: small ones of all that version 91dc8e3 writes and some version reads back.

It runs under that version alone, whose modules have other names than today's:

    git worktree add ../91dc8e3 91dc8e3
    OMP_NUM_THREADS=1 PYTHONPATH=../91dc8e3/src python tests/compatibility/make_fixture.py

On one machine it gives the same bytes again. The pictures are drawn phantoms, the weights a few thousand numbers that
learnt them for some steps. Left out is only what nothing reads back. The folders:

    data/            two task datasets, phantom_city (multi-label) and phantom_coast (three classes)
    run/             a pretraining run of recipe.yaml, killed in the second of two cycles: its last checkpoint
    whole/           the same run without the kill: its last teacher, the student's weights, and metrics.json
    report/          evaluation of whole/ark-cxr on both datasets
    calibrated/      whole/ark-cxr calibrated, and calibrated_report/, its evaluation against whole/ark-cxr
    embeddings/      store of whole/ark-cxr for the test split of phantom_city
    finetuned/       whole/ark-cxr fine-tuned on phantom_coast: seed 0 finished, seed 1 killed
    accumulated/     the same with gradient accumulation, killed; its batch_size is images a micro-batch
    finetuned_whole/, accumulated_whole/  weights of the two killed ones without the kill
"""

import json
import os
import random
import shutil
import tarfile
import tempfile
from pathlib import Path
from types import SimpleNamespace

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": tempfile.mkdtemp(), "ACCELERATE_USE_CPU": "true"}

import numpy as np
import torch
import yaml
from accelerate.state import AcceleratorState, PartialState

from ark_hf.cli import main
from ark_hf.data.build import build_dataset, phantom_release
from ark_hf.training import finetuning_trainer, pretrain_ark
from ark_hf.training.recipe import PretrainingArguments, TaskSpec
from ark_hf.training.tasks import load_tasks

ARCHIVE = Path(__file__).with_name("written_by_91dc8e3.tar.xz")
SITES = {"phantom_city": 6, "phantom_coast": 3}  # the seed of each; with 6, one AUROC of test is undefined
COUNTS = {"train": 8, "validation": 6, "test": 8}
DATA = [f"data/{site}" for site in SITES]
RECIPE = {
    "output_dir": "run",
    "backbone": "swin_tiny_patch4_window7_224",
    "backbone_kwargs": {"embed_dim": 4, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4},
    "image_size": 32,
    "projector_dim": 8,
    "drop_path_rate": 0.5,
    "cycles": 2,
    "batch_size": 4,
    "learning_rate": 0.05,
    "warmup_steps": 2,
    "ema_mode": "iteration",
    "min_crop_scale": 0.5,
    "save_steps": 1,
    "save_total_limit": 1,
    "tasks": [{"dataset": DATA[0], "uncertain": "lsr_ones"}, {"dataset": DATA[1]}],
}
FINETUNING = [
    "--freeze", "encoder", "--batch_size", "4", "--max_steps", "4", "--eval_steps", "2", "--learning_rate", "1e-2",
    "--bootstrap", "20",
]  # fmt: skip
FORGOTTEN = (  # what nothing reads back
    "run/ark-cxr", "run/best", "run/student", "run/metrics.json", "whole/best", "whole/checkpoints",
    "**/report.html", "**/training_args.bin",
)  # fmt: skip
WEIGHTS_ALONE = ("whole/student", "finetuned_whole", "accumulated_whole")
TIMES = ("seconds", "runtime", "per_second")


class Killed(Exception):
    pass


def verb(*words: str) -> None:
    """One call of `ark-hf`, as if in a process of its own."""
    fresh_process()
    assert main(list(words)) == 0, words


def fresh_process() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    random.seed(0)  # of these generators' states, too, checkpoints hold what they were
    np.random.seed(0)
    torch.manual_seed(0)


def killed(run, owner: type, method: str, step_of, step: int) -> None:
    """Lets `run` die at the end of the step of this number, at the call of a method that comes last in a step."""
    original = getattr(owner, method)

    def mortal(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if step_of(self, *args) == step:
            raise Killed

    setattr(owner, method, mortal)
    try:
        run()
        raise AssertionError("the run ended before it could be killed")
    except Killed:
        pass
    finally:
        setattr(owner, method, original)


def make_datasets() -> None:
    for site, seed in SITES.items():
        build_dataset(phantom_release(site, COUNTS, 32, seed), Path("data", site), 32, num_workers=1)


def pretrain(output_dir: str) -> None:
    fresh_process()
    settings = {name: value for name, value in RECIPE.items() if name != "tasks"} | {"output_dir": output_dir}
    tasks = load_tasks([TaskSpec(**task) for task in RECIPE["tasks"]], ".")
    pretrain_ark.CyclicPretrainer(PretrainingArguments(**settings), tasks).train()


def finetune(folder: str, seeds: list[int], *options: str) -> None:
    verb("finetune", "whole/ark-cxr", DATA[1], "--output_dir", folder, "--seeds", *map(str, seeds), *FINETUNING,
         *options)  # fmt: skip


def killed_finetune(folder: str, seed: int, *options: str) -> None:
    killed(
        lambda: finetune(folder, [seed], *options),
        finetuning_trainer.Progress,
        "on_step_end",
        lambda self, args, state, control: state.global_step,
        3,
    )
    finetune(f"{folder}_whole", [seed], "--test", "false", *options)


def without_times(values):
    """JSON with the same zeros for all times."""
    if isinstance(values, dict):
        return {
            key: 0.0 if key.endswith(TIMES) and isinstance(value, float) else without_times(value)
            for key, value in values.items()
        }
    return [without_times(value) for value in values] if isinstance(values, list) else values


def pack() -> None:
    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, 0, "", ""
        entry.mode = 0o755 if entry.isdir() else 0o644
        return entry

    # Alike beside alike: code and weights of two models compress to those of one
    files = sorted((path for path in Path().rglob("*") if path.is_file()), key=lambda path: (path.name, str(path)))
    with tarfile.open(ARCHIVE, "w:xz", preset=9, format=tarfile.USTAR_FORMAT) as archive:
        for path in files:
            archive.add(path, filter=anonymous)


def make() -> None:
    pretrain_ark.time = SimpleNamespace(monotonic=lambda: 0.0)
    make_datasets()
    recipe = json.loads(json.dumps(RECIPE))  # tuples to lists, as in any file
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    pretrain("whole")
    killed(
        lambda: pretrain("run"), pretrain_ark.CyclicPretrainer, "log_step", lambda self, *_: self.state.step, 5
    )  # in the middle of a pass; the last checkpoint is of step 5
    evaluated = ["--bootstrap", "20", "--batch_size", "8"]
    verb("evaluate", "whole/ark-cxr", *DATA, *evaluated, "--out", "report")
    verb("evaluate", "whole/ark-cxr", *DATA, *evaluated, "--out", "calibrated_report", "--calibrate", "calibrated",
         "--against", "whole/ark-cxr")  # fmt: skip
    verb("embed", "whole/ark-cxr", DATA[0], "--store", "embeddings", "--splits", "test")
    finetune("finetuned", [0])
    killed_finetune("finetuned", 1)
    killed_finetune("accumulated", 0, "--gradient_accumulation_steps", "2")

    for pattern in FORGOTTEN:
        for path in Path().glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder in WEIGHTS_ALONE:
        for path in Path(folder).rglob("*.*"):
            if path.is_file() and path.suffix != ".safetensors":
                path.unlink()
    for path in Path().rglob("*.json"):
        path.write_text(json.dumps(without_times(json.loads(path.read_text())), indent=1) + "\n")
    for number, path in enumerate(sorted(Path().rglob("part-*.parquet"))):
        path.rename(path.with_name(f"part-{number:032x}.parquet"))
    pack()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as workplace:
        os.chdir(workplace)
        make()
        os.chdir("/")
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size:,} bytes")

"""
What PEAC learns of places on drawn chests, what each of its losses adds, and what Ark's labels teach in their place.

    python examples/peac/ablation.py FOLDER

Draws the built-in sites to FOLDER/sites and trains the encoder of phantoms.yaml on them: as it stands there; with the
sites' labels, as Ark's teacher, in as many cycles; and for fewer epochs with all four losses and without each. Then
correspondence.py, beside this file, finds the landmarks of test phantoms with all of them: FOLDER/errors. Jobs run
side by side, a core each; running again resumes.
"""

import functools
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import correspondence
import torch

import ark_hf

RECIPE = Path(__file__).with_name("phantoms.yaml")
COUNTS = {"train": 500, "validation": 30, "test": 2}  # a site; correspondence.py draws its own test pictures
SIZE = 320
EPOCHS = 6  # of the ablation
# By arm what differs from the recipe
ARMS: dict[str, dict[str, Any]] = {
    "peac": {},
    "all_losses": {"epochs": EPOCHS},
    "without_order": {"epochs": EPOCHS, "order_weight": 0.0},
    "without_restoration": {"epochs": EPOCHS, "restoration_weight": 0.0},
    "without_global": {"epochs": EPOCHS, "global_weight": 0.0},
    "without_local": {"epochs": EPOCHS, "local_weight": 0.0},
}
ARK: dict[str, Any] = {"projector_dim": None, "drop_path_rate": 0.0, "ema_mode": "iteration", "min_crop_scale": 0.65}
SHARED = (
    "backbone", "backbone_kwargs", "image_size", "batch_size", "optim", "learning_rate", "weight_decay",
    "warmup_steps", "max_grad_norm", "seed",
)  # fmt: skip


def train(arm: str, folder: Path) -> None:
    torch.set_num_threads(1)
    recipe = ark_hf.read_recipe(RECIPE)
    tasks = ark_hf.parse_tasks(recipe.pop("tasks"), str(RECIPE))
    place = {"output_dir": str(folder / arm), "data_root": str(folder / "sites"), "allow_shared_images": True}
    if arm == "ark":
        values = {name: recipe[name] for name in SHARED if name in recipe}
        ark_hf.pretrain(ark_hf.PretrainingArguments(**values, **ARK, **place, cycles=recipe["epochs"]), tasks)
    else:
        ark_hf.pretrain(ark_hf.PeacArguments(**{**recipe, **ARMS[arm], **place}), tasks)


def main(folder: Path) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    if not (folder / "sites").is_dir():
        ark_hf.build_phantom_sites(folder / "sites", COUNTS, SIZE)
    arms = [*ARMS, "ark"]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        for done in [pool.submit(functools.partial(train, arm, folder)) for arm in arms]:
            done.result()
    correspondence.main([str(folder / arm / "ark-cxr") for arm in arms], folder / "errors", None)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))

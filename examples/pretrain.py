"""
Cyclic pretraining through the public API: what `ark-hf pretrain` does, here on the built-in phantom sites.

    python examples/pretrain.py runs/example
"""

import sys
from pathlib import Path

from ark_hf import CyclicPretrainer, PretrainingArguments
from ark_hf.data.sources.phantom_sites import build_phantom_sites
from ark_hf.training.ark.recipe import TaskSpec
from ark_hf.training.ark.tasks import load_tasks

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    counts = {"train": 100, "validation": 40, "test": 40}
    sites = build_phantom_sites(folder / "sites", counts, size=64)
    tasks = load_tasks([TaskSpec(str(site)) for site in sites.values()], data_root=".")
    args = PretrainingArguments(
        output_dir=str(folder / "run"),
        backbone="resnet10t",
        image_size=64,
        projector_dim=128,
        cycles=3,
        batch_size=32,
        optim="adamw",
        learning_rate=1e-3,
        ema_mode="iteration",
        min_crop_scale=0.5,
    )
    CyclicPretrainer(args, tasks).train()
    print(f"The teacher is in {folder / 'run' / 'ark-cxr'}.")

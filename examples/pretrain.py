"""
Cyclic pretraining through the public API: what `ark-hf pretrain` does, here on the built-in phantom sites.

    python examples/pretrain.py runs/example    # a minute or two on two cores
"""

import sys
from pathlib import Path

from ark_hf import PretrainingArguments, TaskSpec, build_phantom_sites, pretrain

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/pretrain.py FOLDER")
    folder = Path(sys.argv[1])
    counts = {"train": 100, "validation": 40, "test": 40}
    sites = build_phantom_sites(folder / "sites", counts, size=64)
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
    teacher = pretrain(args, [TaskSpec(str(site)) for site in sites.values()])
    print(f"The teacher is in {teacher}.")

"""
From pictures to outlines, on drawn chests: first lungs and heart are told apart, then effusions and nodules over them.

    python examples/segment.py ark-cxr runs/segment    # minutes on two cores; ark-cxr is what `ark-hf demo` left

`ark-hf finetune MODEL DATASET` does the same on your own. Phantom data shows that the code runs and learns; it is no
evidence about patients.
"""

import sys
from pathlib import Path

from ark_hf import FinetuningArguments, build_phantom_masks, finetune

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/segment.py MODEL FOLDER")
    model, folder = sys.argv[1], Path(sys.argv[2])
    datasets = {name: folder / "masks" / name for name in ("phantom_organs", "phantom_findings")}
    if not (folder / "masks").is_dir():  # run again, it goes on where it was
        build_phantom_masks(folder / "masks", {"train": 160, "validation": 40, "test": 60}, size=128)
    for name, dataset in datasets.items():
        args = FinetuningArguments(
            output_dir=str(folder / name),
            decoder_channels=64,
            epochs=12,
            eval_steps=40,
            batch_size=16,
            learning_rate=4e-3,
            min_crop_scale=0.7,
        )
        (run,) = finetune(model, str(dataset), args)["seeds"]
        print(f"\n{name}, Dice on {run['test']['num_images']} test images with 95 % intervals, and of the mean mask")
        for dice, prior in zip(run["test"]["dice"], run["test"]["prior_dice"], strict=True):
            interval = f"{dice['mean']:.3f} ({dice['ci_low']:.3f} to {dice['ci_high']:.3f})"
            print(f"{dice['label']:10} {interval}  {prior['mean']:.3f}")
        print(f"Overlays of the best, the median and the worst: {folder / name / 'seed-0' / 'report' / 'report.html'}")

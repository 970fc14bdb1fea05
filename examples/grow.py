"""
Growth, as Ark's to COVIDx: a model of three phantom sites goes on to a fourth. What is kept of the three?

    python examples/grow.py runs/growth    # minutes on two cores; resumes

Phantom data shows that the code runs and learns; it is no evidence about patients.
"""

import sys
from pathlib import Path

import ark_hf
from ark_hf import PretrainingArguments, TaskSpec


def train(run: Path, tasks: list[TaskSpec], init: str, cycles: int) -> str:
    """Trains, or resumes, and returns the teacher's folder."""
    args = PretrainingArguments(
        output_dir=str(run),
        init=init,
        backbone="test_resnet",
        image_size=64,
        projector_dim=128,
        drop_path_rate=0.0,
        cycles=cycles,
        batch_size=32,
        optim="adamw",
        learning_rate=2e-3,
        ema_mode="iteration",
        min_crop_scale=0.7,
    )
    return str(ark_hf.pretrain(args, tasks))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/grow.py FOLDER")
    folder = Path(sys.argv[1])
    if not (folder / "sites").is_dir():  # run again, it goes on where it was
        ark_hf.build_phantom_sites(folder / "sites", {"train": 160, "validation": 60, "test": 160}, size=72)
    *earlier, new = [str(folder / "sites" / name) for name in ark_hf.PHANTOM_SITES]

    before = train(folder / "before", [TaskSpec(site) for site in earlier], "none", cycles=12)
    evaluated = [TaskSpec(site, train=False) for site in earlier]
    grown = {
        "the new site alone": train(folder / "alone", [TaskSpec(new), *evaluated], before, cycles=12),
        "all sites": train(folder / "rehearsal", [TaskSpec(site) for site in [new, *earlier]], before, cycles=12),
    }

    print("\nMean AUROC on the test splits; differences with 95 % intervals, paired, over patients\n")
    print("| site | trained on | before | after | difference |\n|---|---|---|---|---|")
    for how, model in grown.items():
        for site, comparison in zip(earlier, ark_hf.compare(model, before, earlier), strict=True):
            mean = comparison.results[-1]
            interval = f"{mean.difference:+.3f} ({mean.ci_low:+.3f} to {mean.ci_high:+.3f})"
            print(f"| {Path(site).name} | {how} | {mean.auroc_a:.3f} | {mean.auroc_b:.3f} | {interval} |")
        (report,) = ark_hf.evaluate(model, [new]).reports
        interval = f"{report.mean.auroc:.3f} ({report.mean.ci_low:.3f} to {report.mean.ci_high:.3f})"
        print(f"| {report.task} | {how} | no head | {interval} | |")

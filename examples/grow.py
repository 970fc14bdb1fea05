"""
Growth, as Ark's to COVIDx: a model of three phantom sites goes on to a fourth. What is kept of the three?

    python examples/grow.py runs/growth

Phantom data shows that the code runs and learns; it is no evidence about patients.
"""

import sys
from pathlib import Path

from ark_hf import CyclicPretrainer, PretrainingArguments
from ark_hf.data.sources.phantom import SITES
from ark_hf.data.sources.phantom_sites import build_phantom_sites
from ark_hf.evaluation.report.task_report import compare_task
from ark_hf.evaluation.scoring import EvaluationData, ScoredTask, load_evaluation_data, score_task
from ark_hf.inference.predict import load_ark
from ark_hf.metrics.auroc import evaluate_labels
from ark_hf.training.ark.recipe import TaskSpec
from ark_hf.training.ark.tasks import load_tasks


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
    CyclicPretrainer(args, load_tasks(tasks, ".")).train()
    return str(run / "ark-cxr")


def test(model: str, site: str) -> tuple[EvaluationData, ScoredTask]:
    network, processor = load_ark(model)
    data = load_evaluation_data(network, site)
    return data, score_task(network, processor, data)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if not (folder / "sites").is_dir():  # run again, it goes on where it was
        build_phantom_sites(folder / "sites", {"train": 160, "validation": 60, "test": 160}, size=72)
    *earlier, new = [str(folder / "sites" / name) for name in SITES]

    before = train(folder / "before", [TaskSpec(site) for site in earlier], "none", cycles=12)
    evaluated = [TaskSpec(site, train=False) for site in earlier]
    grown = {
        "the new site alone": train(folder / "alone", [TaskSpec(new), *evaluated], before, cycles=12),
        "all sites": train(folder / "rehearsal", [TaskSpec(site) for site in [new, *earlier]], before, cycles=12),
    }

    print("\nMean AUROC on the test splits; differences with 95 % intervals, paired, over patients\n")
    print("| site | trained on | before | after | difference |\n|---|---|---|---|---|")
    for how, model in grown.items():
        for site in earlier:
            data, ours = test(model, site)
            mean = compare_task(data, ours, test(before, site)[1])[-1]
            interval = f"{mean.difference:+.3f} ({mean.ci_low:+.3f} to {mean.ci_high:+.3f})"
            print(f"| {data.task.name} | {how} | {mean.auroc_a:.3f} | {mean.auroc_b:.3f} | {interval} |")
        data, ours = test(model, new)
        _, mean = evaluate_labels(ours.labels, ours.probabilities, data.task.labels, clusters=ours.patients)
        print(f"| {data.task.name} | {how} | no head | {mean.auroc:.3f} ({mean.ci_low:.3f} to {mean.ci_high:.3f}) | |")

"""
What the loop of pretraining spends beside the model: starting loader processes, and averaging the teacher.

`loader`: cycles of cyclic pretraining over small datasets with a small model, validations included, so that loading
decides. The loader processes live through the run, or are started for each pass and each validation, which is the
reference. Two trainers take turns of a cycle each; images a second are those of the time that passes.

`average`: one update of the teacher of a Swin-B, 87 million weights, by pairs of weights that are looked up once; the
reference makes two state dicts in every step. By turns, in one thread; CPU time.

Figures are medians over the turns, ratios of those within a turn. Run it on a machine that does nothing else.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

MODEL = {
    "backbone": "convnext_atto", "backbone_kwargs": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "image_size": 32, "projector_dim": 16,
}  # fmt: skip
SWIN_B = "swin_base_patch4_window7_224"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=4, help="datasets (4)")
    parser.add_argument("--images", type=int, nargs="+", default=[40, 100, 250], help="of each: 40, 100 and 250")
    parser.add_argument("--size", type=int, default=64, help="their side in pixels (64)")
    parser.add_argument("--workers", type=int, default=2, help="loader processes (2)")
    parser.add_argument("--cycles", type=int, default=5, help="cycles of each trainer after the first (5)")
    parser.add_argument("--backbone", default=SWIN_B, help=f"whose weights are averaged ({SWIN_B})")
    parser.add_argument("--updates", type=int, default=21, help="updates by each way (21)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training_loop.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), args)
    print_table(results)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"Written to {args.out}.")


def measure(folder: Path, args: argparse.Namespace) -> dict:
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    return {
        "loader": [measure_loader(folder / str(images), images, args) for images in args.images],
        "average": measure_average(args),
        "settings": {key: value for key, value in vars(args).items() if key != "out"},
        "machine": {
            "cores": os.cpu_count(),
            "load_at_start": round(load, 1),
            "load_at_end": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
        },
        "versions": {"torch": torch.__version__},
    }


def measure_loader(folder: Path, images: int, args: argparse.Namespace) -> dict:
    from ark_hf import CyclicPretrainer, PretrainingArguments, TaskSpec, build_phantom_sites, load_tasks
    from ark_hf.data.loader import Loader

    class LoaderAPass(Loader):
        def load(self, *asked):
            yield from super().load(*asked)
            self.close()

    counts = {"train": images, "validation": max(images // 5, 8)}
    sites = list(build_phantom_sites(folder / "sites", counts, size=args.size).values())[: args.sites]
    trainers = []
    for kind in (LoaderAPass, Loader):
        settings = PretrainingArguments(
            output_dir=str(folder / kind.__name__), **MODEL, cycles=args.cycles + 1, batch_size=16,
            learning_rate=0.01, dataloader_num_workers=args.workers,
        )  # fmt: skip
        trainer = CyclicPretrainer(settings, load_tasks([TaskSpec(str(site)) for site in sites], "."))
        trainer.loader = kind(trainer._samples, args.workers)
        trainers.append(trainer)

    def cycle(trainer: CyclicPretrainer) -> Callable[[], object]:
        return lambda: (trainer.run_cycle(), trainer.validate())

    ways = [cycle(trainer) for trainer in trainers]
    for way in ways:
        way()
    a_pass, live, ratio = by_turns(ways, args.cycles, time.perf_counter)
    for trainer in trainers:
        trainer.loader.close()
    seen = sum(counts.values()) * len(sites)
    return {
        "images_of_each": counts,
        "loader_a_pass": round(seen / a_pass, 1),
        "live": round(seen / live, 1),
        "ratio": round(ratio, 2),
    }


def measure_average(args: argparse.Namespace) -> dict:
    import timm

    from ark_hf.training.ema import MovingAverage

    teacher, student = (timm.create_model(args.backbone, num_classes=0) for _ in range(2))
    average = MovingAverage(teacher, student)
    ways = [lambda: average_state_dicts(teacher, student, 0.9), lambda: average.update(0.9)]
    reference, ours, ratio = by_turns(ways, args.updates, time.process_time)
    return {
        "weights": sum(value.numel() for value in teacher.state_dict().values()),
        "state_dicts_ms": round(reference * 1000, 1),
        "pairs_ms": round(ours * 1000, 1),
        "ratio": round(ratio, 2),
    }


@torch.no_grad()
def average_state_dicts(teacher: torch.nn.Module, student: torch.nn.Module, momentum: float) -> None:
    ours, theirs = teacher.state_dict(), student.state_dict()
    for key, parameter in student.named_parameters():
        if not parameter.requires_grad:
            del ours[key]
    averaged = [key for key, value in ours.items() if value.is_floating_point()]
    mine = [ours[key] for key in averaged]
    torch._foreach_mul_(mine, momentum)
    torch._foreach_add_(mine, [theirs[key].to(ours[key]) for key in averaged], alpha=1 - momentum)
    for key in ours.keys() - set(averaged):
        ours[key].copy_(theirs[key])


def by_turns(ways: list[Callable[[], object]], turns: int, clock: Callable[[], float]) -> tuple[float, float, float]:
    """Median seconds of the reference and of ours, and the median of their ratios within a turn."""
    taken = [[0.0, 0.0] for _ in range(turns)]
    for turn, seconds in enumerate(taken):
        for way in (0, 1) if turn % 2 else (1, 0):
            started = clock()
            ways[way]()
            seconds[way] = clock() - started
    reference, ours = (statistics.median(seconds[way] for seconds in taken) for way in (0, 1))
    return reference, ours, statistics.median(one / other for one, other in taken)


def print_table(results: dict) -> None:
    print("Images a second of cycles over small datasets, by the images of each")
    print(f"{'train + validation':20}{'loader a pass':>15}{'live':>10}{'ratio':>8}")
    for row in results["loader"]:
        counts = " + ".join(map(str, row["images_of_each"].values()))
        print(f"{counts:20}{row['loader_a_pass']:15.1f}{row['live']:10.1f}{row['ratio']:8.2f}")
    row = results["average"]
    print(
        f"Averaging {row['weights']:,} weights: {row['state_dicts_ms']} ms by state dicts, {row['pairs_ms']} ms by "
        f"pairs, ratio {row['ratio']}."
    )


if __name__ == "__main__":
    main()

"""
Training and inference on one GPU: speed, memory, share of what the GPU can do, and whether training there learns.

Steps are timed on random pictures that are in the GPU's memory already. A training step is forward and backward of
the student, forward of the teacher, and SGD. bf16 is autocast in training and bf16 weights in inference. The reference
is float32 with attention written out as timm builds it; ratios are to it, within this run. `float32` and `bf16` have
the attention that ark_hf gives unasked, `sdpa` that of `attn_implementation="sdpa"`, and `compiled` has the encoder's
blocks compiled (`torch_compile: true`, `--compile`) from an empty cache, which the first step waits for;
`checkpointed` recomputes activations block by block. The column "fused" counts the blocks whose attention is fused
indeed.

The same training then runs through `CyclicPretrainer`, in bf16 on phantoms that loader processes read: its median
step, and the run after its first step with what lies between steps (start of the loaders, validation, saving). At
last the demo is trained in bf16. Its AUROC on held-out phantoms stands beside that of ten global image numbers, and
must not be below what the demo reaches on the CPU in float32.

MFU is the share of the bf16 ceiling, a large matrix product of this run. A forward pass is counted by torch's
FlopCounterMode, without the heads (below a thousandth); training is four of them: the student's forward, its backward
of twice that, and the teacher's forward. A figure is the best of three turns; the first step includes what is set up
in it. Run it on a GPU that nobody else uses.
"""

import argparse
import contextlib
import gc
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from steps import FORWARDS, build, forward_flops, inference_step, training_step

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TURNS = 3
WAYS = {
    "reference": (torch.float32, "eager", False),
    "float32": (torch.float32, None, False),
    "bf16": (torch.bfloat16, None, False),
    "bf16, sdpa": (torch.bfloat16, "sdpa", False),
    "bf16, sdpa, compiled": (torch.bfloat16, "sdpa", True),
}
CHECKPOINTED = "bf16, sdpa, checkpointed"  # for steps that ask for it by name
WAYS_BY_NAME = {**WAYS, CHECKPOINTED: (torch.bfloat16, "sdpa", False)}
FULL: dict[str, Any] = {
    "matrix": 8192,
    "turn_seconds": 0.5,
    "models": {
        "Swin-B 224": {"backbone": "swin_base_patch4_window7_224", "image_size": 224},
        "Swin-L 768": {"backbone": "swin_large_patch4_window12_384", "image_size": 768},
    },
    "steps": [
        ("training", "Swin-B 224", 128), ("training", "Swin-L 768", 4),
        ("training", "Swin-L 768", 8, "bf16, sdpa"), ("training", "Swin-L 768", 16, CHECKPOINTED),
        ("inference", "Swin-B 224", 256), ("inference", "Swin-B 224", 1), ("inference", "Swin-L 768", 16),
    ],
    "pretraining": {"model": "Swin-B 224", "batch_size": 128, "cycles": 2},
    "pretraining_sites": {"counts": {"train": 384, "validation": 64}},  # whole batches
    "demo": {},
    "demo_sites": {},  # its own
    "demo_floor": 0.96,  # on the CPU, in float32, it reaches 0.980
}  # fmt: skip
QUICK: dict[str, Any] = {
    "matrix": 128,
    "turn_seconds": 0.0,
    "models": {
        "tiny Swin": {
            "backbone": "swin_tiny_patch4_window7_224", "image_size": 56, "projector_dim": 16,
            "backbone_kwargs": {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2]},
        },
    },
    "steps": [
        ("training", "tiny Swin", 4), ("inference", "tiny Swin", 4), ("training", "tiny Swin", 8, CHECKPOINTED),
    ],
    "pretraining": {"model": "tiny Swin", "batch_size": 4, "cycles": 1},
    "pretraining_sites": {"counts": {"train": 8, "validation": 2}, "size": 64},
    "demo": {"cycles": 1, "image_size": 32, "batch_size": 8},
    "demo_sites": {"counts": {"train": 16, "validation": 2, "test": 16}, "size": 48},
    "demo_floor": None,  # a cycle teaches little
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="rehearse with tiny models, on the CPU if need be")
    parser.add_argument("--out", type=Path, help="JSON file (results/gpu.json beside this script; none with --quick)")
    args = parser.parse_args()
    if DEVICE == "cpu" and not args.quick:
        print("gpu.py: error: torch finds no CUDA device; --quick rehearses on the CPU.", file=sys.stderr)
        sys.exit(2)
    out = args.out or (None if args.quick else Path(__file__).parent / "results" / "gpu.json")

    def keep(results: dict) -> None:  # as soon as it is there: an unattended run may be cut off
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(results, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = str(Path(folder) / "cache")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "compiled")
        results = measure(QUICK if args.quick else FULL, Path(folder), keep)
    print_results(results)
    if out is not None:
        print(f"Written to {out}.")
    if results["failures"] or results["demo"]["passed"] is False:
        sys.exit(1)


def measure(sizes: dict[str, Any], folder: Path, keep: Callable[[dict], None]) -> dict:
    """All parts. What fails is told on stderr and among the results, and the others go on."""
    started = time.monotonic()
    ceiling = matrix_flops_per_second(sizes)
    flops = {name: forward_flops(model) for name, model in sizes["models"].items()}
    results: dict[str, Any] = {
        "ceiling_tflops": rounded(ceiling / 1e12),
        "forward_gflops": {name: rounded(count / 1e9) for name, count in flops.items()},
        "table": [],
        "demo": None,
        "failures": {},
        "settings": sizes,
        "machine": {
            "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu", "cuda": torch.version.cuda,
            "cores": os.cpu_count(), "python": platform.python_version(),
        },
        "versions": {name: version(name) for name in ("torch", "timm", "transformers", "accelerate", "datasets")},
    }  # fmt: skip
    references: dict[tuple, float] = {}

    def attempt(part: Callable, *args: Any) -> Any:
        if DEVICE == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        print(f"{time.monotonic() - started:6.1f} s:", part.__name__, *args, file=sys.stderr, flush=True)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                return part(sizes, folder, *args)
        except Exception as error:
            traceback.print_exc()
            results["failures"][" ".join(map(str, (part.__name__, *args)))] = f"{type(error).__name__}: {error}"

    def add(job: str, model: str, batch_size: int, way: str, seconds: float, **figures: Any) -> None:
        speed = batch_size / seconds
        if way == "reference":
            references[job, model, batch_size] = speed
        reference = references.get((job, model, batch_size))  # none if it has failed
        row = {"job": job, "model": model, "batch_size": batch_size, "way": way}
        row |= {"images_per_s": rounded(speed), "ms_per_image": rounded(1000 / speed)}
        row |= {"ratio": reference and rounded(speed / reference)}
        row |= {"mfu": rounded(FORWARDS[job] * flops[model] * speed / ceiling)}
        results["table"].append(row | figures)

    parts = [(measure_step, *step[:3], way) for step in sizes["steps"] for way in step[3:] or WAYS]
    for part in [*parts, (measure_pretraining,)]:
        for row in attempt(*part) or ():
            add(**row)
        keep(results)
    results["demo"] = attempt(check_demo)
    results["seconds"] = round(time.monotonic() - started, 1)
    keep(results)
    return results


def matrix_flops_per_second(sizes: dict[str, Any]) -> float:
    side = sizes["matrix"]
    a, b = torch.randn(2, side, side, device=DEVICE, dtype=torch.bfloat16)
    return 2 * side**3 / time_calls(lambda: a @ b, sizes["turn_seconds"])[1]


def measure_step(
    sizes: dict[str, Any], folder: Path, job: str, name: str, batch_size: int, way: str
) -> list[dict[str, Any]]:
    dtype, attention, compiled = WAYS_BY_NAME[way]
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = build(sizes["models"][name], attention)
        pictures = torch.randn(batch_size, 3, model.config.image_size, model.config.image_size)
    if way == CHECKPOINTED:
        model.activation_checkpointing_enable()
    step = {"training": training_step, "inference": inference_step}[job](model, pictures, dtype, compiled)
    first, seconds = time_calls(step, sizes["turn_seconds"])
    blocks = [module.fused_attn for module in model.modules() if hasattr(module, "fused_attn")]
    figures = {"first_step_s": rounded(first), "peak_gib": peak_gib(), "fused": f"{sum(blocks)}/{len(blocks)}"}
    return [{"job": job, "model": name, "batch_size": batch_size, "way": way, "seconds": seconds, **figures}]


def time_calls(call: Callable[[], object], turn_seconds: float) -> tuple[float, float]:
    """Seconds of the first call, and of a call in the best of the turns, each of at least two calls."""

    def time_turn(calls: int) -> float:
        started = time.perf_counter()
        for _ in range(calls):
            call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / calls

    first, _, third = (time_turn(1) for _ in range(3))
    calls = max(2, round(turn_seconds / third))
    return first, min(time_turn(calls) for _ in range(TURNS))


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def peak_gib() -> float | None:
    return rounded(torch.cuda.max_memory_allocated() / 2**30) if DEVICE == "cuda" else None


def measure_pretraining(sizes: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    from ark_hf import CyclicPretrainer, PretrainingArguments, TaskSpec, build_phantom_sites, load_tasks

    class TimedPretrainer(CyclicPretrainer):
        def log_step(self, *args: Any) -> None:  # the losses are on the CPU by then: the GPU has done the step
            super().log_step(*args)
            ends.append(time.perf_counter())

    name, batch_size, cycles = (sizes["pretraining"][key] for key in ("model", "batch_size", "cycles"))
    folders = build_phantom_sites(folder / "sites", **sizes["pretraining_sites"])
    args = PretrainingArguments(
        output_dir=str(folder / "run"), **sizes["models"][name], cycles=cycles, batch_size=batch_size,
        learning_rate=0.01, mixed_precision="bf16", logging_steps=1,  # waits for each step, to time it
    )  # fmt: skip
    tasks = load_tasks([TaskSpec(str(site), uncertain="ones") for site in folders.values()], ".")
    trainer = TimedPretrainer(args, tasks)
    started, ends = time.perf_counter(), []
    trainer.train()
    steps = [end - start for start, end in itertools.pairwise(ends)]
    row = {"job": "training", "model": name, "batch_size": batch_size, "peak_gib": peak_gib()}
    row |= {"workers": trainer.num_workers, "first_step_s": rounded(ends[0] - started)}
    return [
        row | {"way": "pretrainer, step", "seconds": statistics.median(steps)},
        row | {"way": "pretrainer, run", "seconds": statistics.mean(steps)},
    ]


def check_demo(sizes: dict[str, Any], folder: Path) -> dict[str, Any]:
    from ark_hf import build_phantom_sites, train_demo

    started, floor = time.monotonic(), sizes["demo_floor"]
    if sizes["demo_sites"]:
        build_phantom_sites(folder / "demo" / "phantom", **sizes["demo_sites"])
    # Its pictures are so few and small that other processes would take longer to start than to read them
    settings = {"mixed_precision": "bf16", "dataloader_num_workers": 0, **sizes["demo"]}
    reports = train_demo(folder / "demo", **settings)
    auroc = statistics.mean(report.mean.auroc for report in reports)
    return {
        "auroc": round(auroc, 4),
        "shortcut_auroc": round(statistics.mean(report.baseline_mean.auroc for report in reports), 4),
        "floor": floor,
        "passed": None if floor is None else auroc >= floor,
        "seconds": round(time.monotonic() - started, 1),
    }


def print_results(results: dict[str, Any]) -> None:
    print(f"{results['machine']['device']}: bf16 matrix product {results['ceiling_tflops']:.3g} TFLOP/s")
    titles = "images/s", "ms/image", "ratio", "MFU %", "peak GiB", "first s", "fused"
    print(f"{'':35}{'':22}" + "".join(f"{title:>10}" for title in titles))
    for row in results["table"]:
        figures = [row["images_per_s"], row["ms_per_image"], row["ratio"], rounded(row["mfu"] * 100)]
        figures += [row.get(name) for name in ("peak_gib", "first_step_s", "fused")]
        step = f"{row['job']} {row['model']}, batch {row['batch_size']}"
        print(f"{step:35}{row['way']:22}" + "".join(f"{'' if cell is None else cell:>10}" for cell in figures))
    if demo := results["demo"]:
        verdict = {True: "passed", False: "FAILED", None: "not judged"}[demo["passed"]]
        beside = f"global image numbers {demo['shortcut_auroc']:.3f}"
        print(f"Demo in bf16: held-out AUROC {demo['auroc']:.3f}, {beside}; at least {demo['floor']}: {verdict}.")
    for what, error in results["failures"].items():
        print(f"FAILED {what}: {error}")
    print(f"{results['seconds']:.0f} s in all.")


if __name__ == "__main__":
    main()

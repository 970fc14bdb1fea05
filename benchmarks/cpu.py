"""
Training and inference on a CPU: speed against the reference path, and share of what its cores can do.

Swin-B of 224 pixels, random pictures. A training step is forward and backward of the student, forward of the teacher,
and SGD. bf16 is autocast in training and bf16 weights in inference. The reference is float32 with attention written
out, as timm builds it; `sdpa` is `attn_implementation="sdpa"`, and `compiled`, for inference alone, has the blocks
compiled (`--compile`) from an empty cache, which its first step waits for.

The ways take turns, and a ratio is the median over the turns of that within a turn; images a second are of the median
turn. The share is of the bf16 ceiling, a large matrix product of this run, which takes its turn, too. A forward pass
is counted by torch's FlopCounterMode; training is four of them. Run it on a machine that does nothing else.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from steps import FORWARDS, build, forward_flops, inference_step, training_step

MODEL: dict[str, Any] = {"backbone": "swin_base_patch4_window7_224", "image_size": 224}
TINY: dict[str, Any] = {
    "backbone": "swin_tiny_patch4_window7_224", "image_size": 56, "projector_dim": 16,
    "backbone_kwargs": {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2]},
}  # fmt: skip
WAYS = {
    "reference": (torch.float32, "eager", False),
    "float32, sdpa": (torch.float32, "sdpa", False),
    "bf16": (torch.bfloat16, "eager", False),
    "bf16, sdpa": (torch.bfloat16, "sdpa", False),
    "bf16, sdpa, compiled": (torch.bfloat16, "sdpa", True),
}
# What DESIGN asks for, by whether the CPU has AMX: ratio, and share of the ceiling
GOALS = {
    True: {"inference": (6.0, 0.5), "training": (3.0, None)},
    False: {"inference": (4.2, 0.8), "training": (2.5, None)},
}
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9, help="turns that each way takes (9)")
    parser.add_argument("--inference_batch", type=int, default=16, help="pictures at once (16)")
    parser.add_argument("--training_batch", type=int, default=16, help="pictures at once (16)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads (one a core)")
    parser.add_argument("--quick", action="store_true", help="rehearse with a tiny model; no file")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cpu.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        results = measure(args)
    print_table(results)
    if not args.quick:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n")
        print(f"Written to {args.out}.")


def measure(args: argparse.Namespace) -> dict:
    load, model = os.getloadavg()[0], TINY if args.quick else MODEL
    flops, table = forward_flops(model), []
    for job, make in (("inference", inference_step), ("training", training_step)):
        batch = args.inference_batch if job == "inference" else args.training_batch
        ways: dict[str, Callable] = {}
        for way, (dtype, attention, compiled) in WAYS.items():
            if compiled and job == "training":  # compiling would take minutes, and gains nothing here
                continue
            torch.manual_seed(0)
            pictures = torch.randn(batch, 3, model["image_size"], model["image_size"])
            ways[way] = make(build(model, attention), pictures, dtype, compiled)
        ways["ceiling"] = matrix_product(128 if args.quick else 2048)
        firsts, seconds = take_turns(ways, args.turns)
        ceiling = ways["ceiling"].flops / statistics.median(seconds.pop("ceiling"))  # type: ignore[attr-defined]
        for way, taken in seconds.items():
            speed = batch / statistics.median(taken)
            ratio = statistics.median(one / other for one, other in zip(seconds["reference"], taken, strict=True))
            row = {
                "job": job,
                "batch_size": batch,
                "way": way,
                "images_per_s": rounded(speed),
                "ratio": rounded(ratio),
                "first_step_s": rounded(firsts[way]),
            }
            table.append(
                row
                | {
                    "share": rounded(FORWARDS[job] * flops * speed / ceiling),
                    "ceiling_tflops": rounded(ceiling / 1e12),
                }
            )
    features = cpu_features()
    return {
        "table": table,
        "forward_gflops": rounded(flops / 1e9),
        "goals": GOALS["amx_bf16" in features],
        "settings": {"turns": args.turns, "threads": args.threads},
        "machine": {
            "cores": os.cpu_count(), "features": features, "load_at_start": round(load, 1),
            "python": platform.python_version(),
        },
        "versions": {name: version(name) for name in ("torch", "timm", "transformers")},
    }  # fmt: skip


def matrix_product(side: int) -> Callable:
    a, b = torch.randn(2, side, side, dtype=torch.bfloat16)

    def product() -> None:
        for _ in range(10):
            a @ b

    product.flops = 10 * 2 * side**3  # type: ignore[attr-defined]
    return product


def take_turns(ways: dict[str, Callable], turns: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Seconds of each way's first turn, which sets things up, and of the others."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(turns + 1):
        for way, step in ways.items():
            started = time.perf_counter()
            step()
            seconds[way].append(time.perf_counter() - started)
    return {way: taken[0] for way, taken in seconds.items()}, {way: taken[1:] for way, taken in seconds.items()}


def cpu_features() -> list[str]:
    try:
        known = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:  # no Linux
        return []
    return [name for name in FEATURES if name in known]


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def print_table(results: dict) -> None:
    machine, threads = results["machine"], results["settings"]["threads"]
    print(f"{machine['cores']} cores, {threads} threads; {' '.join(machine['features']) or 'unknown CPU'}")
    print(f"{'':42}{'images/s':>10}{'ratio':>8}{'of bf16 ceiling':>17}{'first step':>14}")
    for row in results["table"]:
        step = f"{row['job']}, batch {row['batch_size']}"
        print(f"{step:20}{row['way']:22}{row['images_per_s']:10}{row['ratio']:8.2f}{row['share']:17.0%}", end="")
        print(f"{row['first_step_s']:12.1f} s")
    for job, (ratio, share) in results["goals"].items():
        best = max((row for row in results["table"] if row["job"] == job), key=lambda row: row["ratio"])
        met = best["ratio"] >= ratio and (share is None or best["share"] >= share)
        of_ceiling = "" if share is None else f" and {share:.0%} of the ceiling"
        print(f"Goal of {job}, {ratio}x{of_ceiling}: {'met' if met else 'missed'}.")


if __name__ == "__main__":
    main()

"""
Forward passes of the same model by PyTorch and, exported, by onnxruntime, in one run and on one thread each.

The models have random weights, whose values do not change the time: Ark's Swin-B at 224 pixels with the heads of the
released models (52 outputs), and `tf_efficientnet_lite0`. Both run in float32; PyTorch as `ark-hf predict` runs it,
with timm's fused attention. Pictures are ready: reading and preparing them is the same for both.

The two take turns, and a figure is the best of the turns, in CPU time, which work beside it on the machine changes
less than the time that passes.
"""

import argparse
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import onnxruntime
import torch

MODELS = {
    "Swin-B 224": {"backbone": "swin_base_patch4_window7_224", "image_size": 224},
    "EfficientNet lite0 224": {"backbone": "tf_efficientnet_lite0", "image_size": 224},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8], help="pictures per pass (1 8)")
    parser.add_argument("--turns", type=int, default=5, help="turns that each takes (5)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "onnx_inference.json")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    table = [row for name in MODELS for row in measure(name, args.batch_sizes, args.turns)]
    print_table(table)
    results = {
        "table": table,
        "settings": {"batch_sizes": args.batch_sizes, "turns": args.turns, "threads": 1, "dtype": "float32"},
        "machine": {
            "cores": os.cpu_count(), "processor": processor(), "python": platform.python_version(), "load": load,
        },
        "versions": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
    }  # fmt: skip
    print(f"Load before the start: {load:.1f}.")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"Written to {args.out}.")


def measure(name: str, batch_sizes: list[int], turns: int) -> list[dict]:
    from ark_hf import RELEASED_TASKS, ArkConfig, ArkForImageClassification, ArkImageProcessor, export_onnx

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ArkConfig(**MODELS[name], tasks=list(RELEASED_TASKS))
    model = ArkForImageClassification(config).eval()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        differences = export_onnx(model, ArkImageProcessor(size=config.image_size), Path(folder) / "onnx")
        print(f"{name}: exported and checked in {time.perf_counter() - started:.0f} s", flush=True)
        path = Path(folder) / "onnx" / "model.onnx"
        megabytes = path.stat().st_size / 1e6
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    rows = []
    for batch_size in batch_sizes:
        pictures = torch.randn(batch_size, 3, config.image_size, config.image_size)
        ways = {
            "PyTorch": lambda pictures=pictures: model(pictures).logits,
            "onnxruntime": lambda pictures=pictures: session.run(["logits"], {"pixel_values": pictures.numpy()}),
        }
        seconds = best_of_turns(ways, turns)
        for way, best in seconds.items():
            row = {"model": name, "batch_size": batch_size, "way": way}
            row |= {"ms_per_image": round(best / batch_size * 1000, 2), "ratio": round(seconds["PyTorch"] / best, 2)}
            if way == "onnxruntime":
                row |= {"file_megabytes": round(megabytes, 1), "differences": differences}
            rows.append(row)
    return rows


@torch.no_grad()
def best_of_turns(ways: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    best = dict.fromkeys(ways, math.inf)
    for _ in range(turns + 1):  # the first finds everything cold, and is never the best
        for way, step in ways.items():
            started = time.process_time()
            step()
            best[way] = min(best[way], time.process_time() - started)
    return best


def print_table(table: list[dict]) -> None:
    print(f"{'':24}{'batch':>6}  {'':12}{'CPU ms per image':>16}{'ratio':>7}{'largest difference':>20}")
    for row in table:
        figures = f"{row['ms_per_image']:16.1f}{row['ratio']:7.2f}"
        largest = f"{np.max(list(row['differences'].values())):20.1e}" if "differences" in row else ""
        print(f"{row['model']:24}{row['batch_size']:6}  {row['way']:12}{figures}{largest}")


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


if __name__ == "__main__":
    main()

"""
What each way of computing changes in probabilities and AUROC on the test split of a labelled dataset.

    python benchmarks/precision.py MODEL=DATASET [MODEL=DATASET ...]

Ways are those that `ark-hf` offers: bfloat16 (`--dtype`), compiled blocks (`--compile`), both, and the exported ONNX
file; beside them that file in int8 by onnxruntime's dynamic quantisation (a scale for each channel of the weights, of
features one found as they come), which is measured to know whether it may be offered. All see the same pictures. What
changes is beside float32 as it is loaded: largest and mean change of a probability over all images and labels, and the
mean AUROC of the labels, with what it changed. Bounds are not asserted here: README says what follows.
"""

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

WAYS = {
    "float32": {},
    "float32, compiled": {"compile": True},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16, compiled": {"dtype": "bfloat16", "compile": True},
}
INT8_BOUND = 0.002  # of AUROC


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="MODEL=DATASET", help="a fine-tuned classifier and its dataset")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "precision.json")
    args = parser.parse_args()
    table = []
    for pair in args.pairs:
        model, separator, dataset = pair.rpartition("=")
        if not separator:
            parser.error(f"{pair}: write MODEL=DATASET")
        table += measure(model, dataset, args.batch_size)
    print_table(table)
    results = {
        "table": table,
        "settings": {"batch_size": args.batch_size, "int8_bound": INT8_BOUND},
        "machine": {"cpu": torch.backends.cpu.get_cpu_capability(), "bfloat16": bfloat16(),
                    "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "timm", "onnxruntime")},
    }  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"Written to {args.out}.")


def bfloat16() -> dict[str, bool]:
    return {"avx512_bf16": torch.cpu._is_avx512_bf16_supported(), "amx": torch.cpu._is_amx_tile_supported()}


def measure(model: str, dataset: str, batch_size: int) -> list[dict[str, Any]]:
    from ark_hf import load_ark
    from ark_hf.data.volume_samples import inference_samples
    from ark_hf.evaluation.scoring import load_evaluation_data
    from ark_hf.inference.predict import mean_probabilities, predict_logits
    from ark_hf.training.selection import label_aurocs

    network, processor = load_ark(model)
    data = load_evaluation_data(network, dataset)
    samples, task = inference_samples(data.splits["test"], data.task, processor), data.task
    about = {"backbone": network.config.backbone, "image_size": network.config.image_size, "dataset": task.name}
    about["images"] = len(samples)

    def probabilities(**how: Any) -> np.ndarray:
        logits, _ = predict_logits([load_ark(model, **how)[0]], samples, batch_size)
        return mean_probabilities(logits, task)

    with tempfile.TemporaryDirectory() as folder:
        plain, small = export(network, processor, Path(folder))
        ways: dict[str, Callable[[], np.ndarray]] = {
            name: lambda how=how: probabilities(**how) for name, how in WAYS.items()
        }
        column = slice(*columns(network.config, task.name))
        ways["ONNX"] = lambda: run(plain, samples, batch_size)[:, column]
        ways["ONNX, int8"] = lambda: run(small, samples, batch_size)[:, column]
        found = {name: compute() for name, compute in ways.items()}
        megabytes = {"ONNX": plain.stat().st_size / 1e6, "ONNX, int8": small.stat().st_size / 1e6}
    exact = found["float32"]
    aurocs = {way: label_aurocs(values, data.labels("test"), task)["mean_auroc"] for way, values in found.items()}
    rows = []
    for way, values in found.items():
        changed = np.abs(values - exact)
        row = about | {"way": way, "max_change": rounded(changed.max()), "mean_change": rounded(changed.mean())}
        row |= {"auroc": round(aurocs[way], 5), "auroc_change": round(aurocs[way] - aurocs["float32"], 5)}
        rows.append(row | ({"megabytes": round(megabytes[way], 2)} if way in megabytes else {}))
    return rows


def columns(config: Any, name: str) -> tuple[int, int]:
    """Where the outputs of all heads hold those of this one."""
    sizes = [len(task.labels) for task in config.tasks]
    number = [task.name for task in config.tasks].index(name)
    return sum(sizes[:number]), sum(sizes[: number + 1])


def export(network: Any, processor: Any, folder: Path) -> tuple[Path, Path]:
    """The ONNX file, and the same in int8."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from ark_hf import export_onnx

    export_onnx(network, processor, folder / "onnx")
    plain, small = folder / "onnx" / "model.onnx", folder / "int8.onnx"
    quantize_dynamic(plain, small, per_channel=True, weight_type=QuantType.QInt8)
    return plain, small


def run(path: Path, samples: Any, batch_size: int) -> np.ndarray:
    """Probabilities of all heads, by onnxruntime on as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.concatenate(
        [session.run(["probabilities"], {"pixel_values": each})[0] for each in pictures(samples, batch_size)]
    ).astype(float)


def pictures(samples: Any, batch_size: int) -> Iterator[np.ndarray]:
    from ark_hf.data.loading import iterate

    rows = np.arange(len(samples))
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    for batch in iterate(samples, batches, 0):
        yield batch["pixel_values"].numpy()


def rounded(value: float) -> float:
    return float(f"{value:.2g}")


def print_table(table: list[dict[str, Any]]) -> None:
    print(f"{'':52}{'way':20}{'max |dp|':>10}{'mean |dp|':>10}{'AUROC':>8}{'change':>10}")
    for row in table:
        name = f"{row['backbone']} {row['image_size']}, {row['dataset']} ({row['images']})"
        figures = f"{row['max_change']:10.2g}{row['mean_change']:10.2g}{row['auroc']:8.4f}{row['auroc_change']:+10.5f}"
        print(f"{name:52}{row['way']:20}{figures}")
    worst = max(abs(row["auroc_change"]) for row in table if row["way"] == "ONNX, int8")
    print(f"int8 changes the AUROC by up to {worst:.5f}; {INT8_BOUND} is the most at which it would be offered.")


if __name__ == "__main__":
    main()

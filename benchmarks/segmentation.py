"""
Segmentation: our UPerNet against that of segmentation-models-pytorch, and the time of a Hausdorff distance.

Both models have the same timm encoder and the same decoder (width 256), random weights, whose values do not change the
time, and float32. Both give logits at a quarter of the picture's size, which the same function enlarges: in training
`segmentation_loss`, with AdamW; in inference one interpolation. The library's own model needs all of its encoders
imported; the package imports its decoders alone.

Speed: both take turns in one process, and each figure is the median of the turns, in CPU time, which work beside it on
the machine changes less than the time that passes. The ratio is the median of the turns' own ratios, as both steps of
a turn find the machine in one state; its quartiles tell how much turns differ.

Memory: each in a process of its own, which imports the same; what counts is its peak above what it had before the
model was made. There glibc gives blocks that are freed back to the system at once: else the peak is a tenth more or
less from run to run.

Distance: `hausdorff_distance(percentile=95)` of a mask of 1024 x 1024 pixels, a tenth of them flipped, from the mask
without flips, beside the two Euclidean distance transforms that the definition asks for.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import psutil
import torch

ENCODERS = ["resnet18", "swin_tiny_patch4_window7_224"]
WORKS = ["training", "inference"]
WAYS = ["ours", "smp"]
CLASSES = 3
GOALS = {"images_per_second": 0.95, "peak_mb": 1.1, "distance_ms": 50}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=ENCODERS, help=f"timm names ({' '.join(ENCODERS)})")
    parser.add_argument("--image_size", type=int, default=224, help="side of the pictures (224)")
    parser.add_argument("--batch_size", type=int, default=2, help="pictures a step (2)")
    parser.add_argument("--turns", type=int, default=24, help="turns that each takes (24)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (1)")
    parser.add_argument("--mask_size", type=int, default=1024, help="side of the masks (1024)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "segmentation.json")
    parser.add_argument("--memory_of", nargs=3, metavar=("ENCODER", "WORK", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        return print(peak_megabytes(*args.memory_of, args))
    load = os.getloadavg()[0]
    distance = measure_distance(args)
    # First, while this process is small: to a new one the system counts what the old one had
    memory = {
        (encoder, work, way): memory_of(encoder, work, way, args)
        for encoder in args.encoders
        for work in WORKS
        for way in WAYS
    }
    table = [measure(encoder, work, memory, args) for encoder in args.encoders for work in WORKS]
    print_table(table, distance)
    print(f"Load before the start: {load:.1f}.")
    import segmentation_models_pytorch

    results = {
        "table": table,
        "distance": distance,
        "goals": GOALS,
        "settings": {
            name: getattr(args, name) for name in ("image_size", "batch_size", "turns", "threads", "mask_size")
        },
        "machine": {
            "cores": os.cpu_count(), "processor": processor(), "python": platform.python_version(), "load": load,
        },
        "versions": {
            "torch": torch.__version__, "segmentation-models-pytorch": segmentation_models_pytorch.__version__,
        },
    }  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"Written to {args.out}.")


def create(encoder: str, way: str, image_size: int) -> torch.nn.Module:
    """A segmenter that gives logits at a quarter of the picture's size."""
    import segmentation_models_pytorch as smp

    from ark_hf import ArkConfig, ArkForSemanticSegmentation

    if way == "ours":
        config = ArkConfig(backbone=encoder, image_size=image_size, projector_dim=None, num_labels=CLASSES)
        return ArkForSemanticSegmentation(config)
    sizes = {"img_size": image_size} if encoder.startswith("swin") else {}
    return smp.UPerNet(f"tu-{encoder}", encoder_weights=None, classes=CLASSES, upsampling=1, **sizes)


def step(model: torch.nn.Module, work: str, args: argparse.Namespace) -> Callable[[], object]:
    """What is measured, once: a training step, or inference."""
    from ark_hf import segmentation_loss

    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(args.batch_size, 3, args.image_size, args.image_size, generator=generator)
    shape = (args.batch_size, args.image_size, args.image_size)
    labels = torch.randint(CLASSES, shape, generator=generator)

    def logits() -> torch.Tensor:
        output = model(pictures)
        return output if isinstance(output, torch.Tensor) else output.logits

    @torch.inference_mode()
    def infer() -> torch.Tensor:
        return torch.nn.functional.interpolate(logits(), shape[1:], mode="bilinear", align_corners=False)

    def train() -> None:
        optimizer.zero_grad()
        segmentation_loss(logits(), labels).backward()
        optimizer.step()

    if work == "inference":
        model.eval()
        return infer
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    return train


def measure(encoder: str, work: str, memory: dict[tuple[str, str, str], float], args: argparse.Namespace) -> dict:
    steps = {way: step(create(encoder, way, args.image_size), work, args) for way in WAYS}
    seconds = seconds_of_turns(steps, args.turns)
    row: dict = {"encoder": encoder, "work": work}
    for way in WAYS:
        rate, peak = args.batch_size / statistics.median(seconds[way]), memory[encoder, work, way]
        row[way] = {"images_per_second": round(rate, 3), "peak_mb": round(peak, 1)}
    ratios = [theirs / ours for theirs, ours in zip(seconds["smp"], seconds["ours"], strict=True)]
    row["images_per_second_ratio"] = round(statistics.median(ratios), 3)
    row["quartiles"] = [round(quartile, 3) for quartile in statistics.quantiles(ratios)[::2]]
    row["peak_mb_ratio"] = round(memory[encoder, work, "ours"] / memory[encoder, work, "smp"], 3)
    print(f"{encoder}, {work}: done", flush=True)
    return row


def seconds_of_turns(steps: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """CPU seconds of each turn. Who begins one changes; the first, which finds everything cold, does not count."""
    seconds: dict[str, list[float]] = {way: [] for way in steps}
    for turn in range(turns + 1):
        for way in list(steps)[:: 1 if turn % 2 else -1]:
            started = time.process_time()
            steps[way]()
            seconds[way].append(time.process_time() - started)
    return {way: times[1:] for way, times in seconds.items()}


def memory_of(encoder: str, work: str, way: str, args: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--memory_of", encoder, work, way]
    for name in ("image_size", "batch_size", "threads"):
        command += [f"--{name}", str(getattr(args, name))]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout)


def peak_megabytes(encoder: str, work: str, way: str, args: argparse.Namespace) -> float:
    """Of this process, above what it has had before the model is made."""
    create("test_resnet", "ours", 32)
    create("test_resnet", "smp", 32)
    before = psutil.Process().memory_info().rss
    take = step(create(encoder, way, args.image_size), work, args)
    for _ in range(2):
        take()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e6


def measure_distance(args: argparse.Namespace) -> dict:
    from scipy.ndimage import distance_transform_edt

    from ark_hf import hausdorff_distance

    rows, columns = np.mgrid[: args.mask_size, : args.mask_size] / args.mask_size - 0.5
    mask = np.hypot(rows, columns) < 0.3
    speckled = mask ^ (np.random.default_rng(0).random(mask.shape) < 0.1)
    seconds = seconds_of_turns(
        {
            "ours": lambda: hausdorff_distance(speckled, mask, percentile=95),
            "transforms": lambda: [distance_transform_edt(~each) for each in (speckled, mask)],
        },
        args.turns,
    )
    return {way: round(1000 * statistics.median(taken), 2) for way, taken in seconds.items()}


def print_table(table: list[dict], distance: dict) -> None:
    print(f"{'':30}{'':11}{'images/s, ours':>15}{'smp':>8}{'ratio':>8}{'peak MB, ours':>15}{'smp':>8}{'ratio':>8}")
    for row in table:
        figures = ""
        for key, wide in (("images_per_second", 15), ("peak_mb", 15)):
            ours, theirs = row["ours"][key], row["smp"][key]
            figures += f"{ours:{wide}.2f}{theirs:8.2f}{row[f'{key}_ratio']:8.3f}"
        low, high = row["quartiles"]
        print(f"{row['encoder']:30}{row['work']:11}{figures}   speed's quartiles {low:.3f} to {high:.3f}")
    for key, least in (("images_per_second", True), ("peak_mb", False)):
        ratios = [row[f"{key}_ratio"] for row in table]
        worst = min(ratios) if least else max(ratios)
        met = worst >= GOALS[key] if least else worst <= GOALS[key]
        bound = "at least" if least else "at most"
        print(f"{key}, ours by theirs: worst {worst}, goal {bound} {GOALS[key]}: {'met' if met else 'missed'}")
    verdict = "met" if distance["ours"] <= GOALS["distance_ms"] else "missed"
    print(
        f"95th percentile Hausdorff distance: {distance['ours']} ms, goal at most {GOALS['distance_ms']}: {verdict}; "
        f"two distance transforms {distance['transforms']} ms, ratio {distance['ours'] / distance['transforms']:.2f}"
    )


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


if __name__ == "__main__":
    main()

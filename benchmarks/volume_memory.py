"""
The most memory that `predict` takes for a CT of 512 x 512 x 400 voxels, and its time.

A volume of noise in blocks is written as a `.nii.gz` file. Then a segmenter of four labels and random weights, as wide
as `--width` and with the published cubes, reads it, labels it, and writes table, label map and overlay: once as
scanned, and once with voxels of another spacing, each in a process of its own. Memory is the system's count of the
most that the process had resident, libraries included (about 1.2 GB).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

BOUND = 4.0  # GB
SHAPE, SPACING = (512, 512, 400), (0.7, 0.7, 1.0)
CASES = {"as scanned": None, "at 1.5 x 1 x 1 mm": [1.5, 1.0, 1.0]}
LABELS = [f"part {number}" for number in range(4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=8, help="of the network (8)")
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE, help="voxels along x, y and z (512 512 400)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "volume_memory.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_volume(Path(folder) / "ct.nii.gz", args.shape)
        results = {}
        for name, spacing in CASES.items():
            write_model(Path(folder) / "genesis", args.width, spacing)
            results[name] = measure(Path(folder))
            peak, *seconds = (results[name][key] for key in ("peak_gb", "seconds", "cpu_seconds"))
            print(f"{name:20}{peak:7.2f} GB{seconds[0]:9.0f} s{seconds[1]:9.0f} s of one core", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    settings = {"width": args.width, "shape": list(args.shape), "bound_gb": BOUND, "threads": os.cpu_count()}
    args.out.write_text(json.dumps({"settings": settings, "cases": results}, indent=1) + "\n")
    print(f"Written to {args.out}.")
    if any(result["peak_gb"] > BOUND for result in results.values()):
        sys.exit(f"More than {BOUND} GB.")


def write_volume(path: Path, shape: list[int]) -> None:
    from ark_hf import Volume, write_nifti

    blocks = np.random.default_rng(0).integers(-1000, 1000, [side // 16 + 1 for side in shape])
    voxels = np.empty(shape, np.int16, order="F")
    for z in range(shape[2]):
        voxels[:, :, z] = blocks[:, :, z // 16].repeat(16, 0).repeat(16, 1)[: shape[0], : shape[1]]
    write_nifti(path, Volume(voxels, np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])))


def write_model(folder: Path, width: int, spacing: list[float] | None) -> None:
    from ark_hf import GenesisConfig, GenesisForSemanticSegmentation, GenesisImageProcessor, SegmentationTask

    config = GenesisConfig(width=width, spacing=spacing, segmentation=SegmentationTask("parts", LABELS, modality="CT"))
    GenesisForSemanticSegmentation(config).save_pretrained(folder)
    GenesisImageProcessor.from_config(config).save_pretrained(folder)


def measure(folder: Path) -> dict[str, float]:
    """Seconds, those of one core, and gigabytes of `ark-hf predict` in a process of its own."""
    out = tempfile.mkdtemp(dir=folder)
    words = ["predict", str(folder / "genesis"), str(folder / "ct.nii.gz"), "--out", f"{out}/found.csv"]
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "ark_hf", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit("predict failed.")
    kilobytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return {
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gb": round(kilobytes * 1024 / 1e9, 2),
    }


if __name__ == "__main__":
    main()

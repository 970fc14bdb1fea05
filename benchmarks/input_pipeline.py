"""
Time from stored radiographs to batches of both views, normalised: the originals' way against ours, in one run.

Both read the same phantom radiographs, whose PNG files are no smaller than real ones, in batches of the same size and
in one thread.

Reference (specification of the originals, section 4), an image at a time on Pillow and NumPy:
    a 1024x1024 8-bit grey PNG is decoded and converted to RGB, and resized to 256x256 (bicubic).
    Teacher: resized once more to 224x224 (bicubic).
    Student: random crop of area 0.08-1 and ratio 3/4-4/3, resized to 224x224 (bilinear); with probability 0.5 a shift,
    zoom and rotation over a reflected border (one affine transform in Pillow's C code); with probability 0.3
    brightness and contrast or gamma (one look-up table). The originals use albumentations for it, on OpenCV.
    Both views: divided by 255, normalised in float64, cast to float32, channels first; then stacked to a batch.

Ours: the shards that `ark-hf data build` makes of the same files at 256 pixels, through the training loader
(`TrainingSamples`, `iterate`, `normalise`), map-style and streaming.

The two take turns, and a figure is the best of the turns: CPU time, or with loader processes the time that passes. Run
it on an otherwise idle machine.
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
import PIL.Image
import torch
from torch.utils.data import DataLoader, Dataset

RESIZE, SIZE, STORED = 256, 224, 1024
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
BORDER = 72  # pixels of reflected border: the most that a shift, zoom and rotation can show


class ReferenceSamples(Dataset):
    """The originals' two views of image files; the parts are methods, so that they can be timed apart."""

    def __init__(self, paths: list[Path], seed: int = 0):
        self.paths, self.random = paths, np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.decode(number)
        return self.normalise(self.student(image)), self.normalise(self.teacher(image))

    def decode(self, number: int) -> PIL.Image.Image:
        with PIL.Image.open(self.paths[number]) as image:
            return image.convert("RGB").resize((RESIZE, RESIZE))

    def teacher(self, image: PIL.Image.Image) -> PIL.Image.Image:
        return image.resize((SIZE, SIZE))

    def student(self, image: PIL.Image.Image) -> PIL.Image.Image:
        view = image.resize((SIZE, SIZE), PIL.Image.Resampling.BILINEAR, box=self.draw_box())
        if self.random.random() < 0.5:
            view = self.turn(view)
        if self.random.random() < 0.3:
            values = np.arange(256) / 255
            if self.random.random() < 0.5:
                values = values * self.random.uniform(0.8, 1.2) + self.random.uniform(-0.2, 0.2)
            else:
                values = values ** self.random.uniform(0.8, 1.2)
            view = view.point((np.clip(values, 0, 1) * 255).astype(int).tolist() * 3)
        return view

    def draw_box(self) -> tuple[int, int, int, int]:
        while True:
            area = self.random.uniform(0.08, 1) * RESIZE**2
            ratio = math.exp(self.random.uniform(math.log(3 / 4), math.log(4 / 3)))
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if width <= RESIZE and height <= RESIZE:
                left = int(self.random.integers(RESIZE - width + 1))
                top = int(self.random.integers(RESIZE - height + 1))
                return left, top, left + width, top + height

    def turn(self, view: PIL.Image.Image) -> PIL.Image.Image:
        pixels = np.asarray(view)
        padded = np.empty((SIZE + 2 * BORDER, SIZE + 2 * BORDER, 3), np.uint8)
        middle = padded[BORDER:-BORDER]
        middle[:, BORDER:-BORDER] = pixels
        middle[:, :BORDER] = pixels[:, BORDER:0:-1]
        middle[:, -BORDER:] = pixels[:, -2 : -BORDER - 2 : -1]
        padded[:BORDER] = middle[BORDER:0:-1]
        padded[-BORDER:] = middle[-2 : -BORDER - 2 : -1]
        angle, zoom = math.radians(self.random.uniform(-10, 10)), 1 + self.random.uniform(-0.1, 0.1)
        right, down = self.random.uniform(-0.0625, 0.0625, 2) * SIZE
        cos, sin, centre = math.cos(angle) / zoom, math.sin(angle) / zoom, SIZE / 2
        x, y = -centre - right, -centre - down
        matrix = (cos, sin, cos * x + sin * y + centre + BORDER, -sin, cos, cos * y - sin * x + centre + BORDER)
        bilinear = PIL.Image.Resampling.BILINEAR
        return PIL.Image.fromarray(padded).transform((SIZE, SIZE), PIL.Image.Transform.AFFINE, matrix, bilinear)

    def normalise(self, image: PIL.Image.Image) -> torch.Tensor:
        return torch.from_numpy(((np.asarray(image) / 255.0 - MEAN) / STD).astype(np.float32).transpose(2, 0, 1))

    @staticmethod
    def collate(samples: list) -> tuple[torch.Tensor, ...]:
        return tuple(torch.stack(views) for views in zip(*samples, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=48, help="different radiographs (48)")
    parser.add_argument("--repeats", type=int, default=8, help="how often the shards repeat them (8)")
    parser.add_argument("--turns", type=int, default=7, help="turns that each way takes (7)")
    parser.add_argument("--batch_size", type=int, default=32, help="images a batch (32)")
    parser.add_argument("--no_workers", action="store_true", help="leave out the rows of two loader processes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "input_pipeline.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = str(Path(folder) / "cache")
        results = measure(Path(folder), args)
    print_table(results)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"Written to {args.out}.")


def measure(folder: Path, args: argparse.Namespace) -> dict:
    import datasets

    from ark_hf.data.build.build import build_dataset
    from ark_hf.data.loading import TrainingSamples, ViewSettings, iterate, pass_order
    from ark_hf.data.rows import Release, Row
    from ark_hf.data.streaming import StreamedRows
    from ark_hf.data.task_dataset import load_task_dataset
    from ark_hf.data.views import draw_view, sample_generator, student_view
    from ark_hf.models.ark.configuration_ark import ArkTask
    from ark_hf.models.ark.image_processing_ark import ArkImageProcessor

    datasets.disable_progress_bars()
    paths = draw_radiographs(folder / "png", args.images)
    task = ArkTask("benchmark", ["Nodule", "Effusion"])
    rows = [
        Row(str(number), path, "train", [0.0, 1.0], {"image_id": f"{repeat}/{number}"})
        for repeat in range(args.repeats)
        for number, path in enumerate(paths)
    ]
    build_dataset(Release(task, rows), folder / "shards", size=RESIZE, num_workers=1)
    kinds = {
        "map-style": load_task_dataset(folder / "shards", "train"),
        "streaming": StreamedRows(folder / "shards", "train"),
    }
    processor = ArkImageProcessor(size={"height": SIZE, "width": SIZE})
    views = ViewSettings(RESIZE, SIZE, 0.08, "resize")
    ours = {
        kind: TrainingSamples(rows, task, "ones", processor, views, seed=0, cycle=0) for kind, rows in kinds.items()
    }
    reference = ReferenceSamples(paths)

    def reference_pass(workers: int) -> None:
        for _ in DataLoader(reference, args.batch_size, collate_fn=reference.collate, num_workers=workers):
            pass

    def our_pass(kind: str, workers: int) -> None:
        samples = ours[kind]
        order = pass_order(samples.rows, 0, 0, "benchmark")
        batches = [order[start : start + args.batch_size] for start in range(0, len(order), args.batch_size)]
        for batch in iterate(samples, batches, workers):
            samples.normalise(batch, "cpu")

    # The parts, on pictures that are at hand
    originals = [reference.decode(number) for number in range(len(paths))]
    reference_views = [reference.teacher(image) for image in originals]
    stored = ours["map-style"].stored
    pictures = [ours["map-style"].picture(number, stored[number]) for number in range(len(paths))]
    samples = [ours["map-style"][number] for number in range(min(args.batch_size, len(paths)))]
    batch = ours["map-style"].collate(samples)

    def our_student() -> None:
        for number, picture in enumerate(pictures):
            view = draw_view(RESIZE, 0.08, sample_generator(0, 0, "benchmark", f"0/{number}"))
            student_view(picture, view, RESIZE, SIZE)

    unscaled = {"do_convert_rgb": False, "do_rescale": False, "do_normalize": False}
    steps: dict[tuple[str, str], tuple[Callable[[], object], int]] = {
        ("total", "reference"): (lambda: reference_pass(0), len(paths)),
        ("total", "map-style"): (lambda: our_pass("map-style", 0), len(rows)),
        ("total", "streaming"): (lambda: our_pass("streaming", 0), len(rows)),
        ("decode", "reference"): (lambda: [reference.decode(n) for n in range(len(paths))], len(paths)),
        ("decode", "ours"): (lambda: [ours["map-style"].picture(n, stored[n]) for n in range(len(paths))], len(paths)),
        ("student view", "reference"): (lambda: [reference.student(image) for image in originals], len(paths)),
        ("student view", "ours"): (our_student, len(paths)),
        ("teacher view", "reference"): (lambda: [reference.teacher(image) for image in originals], len(paths)),
        ("teacher view", "ours"): (lambda: processor(pictures, **unscaled), len(paths)),
        ("normalise both", "reference"): (
            lambda: [reference.normalise(view) for view in reference_views for _ in range(2)], len(paths),
        ),
        ("normalise both", "ours"): (lambda: ours["map-style"].normalise(batch, "cpu"), len(samples)),
    }  # fmt: skip
    if not args.no_workers:
        steps |= {
            ("two workers", "reference"): (lambda: reference_pass(2), len(paths)),
            ("two workers", "map-style"): (lambda: our_pass("map-style", 2), len(rows)),
            ("two workers", "streaming"): (lambda: our_pass("streaming", 2), len(rows)),
        }
    best = dict.fromkeys(steps, math.inf)
    for _ in range(args.turns):
        for name, (step, count) in steps.items():
            clock = time.perf_counter if name[0] == "two workers" else time.process_time
            started = clock()
            step()
            best[name] = min(best[name], (clock() - started) / count * 1000)
    table = [
        {"part": part, "way": way, "ms_per_image": round(value, 4), "ratio": round(best[part, "reference"] / value, 2)}
        for (part, way), value in best.items()
    ]
    return {
        "table": table,
        "goal": 10,
        "png_kilobytes": round(sum(path.stat().st_size for path in paths) / len(paths) / 1000),
        "stored_kilobytes": round(sum(len(row["image"]["bytes"]) for row in stored) / len(rows) / 1000, 1),
        "settings": {key: getattr(args, key) for key in ("images", "repeats", "turns", "batch_size")},
        "machine": {"cores": os.cpu_count(), "processor": _processor(), "python": platform.python_version()},
        "versions": {"torch": torch.__version__, "pillow": PIL.__version__, "datasets": datasets.__version__},
    }


def draw_radiographs(folder: Path, count: int) -> list[Path]:
    """Phantoms of 1024x1024 pixels with the noise of a detector, as 8-bit grey PNG."""
    from ark_hf.data.sources.phantom import SITES, draw_phantom_image

    folder.mkdir(parents=True)
    paths = []
    for number in range(count):
        drawn = np.asarray(draw_phantom_image(SITES["phantom_city"], "train", number, STORED + 96, 0)["image"])
        top, left = ((side - STORED) // 2 for side in drawn.shape)
        paths.append(folder / f"{number:04d}.png")
        PIL.Image.fromarray(drawn[top : top + STORED, left : left + STORED]).save(paths[-1])
    return paths


def print_table(results: dict) -> None:
    print(f"PNG 1024x1024: {results['png_kilobytes']} kB an image; shards: {results['stored_kilobytes']} kB an image")
    print(f"{'':16}{'':12}{'ms per image':>12}{'images/s':>10}{'ratio':>8}")
    for row in results["table"]:
        ratio = "" if row["way"] == "reference" else f"{row['ratio']:.1f}"
        speed = 1000 / row["ms_per_image"]
        print(f"{row['part']:16}{row['way']:12}{row['ms_per_image']:12.3f}{speed:10.0f}{ratio:>8}")
    ratios = [row["ratio"] for row in results["table"] if row["part"] == "total" and row["way"] != "reference"]
    print(f"Goal {results['goal']}x: {'met' if min(ratios) >= results['goal'] else 'missed'} ({min(ratios):.1f}x).")


def _processor() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()

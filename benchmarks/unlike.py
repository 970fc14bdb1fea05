"""
Which pictures are doubted because they are unlike a model's training images, and which should be.

    python benchmarks/unlike.py MODEL --datasets kermany nih --pictures hannover photographs --volumes ct

Statistics of the datasets' train splits are made in several ways, each with the threshold above which 5 % of the
validation splits lie; then the shares that are doubted are counted: of the datasets' test splits, which should be few,
of other datasets and folders of pictures, each a group by its name, of slices in three planes of the volumes in a
folder (every 5 mm, -1000 to 1000 Hounsfield units), of their projections from the side and the front, which are no
radiographs, and of the test splits' pictures turned by 90 degrees, upside down and inverted.

Every picture is embedded once by each layer; the embeddings stay in the folder `--work`.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.neighbors import NearestNeighbors

import ark_hf
from ark_hf.data.task_dataset import load_task_dataset
from ark_hf.data.volumes.geometry import AXES, reorient
from ark_hf.data.volumes.reading import read_volume
from ark_hf.inference.training_statistics import FALSE_ALARMS, RANK, modality_statistics
from ark_hf.metrics.gaussian import fit_gaussian

SPLITS = ("train", "validation")
LAYERS = ("embeddings", "pooler_output")
RANKS = (32, 64, 128)
APART, AIR, BONE = 5, -1000, 1000  # mm between slices; Hounsfield units
ALTERED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "turned by 90 degrees": np.rot90,
    "upside down": np.flipud,
    "inverted": lambda grey: 255 - grey,
}
Distance = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--datasets", nargs="+", required=True, help="task datasets that the model was trained on")
    parser.add_argument("--pictures", nargs="*", default=[], help="other task datasets, and folders of pictures")
    parser.add_argument("--volumes", help="folder of NIfTI volumes of CT")
    parser.add_argument("--work", type=Path, default=Path("runs/unlike"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "unlike.json")
    args = parser.parse_args()
    folders = [Path(each) for each in args.pictures]
    altered = [draw_altered(each, args.work) for each in args.datasets]
    slices = draw_volumes(Path(args.volumes), args.work) if args.volumes else []
    rows = []
    for layer in LAYERS:
        train, held_out = ([embed(args, layer, each, split) for each in args.datasets] for split in SPLITS)
        groups = {f"{Path(each).name}, test": embed(args, layer, each, "test") for each in args.datasets}
        for folder in [*folders, *sum(altered, []), *slices]:
            groups[folder.name] = embed(args, layer, str(folder))
        seen, unseen = np.concatenate(train), np.concatenate(held_out)
        for name, distance in distances(seen, unseen):
            known = distance(unseen)
            threshold = np.quantile(known, 1 - FALSE_ALARMS, method="higher")
            for group, embeddings in groups.items():
                found = distance(embeddings)
                rows.append(
                    {
                        "layer": layer,
                        "distance": name,
                        "group": group,
                        "pictures": len(found),
                        "doubted": round(float((found > threshold).mean()), 3),
                        "median_of_threshold": round(float(np.median(found) / threshold), 2),
                    }
                )
    print_table(rows)
    images = {"train": sum(map(len, train)), "held_out": sum(map(len, held_out))}
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps({"images": images, "rows": rows}, indent=1) + "\n")


def embed(args: argparse.Namespace, layer: str, source: str, split: str | None = None) -> np.ndarray:
    splits = [] if split is None else [split]
    store, done = ark_hf.embed(args.model, [source], args.work / "embeddings", splits, layer, num_workers=0)
    return np.concatenate([store.load(each.keys) for each in done])


def distances(train: np.ndarray, held_out: np.ndarray) -> Iterator[tuple[str, Distance]]:
    """Ways to tell how far an embedding lies from those of training."""
    for rank in RANKS:
        yield f"{rank} directions, length 1", modality_statistics(train, held_out, [], rank).distances
        yield f"{rank} directions", fit_gaussian(train, rank).distances
    yield "Euclidean", lambda values: np.linalg.norm(values - train.mean(axis=0), axis=1)
    for metric in ("euclidean", "cosine"):
        neighbours = NearestNeighbors(n_neighbors=5, metric=metric).fit(train)
        yield f"5 neighbours, {metric}", lambda values, near=neighbours: near.kneighbors(values)[0].mean(axis=1)


def draw_altered(dataset: str, work: Path) -> list[Path]:
    """The pictures of a dataset's test split, each altered in every way."""
    folders = []
    for what, alter in ALTERED.items():
        folders.append(work / f"{Path(dataset).name}, {what}")
        folders[-1].mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(load_task_dataset(dataset, "test")):
            grey = np.asarray(row["image"].convert("L"))
            Image.fromarray(np.ascontiguousarray(alter(grey))).save(folders[-1] / f"{number}.png")
    return folders


def draw_volumes(folder: Path, work: Path) -> list[Path]:
    """Slices in three planes, and what a beam from the side or from the front would throw."""
    planes = {0: "CT, axial", 1: "CT, coronal", 2: "CT, sagittal"}
    beams = {2: "CT, projected from the side", 1: "CT, projected from the front"}
    for name in (*planes.values(), *beams.values()):
        (work / name).mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("ct_*.nii*")):
        if "labels" in path.name:
            continue
        volume = reorient(read_volume(path), AXES["zyx"])
        voxels, spacing, stem = volume.voxels[::-1].astype(np.float32), volume.spacing, path.name.partition(".")[0]
        for axis, name in planes.items():
            for number in range(0, voxels.shape[axis], max(1, round(APART / spacing[axis]))):
                save(voxels.take(number, axis), (AIR, BONE), work / name / f"{stem}_{number}.png")
        for axis, name in beams.items():
            shadow = np.clip(voxels - AIR, 0, None).sum(axis=axis)
            save(shadow, tuple(np.percentile(shadow, [1, 99])), work / name / f"{stem}.png")
    return [work / name for name in (*planes.values(), *beams.values())]


def save(values: np.ndarray, window: tuple[float, float], path: Path) -> None:
    low, high = window
    Image.fromarray(np.rint(255 * np.clip((values - low) / (high - low), 0, 1)).astype(np.uint8)).save(path)


def print_table(rows: list[dict]) -> None:
    """Of each group the share that is doubted, and in brackets its median distance by that of the threshold."""
    for layer in LAYERS:
        of_layer = [row for row in rows if row["layer"] == layer]
        names = list(dict.fromkeys(row["distance"] for row in of_layer))
        print(f"\n{layer} ({RANK} directions are what ark_hf keeps)\n| group | pictures | {' | '.join(names)} |")
        print("|---" * (len(names) + 2) + "|")
        for group in dict.fromkeys(row["group"] for row in of_layer):
            of_group = [row for row in of_layer if row["group"] == group]
            cells = [f"{row['doubted']:.0%} ({row['median_of_threshold']:.2f})" for row in of_group]
            print(f"| {group} | {of_group[0]['pictures']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

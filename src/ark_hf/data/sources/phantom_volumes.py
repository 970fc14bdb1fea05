"""The phantom CTs as releases, and as the task datasets that examples and tests run on."""

from pathlib import Path

from ...files import check_new_folder, replace_folder
from ...models.ark.configuration_ark import ArkTask, SegmentationTask
from ..build.build import build_dataset
from ..rows import OPTIONAL_COLUMNS, Release, Row
from ..volumes.volume import nibabel
from .phantom_sites import COUNTS
from .phantom_volume import LABELS, MIN_SIZE, PhantomVolumes, describe_phantom_volume

TASKS = {
    task.name: task
    for task in (
        ArkTask("phantom_ct_nodule", ["Nodule"], modality="CT"),
        SegmentationTask("phantom_ct_structures", [*LABELS], modality="CT"),
    )
}


def build_phantom_volumes(
    output_dir: Path, counts: dict[str, int] | None = None, size: int = 64, seed: int = 0
) -> dict[str, Path]:
    """
    Builds two datasets of the same CTs, see [`draw_phantom_volume`]; returns their folders.

    `phantom_ct_nodule` says of each whether there are nodules; `phantom_ct_structures` has label maps of lungs,
    vessels and nodules, which exclude each other.

    Args:
        output_dir: New folder; each dataset gets a folder in it.
        counts: Volumes a split; 300 for training, 60 for validation and 150 for test by default.
        size: Voxels from right to left, at least 24.
        seed: Seed of everything drawn.

    Raises:
        ValueError: The folder is not empty, the size is too small, or nibabel is missing.
    """
    nibabel()
    if size < MIN_SIZE:
        raise ValueError(f"size must be at least {MIN_SIZE} voxels, not {size}.")
    check_new_folder(output_dir, "--out")

    def write(folder: Path) -> None:
        for task in TASKS.values():
            build_dataset(
                phantom_volume_release(task, counts or COUNTS, size, seed), folder / task.name, num_workers=1
            )

    replace_folder(output_dir, write)
    return {name: output_dir / name for name in TASKS}


def phantom_volume_release(task: ArkTask | SegmentationTask, counts: dict[str, int], size: int, seed: int) -> Release:
    """The phantom CTs with the labels of one of `TASKS` as a release, drawn as they are read."""
    segmented = isinstance(task, SegmentationTask)
    rows = []
    for split, count in counts.items():
        for index in range(count):
            described = describe_phantom_volume(split, index, seed)
            known = {name: described[name] for name in OPTIONAL_COLUMNS if name in described}
            metadata = {"image_id": described["sample_id"], **known}
            labels = [] if segmented else described["labels"]
            rows.append(Row(f"{split} volume {index}", Path(str(index)), split, labels, metadata))
    masks = PhantomVolumes(size, seed, "mask") if segmented else None
    volumes = PhantomVolumes(size, seed)
    return Release(task, rows, facts={"phantom": True}, read_volume=volumes, read_label_map=masks)

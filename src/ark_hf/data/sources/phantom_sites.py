"""The phantom sites as releases, and as the task datasets that demo, examples and tests run on."""

from dataclasses import replace
from pathlib import Path

from ...files import replace_folder
from ...models.ark.configuration_ark import ArkTask, SegmentationTask
from ..build.build import build_dataset, check_output
from ..rows import OPTIONAL_COLUMNS, Release, Row
from .phantom import SITES, PhantomMasks, PhantomPictures, describe_phantom_image

COUNTS = {"train": 300, "validation": 60, "test": 150}
MASK_SITE = "phantom_city"
MASK_TASKS = {
    task.name: task
    for task in (
        SegmentationTask("phantom_organs", ["lungs", "heart"]),
        SegmentationTask("phantom_findings", ["lungs", "heart", "Effusion", "Nodule"], overlapping=True),
    )
}


def build_phantom_sites(
    output_dir: Path, counts: dict[str, int] | None = None, size: int = 256, seed: int = 0
) -> dict[str, Path]:
    """
    Builds the phantom sites as task datasets; returns their folders in the order of training.

    Args:
        output_dir: New folder; each site gets a folder in it.
        counts: Images a split and site; 300 for training, 60 for validation and 150 for test by default.
        size: Longer side in pixels, at least 32.
        seed: Seed of everything drawn.
    """
    return _build([phantom_release(site, counts or COUNTS, size, seed) for site in SITES], output_dir, size)


def build_phantom_masks(
    output_dir: Path, counts: dict[str, int] | None = None, size: int = 256, seed: int = 0
) -> dict[str, Path]:
    """
    Builds two segmentation datasets of the same pictures, those of the site `phantom_city`; returns their folders.

    `phantom_organs` has lungs and heart, which exclude each other; `phantom_findings` has effusions and nodules beside
    them, which lie over lungs. Where the site does not know of a finding, its mask is unknown. A split's pictures are
    those of the same split of [`build_phantom_sites`]: what a model of the sites was tested on it may be tested on.

    Args:
        output_dir, counts, size, seed: As in [`build_phantom_sites`].
    """
    releases = [phantom_mask_release(task, counts or COUNTS, size, seed) for task in MASK_TASKS.values()]
    return _build(releases, output_dir, size)


def _build(releases: list[Release], output_dir: Path, size: int) -> dict[str, Path]:
    check_output(output_dir, size)

    def write(folder: Path) -> None:
        for release in releases:
            build_dataset(release, folder / release.task.name, size, num_workers=1)

    replace_folder(output_dir, write)
    return {release.task.name: output_dir / release.task.name for release in releases}


def phantom_release(site: str, counts: dict[str, int], size: int, seed: int) -> Release:
    """The images of a phantom site as a release, drawn as they are read."""
    task = ArkTask(site, list(SITES[site].labels), SITES[site].problem_type)
    rows = _rows(site, counts, seed)
    return Release(task, rows, facts={"phantom": True}, read_image=PhantomPictures(site, size, seed))


def phantom_mask_release(task: SegmentationTask, counts: dict[str, int], size: int, seed: int) -> Release:
    """The images of `phantom_city` with the masks of a task's labels, likewise."""
    rows = [replace(row, labels=[]) for row in _rows(MASK_SITE, counts, seed)]
    masks = PhantomMasks(MASK_SITE, size, seed, tuple(task.labels))
    pictures = PhantomPictures(MASK_SITE, size, seed)
    return Release(task, rows, facts={"phantom": True}, read_image=pictures, read_masks=masks)


def _rows(site: str, counts: dict[str, int], seed: int) -> list[Row]:
    rows = []
    for split, count in counts.items():
        for index in range(count):
            described = describe_phantom_image(SITES[site], split, index, seed)
            known = {name: described[name] for name in OPTIONAL_COLUMNS if name in described}
            metadata = {"image_id": described["sample_id"], **known}
            rows.append(Row(f"{split} image {index}", Path(str(index)), split, described["labels"], metadata))
    return rows

"""The phantom sites as releases, and as the task datasets that demo and tests run on."""

from pathlib import Path

from ...files import replace_folder
from ...models.ark.configuration_ark import ArkTask
from ..build.build import build_dataset, check_output
from ..rows import Release, Row
from .phantom import SITES, PhantomPictures, describe_phantom_image


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
    check_output(output_dir, size)
    counts = counts or {"train": 300, "validation": 60, "test": 150}

    def write(folder: Path) -> None:
        for site in SITES:
            build_dataset(phantom_release(site, counts, size, seed), folder / site, size, num_workers=1)

    replace_folder(output_dir, write)
    return {name: output_dir / name for name in SITES}


def phantom_release(site: str, counts: dict[str, int], size: int, seed: int) -> Release:
    """The images of a phantom site as a release, drawn as they are read."""
    rows = []
    for split, count in counts.items():
        for index in range(count):
            described = describe_phantom_image(SITES[site], split, index, seed)
            labels, image_id = described.pop("labels"), described.pop("sample_id")
            where = f"{split} image {index}"
            rows.append(Row(where, Path(str(index)), split, labels, {"image_id": image_id, **described}))
    task = ArkTask(site, list(SITES[site].labels), SITES[site].problem_type)
    return Release(task, rows, facts={"phantom": True}, read_image=PhantomPictures(site, size, seed))

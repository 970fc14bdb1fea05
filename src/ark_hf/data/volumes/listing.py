"""Which volumes lie below a folder: NIfTI and MetaImage files, and folders of DICOM. Needs no torch."""

from pathlib import Path

from ..images.dicom import is_dicom
from ..images.image_files import is_image_file, is_other_file, walk
from .reading import VOLUME_SUFFIXES

DATA_SUFFIXES = (".raw", ".zraw")  # of MetaImage headers


def list_volumes(root: Path) -> tuple[list[str], list[str]]:
    """
    The paths, from the folder, of the volumes below it: of files, and of folders that hold slices of DICOM, "" being
    the folder itself; and those of image files that are no volumes. Each sorted; links are followed, and hidden files
    left out. No voxel is read.
    """
    found, others = [], []
    for folder, names in walk(root):
        inside = [f"{folder}/{name}" if folder else name for name in names]
        found += [path for path in inside if path.lower().endswith(VOLUME_SUFFIXES)]
        rest = [path for path in inside if not path.lower().endswith((*VOLUME_SUFFIXES, *DATA_SUFFIXES))]
        if any(_is_slice(root / path) for path in rest):
            found.append(folder)
        else:
            others += [path for path in rest if is_image_file(root / path)]
    return sorted(found), sorted(others)


def without_volume_suffix(path: str) -> str:
    suffix = next((each for each in sorted(VOLUME_SUFFIXES, key=len)[::-1] if path.lower().endswith(each)), "")
    return path[: len(path) - len(suffix)]


def _is_slice(path: Path) -> bool:
    """Whether a file is DICOM, by its name or else by its content."""
    if path.suffix.lower() in (".dcm", ".dicom"):
        return True
    if is_other_file(path) or not path.is_file():  # a pipe would be read for ever
        return False
    try:
        with path.open("rb") as file:
            return is_dicom(path, file.read(132))
    except OSError:
        return False

"""Reads a volume from a NIfTI or MetaImage file or from the folder of a DICOM series. Needs no torch."""

import os
from pathlib import Path
from typing import BinaryIO

from ..images.dicom import is_dicom
from ..images.image_files import UnreadableImageError, kind_of_content, naming_the_image, open_image_file
from ..images.metaimage import is_metaimage, read_metaimage_volume
from .dicom_series import LPS_TO_RAS, read_dicom_series
from .nifti import is_nifti, read_nifti
from .volume import Volume, check_claim, nibabel, plain

NIFTI_SUFFIXES = (".nii", ".nii.gz")
METAIMAGE_SUFFIXES = (".mha", ".mhd")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *METAIMAGE_SUFFIXES)
KNOWN = "volumes are read from NIfTI (.nii, .nii.gz), MetaImage (.mha, .mhd) and folders of DICOM"
RESCUE = "save it as NIfTI"
GZIP = b"\x1f\x8b"


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """
    Reads a CT or MR volume, with where it lies in the patient.

    NIfTI and MetaImage keep their values, those of NIfTI after its slope and intercept; the slices of DICOM are in
    Hounsfield units, sorted by where they lie, see [`read_dicom_series`]. Nothing else of a file is kept.

    Args:
        path: A `.nii`, `.nii.gz`, `.mha` or `.mhd` file (the latter's voxels beside it), or the folder of one DICOM
            series.

    Returns:
        Voxels (i, j, k) in the order of the file, the first index running fastest there: x, y, z of MetaImage;
        columns, rows, slices of DICOM. uint8, int8, uint16, int16, int32 or float32.

    Raises:
        ValueError: The file is absent, damaged, cut short, 2D, 4D, of another kind, claims more than `MAX_BYTES` or
            has voxels that are not finite; or the folder is no one series. The message says which, and what to do.
    """
    nibabel()  # its absence is told before any file is blamed
    path = Path(path)
    if path.is_dir():
        with naming_the_image(str(path), RESCUE):
            return read_dicom_series(path)
    with open_image_file(path, RESCUE) as file:
        return read_open_volume(file, path, path.parent)


def read_open_volume(file: BinaryIO, path: Path, folder: Path | None = None) -> Volume:
    """
    [`read_volume`] of an open file of this name, "" if it has none; other errors are the libraries'.

    Args:
        folder: In which the voxels of a MetaImage header may lie. Without it no other file is opened.
    """
    head = file.read(132)
    file.seek(0)
    name = path.name.lower()
    if name.endswith(NIFTI_SUFFIXES) or is_nifti(head) or head.startswith(GZIP) and not path.suffix:
        return read_nifti(file)
    if is_metaimage(path, head):
        values, matrix = read_metaimage_volume(file, folder, check_claim)
        return Volume(plain(values), LPS_TO_RAS @ matrix)
    if is_dicom(path, head):
        raise UnreadableImageError("this is one file of a DICOM series; name the folder that the series lies in")
    kind = kind_of_content(head)
    if kind is not None:
        raise UnreadableImageError(f"this is a 2D picture ({kind}), which models of radiographs (Ark) take; {KNOWN}")
    raise UnreadableImageError(f"{path.suffix or 'what this is'} is not known as a volume; {KNOWN}")

"""Small volumes in the files of others, as their tools write them."""

import gzip
from pathlib import Path

import nibabel
import numpy as np

from ark_hf.data.volumes.volume import Volume
from tests.data.images.test_dicom import make_dicom, save

# Columns, rows and slices lead left, back and up, a little askew, as DICOM has them; RAS
ROTATED = np.array([[0.98, -0.17, -0.1], [0.17, 0.985, 0.0], [0.0985, -0.017, 0.995]])
SPACING, ORIGIN = (0.7, 0.8, 2.5), (-20.0, 31.0, -400.0)


def orthonormal(matrix: np.ndarray) -> np.ndarray:
    left, _, right = np.linalg.svd(matrix)
    return left @ right


def affine(spacing=SPACING, origin=ORIGIN, directions=None) -> np.ndarray:
    """RAS of axes that lead left, back and up, turned by a few degrees."""
    made = np.eye(4)
    turned = orthonormal(ROTATED) if directions is None else directions
    made[:3, :3] = np.diag([-1, -1, 1]) @ turned @ np.diag(spacing)
    made[:3, 3] = np.array([-1, -1, 1]) * origin
    return made


def ct(shape=(7, 6, 5), seed=0) -> Volume:
    """Different values everywhere, from -1000 to 2000."""
    values = np.random.default_rng(seed).permutation(np.linspace(-1000, 2000, np.prod(shape))).astype(np.int16)
    return Volume(values.reshape(shape), affine())


def nifti(voxels: np.ndarray, matrix: np.ndarray | None = None, packed=False, **fields) -> bytes:
    """A file as nibabel lays it out; `fields` override those of its header."""
    image = nibabel.Nifti1Image(voxels, affine() if matrix is None else matrix, dtype=voxels.dtype)
    content = image.to_bytes()
    if fields:
        header = nibabel.Nifti1Header(content[:348], check=False)
        for name, value in fields.items():
            header[name] = value
        content = header.binaryblock + content[348:]
    return gzip.compress(content, 1) if packed else content


def series(folder: Path, volume: Volume, slope=1.0, intercept=-1024.0, bits=12, **tags) -> list[Path]:
    """
    The slices of a volume as DICOM files, named so that their order tells nothing; `tags` override or, if callable,
    are asked with the slice's number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    in_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    directions = in_lps[:3, :3] / volume.spacing
    paths = []
    for number in range(volume.shape[2]):
        stored = np.rint((volume.voxels[:, :, number].T - intercept) / slope).astype(np.uint16)
        made = {
            "SeriesInstanceUID": "1.2.826.7",
            "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
            "Modality": "CT",
            "ImageOrientationPatient": directions[:, :2].T.ravel().tolist(),
            "ImagePositionPatient": (in_lps @ [0, 0, number, 1])[:3].tolist(),
            "PixelSpacing": [volume.spacing[1], volume.spacing[0]],
            "RescaleSlope": slope,
            "RescaleIntercept": intercept,
            "InstanceNumber": 100 - number,
            **{name: value(number) if callable(value) else value for name, value in tags.items()},
        }
        made = {name: as_digits(value) for name, value in made.items()}
        name = f"{(number * 7) % 31:02d}.dcm"
        known = {key: value for key, value in made.items() if value is not None}
        paths.append(save(make_dicom(stored, bits, **known), folder / name))
    return paths


def as_digits(value):
    """Decimal strings have sixteen characters."""
    return [float(f"{each:.10g}") for each in value] if isinstance(value, list) and len(value) in (2, 3, 6) else value


def metaimage(volume: Volume, kind="MET_SHORT", data="LOCAL", **replaced: str | None) -> bytes:
    """The header of a volume as SimpleITK writes it, and its voxels if they are `LOCAL`."""
    in_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    directions = in_lps[:3, :3] / volume.spacing
    lines: dict[str, str | None] = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": " ".join(map(repr, directions.T.ravel().tolist())),
        "Offset": " ".join(map(repr, in_lps[:3, 3].tolist())),
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "RAI",
        "ElementSpacing": " ".join(map(repr, volume.spacing)),
        "DimSize": " ".join(map(str, volume.shape)),
        "ElementType": kind,
        **replaced,
    }
    head = "".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None)
    head += f"ElementDataFile = {data}\n"
    return head.encode() + (volume.voxels.tobytes(order="F") if data == "LOCAL" else b"")

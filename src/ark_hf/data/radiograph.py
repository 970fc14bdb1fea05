"""Reads a radiograph from PNG, JPEG, TIFF, DICOM or MetaImage into the grey values that a viewer would show."""

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

from .dicom import is_dicom, read_dicom
from .image_files import MAX_PIXELS, UnreadableImageError, check_size, open_image_file
from .metaimage import is_metaimage, read_metaimage


def read_radiograph(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads one greyscale picture as a viewer would show it, ready for the image processor.

    PNG, JPEG and TIFF keep their values: nothing is clipped, colour becomes luminance, EXIF orientation is applied.
    DICOM goes through the modality LUT or rescale, then the first VOI LUT or else the first window, onto the whole
    range of the type. Without either, 8 bits keep their full scale and deeper images are stretched over the values
    that occur. MONOCHROME1 is inverted; padding counts for nothing and is black. MetaImage (.mha) keeps bytes and
    whole numbers from 0 to 65535, and other values are stretched. A file is DICOM or MetaImage by its content or by a
    name in `.dcm`, `.dicom`, `.mha` or `.mhd`.

    Args:
        path: a PNG, JPEG, TIFF, DICOM or MetaImage file.

    Returns:
        (1, H, W) uint8 for up to 8 stored bits, uint16 for more.

    Raises:
        UnreadableImageError: the file is absent, empty, damaged, cut short, of another kind, larger than `MAX_PIXELS`,
            or holds several frames, DICOM colour, more than 16 bits (of DICOM) or float values outside [0, 1] (TIFF).
    """
    path = Path(path)
    with open_image_file(path) as file:
        head = file.read(132)
        file.seek(0)
        if is_dicom(path, head):
            return read_dicom(path, head)[None]
        if is_metaimage(path, head):
            return read_metaimage(file)[None]
        return read_picture(file)[None]


def read_picture(file: BinaryIO) -> np.ndarray:
    """(H, W) uint8 or uint16 of an open PNG, JPEG or TIFF, as in [`read_radiograph`]; other errors are Pillow's."""
    try:
        # Not by name: Pillow 13 maps uncompressed TIFFs that it opens by name, and garbles those with an orientation.
        opened = Image.open(file, formats=("PNG", "JPEG", "TIFF"))
    except UnidentifiedImageError:
        raise UnreadableImageError(
            "this is no PNG, JPEG, TIFF, DICOM or MetaImage file, or its header is damaged"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImageError(f"it claims more than the {MAX_PIXELS:,} pixels that can be read") from None
    check_size(opened.height, opened.width)
    white_is_zero = False
    if isinstance(opened, TiffImageFile):
        if opened.n_frames > 1:
            raise UnreadableImageError("this TIFF has several pages; save the radiograph's page alone")
        white_is_zero = opened.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0

    picture = ImageOps.exif_transpose(opened)
    if picture.mode == "F":
        values = np.asarray(picture)
        if not (values.min() >= 0 and values.max() <= 1):
            raise UnreadableImageError("its float values are not all in [0, 1]; export it with 8 or 16 bits")
        grey = np.rint(values * 65535).astype(np.uint16)
    elif picture.mode.startswith("I"):
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableImageError("its values are not all in 0..65535; export it with 8 or 16 bits")
        grey = values.astype(np.uint16)
    else:
        return np.array(picture.convert("L"))
    # Pillow inverts such a TIFF of 8 bits only.
    return np.uint16((1 << int(grey.max()).bit_length()) - 1) - grey if white_is_zero else grey

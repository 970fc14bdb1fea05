"""Reads a picture, DICOM or MetaImage file into the grey values, or the colours, that a viewer would show."""

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

from ..models.ark.tasks_ark import DEFAULT_MODALITY, is_in_colour
from .images.deep_colour import deep_channels
from .images.dicom import is_dicom, read_dicom, read_dicom_colours
from .images.image_files import MAX_PIXELS, UnreadableImageError, check_size, kind_of_content, open_image_file
from .images.metaimage import is_metaimage, read_metaimage
from .images.png_chunks import without_remarks

_NIFTI = (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # the length of its header
ROUNDING = 1e-4  # how far rounding, as of a resize in float32, may carry floats out of [0, 1]
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow
GREY_MODES = ("1", "L", "LA", "I", "F")  # and the 16-bit ones, "I;16" and its kin


def read_radiograph(path: str | os.PathLike[str], modality: str = DEFAULT_MODALITY) -> np.ndarray:
    """Reads one greyscale picture as a viewer would show it, ready for the image processor.

    PNG, JPEG, TIFF, BMP and WebP keep their values: nothing is clipped, colour becomes luminance unless the modality
    is one in colour, EXIF orientation is applied.
    DICOM goes through the modality LUT or rescale, then the first VOI LUT or else the first window, onto the whole
    range of the type. Without either, 8 bits keep their full scale and deeper images are stretched over the values
    that occur. MONOCHROME1 or a Presentation LUT Shape INVERSE is inverted, once; padding counts for nothing and is
    black. MetaImage (.mha) keeps bytes and whole numbers from 0 to 65535, and other values are stretched. A file is
    DICOM or MetaImage by its content or by a name in `.dcm`, `.dicom`, `.mha` or `.mhd`. 8 bits that were stored in 16
    come back as 8; see [`narrow`].

    Args:
        path: a PNG, JPEG, TIFF, BMP, WebP, DICOM or MetaImage file.
        modality: DICOM's code of what it was taken with. Images of visible light ("OP" of the eye, "ES", "DMS", "XC",
            "GM", "SM") keep their colours.

    Returns:
        (1, H, W) uint8 for up to 8 bits, uint16 for more; (3, H, W), red, green and blue, of a coloured picture of a
        modality in colour.

    Raises:
        UnreadableImageError: the file is absent, empty, damaged, cut short, of another kind, larger than `MAX_PIXELS`,
            or holds several frames, DICOM colour where grey is wanted, more than 16 bits (of DICOM) or float values
            outside [0, 1] (TIFF).
    """
    path, in_colour = Path(path), is_in_colour(modality)
    with open_image_file(path) as file:
        return picture_values(open_radiograph(file, path, in_colour), in_colour)


def open_radiograph(file: BinaryIO, path: Path, in_colour: bool = False) -> np.ndarray | Image.Image:
    """
    What an open file of this name holds, for [`picture_values`]: of a picture what [`all_bits`] gives; of DICOM and
    MetaImage (H, W) uint8 or uint16, or of DICOM `in_colour` (3, H, W) uint8.
    """
    head = file.read(132)
    file.seek(0)
    if is_dicom(path, head):
        colours = read_dicom_colours(file) if in_colour else None
        return narrow(read_dicom(file)) if colours is None else colours
    if is_metaimage(path, head):
        return narrow(read_metaimage(file))
    if path.name.lower().endswith((".nii", ".nii.gz")) or head.startswith(_NIFTI):
        raise UnreadableImageError(
            "NIfTI holds volumes, which models of volumes (Genesis) and `read_volume` take; export a radiograph as "
            "PNG or DICOM"
        )
    return all_bits(open_picture(file))


def read_picture(file: BinaryIO, in_colour: bool = False) -> np.ndarray:
    """(C, H, W) uint8 or uint16 of an open picture file, as in [`read_radiograph`]; other errors are Pillow's."""
    return picture_values(all_bits(open_picture(file)), in_colour)


def open_picture(file: BinaryIO, masks: bool = False) -> Image.Image:
    """A picture file, not yet decoded; `masks` may be GIF, too. Raises `UnreadableImageError`."""
    kind = kind_of_content(file.read(132))
    file.seek(0)
    if kind == "PNG":
        file = without_remarks(file)
    try:
        # Not by name: Pillow 13 maps uncompressed TIFFs that it opens by name, and garbles those with an orientation.
        return Image.open(file, formats=("PNG", "JPEG", "TIFF", "BMP", "WEBP", *["GIF"] * masks))
    except UnidentifiedImageError:
        known = "this is no PNG, JPEG, TIFF, DICOM, MetaImage, BMP or WebP file"
        reason = known if kind is None else f"this {kind} file is of a rare kind"
        raise UnreadableImageError(f"{reason}, or its header is damaged; export it as PNG") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImageError(f"it claims more than the {MAX_PIXELS:,} pixels that can be read") from None


def all_bits(opened: Image.Image) -> Image.Image | np.ndarray:
    """
    A Pillow image as it is, unless Pillow would lose bits: colours of 16 bits as (3, H, W) uint16, grey with alpha as
    (H, W). Of an image that is decoded already they are lost.
    """
    check_size(opened.height, opened.width)
    if getattr(opened, "n_frames", 1) > 1 and opened.format in ("TIFF", "PNG", "WEBP"):
        raise UnreadableImageError(f"this {opened.format} has several pages or frames; save the radiograph alone")
    channels = deep_channels(opened)
    if channels is None:
        return opened
    channels = narrow(channels)
    in_colour_of_8_bits = channels.ndim == 3 and channels.dtype == np.uint8
    return Image.fromarray(np.moveaxis(channels, 0, -1)) if in_colour_of_8_bits else channels


def picture_values(opened: Image.Image | np.ndarray, in_colour: bool) -> np.ndarray:
    """Of what [`all_bits`] gives (1, H, W), or `in_colour` (3, H, W) where channels differ; uint8 or uint16."""
    colours = colours_of(opened) if in_colour else None
    if colours is None or (colours == colours[:1]).all():
        return grey_values(opened)[None]
    return colours


def colours_of(opened: Image.Image | np.ndarray) -> np.ndarray | None:
    """(3, H, W) uint8 or uint16 of what [`all_bits`] gives, alpha dropped; None of a picture stored in grey."""
    if isinstance(opened, np.ndarray):
        return opened if opened.ndim == 3 else None
    if opened.mode in GREY_MODES or opened.mode.startswith("I;"):
        return None
    return np.ascontiguousarray(np.moveaxis(np.asarray(ImageOps.exif_transpose(opened).convert("RGB")), -1, 0))


def grey_values(opened: Image.Image | np.ndarray) -> np.ndarray:
    """(H, W) uint8 or uint16 of what [`all_bits`] gives, as in [`read_radiograph`]; other errors are Pillow's."""
    if isinstance(opened, np.ndarray):
        return opened if opened.ndim == 2 else luminance(opened)
    white_is_zero = isinstance(opened, TiffImageFile) and opened.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0
    picture = ImageOps.exif_transpose(opened)
    if picture.mode == "F":
        values = np.asarray(picture)
        if not (values.min() >= -ROUNDING and values.max() <= 1 + ROUNDING):
            raise UnreadableImageError("its float values are not all in [0, 1]; export it with 8 or 16 bits")
        grey = np.rint(values.clip(0, 1) * 65535).astype(np.uint16)
    elif picture.mode.startswith("I"):
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableImageError("its values are not all in 0..65535; export it with 8 or 16 bits")
        grey = values.astype(np.uint16)
    else:
        return np.array(picture.convert("L"))
    # Pillow inverts such a TIFF of 8 bits only.
    return narrow(np.uint16((1 << int(grey.max()).bit_length()) - 1) - grey if white_is_zero else grey)


def luminance(colours: np.ndarray) -> np.ndarray:
    """(H, W) of three channels (3, H, W): uint8 of uint8, uint16 of uint16, narrowed, and float32 of floats."""
    if colours.dtype == np.uint8:  # with Pillow's own rounding
        return np.array(Image.fromarray(np.ascontiguousarray(np.moveaxis(colours, 0, -1))).convert("L"))
    grey = np.tensordot(LUMINANCE, colours, axes=1)
    return narrow(np.rint(grey).astype(np.uint16)) if colours.dtype == np.uint16 else grey.astype(np.float32)


def narrow(grey: np.ndarray) -> np.ndarray:
    """
    Grey values, as uint8 if they are uint16 and all multiples of 257; others as they are.

    By 257 tools widen 8 bits to 16, so nothing is lost. The same picture then gives the same probabilities in either
    depth: the image processor resizes 8 bits with rounding to whole grey levels, as the original does, and deeper
    pictures in floating point.
    """
    return (grey // 257).astype(np.uint8) if grey.dtype == np.uint16 and not (grey % 257).any() else grey

"""Whatever a user hands over as a radiograph: a path, address, file's bytes, picture or array becomes its values."""

import io
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import numpy as np
import torch
from PIL import Image

from ..files import printable
from ..metrics.shortcut import full_scale
from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.tasks_ark import DEFAULT_MODALITY, MODALITIES, check_modality, is_in_colour
from .images.dicom import doubt_modality, read_modality, read_pixel_spacing
from .images.image_files import (
    MAX_PIXELS,
    UnreadableImageError,
    check_size,
    collecting_doubts,
    is_address,
    naming_the_image,
    open_image_file,
)
from .radiograph import all_bits, colours_of, grey_values, narrow, open_radiograph

MAX_DOWNLOAD = 4 * MAX_PIXELS  # bytes: no uncompressed picture that can be read has more
LONGEST_NAME = 4096  # characters: no path has more
ANSWER_SECONDS, DOWNLOAD_SECONDS = 20, 300  # without any answer, and in all

# When to doubt that it is a whole radiograph, well exported; and how far 2,889 real ones go (NIH, Kermany, Hannover,
# Cohen, Brixia, DICOM samples). MAX_ASPECT doubts eight of them, crops of children's chests, and the others none.
MIN_SIDE = 64  # pixels: 64
MAX_ASPECT = 2.5  # longer by shorter side: 3.2; the image processor makes it a square
COLOUR_STEP, COLOUR_SHARE = 0.04, 0.01  # channels this part of the range apart, on this share of the pixels: 0.003
MIN_LEVELS = 32  # different grey values: 119
MIN_BRIGHTNESS = 0.35  # 99th percentile as a part of white: 0.48
MAX_WHITE = 0.1  # share of the pixels at the highest value: 0.05
MAX_BLACK = 0.6  # share of the pixels at the lowest value, black frames among them: 0.50

SIDES_IN_MM = 30, 1000  # of whole radiographs the longer one; a file that says another is in other units, or mistaken

_processor = ArkImageProcessor()


@dataclass(frozen=True)
class RadiographInput:
    """
    A radiograph, or a picture of another modality, as the image processor takes it.

    Args:
        pixels: (1, H, W) uint8 or uint16 as [`read_radiograph`] gives it, (3, H, W) of a modality in colour; float32
            in [0, 1] of float arrays.
        name: The path or address as it was given; None for bytes, pictures and arrays.
        warnings: Reasons to doubt the picture, each a sentence for people.
        pixel_spacing: (row, column) distance of its pixels in mm, where the file itself says it, which DICOM alone
            does; at the detector, on which shadows are larger than what throws them, unless it was calibrated.
    """

    pixels: np.ndarray
    name: str | None
    warnings: list[str]
    pixel_spacing: tuple[float, float] | None = None
    modality: str = DEFAULT_MODALITY


def read_input(source: Any, modality: str | None = None, default: str = DEFAULT_MODALITY) -> RadiographInput:
    """
    Reads a radiograph from whatever holds it. What cannot be one is refused; what hardly is one comes with warnings.

    Args:
        source:
            - a path of, or the bytes of, a file that [`read_radiograph`] reads (PNG, JPEG, TIFF, BMP, WebP, DICOM,
              MetaImage);
            - an http:// or https:// address of such a file, which is fetched into memory;
            - a PIL image of any mode, read as a file of it would be;
            - a NumPy array or tensor (H, W), (1, H, W), (H, W, 1), or with 3 channels, or 4, of which the alpha is
              dropped: integers from 0 to 65535, or floats from 0, black, to 1, white;
            - an image of `datasets` that was not decoded, `{"bytes": ..., "path": ...}`, which may tell its
              `"modality"`;
            - what this function gave, which is given back.
        modality: What it was taken with, DICOM's code; unless set what the file itself says, which DICOM alone does.
        default: What it is taken for where nobody says.

    Returns:
        Grey values, or the colours of a modality in colour; the name; reasons for doubt: colour where grey is due, or
        the reverse, sides below `MIN_SIDE` pixels or of very different length, one or few grey values, a nearly black
        picture, a radiograph cut off at black or white; and of DICOM the spacing of its pixels.

    Raises:
        ValueError: `modality` or `default` is no code of DICOM.
        UnreadableImageError: It cannot be read; the message says why and what to do.
    """
    if isinstance(source, RadiographInput):
        return source
    check_modality(modality or default, "modality")
    with collecting_doubts() as doubts:
        read = _read(source, modality, default)
    read.warnings[:0] = doubts
    return read


def _read(source: Any, modality: str | None, default: str) -> RadiographInput:
    name = input_name(source)
    if isinstance(source, dict):
        if modality is None and source.get("modality") is not None:
            modality = str(source["modality"]).strip().upper()
            if modality not in MODALITIES:
                told = printable(name or "an image of a dataset")
                raise UnreadableImageError(
                    f"{told}: its modality is no code of DICOM, of which {MODALITIES} are known"
                )
        source = name if source.get("bytes") is None else source["bytes"]
        if is_address(source):  # whose dataset it is, decides what this machine would ask for
            raise UnreadableImageError(f"{printable(name)}: the cell names an address in place of bytes; embed them")
    if is_address(source):
        source = _fetch(source)
    if isinstance(source, (str, os.PathLike)):
        if not os.fspath(source) or len(os.fspath(source)) > LONGEST_NAME:
            raise UnreadableImageError(f"{name!r} is no path; give a picture as bytes, or the path of its file")
        with open_image_file(Path(source)) as file:
            return _opened(file, Path(source), name, modality, default)
    with naming_the_image(name or f"input of type {type(source).__name__}"):
        if isinstance(source, (bytes, bytearray)):
            if not source:
                raise UnreadableImageError("the file is empty; fetch it again")
            return _opened(io.BytesIO(source), path_in(name or ""), name, modality, default)
        if isinstance(source, (np.ndarray, torch.Tensor)):
            return _described(_channels_first(source), name, modality or default)
        if isinstance(source, Image.Image):
            return _described(all_bits(source), name, modality or default)
        raise UnreadableImageError(
            "a radiograph is a path, an http(s) address, the bytes of a file, a PIL image, a NumPy array, a tensor or "
            "an image that `datasets` has not decoded; give several as a list"
        )


def _opened(file: BinaryIO, path: Path, name: str | None, modality: str | None, default: str) -> RadiographInput:
    tag = read_modality(file, path)
    file.seek(0)
    taken = modality or tag or default
    doubt_modality(tag, taken)
    read = _described(open_radiograph(file, path, is_in_colour(taken)), name, taken)
    spacing = read_pixel_spacing(file, path)
    if spacing is None:
        return read
    side = max(length * each for length, each in zip(read.pixels.shape[1:], spacing, strict=True))
    return replace(read, pixel_spacing=spacing) if SIDES_IN_MM[0] <= side <= SIDES_IN_MM[1] else read


def input_name(source: Any) -> str | None:
    """The path or address of what [`read_input`] takes, None if it has none."""
    if isinstance(source, RadiographInput):
        return source.name
    if isinstance(source, dict):
        source = source.get("path")
    if not isinstance(source, (str, os.PathLike)):
        return None
    name = os.fspath(source)
    # What is longer is no path, but a picture written as text
    return name if len(name) <= LONGEST_NAME else f"{name[:32]}... ({len(name):,} characters)"


def path_in(name: str) -> Path:
    """A path as it is; of an address the path alone, since the rest may hold what gives access to the file."""
    return Path(urlsplit(name).path if is_address(name) else name)


def _fetch(address: str) -> bytes:
    from huggingface_hub.utils import httpx

    settings = {
        "timeout": ANSWER_SECONDS,
        "follow_redirects": True,
        "headers": {"Accept-Encoding": "identity"},  # a few bytes that the server has packed may become gigabytes
    }
    started, content = time.monotonic(), bytearray()
    with naming_the_image(address):
        try:
            with httpx.stream("GET", address, **settings) as answer:
                if answer.status_code != 200:
                    reason = f"{answer.status_code} {answer.reason_phrase}"
                    raise UnreadableImageError(f"the server answers {reason}; check the address")
                for piece in answer.iter_raw():
                    content += piece
                    if len(content) > MAX_DOWNLOAD:
                        raise UnreadableImageError(f"it has more than the {MAX_DOWNLOAD:,} bytes that are fetched")
                    if time.monotonic() - started > DOWNLOAD_SECONDS:
                        raise UnreadableImageError(f"it takes more than {DOWNLOAD_SECONDS} s; download it yourself")
        except UnreadableImageError:
            raise
        except Exception as error:
            reason = f"cannot be fetched ({type(error).__name__})"
            raise UnreadableImageError(f"{reason}; check the address and the network") from None
    return bytes(content)


def _channels_first(image: np.ndarray | torch.Tensor) -> np.ndarray:
    """(C, H, W) uint8, uint16, or float32 in [0, 1] of what the image processor takes; it words what is wrong."""
    if image.ndim == 4:
        raise UnreadableImageError(f"it is a batch, of shape {tuple(image.shape)}; give its images as a list")
    if image.ndim > 1:
        check_size(*sorted(image.shape)[-2:])  # channels are fewer than rows and columns
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
    try:
        scaled = _processor.process_image(image, do_convert_rgb=False).numpy()
    except (TypeError, ValueError) as refusal:
        raise UnreadableImageError(str(refusal)) from None
    if isinstance(image, torch.Tensor):
        if image.is_floating_point():  # there is no array of bfloat16
            return scaled
        image = image.numpy()
    if image.dtype.kind == "f":
        return scaled
    stored = image[None] if image.ndim == 2 else image
    stored = stored if stored.shape == scaled.shape else np.moveaxis(stored, -1, 0)
    return stored.astype(np.uint8 if stored.itemsize == 1 else np.uint16)


def _described(opened: Image.Image | np.ndarray, name: str | None, modality: str) -> RadiographInput:
    """Of a Pillow image, or of an array: (H, W), or (C, H, W) with 1, 3 or 4 channels."""
    if isinstance(opened, np.ndarray):
        opened = opened[:3] if opened.ndim == 3 and len(opened) > 1 else narrow(opened.reshape(opened.shape[-2:]))
    colours = colours_of(opened)
    grey = grey_values(opened)
    pixels = grey[None]
    if colours is not None and is_in_colour(modality) and (colours != colours[:1]).any():
        pixels = colours
    return RadiographInput(pixels, name, _doubts(grey, colours, modality), modality=modality)


def coloured_share(colours: np.ndarray | None) -> float:
    """The share of the pixels of three channels (3, H, W) that are in colour; 0 of a picture stored in grey."""
    if colours is None:
        return 0.0
    return float((np.ptp(colours, axis=0) > COLOUR_STEP * _white(colours)).mean())


def _white(values: np.ndarray) -> int:
    """The value that the image processor takes for white."""
    return 1 if values.dtype.kind == "f" else full_scale(values)


def _doubts(grey: np.ndarray, colours: np.ndarray | None, modality: str) -> list[str]:
    """Of a picture (H, W), and of the three channels that it was made of."""
    is_radiograph, due_in_colour = modality == DEFAULT_MODALITY, is_in_colour(modality)
    height, width = grey.shape
    coloured = coloured_share(colours)
    white = _white(grey)
    if grey.dtype.kind == "f":
        grey, white = np.rint(grey * 65535).astype(np.uint16), 65535
    shares = np.bincount(grey.ravel()) / grey.size
    levels = np.flatnonzero(shares)
    bright = np.searchsorted(shares.cumsum(), 0.99) / white
    darkest, brightest = shares[levels[0]], shares[levels[-1]]
    doubts = []
    if coloured > COLOUR_SHARE and not due_in_colour:
        none = "radiograph" if is_radiograph else f"image of modality {modality}"
        doubts.append(f"it is in colour ({coloured:.0%} of its pixels): a photo or a screenshot is no {none}")
    elif due_in_colour and coloured <= COLOUR_SHARE:
        doubts.append(f"it is grey, and images of modality {modality} are in colour: it may be of another one")
    if min(height, width) < MIN_SIDE:
        doubts.append(f"it has {width} x {height} pixels: too few to show findings")
    if max(height, width) > MAX_ASPECT * min(height, width):
        part = "the chest" if is_radiograph else "what is to be seen"
        doubts.append(f"it has {width} x {height} pixels and is squashed to a square: crop it to {part}")
    if len(levels) == 1:
        return [*doubts, "all its pixels have the same value: there is nothing to see"]
    if len(levels) < MIN_LEVELS:
        return [*doubts, f"it has {len(levels)} grey values alone: a mask or a drawing, or the export lost the others"]
    if bright < MIN_BRIGHTNESS:
        doubts.append(
            f"it is nearly black, 99 % of it below {bright:.0%} of white: export it with its full grey range"
        )
    if not is_radiograph:  # of which black and white frames and grounds are known to be rare
        return doubts
    if brightest > MAX_WHITE:
        doubts.append(f"{brightest:.0%} of its pixels are at its highest value: overexposed, cut off or inverted")
    if darkest > MAX_BLACK:
        doubts.append(f"{darkest:.0%} of its pixels are at its lowest value: underexposed, cut off or mostly frame")
    return doubts

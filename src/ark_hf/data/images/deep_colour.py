"""Pictures whose colours have 16 bits a channel, in pixels or in a palette, of which Pillow keeps 8."""

import io
import re
import sys
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import BITSPERSAMPLE, COLORMAP, PLANAR_CONFIGURATION, TiffImageFile

from .image_files import UnreadableImageError


def deep_channels(opened: Image.Image) -> np.ndarray | None:
    """
    All bits of a picture with more than 8 bits in several channels, or in the palette of a TIFF, which Pillow has
    opened and not yet decoded.

    Pillow leaves the lower byte of each value out. Where it is told that the bytes stand in the other order, it leaves
    the upper one out, so that two decodings give both.

    Returns:
        uint16 (3, H, W), or (H, W) of grey with alpha, turned as EXIF says, alpha dropped; None for other pictures.

    Raises:
        UnreadableImageError: The channels are stored in a way that Pillow does not read rightly.
    """
    tiles: list[Any] = getattr(opened, "tile", [])
    if not tiles or opened.mode.startswith(("I", "F")):
        return None
    tags = opened.tag_v2 if isinstance(opened, TiffImageFile) else {}
    if opened.mode == "P" and COLORMAP in tags:
        palette = np.array(tags[COLORMAP], dtype=np.uint16).reshape(3, -1)
        widened = not (palette % 256).any() or not (palette % 257).any()
        return None if widened else palette[:, np.asarray(ImageOps.exif_transpose(opened))]
    raw_mode = tiles[0].args if isinstance(tiles[0].args, str) else tiles[0].args[0]
    if ";16" not in raw_mode and max(tags.get(BITSPERSAMPLE, (8,))) <= 8:
        return None
    stored = re.fullmatch(r"(LA|RGB|RGBA|RGBX);16([BLN])", raw_mode)
    if stored is None or tags.get(PLANAR_CONFIGURATION, 1) != 1:
        raise UnreadableImageError("its colours of 16 bits are stored in a way that is not read; save it in grey")
    content = _content(opened)
    if stored[1] == "LA":
        upper, lower = np.moveaxis(_decode(opened, content, "RGBA")[..., :2], -1, 0)
    else:
        orders = "LB" if stored[2] == "L" or (stored[2] == "N" and sys.byteorder == "little") else "BL"
        upper, lower = (_decode(opened, content, f"{stored[1]};16{order}")[..., :3] for order in orders)
    values = upper.astype(np.uint16) << 8 | lower
    return values if values.ndim == 2 else np.moveaxis(values, -1, 0)


def _content(opened: Any) -> bytes:
    place = opened.fp.tell()
    opened.fp.seek(0)
    content = opened.fp.read()
    opened.fp.seek(place)
    return content


def _decode(opened: Image.Image, content: bytes, raw_mode: str) -> np.ndarray:
    again: Any = Image.open(io.BytesIO(content), formats=(opened.format or "",))
    again.tile = [
        tile._replace(args=raw_mode if isinstance(tile.args, str) else (raw_mode, *tile.args[1:]))
        for tile in again.tile
    ]
    return np.asarray(ImageOps.exif_transpose(again))

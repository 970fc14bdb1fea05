"""What is stored of an image: its picture, no larger than asked for, as a lossless PNG. Needs no torch."""

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import PIL.Image

from ...metrics.shortcut import SHORTCUT_STATISTICS, image_statistics
from ..images.image_files import collecting_doubts
from ..radiograph import luminance
from ..rows import Row
from .duplicates import hash_picture
from .shards import Stored

if TYPE_CHECKING:  # a build's processes do without what these need
    from datasets import Features

    from ...models.ark.configuration_ark import ArkTask
    from ..unlabelled import Unlabelled


@dataclass(frozen=True)
class PictureStore:
    """
    Stores the picture of a row and its labels, if its task has any.

    Args:
        read_image: See [`Release`].
        size: Longer side to which larger pictures are shrunk.
    """

    read_image: Callable[[Row], np.ndarray]
    size: int
    statistics: ClassVar[Sequence[str]] = SHORTCUT_STATISTICS

    @property
    def settings(self) -> object:
        """What a build that goes on must have in common."""
        return self.size

    @staticmethod
    def features(task: "ArkTask | Unlabelled") -> "Features":
        """The columns that are stored of a task's rows."""
        from datasets import ClassLabel, Features, Image, List, Value

        from ..unlabelled import Unlabelled

        if isinstance(task, Unlabelled):
            return Features({"image": Image()})
        single = task.problem_type == "single_label_classification"
        labels = ClassLabel(names=task.labels) if single else List(Value("float32"))
        return Features({"image": Image(), "labels": labels})

    def __call__(self, row: Row) -> Stored:
        """Raises `UnreadableImageError`."""
        with collecting_doubts() as doubts:
            picture = shrink(self.read_image(row), self.size)
        columns = {"image": encode_png(picture), "labels": row.labels}
        return Stored(columns, *describe(picture), doubts)


def describe(picture: np.ndarray) -> tuple[tuple[str, str], list[float]]:
    """Hashes and statistics of a picture (C, H, W), both of its grey values."""
    plane = picture[0] if len(picture) == 1 else luminance(picture)
    return hash_picture(plane), image_statistics(plane).tolist()


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """(C, H, W) uint8 or uint16, the same kind with a longer side of at most `size`, aspect kept."""
    scale = size / max(image.shape)
    if scale >= 1:
        return image
    height, width = (max(round(side * scale), 1) for side in image.shape[1:])
    return np.stack([_resize(plane, (width, height)) for plane in image])


def _resize(plane: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    deep = plane.dtype != np.uint8
    resized = PIL.Image.fromarray(plane.astype(np.float32) if deep else plane).resize(
        target, PIL.Image.Resampling.LANCZOS
    )
    return np.clip(np.rint(np.asarray(resized)), plane.min(), plane.max()).astype(plane.dtype)


def encode_png(picture: np.ndarray) -> dict:
    """
    (H, W), (1, H, W) or (3, H, W) uint8 or uint16 as a lossless PNG, grey or RGB, in the form of a `datasets` image.

    Every line is stored as its difference from the line above, compressed by run lengths alone. Pillow, which tries
    five filters a line, makes radiographs 8 % smaller, but then both writing and reading take about twice as long.
    """
    picture = picture.reshape(-1, *picture.shape[-2:])
    channels, height, width = picture.shape
    pixels = np.moveaxis(picture, 0, -1).reshape(height, -1)
    lines = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">")).view(np.uint8)
    filtered = np.full((height, lines.shape[1] + 1), 2, np.uint8)  # 2 is the filter's number
    filtered[0, 1:] = lines[0]
    np.subtract(lines[1:], lines[:-1], out=filtered[1:, 1:])  # modulo 256
    compressor = zlib.compressobj(strategy=zlib.Z_RLE)
    packed = compressor.compress(filtered.data) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 8 * picture.itemsize, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = [_png_chunk(*chunk) for chunk in ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))]
    return {"bytes": b"\x89PNG\r\n\x1a\n" + b"".join(chunks), "path": None}


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

"""PNG files without what Pillow stumbles over, and what says nothing of a grey value."""

import io
from typing import BinaryIO

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTATIONS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # texts that may say how the picture is turned


def without_remarks(file: BinaryIO) -> BinaryIO:
    """
    An open PNG file without colour profile and texts: Pillow refuses a picture whose profile or text unpacks to more
    than a megabyte, however legal it is. Another file, or one without them, is returned as it is.
    """
    kept: list[tuple[int, int]] = [(0, len(_SIGNATURE))]
    at = len(_SIGNATURE)
    complete = file.read(at) == _SIGNATURE
    while complete and len(head := file.read(8 + max(map(len, _ORIENTATIONS)))) >= 12:
        length, kind, start = int.from_bytes(head[:4], "big"), head[4:8], head[8:]
        stop = at + 12 + length
        if kind != b"iCCP" and not (kind in _TEXTS and not start.startswith(_ORIENTATIONS)):
            if kept[-1][1] == at:
                kept[-1] = kept[-1][0], stop
            else:
                kept.append((at, stop))
        at = stop
        file.seek(at)
    file.seek(0)
    if len(kept) == 1:
        return file
    content = file.read()
    return io.BytesIO(b"".join(content[start:stop] for start, stop in kept))

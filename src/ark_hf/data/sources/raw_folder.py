"""A release as it lies on disk: finds its tables and images wherever they were unpacked."""

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..images.image_files import image_suffix, is_image_file, is_other_file, walk
from .tables import Table, stream_lines

PACKED_SUFFIXES = ("", ".gz", ".zip")
_OTHER_MACHINE = re.compile(r"[A-Za-z]:/|//|~/")  # Windows' drives and servers, a home


class MissingFileError(ValueError):
    """A file of the release that is not in the folder."""


class RawFolder:
    """
    Everything below a folder, listed once, links followed.

    Hidden files and folders are left out, and folders with "mask" in their names too: segmentations bear the names of
    the images that they belong to. The images in them are in `masks`, and in `others` are files that one may take for
    images, and are none.

    Args:
        root: The folder.
        ignored: Names of folders whose images are left out, not so their tables.
        mask_folders: The folders of masks, where they are known: these are left out then, each with what lies beside
            it below a folder with "mask" in its name, and others are not for their names.

    Raises:
        ValueError: There is no such folder.
    """

    def __init__(self, root: Path, ignored: frozenset[str] = frozenset(), mask_folders: Sequence[Path] | None = None):
        self.root = root
        if not root.is_dir():
            raise ValueError(f"{root} is not a folder; --raw names the one that the release was unpacked into.")
        self._path_of: dict[str, str] = {}  # by the path without suffix
        self._parents_of: dict[str, list[str]] = {}
        self._tables: dict[str, list[str]] = {}
        self._images: dict[str, list[str]] = {}
        self.masks: list[str] = []
        self.others: list[str] = []
        known = None if mask_folders is None else tuple(_left_out_with(root, mask_folders))
        for folder, names in walk(root):
            if "mask" in folder.lower() if known is None else f"{folder}/".startswith(known):
                paths = (f"{folder}/{name}" for name in names)
                self.masks += [path for path in paths if is_image_file(root / path)]
                continue
            parent, _, name = folder.rpartition("/")
            self._parents_of.setdefault(composed(name), []).append(composed(parent))
            for name in names:
                path = f"{folder}/{name}" if folder else name
                is_image = is_image_file(root / path)
                if is_image and ignored and not ignored.isdisjoint(folder.split("/")):
                    continue
                if is_image:
                    self._path_of.setdefault(without_suffix(path), path)
                    self._images.setdefault(without_suffix(name), []).append(path)
                else:
                    self.others += [] if is_other_file(root / path) else [path]
                    self._tables.setdefault(name.lower(), []).append(path)

    def images(self) -> Iterator[str]:
        """Paths of all images from the folder, in a fixed order."""
        yield from sorted(path for paths in self._images.values() for path in paths)

    def find_image(self, name: str) -> Path:
        """
        An image by its name or by its path in the release.

        A name (no "/") is looked for in all folders; a path in the folder, and then in any folder in it. The suffix
        may be another, because many copies of a release are converted. Tables from elsewhere may have backslashes,
        begin paths with the folder itself, make numbers of names ("100.0"), or compose accents otherwise.

        Raises:
            ValueError: There is none, there are several, or it lies outside the folder.
        """
        readings = list(self._readings(name))
        if not readings:
            raise ValueError("its image lies outside the release's folder; name it by its path from there")
        for reading, anywhere in readings:
            if os.path.isfile(self.root / reading):
                return self.root / reading
            paths = self._at_path(reading, anywhere) if "/" in reading or not anywhere else self._by_name(reading)
            if paths:
                break
        if 1 < len(paths) < 10 and len({os.path.realpath(self.root / path) for path in paths}) == 1:
            paths = paths[:1]
        if len(paths) != 1:
            found = "is not below" if not paths else f"lies in {len(paths)} folders below"
            # Published: no path of this machine
            shown = "its image" if os.path.isabs(name) else f"image {name!r:.300}"
            top, _, rest = readings[0][0].partition("/")
            hint = ""
            if not paths and self._at_path(rest, anywhere=False):  # not taken: it may be another folder's picture
                hint = f", but {rest!r} is: if that is it, take {top!r} out of the paths"
            raise ValueError(f"{shown} {found} the release's folder{hint}")
        return self.root / paths[0]

    def _readings(self, name: str) -> Iterator[tuple[str, bool]]:
        """
        The paths from the folder that a name may stand for, the likeliest first, and whether each may begin in any
        folder below; none if the name leads outside.
        """
        if "\\" in name and not os.path.lexists(self.root / name):
            name = name.replace("\\", "/")
        if _OTHER_MACHINE.match(name):
            return
        found: dict[str, bool] = {}
        roots = [os.path.abspath(self.root), os.path.realpath(self.root)]
        for root in roots:
            path = os.path.normpath(os.path.join(root, name))
            if os.path.commonpath([root, path]) == root and path != root:
                found.setdefault(os.path.relpath(path, root).replace(os.sep, "/"), not name.startswith("/"))
        for root in roots:  # "CXR8/images/1.png" in /data/CXR8
            folders = root.split(os.sep)
            parts = name.split("/")
            for number in range(1, len(parts)):
                if ".." not in parts and parts[:number] == folders[-number:]:
                    found.setdefault("/".join(parts[number:]), False)
        for path, anywhere in found.items():
            yield path, anywhere
            if re.search(r"\d\.0+$", path):
                yield path[: path.rindex(".")], anywhere

    def _by_name(self, name: str) -> list[str]:
        paths = self._images.get(without_suffix(name), [])
        exact = [path for path in paths if path.rpartition("/")[2] == name] if len(paths) > 1 else []
        return exact or paths

    def _at_path(self, path: str, anywhere: bool) -> list[str]:
        path = without_suffix(path)
        if path in self._path_of:
            return [self._path_of[path]]
        parents = self._parents_of.get(path.partition("/")[0], []) if anywhere else []
        return [self._path_of[f"{parent}/{path}"] for parent in parents if f"{parent}/{path}" in self._path_of]

    def has(self, *names: str) -> bool:
        """Whether one of these tables is in the folder."""
        return any(self._tables_named(name) for name in names)

    def table(self, *names: str, needed: Sequence[str] = ()) -> Table:
        """
        The first of these tables that is in the folder; a name may begin with the name of a folder.

        Raises:
            MissingFileError: None of them is.
            ValueError: It lies in several folders, or as [`Table`].
        """
        return Table(self.file(*names), needed)

    def lines(self, *names: str) -> Iterator[tuple[str, str]]:
        """
        The lines of the first of these text files that is in the folder: ("FILE, line N", text without blanks around).

        Raises:
            MissingFileError, ValueError: As [`table`].
        """
        path = self.file(*names)
        for number, line in stream_lines(path):
            if line.strip():
                yield f"{path.name}, line {number}", line.strip()

    def text(self, name: str) -> str:
        """The beginning of a text file, "" if it cannot be read; what is no UTF-8 in it becomes "?"."""
        try:
            with open(self.file(name), "rb") as file:
                return file.read(4096).decode("utf-8", errors="replace")
        except (OSError, ValueError):
            return ""

    def file(self, *names: str) -> Path:
        """
        The first of these files, other than images, that is in the folder, `.gz` or `.zip` or not.

        Raises:
            MissingFileError: None of them is.
            ValueError: It lies in several folders.
        """
        for name in names:
            paths = self._tables_named(name)
            if len(paths) > 1:
                raise ValueError(f"{name} lies several times below {self.root}: {paths[:5]}; keep one.")
            if paths:
                return self.root / paths[0]
        raise MissingFileError(f"There is no {' or '.join(names)} below {self.root}, with or without .gz or .zip.")

    def _tables_named(self, name: str) -> list[str]:
        """The first of NAME, NAME.gz and NAME.zip that there is, wherever it lies; upper or lower case."""
        ending = f"/{name.lower()}"
        for packed in PACKED_SUFFIXES:
            paths = self._tables.get(ending.rpartition("/")[2] + packed, [])
            paths = [path for path in paths if f"/{path.lower()}".endswith(ending + packed)]
            if paths:
                return paths
        return []


def _left_out_with(root: Path, mask_folders: Sequence[Path]) -> Iterator[str]:
    """How the paths begin, from the root, that are left out with these folders."""
    for absolute in (os.path.abspath, os.path.realpath):
        for folder in mask_folders:
            parts = os.path.relpath(absolute(folder), absolute(root)).split(os.sep)
            if parts[0] not in (os.curdir, os.pardir):
                first = next((number for number, part in enumerate(parts) if "mask" in part.lower()), len(parts) - 1)
                yield "/".join(parts[: first + 1]) + "/"


def composed(name: str) -> str:
    """The name with each accent in one character with its letter: macOS and Windows write them differently."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def without_suffix(path: str) -> str:
    return composed(path.removesuffix(image_suffix(path)))

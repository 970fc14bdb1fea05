"""The volumes in a folder, wherever they lie: NIfTI and MetaImage files, and folders of DICOM. Needs no torch."""

import os
import re
from pathlib import Path

from ..volumes.listing import list_volumes, without_volume_suffix
from .raw_folder import composed


class VolumeFolder:
    """
    Everything below a folder, listed once, links followed; hidden files are left out. No voxel is read.

    Args:
        root: The folder.
        volumes: Which of the paths are volumes; all unless given.
        label_maps: Which are label maps, and so no volumes.

    Raises:
        ValueError: There is no such folder, it holds DICOM files itself, or nothing that fits the patterns.
    """

    def __init__(self, root: Path, volumes: "PathPattern | None" = None, label_maps: "PathPattern | None" = None):
        self.root, self.pattern = root, volumes
        if not root.is_dir():
            raise ValueError(f"{root} is not a folder; --raw names the one that the volumes lie in.")
        self.paths: list[str] = []  # of volumes, from the root
        self.label_maps: dict[str, list[str]] = {}  # by what `*` stands for
        self.unfit: list[str] = []  # what would be a volume, but for the pattern
        listed, self.others = list_volumes(root)  # the latter are files that one may take for volumes
        if "" in listed:
            raise ValueError(f"{root} itself holds DICOM files; give each series a folder below it.")
        for path in listed:
            case = label_maps.case(path) if label_maps else None
            if case is not None:
                self.label_maps.setdefault(case, []).append(path)
            else:
                fits = volumes is None or volumes.case(path) is not None
                (self.paths if fits else self.unfit).append(path)
        if not self.paths:
            fit = "" if volumes is None else f" that fit {volumes.pattern!r}; there is {self.unfit[:1] or 'no other'}"
            raise ValueError(f"{root} holds no volumes{fit}. Read are NIfTI, MetaImage and folders of DICOM.")
        if label_maps and not self.label_maps:
            raise ValueError(f"{root} holds no label maps that fit {label_maps.pattern!r}.")
        self._named: dict[str, list[str]] = {}  # by every end of their paths, with suffix and without
        self._within: dict[str, list[str]] = {}  # by every part of their folders' paths
        for path in map(composed, self.paths):
            parts = path.split("/")
            for number in range(len(parts)):
                end = "/".join(parts[number:])
                for name in {end, without_volume_suffix(end)}:
                    self._named.setdefault(name, []).append(path)
                for stop in range(number + 1, len(parts)):
                    self._within.setdefault("/".join(parts[number:stop]), []).append(path)

    def find_image(self, name: str) -> Path:
        """
        A volume by its path from the folder or by the end of it, with or without suffix, or by a folder that holds no
        other.

        Raises:
            ValueError: There is none, there are several, or it lies outside the folder.
        """
        shown = "its volume" if os.path.isabs(name) else f"volume {name!r}"  # published: no path of this machine
        wanted = composed(name.replace("\\", "/"))
        for root in (os.path.abspath(self.root), os.path.realpath(self.root)):
            wanted = wanted.removeprefix(f"{root}/")
        wanted = os.path.normpath(wanted).replace(os.sep, "/").rstrip("/")
        if wanted.startswith(("/", "../")) or wanted == "..":
            raise ValueError(f"{shown} lies outside the folder; name it by its path from there")
        paths = self._named.get(wanted) or self._within.get(wanted) or []
        if wanted in paths:  # which is the end of others, too
            return self.root / wanted
        if len(paths) != 1:
            several = f"may be {paths[0]} or {paths[1]}" if paths else "is not below the folder"
            if self.pattern and not paths:
                several += f", or does not fit --volumes {self.pattern.pattern!r}"
            raise ValueError(f"{shown} {several}; name it by its path from there")
        return self.root / paths[0]


class PathPattern:
    """
    Paths of volumes by a pattern, such as "imagesTr/*.nii.gz" or "*_flair.nii.gz"; `*` stands for a part of one name.

    Args:
        pattern: It fits the whole path, or its end from the beginning of a name.
        option: What it was given as, for messages.

    Raises:
        ValueError: It has no `*`, or more than one.
    """

    def __init__(self, pattern: str, option: str):
        self.pattern = pattern
        if pattern.count("*") != 1:
            raise ValueError(f"{option} {pattern!r}: write one *, for what differs, such as 'imagesTr/*.nii.gz'.")
        before, _, after = pattern.strip("/").partition("*")
        self._expression = re.compile(rf"(?:.*/)?{re.escape(before)}([^/]*){re.escape(after)}", re.DOTALL)

    def case(self, path: str) -> str | None:
        """What `*` stands for in a path, None if the pattern does not fit."""
        found = self._expression.fullmatch(path)
        return found[1] if found else None

"""
Links to files of the repository for readers who are elsewhere: on a package index (setup.py), or on the site
(site_hooks.py).

The repository's address is `url` in setup.cfg, and stands nowhere else. While there is none, such links become their
text: a dead link is worse than none.
"""

import configparser
import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"(^```.*?^```[^\n]*$)", re.MULTILINE | re.DOTALL)


def address(root: Path = ROOT) -> str | None:
    """The repository's, such as https://host/someone/ark-hf."""
    settings = configparser.ConfigParser()
    settings.read(root / "setup.cfg", encoding="utf-8")
    return settings["metadata"].get("url")


def to_repository(text: str, page: str, where: str | None, stays: str | None = None) -> str:
    """
    A page's Markdown with absolute links.

    Args:
        page: The page's path in the repository, from which its links start.
        where: The repository's address.
        stays: Folder whose files are linked to as they are.
    """

    def replaced(match: re.Match) -> str:
        image, label, target = match.groups()
        path, _, anchor = target.partition("#")
        place = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
        if not path or ":" in path or (stays is not None and place.startswith(f"{stays}/")):
            return match[0]
        if where is None:
            return label
        link = f"{where}/{'raw' if image else 'blob'}/main/{place}" + (f"#{anchor}" if anchor else "")
        return f"{image}[{label}]({link})"

    parts = FENCE.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(replaced, part) for part in parts)

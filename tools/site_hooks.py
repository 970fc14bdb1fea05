"""What MkDocs calls while it builds the site (mkdocs.yml): links to files that are not on the site, and a table."""

import re
import sys
from pathlib import Path

from ark_hf.data.sources.catalog import read_catalog

sys.path.insert(0, str(Path(__file__).parent))
from links import address, to_repository  # noqa: E402

REFERENCE = re.compile(r"\[<code>([\w.]+)</code>\]")
RELEASES = "<!-- releases -->"


def on_page_markdown(markdown, page, config, files):
    text = to_repository(markdown, f"docs/{page.file.src_uri}", address(), stays="docs")
    return text.replace(RELEASES, releases()) if RELEASES in text else text


def releases() -> str:
    """A table of the public datasets that there is a builder for."""
    lines = [
        f"| `{name}` | [{entry.title}]({entry.homepage}) | {' '.join(entry.access.split())} |"
        for name, entry in read_catalog().items()
    ]
    return "\n".join(["| NAME | release | access |", "|---|---|---|", *lines])


def on_page_content(html, page, config, files):
    """Docstrings name others as [`read_volume`]: here they are links, where those are on the site."""
    return REFERENCE.sub(r'<autoref identifier="ark_hf.\1" optional><code>\1</code></autoref>', html)

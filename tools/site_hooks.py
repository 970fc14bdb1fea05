"""What MkDocs calls while it builds the site (mkdocs.yml): links from the pages to files that are not on the site."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from links import address, to_repository  # noqa: E402

REFERENCE = re.compile(r"\[<code>([\w.]+)</code>\]")


def on_page_markdown(markdown, page, config, files):
    return to_repository(markdown, f"docs/{page.file.src_uri}", address(), stays="docs")


def on_page_content(html, page, config, files):
    """Docstrings name others as [`read_volume`]: here they are links, where those are on the site."""
    return REFERENCE.sub(r'<autoref identifier="ark_hf.\1" optional><code>\1</code></autoref>', html)

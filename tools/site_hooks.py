"""What MkDocs calls while it builds the site (mkdocs.yml): links from the pages to files that are not on the site."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from links import address, to_repository


def on_config(config):
    config.repo_url = address()
    return config


def on_page_markdown(markdown, page, config, files):
    return to_repository(markdown, f"docs/{page.file.src_uri}", address(), stays="docs")

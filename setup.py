"""All that is fixed stands in setup.cfg; this makes what depends on the repository's address, for a package index."""

import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))
from links import address, to_repository  # noqa: E402

WHERE = address(ROOT)
URLS = {"Paper": "https://doi.org/10.1007/978-3-031-43907-0_62"}
if WHERE is not None:
    URLS |= {"Changelog": f"{WHERE}/blob/main/CHANGELOG.md", "Documents": f"{WHERE}/blob/main/docs/index.md"}
README = (ROOT / "README.md").read_text(encoding="utf-8")
setup(long_description=to_repository(README, "README.md", WHERE), project_urls=URLS)

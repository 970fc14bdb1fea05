"""All that is fixed stands in setup.cfg; this makes the README's links work on a package index."""

import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))
from links import address, to_repository  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")
setup(long_description=to_repository(README, "README.md", address()))

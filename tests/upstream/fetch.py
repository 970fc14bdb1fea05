"""
transformers' own test mixins of the installed version, from its source distribution.

They are fetched once into `.cache/transformers_tests` and never committed.
"""

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "transformers_tests"

# What the common tests import but the source distribution lacks.
STUBS = {
    "transformers_tests/__init__.py": "",
    "transformers_tests/exporters/__init__.py": "",
    "transformers_tests/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "transformers_tests/generation/__init__.py": "",
    "transformers_tests/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "transformers_tests/utils/__init__.py": "",
    "transformers_tests/utils/test_configuration_utils.py": """\
config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": False,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["ArkModel"],
    "id2label": {0: "label"},
    "label2id": {"label": 0},
    "problem_type": "regression",
}
""",
    "utils/fetch_hub_objects_for_ci.py": """\
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image


def url_to_local_path(url):
    rows, columns = np.mgrid[:480, :640]
    picture = np.stack([rows / 480, columns / 640, np.sin(rows / 40) * np.cos(columns / 30) / 2 + 0.5], axis=-1)
    path = Path(tempfile.mkdtemp()) / "image.png"
    Image.fromarray((picture * 255).astype(np.uint8)).save(path)
    return str(path)
""",
}


def add_transformers_tests_to_path() -> None:
    """Make `transformers_tests` importable; else skip the calling module, or fail if ARK_HF_REQUIRE_SHARED=1."""
    try:
        import parameterized  # noqa: F401

        folder = str(_fetch())
    except (ImportError, OSError, subprocess.SubprocessError, tarfile.TarError) as error:
        reason = f"transformers' own tests are not available: {error}"
        if os.environ.get("ARK_HF_REQUIRE_SHARED") == "1":
            raise RuntimeError(reason) from error
        pytest.skip(reason, allow_module_level=True)
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _fetch() -> Path:
    version = importlib.metadata.version("transformers")
    folder = CACHE / version
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        # Two runs may fetch at once: each unpacks on its own, and the first to rename wins.
        unpacked = Path(temporary) / version
        _unpack(_download(version, Path(temporary)), unpacked)
        try:
            unpacked.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    return folder


def _download(version: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--no-binary", ":all:", f"transformers=={version}", "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise OSError(f"pip could not download the source distribution of transformers {version}")
    return next(folder.glob("transformers-*.tar.gz"))


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as source:
        for member in source:
            parts = Path(member.name).parts
            if len(parts) == 3 and parts[1] == "tests" and parts[2].startswith("test_") and member.isfile():
                # by hand: `extract(filter=)`, its safe way, is missing in the first patches of Python 3.10 and 3.11
                target = folder / "transformers_tests" / parts[2]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.extractfile(member).read())
    for name, content in STUBS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)

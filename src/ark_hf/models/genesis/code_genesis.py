"""The code that lies beside every saved Genesis, so that transformers can load it without this package."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig as _Saved
else:
    _Saved = object  # a mixin: the base class of a config or an image processor comes beside it

CODE_FILES = (
    "code_genesis.py",
    "configuration_genesis.py",
    "heads_ark.py",
    "image_processing_genesis.py",
    "masks_ark.py",
    "modeling_genesis.py",
    "tasks_ark.py",
    "thresholds_ark.py",
)


def code() -> dict[str, str]:
    """
    The text of each file by its name, as it lies on the Hub, where all are in one folder.

    What is itself loaded from such a folder has only those files beside it that it needed so far.
    """
    here = Path(__file__).parent
    found = {}
    for name in CODE_FILES:
        path = next((folder / name for folder in (here, here.parent / "ark") if (folder / name).is_file()), None)
        if path is not None:
            found[name] = path.read_text(encoding="utf-8").replace("from ..ark.", "from .")
    return found


class WithCodeMixin(_Saved):
    """
    Lets the code travel with whatever is saved, a config (and with it a model) or an image processor.

    transformers' own way, `register_for_auto_class`, copies what is imported from the same folder alone, and what
    Genesis has in common with Ark lies in Ark's.
    """

    def to_json_file(self, json_file_path, *args, **kwargs) -> None:
        super().to_json_file(json_file_path, *args, **kwargs)
        for name, text in code().items():
            (Path(json_file_path).parent / name).write_text(text, encoding="utf-8")


__all__ = ["CODE_FILES", "code"]

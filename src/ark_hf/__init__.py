"""Ark, an open foundation model for chest radiographs, as a Hugging Face-native package."""

import importlib
import multiprocessing
import os
import sys

_EXPORTS = {
    "ArkTask": ".models.ark.configuration_ark",
    "ArkConfig": ".models.ark.configuration_ark",
    "ArkModel": ".models.ark.modeling_ark",
    "ArkForImageClassification": ".models.ark.modeling_ark",
    "ArkImageProcessor": ".models.ark.image_processing_ark",
    "ArkImageProcessorPil": ".models.ark.image_processing_ark",
    "PretrainingArguments": ".training.ark.recipe",
    "CyclicPretrainer": ".training.ark.pretrainer",
    "FinetuningArguments": ".training.finetune.arguments",
    "finetune": ".training.finetune.run",
    "load_task_dataset": ".data.task_dataset",
    "read_radiograph": ".data.images.radiograph",
    "read_input": ".data.images.inputs",
    "ChestXrayClassificationPipeline": ".inference.pipeline",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)


# The console script answers `--help` without loading torch; the verbs that need the models import them themselves.
# The processes that build a dataset never need them.
_is_console_script = os.path.basename(sys.argv[0] if sys.argv else "") == "ark-hf"
if not _is_console_script and multiprocessing.current_process().name != "ark-hf build":
    from . import auto as _auto  # noqa: F401

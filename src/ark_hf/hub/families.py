"""The families of models that may be published: which classes and files each has, and what it sees."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files

from ..files import read_json
from ..inference.load import load_ark, load_genesis
from ..inference.masks import SEGMENTER, VOLUME_SEGMENTER
from ..models.ark import configuration_ark
from ..models.ark.configuration_ark import ArkConfig
from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.modeling_ark import ArkForImageClassification, ArkModel
from ..models.genesis import code_genesis, configuration_genesis
from ..models.genesis.configuration_genesis import GenesisConfig
from ..models.genesis.image_processing_genesis import GenesisImageProcessor

AUTO_CLASSES = {
    ArkForImageClassification.__name__: "AutoModelForImageClassification",
    SEGMENTER: "AutoModelForSemanticSegmentation",
    "GenesisForImageClassification": "AutoModelForImageClassification",
    "GenesisForPreTraining": "AutoModelForPreTraining",
    VOLUME_SEGMENTER: "AutoModelForSemanticSegmentation",
}
SEGMENTERS = {name for name, auto_class in AUTO_CLASSES.items() if auto_class == "AutoModelForSemanticSegmentation"}
CLASSIFIERS = {name for name, auto_class in AUTO_CLASSES.items() if auto_class == "AutoModelForImageClassification"}


@dataclass(frozen=True)
class Family:
    """
    Args:
        config_class, processor_class: Of its models.
        auto_map: What `config.json` names of the code.
        code: The files of code that travel with a model, by name.
        load: Of a folder and the model's architectures the model, as [`load_ark`] gives it.
        sees: What its models take, as it is called in the templates: "radiographs" or "volumes".
    """

    config_class: Any
    processor_class: Any
    auto_map: Mapping[str, str]
    code: Mapping[str, bytes]
    load: Callable[[str, list[str]], Any]
    sees: str

    @property
    def processor_map(self) -> Any:
        """What `preprocessor_config.json` names of the code."""
        return self.processor_class().to_dict()["auto_map"]


def _code_of_ark() -> dict[str, bytes]:
    """The modules that configs name, and those that they import."""
    processor = ArkImageProcessor().to_dict()["auto_map"]["AutoImageProcessor"]
    named = {*configuration_ark.AUTO_MAP.values(), *processor.values()}
    modules = {Path(configuration_ark.__file__).with_name(f"{reference.partition('.')[0]}.py") for reference in named}
    imported = {Path(file) for module in modules for file in get_relative_import_files(module)}
    return {path.name: path.read_bytes() for path in sorted(modules | imported)}


def _load_ark(folder: str, architectures: list[str]) -> Any:
    has_heads = not {ArkForImageClassification.__name__, SEGMENTER}.isdisjoint(architectures)
    return load_ark(folder, None if has_heads else ArkModel)[0]


def _load_genesis(folder: str, architectures: list[str]) -> Any:
    return load_genesis(folder)[0]


FAMILIES = {
    "ark": Family(
        ArkConfig, ArkImageProcessor, configuration_ark.AUTO_MAP, _code_of_ark(), _load_ark, sees="radiographs"
    ),
    "genesis": Family(
        GenesisConfig,
        GenesisImageProcessor,
        configuration_genesis.AUTO_MAP,
        {name: text.encode() for name, text in code_genesis.code().items()},
        _load_genesis,
        sees="volumes",
    ),
}


def family_of(folder: Path) -> Family:
    """
    The family of the model in a folder.

    Raises:
        ValueError: Its `config.json` is not JSON, or of another model type.
    """
    try:
        values = read_json(folder / "config.json")
    except OSError as error:
        raise ValueError(f"{folder / 'config.json'} cannot be read: {error.strerror}.") from None
    found = values.get("model_type") if isinstance(values, dict) else None
    if found not in FAMILIES:
        raise ValueError(f"its config.json is of model type {found!r}, not {' or '.join(map(repr, FAMILIES))}")
    return FAMILIES[found]

"""Loading a model and its image processor, with every reason why that fails in one line."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedConfig

from ..files import read_json
from ..hub_errors import explain, is_of_the_hub
from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.modeling_ark import ArkForImageClassification, ArkModel, ArkPreTrainedModel
from ..models.ark.modeling_ark_segmentation import ArkForSemanticSegmentation
from ..models.compile_blocks import compile_blocks, is_compiled
from ..models.genesis.image_processing_genesis import GenesisImageProcessor
from ..models.genesis.modeling_genesis import (
    GenesisForImageClassification,
    GenesisForPreTraining,
    GenesisForSemanticSegmentation,
    GenesisModel,
)
from ..names import check_name, model_below
from .arguments import DTYPES
from .masks import check_segments

# What transformers and timm raise for files that are absent, damaged, or hold JSON of another kind
LOADING_ERRORS = (
    OSError, ValueError, RuntimeError, AttributeError, TypeError, LookupError, ArithmeticError, AssertionError,
    SafetensorError, StrictDataclassError, ImportError,
)  # fmt: skip
USUAL_PIXELS = 16 * 384**2  # a forward pass
WHAT = {"ark": "an Ark model", "genesis": "a Genesis"}
# Of a model type that something else was asked for, what to say of it
OTHER: dict[Any, str] = {
    "ark": "it is an Ark, a model of radiographs; `ark_hf.load_ark` loads it",
    "genesis": "it is a Genesis, a model of volumes, and an Ark, a model of radiographs, is wanted here; "
    "`ark_hf.load_genesis` loads it",
}
GENESIS_CLASSES: dict[str, Any] = {
    each.__name__: each
    for each in (
        GenesisForImageClassification,
        GenesisForPreTraining,
        GenesisForSemanticSegmentation,
        GenesisModel,
    )
}


def process_state() -> PartialState:
    """This process among those of `accelerate launch`, whose `--cpu` accelerate reads in its `Accelerator` alone."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def move_model(model: Any, device: str | None = None, dtype: str = "float32", compile: bool = False) -> Any:
    """
    The model as it is to compute.

    Args:
        device: As torch names it, such as "cpu" or "cuda:1"; the accelerator, if there is one, unless set.
        dtype: "float32", "bfloat16", or "auto": the latter on a GPU that has it, and on a CPU that multiplies in it
            (AVX-512 BF16 or AMX), else the former. In bfloat16 attention is fused where that is left to us.
        compile: Whether its blocks are compiled, see [`compile_blocks`]; on CPUs that gained nothing where it was
            measured.

    Raises:
        ValueError: There is no such device, each process has its own already, or the model cannot be compiled.
    """
    state = process_state()
    place = state.device
    if device is not None:
        if state.num_processes > 1:
            raise ValueError(
                f"device {device}: each of the {state.num_processes} processes has its own; leave it out."
            )
        try:
            place = torch.device(device)
            torch.empty(0, device=place)
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # of names, and of what is not there
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"device {device!r} cannot be used: {reason}") from None
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}.")
    if dtype == "auto":
        dtype = "bfloat16" if _has_bfloat16(place) else "float32"
    model.to(place, getattr(torch, dtype))
    if dtype != "float32" and isinstance(model, ArkPreTrainedModel):  # float32 stays as it was to the last digit
        model.fuse_where_possible()
    if compile:
        compile_blocks(model)
    return model


def _has_bfloat16(place: torch.device) -> bool:
    if place.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return place.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def usual_batch_size(model: Any, most: int) -> int:
    """
    Images a forward pass where no number is asked for: `most` of them, and fewer of a model of large pictures, whose
    features would take gigabytes (of a Swin-L of 768 pixels about half a gigabyte a picture in float32).
    """
    side = getattr(model.config, "image_size", None)  # a Genesis has none
    return most if side is None else max(1, min(most, USUAL_PIXELS // side**2))


def how_computed(model: Any) -> str:
    """Where a model computes, and how, such as "cpu, bfloat16, compiled": for reports."""
    compiled = ", compiled" if is_compiled(model) else ""
    return f"{model.device}, {str(model.dtype).removeprefix('torch.')}{compiled}"


def load_ark(
    name_or_path: str, kind: Any = None, dtype: str = "float32", compile: bool = False, device: str | None = None
) -> tuple[Any, ArkImageProcessor]:
    """
    The model in eval mode, and its image processor.

    Args:
        name_or_path: Folder or Hub id of an ark-cxr.
        kind: Class of the model, such as `ArkModel` for the encoder alone. Unless given, what its `config.json` says:
            `ArkForSemanticSegmentation`, or else `ArkForImageClassification`.
        dtype, compile, device: How and where it computes, see [`move_model`].

    Raises:
        ValueError: There is no Ark model, or its file lacks weights: an encoder has no heads; or a segmenter has no
            named task, or its decoder's library is not installed; or it cannot compute as asked.
    """

    def choose(architectures: list[str]) -> Any:
        if kind is not None:
            return kind
        if ArkModel.__name__ in architectures:  # before transformers prints a table of all that is missing
            raise ValueError("it is an encoder without heads; `ark-hf finetune` gives it one")
        segments = ArkForSemanticSegmentation.__name__ in architectures
        return ArkForSemanticSegmentation if segments else ArkForImageClassification

    model, processor, missing = _load(name_or_path, "ark", choose, ArkImageProcessor)
    if type(model) is ArkForSemanticSegmentation:
        check_segments(model.config, name_or_path)
    if missing and all(name.startswith("classifier.") for name in missing):
        raise ValueError(f"{name_or_path!r} holds an encoder without heads; `ark-hf finetune` gives it one.")
    _check_whole(name_or_path, missing)
    return move_model(model.eval(), device, dtype, compile), processor


def load_genesis(
    name_or_path: str, kind: Any = None, dtype: str = "float32", compile: bool = False, device: str | None = None
) -> tuple[Any, GenesisImageProcessor]:
    """
    The model in eval mode, and its image processor.

    Args:
        name_or_path: Folder or Hub id of a Genesis.
        kind: Class of the model, such as `GenesisModel` for the encoder alone. Unless given, the one that its
            `config.json` says was saved.
        dtype, compile, device: How and where it computes, see [`move_model`].

    Raises:
        ValueError: There is no Genesis, its file lacks weights of that class, or it cannot compute as asked.
    """

    def choose(architectures: list[str]) -> Any:
        known = [each for each in architectures if each in GENESIS_CLASSES]
        if kind is None and not known:
            raise ValueError(f"its config.json names none of {list(GENESIS_CLASSES)} under `architectures`")
        return GENESIS_CLASSES[known[0]] if kind is None else kind

    model, processor, missing = _load(name_or_path, "genesis", choose, GenesisImageProcessor)
    _check_whole(name_or_path, missing)
    return move_model(model.eval(), device, dtype, compile), processor


def load_genesis_with_heads(
    name_or_path: str, dtype: str = "float32", compile: bool = False, device: str | None = None
) -> tuple[Any, GenesisImageProcessor]:
    """As [`load_genesis`], but a segmenter without a named task and a model without heads raise a `ValueError`."""
    model, processor = load_genesis(name_or_path, None, dtype, compile, device)
    if isinstance(model, GenesisForSemanticSegmentation):
        check_segments(model.config, name_or_path)
    elif not isinstance(model, GenesisForImageClassification):
        raise ValueError(
            f"{name_or_path!r} neither classifies nor outlines; `ark-hf finetune` makes a model that does."
        )
    return model, processor


def load_model(name_or_path: str, dtype: str = "float32", compile: bool = False) -> tuple[Any, Any]:
    """An Ark or a Genesis with heads or a decoder, by what its `config.json` says; see [`load_ark`]."""
    load = load_genesis_with_heads if read_model_type(name_or_path) == "genesis" else load_ark
    return load(name_or_path, dtype=dtype, compile=compile)


def _load(
    name_or_path: str, model_type: str, choose: Callable[[list[str]], Any], processor_class: Any
) -> tuple[Any, Any, list[str]]:
    """Model, image processor, and the weights that its file lacks, which transformers has drawn at random."""
    _check_folder(name_or_path)
    with _telling_why(name_or_path, WHAT[model_type]):
        values = _read_config(name_or_path)
        check_type(values, model_type)
        kind = choose(values.get("architectures") or [])
        model, loaded = kind.from_pretrained(
            name_or_path, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        processor = processor_class.from_pretrained(name_or_path)
    return model, processor, sorted(loaded["missing_keys"])


def read_model_type(name_or_path: str) -> str | None:
    """
    What the `config.json` of a model's folder or Hub id says that it is: "ark", "genesis" or something else.

    Raises:
        ValueError: There is no model.
    """
    _check_folder(name_or_path)
    with _telling_why(name_or_path, "a model"):
        values = _read_config(name_or_path)
        return values.get("model_type")


def _check_folder(name_or_path: str) -> None:
    folder = Path(name_or_path)
    check_name(name_or_path, "model")
    if folder.exists() and not (folder / "config.json").is_file():
        raise ValueError(f"{name_or_path} is not a model: it has no config.json.{model_below(folder)}")


def _read_config(name_or_path: str) -> dict[str, Any]:
    path = Path(name_or_path, "config.json")
    if path.is_file() and not isinstance(read_json(path), dict):  # on which transformers itself stumbles
        raise ValueError("its config.json is no JSON object; save the model again")
    return PreTrainedConfig.get_config_dict(name_or_path)[0]


@contextmanager
def _telling_why(name_or_path: str, what: str) -> Iterator[None]:
    try:
        yield
    except LOADING_ERRORS as error:
        reason = " ".join(str(error).split())  # transformers' own run over several lines
        if is_of_the_hub(error):
            reason = f"it is no folder here, and on the Hub {explain(error)}"
        raise ValueError(f"Cannot load {what} from {name_or_path!r}: {reason}") from None


def check_type(values: Mapping[str, Any], model_type: str) -> None:
    """Raises `ValueError` if what a `config.json` holds is of another model type; the message says what it is."""
    found = values.get("model_type")
    if found != model_type:
        raise ValueError(OTHER.get(found, f"its config.json is of model type {found!r}, not {model_type!r}"))


def _check_whole(name_or_path: str, missing: list[str]) -> None:
    if missing:
        raise ValueError(f"{name_or_path!r} lacks {len(missing)} of the model's tensors, such as {missing[0]}.")

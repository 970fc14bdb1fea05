"""The network before a run's first step: what `init` asks for, or that of a run that goes on."""

import json
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...files import write_json
from ...models.ark.configuration_ark import ArkConfig
from ...models.ark.convert_ark_checkpoint import PEAC_NORMALISATION
from ...models.ark.image_processing_ark import ArkImageProcessor
from ...models.ark.modeling_ark import ArkModel
from ..distortion import SMALLEST
from ..initial_weights import StartArguments, build_encoder, start_facts
from .arguments import PeacArguments
from .heads import HEADS_FILE, PeacHeads, PeacModel, load_heads

DEFAULT_IMAGE_SIZE = 448
START_FILE = "start.json"


@dataclass
class Start:
    """The network, its processor, and what cards tell of what `init` names."""

    model: PeacModel
    processor: ArkImageProcessor
    facts: dict[str, Any] = field(default_factory=dict)


def build_start(args: PeacArguments) -> Start:
    """
    What `args.init` asks for: an encoder, and heads, fresh unless they lie beside it.

    Raises:
        ValueError: As in [`build_encoder`], or its patch tokens are not the cells of a square, or heads that lie
            beside it are of other widths.
    """
    start = StartArguments(
        args.init, args.backbone, args.backbone_kwargs, args.image_size, None, "linear", args.drop_path_rate, args.seed
    )
    ark, processor = build_encoder(start, DEFAULT_IMAGE_SIZE)
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in ark.modules()):
        warnings.warn(
            f"backbone {ark.config.backbone!r} has batch norm, whose statistics shuffled and distorted pictures share "
            "in: PEAC was made for Swins and ViTs, and long runs may diverge. Watch the validation losses.",
            stacklevel=2,
        )
    model = PeacModel(ark, fresh_heads(args, ark.config))
    folder = Path(args.init)
    if (folder / HEADS_FILE).is_file():
        missing = load_heads(model.heads, folder)
        if missing:
            warnings.warn(f"init: {args.init} has no head {' and no '.join(missing)}; it is new.", stacklevel=2)
    return Start(model, processor or processor_of(ark.config), start_facts(args.init))


def fresh_heads(args: PeacArguments, config: ArkConfig) -> PeacHeads:
    """Heads for an encoder's tokens, in PyTorch's default initialisation, as in the release."""
    width, tokens = _tokens(config)
    dims = args.global_projector_dims, args.local_projector_dims
    return PeacHeads(width, tokens, _cell(config, tokens), config.num_channels, *dims)


def _cell(config: ArkConfig, tokens: int) -> int:
    """Side of an encoder's cells in pixels; `ValueError` if they do not fill a square, or it is too small."""
    side = math.isqrt(tokens)
    if side * side != tokens or side < 2 or config.image_size % side:
        raise ValueError(
            f"backbone {config.backbone!r} makes {tokens} patch tokens of {config.image_size} pixels; PEAC needs the "
            "cells of a square, four at least: take a Swin, ViT or ConvNeXt, or another image_size."
        )
    if config.image_size < SMALLEST:
        raise ValueError(f"image_size {config.image_size} leaves no room to distort crops: {SMALLEST} at least.")
    return config.image_size // side


def _tokens(config: ArkConfig) -> tuple[int, int]:
    """Width and number of an encoder's patch tokens."""
    with torch.device("meta"):
        model = ArkModel(config).eval()
        pixels = torch.empty(1, config.num_channels, config.image_size, config.image_size)
        _, tokens, width = model(pixels).last_hidden_state.shape
    return width, tokens


def processor_of(config: ArkConfig) -> ArkImageProcessor:
    """One that shows the whole picture, normalised as in the release."""
    return ArkImageProcessor(size={"height": config.image_size, "width": config.image_size}, **PEAC_NORMALISATION)


def write_start(folder: Path, start: Start) -> None:
    """Writes into a checkpoint what [`read_start`] reads: a run that goes on does not need `init` any more."""
    start.model.ark.config.save_pretrained(folder)
    start.processor.save_pretrained(folder)
    write_json(folder / START_FILE, {"facts": start.facts})


def read_start(folder: Path, args: PeacArguments) -> Start:
    """A network of the right shapes; the checkpoint then fills in all its tensors."""
    config = ArkConfig.from_pretrained(folder)
    facts = json.loads((folder / START_FILE).read_text(encoding="utf-8"))["facts"]
    model = PeacModel(ArkModel(config), fresh_heads(args, config))
    return Start(model, ArkImageProcessor.from_pretrained(folder), facts)

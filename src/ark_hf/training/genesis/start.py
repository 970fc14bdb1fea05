"""The network before a run's first step: what `init` asks for, or that of a run that goes on."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...files import write_json
from ...inference.load import load_genesis
from ...models.genesis.configuration_genesis import GenesisConfig
from ...models.genesis.convert_genesis_checkpoint import convert_genesis_checkpoint
from ...models.genesis.image_processing_genesis import GenesisImageProcessor
from ...models.genesis.modeling_genesis import GenesisForPreTraining
from ...names import model_below
from ..distortion import SMALLEST
from ..initial_weights import start_facts
from ..settings import check_init, names_ark
from .arguments import INIT, GenesisArguments

START_FILE = "start.json"
# Of the network, which a Genesis in `init` brings with it
ARCHITECTURE = ("width", "depth", "activation", "axes")
# Of what it sees, which may be another from now on
SEEN = ("cube_size", "spacing", "hu_window")


@dataclass
class Start:
    """The network, its processor, and what cards tell of what `init` names."""

    model: GenesisForPreTraining
    processor: GenesisImageProcessor
    facts: dict[str, Any] = field(default_factory=dict)


def build_start(args: GenesisArguments, modality: str = "CT") -> Start:
    """
    What `args.init` asks for.

    Args:
        modality: Of the volumes, DICOM's code.

    Raises:
        ValueError: `init` names nothing that can be loaded, or another network than the settings; or the cubes do not
            suit the network or the deformation, or volumes that are no CTs have no window of their own.
    """
    torch.manual_seed(args.seed)
    asked = {name: getattr(args, name) for name in (*ARCHITECTURE, *SEEN) if getattr(args, name) is not None}
    asked["batch_statistics"] = "batch_statistics" in args.reproduce
    known = "CT"  # the modality that the window is of, unless it is set
    if args.init == "none":
        model = GenesisForPreTraining(GenesisConfig(**asked))
    else:
        base, known = _load(args.init)
        kept = {name: getattr(base.config, name) for name in (*ARCHITECTURE, *SEEN)}
        for name in ARCHITECTURE:
            if asked.get(name, kept[name]) != kept[name]:
                raise ValueError(
                    f"init: {args.init!r} has {name} {kept[name]!r}, not {asked[name]!r}, and keeps it: leave {name} "
                    "out."
                )
        model = GenesisForPreTraining(GenesisConfig(**kept | asked))
        model.load_state_dict(base.state_dict())
    _check_cubes(model.config)
    if modality != known and args.hu_window is None:
        raise ValueError(
            f"The volumes are of modality {modality}, and the window {model.config.hu_window} is one of {known}: set "
            "hu_window to the two of their values that become 0 and 1, such as [0, 1500]."
        )
    return Start(model, GenesisImageProcessor.from_config(model.config, modality), start_facts(args.init))


def _load(init: str) -> tuple[GenesisForPreTraining, str]:
    """The network, and the modality of what it has seen."""
    check_init(init, INIT)
    if names_ark(init):
        model, processor = load_genesis(init, GenesisForPreTraining)
    elif Path(init).is_file():
        conversion = convert_genesis_checkpoint(init)
        model, processor = conversion.model, conversion.processor
    else:
        raise ValueError(f"init: {init!r} is not {INIT}.{model_below(Path(init))}")
    if model.config.num_channels != 1:
        raise ValueError(f"init: {init!r} sees {model.config.num_channels} channels, and volumes have one.")
    return model, processor.modality


def _check_cubes(config: GenesisConfig) -> None:
    if min(config.cube_size) < SMALLEST:
        raise ValueError(f"cube_size {config.cube_size} leaves no room to deform cubes: {SMALLEST} voxels at least.")
    if max(config.cube_size) == config.stride:
        raise ValueError(
            f"cube_size {config.cube_size} is a single voxel at the bottom of a network of {config.depth} levels, and "
            "batch norm needs several: take larger cubes, or fewer levels."
        )


def write_start(folder: Path, start: Start) -> None:
    """Writes into a checkpoint what [`read_start`] reads: a run that goes on does not need `init` any more."""
    start.model.config.save_pretrained(folder)
    start.processor.save_pretrained(folder)
    write_json(folder / START_FILE, {"facts": start.facts})


def read_start(folder: Path) -> Start:
    """A network of the right shapes; the checkpoint then fills in all its tensors."""
    facts = json.loads((folder / START_FILE).read_text(encoding="utf-8"))["facts"]
    model = GenesisForPreTraining(GenesisConfig.from_pretrained(folder))
    return Start(model, GenesisImageProcessor.from_pretrained(folder), facts)

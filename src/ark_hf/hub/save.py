"""Converted models as folders that the Hub understands: weights, configuration, image processor, code and a card."""

from pathlib import Path

from safetensors.torch import save_file

from ..files import check_new_folder, replace_folder, write_text
from ..models.ark.configuration_ark import ArkTask
from ..models.ark.convert_ark_checkpoint import Conversion, convert_loaded, read_tasks
from ..models.genesis.convert_genesis_checkpoint import GenesisConversion, convert_loaded_genesis, holds_genesis
from ..provenance import write_provenance
from ..training.peac.heads import HEADS_FILE
from ..weights import read_weights_file
from .model_card import model_card
from .push import CARD_FILE


def convert(
    checkpoint: str | Path,
    out: str | Path = "ark-cxr",
    key: str | None = None,
    tasks: str | Path | list[ArkTask] | None = None,
    image_size: int | None = None,
) -> Conversion | GenesisConversion:
    """
    Converts an original checkpoint and saves the model: [`convert_checkpoint`], or if its tensors are those of Models
    Genesis [`convert_genesis_checkpoint`], and [`save_conversion`].

    Args:
        out: New folder of the model.
        key, image_size: Of Ark's checkpoints, see [`convert_checkpoint`].
        tasks: Of Ark's, the heads, or a YAML list of their names and labels; known for the released models.

    Raises:
        ValueError: The file cannot be read or is of no known kind, or `out` exists and is not empty.
    """
    if not Path(checkpoint).is_file():  # said before what a default of `out` finds
        raise ValueError(f"{checkpoint} is not a file.")
    check_new_folder(Path(out))
    heads = read_tasks(tasks) if isinstance(tasks, str | Path) else tasks
    loaded = read_weights_file(checkpoint)
    conversion: Conversion | GenesisConversion
    if holds_genesis(loaded):
        given = [name for name, value in (("key", key), ("tasks", heads), ("image_size", image_size)) if value]
        if given:
            raise ValueError(f"{checkpoint} is a checkpoint of Models Genesis; leave out {', '.join(given)}.")
        conversion = convert_loaded_genesis(loaded, checkpoint)
    else:
        conversion = convert_loaded(loaded, checkpoint, key, heads, image_size)
    save_conversion(conversion, Path(out))
    return conversion


def save_conversion(conversion: Conversion | GenesisConversion, output_dir: str | Path) -> None:
    """
    Writes a converted model with its processor, a first card and PEAC's heads, the folder whole or not at all.

    Raises:
        ValueError: `output_dir` exists and is not empty.
    """
    output_dir = Path(output_dir)
    check_new_folder(output_dir)

    def write(folder: Path) -> None:
        conversion.model.save_pretrained(folder)
        conversion.processor.save_pretrained(folder)
        facts, name = {"source": conversion.source, "summary": conversion.summary()}, output_dir.resolve().name
        if isinstance(conversion, GenesisConversion):
            facts["method"] = "genesis"
        elif conversion.heads is not None:
            save_file(conversion.heads, folder / HEADS_FILE, {"format": "pt"})
            facts["method"] = "peac"
        write_provenance(folder, "conversion", facts)
        write_text(folder / CARD_FILE, str(model_card(folder, name)))

    replace_folder(output_dir, write)

"""Converted models as folders that the Hub understands: weights, configuration, image processor, code and a card."""

from pathlib import Path

from ..files import check_new_folder, replace_folder, write_text
from ..models.ark.convert_ark_checkpoint import Conversion
from ..provenance import write_provenance
from .model_card import model_card
from .push import CARD_FILE


def save_conversion(conversion: Conversion, output_dir: Path) -> None:
    """
    Writes a converted model with its processor and a first card, the folder whole or not at all.

    Raises:
        ValueError: `output_dir` exists and is not empty.
    """
    check_new_folder(output_dir)

    def write(folder: Path) -> None:
        conversion.model.save_pretrained(folder)
        conversion.processor.save_pretrained(folder)
        facts = {"source": conversion.source, "summary": conversion.summary()}
        write_provenance(folder, "conversion", facts)
        write_text(folder / CARD_FILE, str(model_card(folder, output_dir.resolve().name)))

    replace_folder(output_dir, write)

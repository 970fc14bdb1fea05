"""The card of a converted Genesis."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from ..models.genesis.configuration_genesis import GenesisConfig
from ..provenance import read_provenance
from .card_parts import read_prose

TEMPLATE = Path(__file__).parent / "templates" / "genesis_card.md"
METHOD = "genesis"


def genesis_card(folder: Path, place: str) -> ModelCard:
    """
    The card of a folder that [`save_conversion`] writes, from its config and provenance.

    Args:
        folder: Of the model.
        place: What `from_pretrained` is given: the repository's id, or the folder.
    """
    prose, origin = read_prose(), read_provenance(folder) or {}
    licence = prose["licences"]["conversion"]
    name = place.rpartition("/")[2]
    header = ModelCardData(
        license=licence["license"],
        license_name=licence["license_name"],
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=["genesis", "models-genesis", "self-supervised", "ct", "radiology", "medical"],
        model_name=name,
    )
    return ModelCard.from_template(
        header,
        template_path=str(TEMPLATE),
        name=name,
        place=place,
        origin=prose["origins"]["conversion"],
        config=GenesisConfig.from_pretrained(folder),
        summary=origin.get("summary", ""),
        licence=licence["text"],
        citation=prose["citations"][METHOD].strip(),
    )

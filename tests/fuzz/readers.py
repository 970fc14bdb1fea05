"""All readers of what others wrote, and what makes hostile input for each."""

from functools import partial

from . import dicoms, messages, models, pictures, settings, stored, tables, volumes, weights
from .judging import Make

READERS: dict[str, Make] = {
    "csv": tables.make_csv,
    "excel": tables.make_excel,
    "labelled_folder": tables.make_labelled_folder,
    "recipe": settings.make_recipe,
    "card": settings.make_card,
    "synonyms": settings.make_labels,
    "notes": settings.make_notes,
    "keys": settings.make_key,
    **{kind.lower(): partial(pictures.make, kind) for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP")},
    "masks": pictures.make_mask,
    "dicom": dicoms.make,
    "dicom_series": dicoms.make_series,
    "nifti": volumes.make_nifti,
    "metaimage": volumes.make_metaimage,
    "safetensors": weights.make_safetensors,
    "checkpoint": weights.make_checkpoint,
    "model": models.make_model,
    "pipeline": models.make_pipeline,
    "parquet": stored.make,
    "vector": messages.make_vector,
    "message": messages.make_message,
    "command": models.make_command,
}

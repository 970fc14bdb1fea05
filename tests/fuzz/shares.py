"""How many of a run's cases each reader gets: by how much a file can say to it, and by what a case costs."""

SHARES = {
    "csv": 8,
    "excel": 5,
    "labelled_folder": 3,
    "recipe": 8,
    "card": 4,
    "synonyms": 3,
    "notes": 4,
    "keys": 1,
    "png": 7,
    "jpeg": 5,
    "tiff": 7,
    "bmp": 3,
    "webp": 3,
    "masks": 3,
    "dicom": 9,
    "dicom_series": 3,
    "nifti": 7,
    "metaimage": 6,
    "safetensors": 5,
    "checkpoint": 7,
    "model": 4,
    "pipeline": 5,
    "parquet": 1,
    "vector": 5,
    "message": 3,
    "command": 1,
}


def shares(cases: int, only: list[str] | None = None) -> dict[str, int]:
    """Cases by reader, at least so many together."""
    chosen = {name: share for name, share in SHARES.items() if not only or name in only}
    whole = sum(chosen.values())
    return {name: -(-cases * share // whole) for name, share in chosen.items()}

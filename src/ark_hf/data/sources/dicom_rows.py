"""Age, sex and view for a release's rows from its DICOM files, where the user asks for them by name."""

from collections.abc import Sequence
from dataclasses import replace

from tqdm.auto import tqdm

from ..images.dicom import check_fields
from ..images.image_files import UnreadableImageError
from ..rows import Release


def add_dicom_metadata(release: Release, fields: Sequence[str]) -> tuple[Release, int]:
    """
    Fills in what the release's tables do not say, and reads nothing else of the files than these tags.

    A file that is no DICOM, or one that is damaged, adds nothing; the builder will find the latter.

    Args:
        release: Its rows stay as they are.
        fields: Of "age", "sex", "view", as in [`read_dicom_metadata`].

    Returns:
        A release with new rows, and the number of files that could be asked.

    Raises:
        ValueError: `fields` names something else, or no file could be asked.
    """
    check_fields(fields)
    rows, asked = [], 0
    for row in tqdm(release.rows, desc="reading DICOM headers", unit="file"):
        try:
            found = release.read_tags(row, fields)
            asked += 1
        except UnreadableImageError:
            found = {}
        known = {name: value for name, value in row.metadata.items() if value is not None}
        rows.append(replace(row, metadata=row.metadata | found | known))
    if not asked:
        raise ValueError(
            f"{release.task.name}: none of the {len(rows)} images is a DICOM file that can be read, so none says "
            f"{', '.join(fields)}; leave out --dicom_metadata."
        )
    return replace(release, rows=rows), asked

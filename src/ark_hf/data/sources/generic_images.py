"""Any folder of radiographs as a release without labels: a row for each image, or for each that a table names."""

from ..rows import Release
from ..unlabelled import Unlabelled
from .generic import GenericSource, ImageTable, derive_splits, find_table, left_out, list_images
from .labelled import metadata_remarks
from .raw_folder import RawFolder

LABEL_OPTIONS = ("labels", "label_column", "label_map", "classes", "separator")


def read_unlabelled(source: GenericSource) -> Release:
    """
    The rows of a folder of radiographs, whose labels do not count; wrong ones are among its problems.

    With a table, its rows are the images, with their patients, sexes, ages, views and splits. Without one every image
    below the folder is, within a folder for each split or not, and patients are not known. Splits that have to be made
    are those of [`read_generic`] for a source of this name: what is held out there is not trained on here.

    Args:
        source: The folder; nothing in it tells of labels.

    Raises:
        ValueError: The folder is none or holds no images, the table cannot be read, or an option is of labels.
    """
    for option in LABEL_OPTIONS:
        if getattr(source, option) not in (None, []):
            raise ValueError(f"--{option} is of labels, and --unlabelled reads none: leave one of the two out.")
    images, table = RawFolder(source.folder), source.csv or find_table(source.folder)
    release = Release(Unlabelled(source.name, source.modality), [])
    if table is None:
        has_splits = list_images(source, images, release)
    else:
        rows = ImageTable(source, table, [])
        release.rows, release.problems = rows.read(images, lambda record: [])
        release.remarks, has_splits = metadata_remarks(rows.columns), rows.split_column is not None
    release.left_out = left_out(images, release)
    if not has_splits:
        derive_splits(release)
    return release

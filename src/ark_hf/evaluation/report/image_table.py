"""What a test found on each image, as a table for people's own analyses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from ...data.open_dataset import TaskDataset
from ...files import replacing
from ..scoring import ScoredTask


def write_image_table(path: Path, data: TaskDataset, scored: ScoredTask, groups: Mapping[str, Sequence[str]]) -> None:
    """
    Writes a CSV file with a row per image of the split: its row, `image_id` and `patient_id` where they are known, the
    groups that subgroup tables sort it into, and of each label `truth/LABEL`, blank where unknown, and `score/LABEL`.

    From it every number of the report can be computed. It names patients: it is for whoever may see the dataset.
    """
    columns: dict[str, Any] = {"row": np.arange(len(scored.labels))}
    columns |= {
        name: values for name in ("image_id", "patient_id") if (values := data.column(scored.split, name)) is not None
    }
    columns |= {name: list(values) for name, values in groups.items()}
    for what, matrix in (("truth", scored.labels), ("score", scored.probabilities)):
        for label, column in zip(data.task.labels, matrix.T, strict=True):
            columns[f"{what}/{label}"] = pa.array(column, from_pandas=True)  # NaN is blank
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        pa.csv.write_csv(pa.table(columns), new)

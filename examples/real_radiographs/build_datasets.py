"""
Builds the task datasets of `recipe.yaml` from folders of images and a `labels.csv` each.

    python examples/real_radiographs/build_datasets.py RAW_ROOT DATA_ROOT

The same as one `ark-hf data build generic --raw RAW_ROOT/... --out DATA_ROOT/...` a set.
"""

import sys
from pathlib import Path

from ark_hf.data.build import build_dataset
from ark_hf.data.generic import GenericSource, read_generic

NIH_FINDINGS = [
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
]  # fmt: skip


def sources(raw: Path) -> list[GenericSource]:
    return [
        GenericSource(raw / "nih_multilabel", "nih_multilabel", labels=[*NIH_FINDINGS, "No_Finding"]),
        GenericSource(raw / "nih64", "nih64", labels=["abnormal"]),
        GenericSource(
            raw / "kermany_pneumonia", "kermany", label_column="label", classes=["normal", "bacterial", "viral"]
        ),
        GenericSource(raw / "hannover_covid", "hannover", labels=["icu_ever", "in_icu", "died"]),
        GenericSource(
            raw / "covid_cohen",
            "cohen",
            label_column="label",
            classes=["covid19", "other_viral", "bacterial_fungal_other"],
        ),
        GenericSource(raw / "brixia_severity", "brixia", labels=[f"sev_{region}" for region in "ABCDEF"]),
    ]


if __name__ == "__main__":
    raw_root, data_root = map(Path, sys.argv[1:3])
    for source in sources(raw_root):
        print(source.name, build_dataset(read_generic(source), data_root / source.name)["rows"])

"""
Builds the task datasets of `recipe.yaml` from folders of images and a `labels.csv` each.

    python examples/real_radiographs/build_datasets.py RAW_ROOT DATA_ROOT

The same as one `ark-hf data build generic --raw RAW_ROOT/... --out DATA_ROOT/...` a set.
"""

import sys
from pathlib import Path

from ark_hf import GenericSource, build_dataset, read_generic

NIH_FINDINGS = [
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
]  # fmt: skip
# What the cards tell of the sources
NIH = {
    "homepage": "https://nihcc.app.box.com/v/ChestXray-NIHCC",
    "license": "other",
    "access": "Use is unrestricted, provided that the download site is linked, the CVPR 2017 paper is cited and the "
    "NIH Clinical Center is acknowledged as the provider.",
}
FACTS = {
    "nih_multilabel": {"title": "924 images of ChestX-ray14", **NIH},
    "nih64": {"title": "745 images of ChestX-ray14 at 64 x 64 pixels", **NIH},
    "kermany": {
        "title": "744 images of Kermany et al., chest radiographs of children",
        "homepage": "https://data.mendeley.com/datasets/rscbjbr9sj/2",
        "license": "cc-by-4.0",
    },
    "hannover": {
        "title": "COVID-19 image repository, Hannover Medical School",
        "homepage": "https://doi.org/10.25835/0090041",
        "license": "cc-by-3.0",
    },
    "cohen": {
        "title": "130 images of the COVID-19 image data collection (Cohen et al.)",
        "homepage": "https://github.com/ieee8023/covid-chestxray-dataset",
        "license": "other",
        "access": "Only images with a licence of their own, which the collection's metadata state.",
    },
    "brixia": {
        "title": "Brixia scores of 79 images of the COVID-19 image data collection",
        "license": "other",
        "access": "Scores CC BY-NC-SA 4.0; each image has a licence of its own, stated in the collection's metadata.",
    },
}


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
        release = read_generic(source)
        release.facts.update(FACTS[source.name])
        print(source.name, build_dataset(release, data_root / source.name)["rows"])

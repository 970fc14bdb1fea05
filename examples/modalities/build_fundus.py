"""
Builds the dataset of photographs of the eye, in colour and for comparison in grey, from its images and `labels.csv`.

    python examples/modalities/build_fundus.py RAW DATA_ROOT

The same as `ark-hf data build generic --raw RAW --name fundus_dr --modality OP --labels any_dr referable_dr
maculopathy`.
"""

import sys
from pathlib import Path

from ark_hf import GenericSource, build_dataset, read_generic

LABELS = ["any_dr", "referable_dr", "maculopathy"]
# "OT", other, is read in grey: what the same photographs teach without their colours
MODALITIES = {"fundus_dr": "OP", "fundus_dr_grey": "OT"}
FACTS = {
    "title": "598 photographs of the eye (S. S. Rahim, 2025)",
    "homepage": "https://github.com/SRahimDR/DR-image-dataset",
    "license": "other",
    "access": "Free for academic purposes, with attribution.",
}

if __name__ == "__main__":
    raw, data_root = map(Path, sys.argv[1:3])
    for name, modality in MODALITIES.items():
        release = read_generic(GenericSource(raw, name, labels=LABELS, modality=modality))
        release.facts.update(FACTS)
        print(name, build_dataset(release, data_root / name)["rows"])

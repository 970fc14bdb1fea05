"""Images of other modalities than radiographs: whatever kind of source they come from, task and card say so."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from ark_hf.cli.main import main
from ark_hf.data.sources.catalog import CatalogEntry
from ark_hf.data.sources.hub_source import HubSource, read_hub
from ark_hf.data.sources.releases import released_task
from ark_hf.data.task_dataset import read_any_task
from tests.data.build.generated import draw_picture

SOURCES = {
    "a table": ["--labels", "sick"],
    "folders of classes": [],
    "no labels": ["--unlabelled"],
    "masks": ["--masks", "vessels=masks"],
    "label maps": ["--label_maps", "masks", "--legend", "255=vessels"],
}


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    mask = np.zeros((60, 50), dtype=np.uint8)
    mask[20:30, 20:30] = 255
    (tmp_path / "masks").mkdir()
    for number, image in enumerate(("train/well/1", "train/sick/2", "test/well/3", "test/sick/4")):
        draw_picture(tmp_path / "raw" / f"{image}.png", number)
        size = PIL.Image.open(tmp_path / "raw" / f"{image}.png").size
        PIL.Image.fromarray(mask).resize(size, PIL.Image.Resampling.NEAREST).save(
            tmp_path / "masks" / f"{image[-1]}.png"
        )
    return tmp_path / "raw"


def build(kind: str, raw: Path, *options: str) -> int:
    return main(["data", "build", kind, "--raw", str(raw), "--out", "out", "--num_workers", "1", *options])


@pytest.mark.parametrize("source", SOURCES)
def test_a_folder_of_any_kind_has_the_modality_that_is_told(raw, source, capsys):
    if source == "a table":
        lines = ["image,split,sick", "1,train,0", "2,train,1", "3,test,0", "4,test,1"]
        (raw / "labels.csv").write_text("\n".join(lines))
    assert build("generic", raw, "--modality", "OP", *SOURCES[source]) == 0, capsys.readouterr().err
    assert read_any_task("out").modality == "OP"
    card = Path("out", "README.md").read_text()
    assert "ark_modality: OP" in card and "the image, of modality OP" in card and "chest-x-ray" not in card


def test_a_modality_that_dicom_does_not_know_is_refused(raw, capsys):
    assert build("generic", raw, "--modality", "fundus") == 2
    assert "modality 'fundus' is unknown; use DICOM's code, one of" in capsys.readouterr().err


def test_a_dataset_of_the_hub_has_the_modality_that_is_told_and_contradicts_no_card(raw, capsys):
    assert build("generic", raw, "--modality", "OP") == 0
    Path("out").rename("first")
    options = ["--label_column", "labels", "--name", "again"]
    assert build("hub", Path("first"), *options) == 2
    assert "its card says ark_modality 'OP', and --modality is CR; pass --modality OP" in capsys.readouterr().err
    assert build("hub", Path("first"), *options, "--modality", "OP") == 0
    assert read_any_task("out").modality == "OP" and "ark_modality: OP" in Path("out", "README.md").read_text()
    Path("first", "README.md").unlink()
    assert read_hub(HubSource("first", "again", label_column="labels", modality="MG")).task.modality == "MG"


def test_what_the_catalog_outlines_has_the_entry_s_modality():
    texts = dict.fromkeys("title homepage license access citation layout splits semantics reader".split(), "")
    entry = CatalogEntry("discs", labels=["disc"], masks="exclusive", modality="OP", **texts)
    assert released_task(entry).modality == "OP"

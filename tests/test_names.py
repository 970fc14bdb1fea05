"""Names of models and datasets: what may be a Hub id, and what a mistyped path is answered with."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ark_hf import load_ark, open_dataset, read_task
from ark_hf.data.task_dataset import load_splits, load_task_dataset, parquet_files, split_names
from ark_hf.names import check_name, may_be_on_hub
from ark_hf.provenance import read_provenance, weights_sha256
from ark_hf.training.ark.recipe import TaskSpec

MISTYPED = {  # by name, a part of the answer
    "./modle": "did you mean model?",
    "modle": "did you mean model?",
    "runs/x/ark-cxr": "did you mean runs/xx/ark-cxr?",
    "runs/xx/arkcxr": "did you mean runs/xx/ark-cxr?",
    "runs/xx/ark-cxr2/": "did you mean runs/xx/ark-cxr?",
    "data/rsan": "did you mean data/rsna?",
    "DATA/RSNA": "did you mean data/rsna?",
    "datta/rsna": "did you mean data/rsna?",
    r"data\rsna": "did you mean data/rsna?",
    r"C:\data\rsan": "no such folder is here",
    "../nowhere/at/all": "no such folder is here",
    "data/kermany": "data holds rsna.",
    "/nowhere/at/all": "no such folder is here",
    "~/nowhere/model": "no such folder is here",
    "my model/x": "no such folder is here",
    "nothing": "repositories on the Hub are named someone/name",
    "https://huggingface.co/someone/ark-cxr": "give the repository's id alone",
}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    for folder in ("model", "runs/xx/ark-cxr", "data/rsna"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "answer"), MISTYPED.items())
def test_a_mistyped_path_is_answered_with_the_nearest_and_is_no_id(here, name, answer):
    assert not may_be_on_hub(name)
    for kind in ("model", "dataset"):
        with pytest.raises(ValueError, match=re.escape(answer)) as caught:
            check_name(name, kind)
        assert "\n" not in str(caught.value)


def test_an_absolute_path_is_answered_with_the_nearest(here):
    with pytest.raises(ValueError, match=re.escape(f"did you mean {here / 'data/rsna'}?")):
        check_name(here / "data/rnsa", "dataset")


@pytest.mark.parametrize("name", ["someone/ark-cxr", "some.one/ark_cxr.v2", "model", "data/rsna", "./data/rsna"])
def test_an_id_and_what_is_there_are_taken(here, name):
    check_name(name, "model")
    assert may_be_on_hub(name) == name.startswith("some")


def test_a_folder_of_very_many_names_is_answered_at_once(here):
    for number in range(3000):
        (here / "data" / f"a-rather-long-name-of-a-dataset-{number}").touch()
    with pytest.raises(ValueError, match="did you mean"):
        check_name("data/a-rather-long-name-of-a-datset", "dataset")


@pytest.mark.parametrize("name", ["./modle", "data/rsan", "runs/x/ark-cxr", r"data\rsna", "datta/rsna"])
@pytest.mark.parametrize(
    "read",
    [
        load_ark,
        open_dataset,
        read_task,
        split_names,
        load_splits,
        lambda name: load_task_dataset(name, "train"),
        lambda name: load_task_dataset(name, "train", streaming=True),
        lambda name: open_dataset(name, ["train"], name="a", columns={"image": "image", "labels": ["x"]}),
        lambda name: parquet_files(name, "train"),
        lambda name: TaskSpec(name).location("."),
    ],
)
def test_nothing_that_reads_models_or_datasets_asks_the_hub_for_a_mistyped_path(here, hub, read, name):
    with hub.recording() as requests, pytest.raises(ValueError, match="did you mean"):
        read(name)
    assert not requests


def test_nor_does_what_looks_for_files_beside_a_model_that_is_gone(here, hub):
    with hub.recording() as requests:
        assert weights_sha256("runs/gone/ark-cxr") is None and read_provenance("./gone") is None
    assert not requests


def test_a_recipe_s_dataset_is_looked_for_below_data_root_alone(here):
    (here / "other/kids").mkdir(parents=True)
    assert TaskSpec("kids").location("other") == "other/kids"
    assert TaskSpec("someone/kids@v1").location("other") == "someone/kids@v1"
    with pytest.raises(ValueError, match="did you mean other/kids"):
        TaskSpec("kidz").location("other")
    with pytest.raises(ValueError, match="is here, and not in data_root, other"):
        TaskSpec("data/rsna").location("other")


VERBS = """
import sys
sys.argv = ["ark-hf"]  # as whom the package loads nothing on its own
from pathlib import Path
from ark_hf.cli.main import main
Path("r.yaml").write_text("output_dir: out\\ninit: runs/x/ark-cxr\\ntasks: [{dataset: data/rsna}]")
Path("s.yaml").write_text("output_dir: out\\ntasks: [{dataset: data/rsan}]")
Path("t.yaml").write_text("output_dir: out\\nmodel: none\\ndataset: data/rsan")
for words in (
    "pretrain r.yaml", "pretrain s.yaml", "finetune t.yaml",
    "finetune ./modle data/rsna --output_dir out", "finetune none data/rsan --output_dir out",
    "evaluate ./modle data/rsna", "evaluate model data/rsan", "evaluate model a=data/rsan",
    "evaluate model data/rsna --against ./modle", "predict ./modle 1.png", "embed ./modle data/rsna",
    "embed model data/rsan", "probe model data/rsan", "export ./modle", "serve ./modle",
    "push data/rsan someone/rsna", "data build hub --raw data/rsan --out out --label_column x",
    "data report data/rsan",
):
    assert main(words.split()) == 2, words
print([name for name in ("torch", "transformers", "datasets", "huggingface_hub") if name in sys.modules])
"""


def test_every_verb_answers_before_it_loads_a_library(here):
    done = subprocess.run([sys.executable, "-c", VERBS], capture_output=True, text=True)
    answers = done.stderr.strip().splitlines()
    assert done.stdout.strip() == "[]" and len(answers) == 18, done.stderr
    assert all("did you mean" in answer for answer in answers)

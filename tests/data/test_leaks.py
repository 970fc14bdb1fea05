"""Images that are trained on and held out too: found across datasets, refused, allowed, and told of ever after."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard

from ark_hf import (
    EvaluationArguments,
    FinetuningArguments,
    PretrainingArguments,
    TaskSpec,
    evaluate,
    finetune,
    pretrain,
    push_dataset,
)
from ark_hf.data.build.duplicates import HASH_FILE, HASH_SCHEMA
from ark_hf.data.leaks import leaks_into, mark_shared_images, picture_digests
from ark_hf.data.open_dataset import open_dataset
from ark_hf.hub.model_card import model_card
from ark_hf.provenance import read_provenance

from ..training.conftest import TINY

CITY, HILL = "phantom_city", "phantom_hill"
FAST = {key: TINY[key] for key in ("backbone", "backbone_kwargs", "image_size", "projector_dim", "batch_size")}


@pytest.fixture
def two(sites, tmp_path) -> dict[str, Path]:
    """Copies of two datasets that have nothing in common."""
    return {name: Path(shutil.copytree(sites[name], tmp_path / "data" / name)) for name in (CITY, HILL)}


def share(one: Path, other: Path, split: str = "test", equal: int = 3, near: int = 2) -> None:
    """Makes pictures of a split of `other` those of the training images of `one`, as far as the hashes tell."""
    trained = [row for row in pq.read_table(one / HASH_FILE).to_pylist() if row["split"] == "train"]
    rows = pq.read_table(other / HASH_FILE).to_pylist()
    places = [number for number, row in enumerate(rows) if row["split"] == split][: equal + near]
    for number, place in enumerate(places):
        look = bytearray(trained[number]["perceptual_hash"])
        if number < equal:
            rows[place]["sha256"] = trained[number]["sha256"]
        else:
            look[5] ^= 0b111
        rows[place]["perceptual_hash"] = bytes(look)
    pq.write_table(pa.Table.from_pylist(rows, schema=HASH_SCHEMA), other / HASH_FILE)


def set_column(folder: Path, split: str, name: str, values: list) -> None:
    (file,) = (folder / "data").glob(f"{split}-*.parquet")
    table = pq.read_table(file)
    number = table.column_names.index(name)
    pq.write_table(table.set_column(number, table.field(number), [values]), file)


def opened(two, **splits):
    return [open_dataset(two[name], splits.get(name)) for name in two]


def settings(tmp_path, **changes) -> PretrainingArguments:
    return PretrainingArguments(str(tmp_path / "run"), **({**TINY, "cycles": 1} | changes))


def test_datasets_that_share_nothing_pass_without_a_word(two):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        marked = mark_shared_images(opened(two), False)
    assert [set(each.facts) - set(each.facts["pictures_sha256"]) for each in marked]
    assert not any("shared_images" in each.facts for each in marked)


@pytest.mark.parametrize(("first", "split"), [(CITY, "validation"), (HILL, "test")])
def test_training_images_of_one_task_in_a_held_out_split_of_another_are_refused(two, first, split):
    other = HILL if first == CITY else CITY
    share(two[first], two[other], split)
    expected = f"of {other}/{split} 3 pictures to the pixel, 2 pictures nearly in the training images of {first}"
    with pytest.raises(ValueError, match=f"{expected}[.;].*allow_shared_images"):
        mark_shared_images(opened(two), False)
    # Who only holds out, trains on nothing
    mark_shared_images(opened(two, **{first: ["validation"]}), False)
    with pytest.raises(ValueError, match=expected):  # also of a split that is not opened
        mark_shared_images(opened(two, **{other: ["validation"]}), False)


def test_two_training_splits_may_share_images(two):
    share(two[CITY], two[HILL], "train")
    mark_shared_images(opened(two), False)


def test_equal_pictures_in_two_splits_of_one_dataset_are_refused_and_like_ones_are_not(two):
    share(two[CITY], two[CITY], near=0)
    with pytest.raises(ValueError, match=f"of {CITY}/test 3 pictures to the pixel in the training images of {CITY}"):
        mark_shared_images(opened(two)[:1], False)
    share(two[HILL], two[HILL], equal=0)
    mark_shared_images(opened(two)[1:], False)


def test_a_dataset_that_is_read_as_two_tasks_is_one(two):
    city = open_dataset(two[CITY])
    mark_shared_images([city, open_dataset(two[CITY], name="again")], False)


def test_patients_and_images_names_count_where_the_source_is_the_same(two):
    patients, names = (open_dataset(two[CITY]).column("train", name)[:12] for name in ("patient_id", "image_id"))
    set_column(two[HILL], "test", "patient_id", [*patients[:4], *(f"other {number}" for number in range(8))])
    set_column(two[HILL], "validation", "image_id", [names[0], *(f"other {number}" for number in range(11))])
    tasks = opened(two)
    mark_shared_images(tasks, False)  # patient 7 of two hospitals is two patients
    count = len(set(patients[:4]))
    for fact in ("homepage", "title"):
        of_one_source = [replace(data, facts=data.facts | {fact: "The same release"}) for data in tasks]
        with pytest.raises(ValueError, match=f"of {HILL}/test {count} patients in.*{HILL}/validation 1 images by"):
            mark_shared_images(of_one_source, False)


def test_an_equal_picture_of_one_patient_shows_that_the_source_is_the_same(two):
    share(two[CITY], two[HILL], "train", near=0)
    patients = open_dataset(two[CITY]).patients("train")
    ours = open_dataset(two[HILL]).patients("train")
    set_column(two[HILL], "train", "patient_id", [*patients[:3], *ours[3:]])
    mark_shared_images(opened(two), False)
    set_column(two[HILL], "test", "patient_id", [patients[-1], *(f"other {number}" for number in range(11))])
    with pytest.raises(ValueError, match=f"of {HILL}/test 1 patients in the training images of {CITY}"):
        mark_shared_images(opened(two), False)


def test_datasets_without_hashes_of_their_rows_are_named_once(two):
    (two[HILL] / HASH_FILE).unlink()
    with pytest.warns(UserWarning, match=f"could not be checked for: {HILL}") as caught:
        mark_shared_images(opened(two), False)
    assert len(caught) == 1
    table = pq.read_table(two[CITY] / HASH_FILE)
    pq.write_table(table.slice(1), two[CITY] / HASH_FILE)  # of other rows than those that are there
    with pytest.warns(UserWarning, match=f"could not be checked for: {CITY}, {HILL}"):
        mark_shared_images(opened(two), False)
    (two[CITY] / HASH_FILE).write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="image_hashes.parquet does not exist or is damaged"):
        mark_shared_images(opened(two), False)


def test_digests_know_pictures_and_not_their_order(two):
    before = picture_digests(open_dataset(two[CITY]))
    rows = pq.read_table(two[CITY] / HASH_FILE)
    pq.write_table(rows.take(np.arange(len(rows))[::-1]), two[CITY] / HASH_FILE)
    assert picture_digests(open_dataset(two[CITY])) == before and len(set(before.values())) == 3
    share(two[HILL], two[CITY], near=0)
    after = picture_digests(open_dataset(two[CITY]))
    assert [split for split in before if before[split] != after[split]] == ["test"]


def test_pretraining_refuses_and_with_leave_tells_of_it_everywhere(two, tmp_path):
    share(two[CITY], two[HILL])
    specs = [TaskSpec(str(folder)) for folder in two.values()]
    with pytest.raises(ValueError, match=f"of {HILL}/test 3 pictures"):
        pretrain(settings(tmp_path), specs)
    assert not (tmp_path / "run").exists()
    model = pretrain(settings(tmp_path, allow_shared_images=True), specs)
    told = f"of {HILL}/test 3 pictures to the pixel, 2 pictures nearly in the training images of {CITY}"
    shared = json.loads((tmp_path / "run" / "metrics.json").read_text())["shared_images"]
    assert shared == [dict(trained=CITY, task=HILL, split="test", equal=3, near=2, patients=0, named=0)]
    card = str(model_card(model, "someone/x"))
    assert f"- {told}" in card and "Held-out images were trained on" in card
    arguments = EvaluationArguments(out=str(tmp_path / "report"), bootstrap=0)
    (report,) = evaluate(str(model), [str(two[HILL])], arguments).reports
    assert report.leaks == [f"Trained on, with leave: {told}."]
    assert leaks_into(open_dataset(two[CITY]), "test", read_provenance(model)) == []
    for name in ("report.md", "report.html"):
        assert told in (tmp_path / "report" / name).read_text()


@pytest.mark.slow_ci
def test_finetuning_from_what_was_trained_on_the_test_images(two, tmp_path):
    """A teacher of yesterday's split: certain where a held-out split was its training split, else possible."""
    start = {"model": "none", "dataset": str(two[HILL])}
    fast = {**FAST, "max_steps": 1, "bootstrap": 0}
    finetune(*start.values(), FinetuningArguments(str(tmp_path / "teacher"), test=False, **fast))
    teacher = str(tmp_path / "teacher" / "seed-0" / "ark-cxr")
    assert read_provenance(teacher)["data"][0]["pictures_sha256"].keys() == {"train", "validation", "test"}
    assert evaluate(teacher, [str(two[HILL])], EvaluationArguments(bootstrap=0)).reports[0].leaks == []
    (trained,) = evaluate(teacher, [str(two[HILL])], EvaluationArguments(bootstrap=0, split="train")).reports[0].leaks
    assert trained == "The pictures of the split 'train' are those that the model was trained on."

    table = pq.read_table(two[HILL] / HASH_FILE)
    swapped = {"train": "test", "test": "train", "validation": "validation"}
    files = {split: next((two[HILL] / "data").glob(f"{split}-*")) for split in ("train", "test")}
    for split, file in files.items():
        file.rename(file.with_name(f"new-{swapped[split]}-00000-of-00001.parquet"))
    for file in (two[HILL] / "data").glob("new-*"):
        file.rename(file.with_name(file.name.removeprefix("new-")))
    card = DatasetCard.load(two[HILL] / "README.md")
    card.data.pop("dataset_info")  # the sizes of the splits
    card.save(two[HILL] / "README.md")
    names = [swapped[name] for name in table["split"].to_pylist()]
    pq.write_table(table.set_column(0, "split", [names]), two[HILL] / HASH_FILE)
    again = FinetuningArguments(str(tmp_path / "again"), **fast)
    with pytest.raises(ValueError, match=r"split 'test' are those that the model was trained on\. Start from another"):
        finetune(teacher, str(two[HILL]), again)
    with pytest.raises(ValueError, match=r"split 'test' are those that the model was trained on\. Start from another"):
        pretrain(settings(tmp_path, init=teacher), [TaskSpec(str(two[HILL]))])
    again.allow_shared_images = True
    with pytest.warns(UserWarning, match=f"was trained on another {HILL} .*split 'validation' may have been among"):
        results = finetune(teacher, str(two[HILL]), again)
    assert [each["equal"] for each in results["shared_images"]] == [20]
    assert "that the model was trained on" in (tmp_path / "again" / "seed-0" / "report" / "report.html").read_text()


def test_a_dataset_on_the_hub_is_compared_too(hub, two):
    share(two[CITY], two[HILL])
    push_dataset(two[CITY], "someone/city")
    there = open_dataset("someone/city")
    with pytest.raises(ValueError, match=f"of {HILL}/test 3 pictures to the pixel, 2 pictures nearly"):
        mark_shared_images([there, open_dataset(two[HILL])], False)

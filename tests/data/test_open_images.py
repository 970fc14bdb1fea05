"""Any dataset opened for training without labels: images and metadata alone, loaded or streamed, checked and named."""

import shutil

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value

from ark_hf import Unlabelled, open_dataset, open_images
from ark_hf.data.build.duplicates import HASH_FILE
from ark_hf.data.leaks import leaks_into, mark_shared_images, mark_trained_before, picture_digests
from ark_hf.data.loading import DrawnSamples, iterate, pass_order
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor

HILL, ORGANS = "phantom_hill", "phantom_organs"


class Pictures(DrawnSamples):
    """The least that trains without labels: a picture and a draw for each row."""

    def samples(self, numbers, rows, pictures):
        draws = [self.generator(number, row).random() for number, row in zip(numbers, rows, strict=True)]
        seen = zip(rows, pictures, draws, strict=True)
        return [{"row": row, "sum": picture.sum(), "draw": draw} for row, picture, draw in seen]

    def collate(self, samples):
        return samples


def picture(number: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.full((40, 32), 10 * number, dtype=np.uint8))


@pytest.fixture
def foreign(tmp_path):
    """Somebody's dataset: no card, classes, and other names of columns and patients."""
    folder = tmp_path / "Their X-rays"
    columns = {"img": [picture(1), picture(2)], "label": [0, 1], "patient_id": ["a", "b"], "site": ["x", "y"]}
    kinds = {"img": Image(), "label": ClassLabel(names=["no", "yes"])}
    features = Features(kinds | {name: Value("string") for name in ("patient_id", "site")})
    Dataset.from_dict(columns, features=features).to_parquet(folder / "train.parquet")
    return folder


@pytest.fixture
def hill(sites, tmp_path):
    return shutil.copytree(sites[HILL], tmp_path / "hill")


def rewrite(folder, split, change):
    (path,) = (folder / "data").glob(f"{split}-*.parquet")
    pq.write_table(change(pq.read_table(path)), path)


def put(name, values):
    return lambda table: table.set_column(table.column_names.index(name), name, [values])


@pytest.mark.parametrize("streaming", [False, True], ids=["loaded", "streamed"])
@pytest.mark.parametrize("name", [HILL, ORGANS])
def test_labels_and_masks_are_left_out_and_metadata_kept(sites, phantom_masks, name, streaming):
    source = {**sites, **phantom_masks}[name]
    data, labelled = open_images(source, streaming=streaming), open_dataset(source)
    assert data.task == Unlabelled(name) and list(data.splits) == ["train", "validation", "test"]
    assert set(data.columns("train")) == set(labelled.columns("train")) - {"labels", "masks"}
    for column in ("image_id", "patient_id", "sex", "age", "view"):
        assert data.column("test", column) == labelled.column("test", column)
    for split, facts in labelled.facts["splits"].items():
        assert data.facts["splits"][split] == facts | {"labels": {}}
    assert data.facts | {"splits": ...} == labelled.facts | {"splits": ...}
    assert not data.has_known_label("train")


def test_labels_are_not_even_looked_at(hill):
    rewrite(hill, "train", put("labels", [[7.0]] * pq.ParquetFile(*hill.glob("data/train-*")).metadata.num_rows))
    with pytest.raises(ValueError, match="labels"):
        open_dataset(hill)
    for streaming in (False, True):
        assert len(open_images(hill, streaming=streaming).splits["train"]) > 0


def test_samples_without_labels_are_drawn_alike_of_rows_and_of_a_stream(sites):
    processor, seen = ArkImageProcessor(size=32), []
    for streaming in (False, True):
        data = open_images(sites[HILL], ["train"], streaming=streaming)
        samples = Pictures(data.splits["train"], data.task, processor, 1, 2)
        order = pass_order(data.splits["train"], 1, 2, data.task.name)
        assert sorted(order) == list(range(len(order)))
        (batch,) = iterate(samples, [np.arange(len(order))], 0)
        assert all(set(sample["row"]) == {"image", "image_id"} for sample in batch)
        seen.append([(sample["draw"], int(sample["sum"])) for sample in batch])
    assert seen[0] == seen[1] and len({draw for draw, _ in seen[0]}) == len(order)


@pytest.mark.parametrize("streaming", [False, True], ids=["loaded", "streamed"])
def test_a_foreign_dataset_needs_no_task_but_the_column_of_its_images(foreign, streaming):
    data = open_images(foreign, columns={"image": "img"}, streaming=streaming)
    assert data.task == Unlabelled("their_x_rays") and data.name == "Their X-rays"
    assert set(data.columns("train")) == {"image", "patient_id"} and data.patients("train") == ["a", "b"]
    again = open_images(foreign, columns={"image": "img", "labels": ["absent"]}, streaming=streaming, name="theirs")
    assert again.task.name == again.facts["task"] == "theirs" and again.facts["dataset"] == "Their X-rays"


@pytest.mark.parametrize("streaming", [False, True], ids=["loaded", "streamed"])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (None, r"no column 'image'; it has \['img'.*columns: {image: ...}"),
        ({"image": "picture"}, r"no column 'picture'; it has \['img'"),
        ({"image": "label"}, "the column 'label' holds no images, but int64. Name the column"),
        ({"labels": ["label"]}, "columns must be {image: COLUMN}, got {'labels'"),
        ({"image": "img", "mask": "site"}, "columns must be {image: COLUMN}, got"),
    ],
)
def test_wrong_columns_are_refused_with_what_is_there(foreign, columns, message, streaming):
    with pytest.raises(ValueError, match=message):
        open_images(foreign, columns=columns, streaming=streaming)


def test_a_name_that_cannot_be_made_of_the_dataset_s_is_asked_for(foreign):
    numbered = foreign.rename(foreign.with_name("2020"))
    with pytest.raises(ValueError, match="Name '2020' of unlabelled images: .*Give a `name`"):
        open_images(numbered, columns={"image": "img"})


@pytest.mark.parametrize("streaming", [False, True], ids=["loaded", "streamed"])
def test_splits_must_be_there_have_rows_and_share_no_patient(hill, streaming):
    with pytest.raises(ValueError, match="absent' is neither a folder with a task dataset nor a reachable Hub"):
        open_images(hill.with_name("absent"), ["train"], streaming=streaming)
    with pytest.raises(ValueError, match="Unknown split 'all'"):
        open_images(hill, ["all"], streaming=streaming)
    patient = open_images(hill).patients("train")[0]
    rewrite(hill, "test", put("patient_id", [patient] * len(open_images(hill).splits["test"])))
    with pytest.raises(ValueError, match="row 0 of split 'test' and row 0 of split 'train' are of one patient"):
        open_images(hill, streaming=streaming)
    rewrite(hill, "test", lambda table: table.slice(0, 0))
    with pytest.raises(ValueError, match="Cannot load .*"):
        open_images(hill, ["test"], streaming=streaming)


def test_a_dataset_of_other_splits_alone_is_refused_with_their_names(foreign):
    (foreign / "train.parquet").rename(foreign / "extra-00000.parquet")
    (foreign / "README.md").write_text(
        "---\nconfigs: [{config_name: default, data_files: [{split: extra, path: extra-00000.parquet}]}]\n---\n"
    )
    with pytest.raises(ValueError, match=r"has none of the splits .*, only \['extra'\]"):
        open_images(foreign, columns={"image": "img"})


def test_cards_that_contradict_themselves_are_refused(hill):
    card = (hill / "README.md").read_text()
    for entry, message in (
        ("ark_kind: unlabelled", "`ark_task` is of labels; `ark_kind: unlabelled` has none"),
        ("ark_kind: volume", "ark_kind 'volume' is unknown"),
    ):
        (hill / "README.md").write_text(card.replace("---\n", f"---\n{entry}\n", 1))
        with pytest.raises(ValueError, match=message):
            open_images(hill)
    (hill / "README.md").write_text("---\nark_kind: unlabelled\n---\n")
    with pytest.raises(ValueError, match="has no `ark_name` beside `ark_kind: unlabelled`"):
        open_images(hill)


def test_what_was_trained_on_without_labels_is_known_to_whoever_tests_on_it(sites):
    """As from one training to the next: the notes of the first, read at the start of the second."""
    (trained,) = mark_shared_images([open_images(sites[HILL], ["train", "validation"])], False)
    assert trained.facts["pictures_sha256"] == picture_digests(trained)
    notes = {"start": "their-peac", "start_provenance": {"data": [trained.facts]}}
    (later,) = mark_trained_before([open_dataset(sites[HILL])], notes)
    assert "shared_images" not in later.facts  # the same splits
    held_out = open_dataset(sites[HILL], ["validation"])
    held_out.facts["pictures_sha256"] = {"validation": trained.facts["pictures_sha256"]["train"]}
    with pytest.raises(ValueError, match="split 'validation' are those that the model was trained on"):
        mark_trained_before([held_out], notes)
    assert leaks_into(held_out, "validation", notes["start_provenance"])


def test_images_that_are_trained_on_without_labels_may_not_be_held_out_elsewhere(sites, hill):
    hashes = pq.read_table(hill / HASH_FILE)
    trained = hashes["split"].to_pylist().index("train")
    moved = hashes["sha256"].to_pylist()
    moved[hashes["split"].to_pylist().index("validation")] = moved[trained]
    pq.write_table(put("sha256", moved)(hashes).cast(hashes.schema), hill / HASH_FILE)
    with pytest.raises(ValueError, match="hill/validation 1 pictures to the pixel.* in the training images of city"):
        mark_shared_images(
            [open_images(sites[HILL], ["train"], name="city"), open_images(hill, ["validation"])], False
        )

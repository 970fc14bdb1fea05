"""Task datasets: the same rows whatever the source, checks that name the row, and labels turned into targets."""

import math
import shutil
import typing

import datasets
import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from hypothesis import given
from hypothesis import strategies as st

from ark_hf.data import task_dataset
from ark_hf.data.build.build import encode_png, write_task_dataset
from ark_hf.data.open_dataset import TaskDataset, check_disjoint, open_dataset
from ark_hf.data.sources.phantom import SITES
from ark_hf.data.sources.phantom_sites import build_phantom_sites
from ark_hf.data.streaming import StreamedRows
from ark_hf.data.summary import split_facts
from ark_hf.data.task_dataset import (
    load_task_dataset,
    read_task,
    resolve_labels,
    split_names,
)
from ark_hf.metrics.resampling import number_clusters
from ark_hf.models.ark.configuration_ark import ArkTask
from ark_hf.training.settings import Uncertain

UNCERTAIN_POLICIES = typing.get_args(Uncertain)
FINDINGS = ArkTask("findings", ["Edema", "Mass"])
KINDS = ArkTask("kinds", ["normal", "bacterial", "viral"], "single_label_classification")
PATIENT = "Sentinel"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """`datasets` copies what it loads into a cache, which should not outlive the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def picture(number: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.full((40, 32), 10 * number, dtype=np.uint8))


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    """A multi-label dataset of three training rows and one test row."""
    folder = tmp_path_factory.mktemp("findings") / "data"
    labels = {"train": [[0.0, 1.0], [-1.0, math.nan], [1.0, 0.0]], "test": [[1.0, 1.0]]}

    def read(split):
        return [
            {
                "image": encode_png(np.asarray(picture(number))),
                "labels": values,
                "image_id": f"{split}/{number}",
                "age": None if number else 50.0,
            }
            for number, values in enumerate(labels[split])
        ]

    write_task_dataset(folder, FINDINGS, {split: lambda split=split: read(split) for split in labels}, ["age"], {})
    return folder


@pytest.fixture(scope="module")
def foreign_parquet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    columns = {"img": [picture(1), picture(2)], "TB": [1, None], "Mass": [0.0, -1.0], "site": ["a", "b"]}
    features = Features({"img": Image(), "TB": Value("int64"), "Mass": Value("float64"), "site": Value("string")})
    Dataset.from_dict(columns, features=features).to_parquet(folder / "train.parquet")
    return folder


@pytest.fixture(scope="module")
def foreign_images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    (folder / "train").mkdir()
    for number in (1, 2):
        picture(number).save(folder / "train" / f"{number}.png")
    (folder / "train" / "metadata.csv").write_text("file_name,TB,Mass\n1.png,1,0\n2.png,,-1\n")
    return folder


def assert_same_rows(rows, others):
    rows, others = list(rows), list(others)
    assert len(rows) == len(others) > 0
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        np.testing.assert_array_equal(np.asarray(row["image"]), np.asarray(other["image"]))
        for key in row.keys() - {"image"}:
            np.testing.assert_equal(row[key], other[key], err_msg=key)


# Loading -------------------------------------------------------------------------------------------------------------


def test_rows_on_disk_have_pictures_labels_and_metadata(findings):
    rows = load_task_dataset(findings, "train")
    assert rows.column_names == ["image", "labels", "image_id", "age"]
    np.testing.assert_equal(rows["labels"][:], [[0, 1], [-1, math.nan], [1, 0]])
    assert rows["age"][:] == [50.0, None, None]
    assert np.asarray(rows[2]["image"]).tolist() == np.asarray(picture(2)).tolist()


@pytest.mark.parametrize("split", ["train", "test"])
def test_streaming_gives_the_same_rows(findings, split):
    streamed = load_task_dataset(findings, split, streaming=True)
    loaded = load_task_dataset(findings, split)
    assert streamed.features == loaded.features
    assert_same_rows(streamed, loaded)


@pytest.mark.parametrize("streaming", [False, True], ids=["loaded", "streamed"])
@pytest.mark.parametrize(("source", "image"), [("foreign_parquet", "img"), ("foreign_images", "image")])
def test_columns_of_a_foreign_dataset_become_image_and_labels(request, source, image, streaming):
    columns = {"image": image, "labels": ["Mass", "TB"]}
    rows = load_task_dataset(request.getfixturevalue(source), "train", streaming=streaming, columns=columns)
    assert rows.features["labels"] == List(Value("float32"))
    assert {"img", "TB", "Mass"}.isdisjoint(rows.column_names)
    for number, (row, labels) in enumerate(zip(rows, [[0, 1], [-1, math.nan]], strict=True), start=1):
        np.testing.assert_equal(row["labels"], labels)
        np.testing.assert_array_equal(np.asarray(row["image"]), np.asarray(picture(number)))


@pytest.mark.parametrize("streaming", [False, True])
def test_words_and_classes_of_a_foreign_dataset_are_read_as_of_tables(tmp_path, streaming):
    features = {"TB": ClassLabel(names=["positive", "negative"]), "Mass": Value("string"), "sex": Value("string")}
    columns = {"TB": [0, 1, -1], "Mass": ["nan", "True", "-1.0"], "sex": ["Female", "m", "NA"]}
    table = {"img": [picture(1), picture(2), picture(3)], **columns}
    Dataset.from_dict(table, features=Features({"img": Image()} | features)).to_parquet(tmp_path / "train.parquet")
    given = {"image": "img", "labels": ["TB", "Mass"]}
    data = open_dataset(tmp_path, ["train"], name="lungs", columns=given, streaming=streaming)
    np.testing.assert_equal(data.stored_labels("train"), [[1, math.nan], [0, 1], [math.nan, -1]])
    assert data.column("train", "sex") == ["F", "M", None]


def test_other_columns_of_a_foreign_dataset_are_kept(foreign_parquet):
    rows = load_task_dataset(foreign_parquet, "train", columns={"image": "img", "labels": ["TB"]})
    assert rows["site"][:] == ["a", "b"] and rows["Mass"][:] == [0, -1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": "img", "labels": ["TB", "Edema"]}, r"has no columns \['Edema'\]; it has \['img', 'TB'"),
        ({"image": "picture", "labels": ["TB"]}, r"has no columns \['picture'\]"),
        ({"image": "img"}, "columns must be {image: COLUMN, labels: "),
        ({"image": "img", "labels": "TB"}, "columns must be {image: COLUMN, labels: "),
        ({"image": "img", "labels": []}, "columns must be {image: COLUMN, labels: "),
        ({"image": "img", "labels": ["TB"], "mask": "m"}, "columns must be {image: COLUMN, labels: "),
        ({"image": "img", "labels": ["TB", "site"]}, "{'TB': 1, 'site': 'a'}; use 0, 1, -1 or nothing"),
        (None, r"lacks the columns \['image', 'labels'\]; it has .* Name them in the recipe: columns"),
    ],
)
def test_wrong_columns_are_refused_with_what_is_there(foreign_parquet, columns, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_task_dataset(foreign_parquet, "train", columns=columns)
    assert str(foreign_parquet) in str(caught.value)


@pytest.mark.parametrize("streaming", [False, True], ids=["loaded", "streamed"])
def test_missing_split_is_refused_with_those_there_are(findings, streaming):
    with pytest.raises(ValueError, match=r"Cannot load split 'validation' of .*findings.*\['train', 'test'\]"):
        load_task_dataset(findings, "validation", streaming=streaming)


def test_unknown_split_is_refused_with_the_three_allowed(findings):
    with pytest.raises(ValueError, match=r"Unknown split 'val'; use one of \('train', 'validation', 'test'\)"):
        load_task_dataset(findings, "val")


def test_empty_split_is_refused(tmp_path):
    features = Features({"image": Image(), "labels": List(Value("float32"))})
    Dataset.from_dict({"image": [], "labels": []}, features=features).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="split 'train' of .* it is empty"):
        load_task_dataset(tmp_path, "train")


@pytest.mark.parametrize("call", [read_task, lambda path: load_task_dataset(path, "train")], ids=["card", "rows"])
def test_absent_dataset_is_refused_by_name(tmp_path, call):
    with pytest.raises(ValueError, match="absent"):
        call(tmp_path / "absent")


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_damaged_parquet_is_refused_by_name(findings, tmp_path, damage):
    shutil.copytree(findings, tmp_path / "copy")
    file = tmp_path / "copy" / "data" / "train-00000-of-00001.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:-100] if damage == "cut" else content[:80] + bytes(400) + content[480:])
    with pytest.raises(ValueError, match="Cannot load split 'train' of .*copy"):
        load_task_dataset(tmp_path / "copy", "train")


# The card ------------------------------------------------------------------------------------------------------------


LUNGS = "---\nark_task: {name: lungs, labels: [Mass]}\n"
OF_MASKS = "holds segmentation masks, and a dataset of labels is wanted"


def test_card_of_a_dataset_holds_its_task(findings):
    assert read_task(findings) == read_task(str(findings)) == FINDINGS


@pytest.mark.parametrize(
    ("entries", "modality"),
    [
        ("", "CR"),
        ("ark_kind: classification\n", "CR"),
        ("ark_modality: CR\n", "CR"),
        ("ark_kind: classification\nark_modality: OP\n", "OP"),
    ],
)
def test_the_task_has_the_modality_that_stands_beside_it(tmp_path, entries, modality):
    (tmp_path / "README.md").write_text(f"{LUNGS}{entries}---\n")
    assert read_task(tmp_path) == ArkTask("lungs", ["Mass"], modality=modality)


def test_a_built_dataset_keeps_its_modality(tmp_path):
    task = ArkTask("fundus", ["dr"], modality="OP")
    row = {"image": encode_png(np.zeros((40, 40), np.uint8)), "labels": [1.0], "image_id": "0"}
    write_task_dataset(tmp_path / "fundus", task, {"train": lambda: iter([row])}, [], {})
    assert read_task(tmp_path / "fundus") == task


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        (["image", "masks"], "segmentation masks, and a dataset of labels is wanted"),
        (["volume", "mask"], "volumes, which are not streamed: set streaming to false"),
        (["volume", "labels"], "volumes, which are not streamed: set streaming to false"),
    ],
)
def test_masks_and_volumes_are_not_streamed(tmp_path, columns, what):  # loaded, they are what models learn from
    (tmp_path / "data").mkdir()
    Dataset.from_dict({name: ["x"] for name in columns}).to_parquet(tmp_path / "data" / "train-0.parquet")
    with pytest.raises(ValueError, match=f"holds {what}"):
        StreamedRows(tmp_path, "train")


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (None, "it has no card README.md"),
        ("# Chests", "has no `ark_task` entry"),
        ("---\nlicense: mit\n---\n", "has no `ark_task` entry"),
        ("---\nark_task: [\n---\n", "is not UTF-8 with a YAML header"),
        (b"---\nlicense: \xff\n---\n", "is not UTF-8 with a YAML header"),
        ("---\nark_task: {name: Lungs, labels: [Mass]}\n---\n", "lower-case letters"),
        ("---\nark_task: {name: lungs}\n---\n", "'name' and 'labels' required"),
        ("---\nark_task: {name: lungs, labels: []}\n---\n", "labels must be a non-empty list"),
        ("---\nark_task: lungs\n---\n", "dictionary"),
        ("---\nark_task: {name: lungs, labels: &a [*a]}\n---\n", "anchors and aliases"),
        (LUNGS + "ark_task: {name: liver, labels: [Mass]}\n---\n", "'ark_task' stands twice"),
        ("---\nark_task: " + "[" * 3000 + "\n---\n", "nested too deep"),
        ("---\n- ark_task\n---\n", "does not map names to values"),
        ("---\n1: 2\n---\n", "does not map names to values"),
        ("---\nignore_metadata_errors: true\n---\n", r"cannot read its header \(TypeError\)"),
        ("x" * (2**22 + 1), "more than 4,194,304 characters"),
        (LUNGS + "ark_kind: segmentation\n---\n", OF_MASKS),
        ("---\nark_kind: segmentation\n---\n", "no `ark_task` entry"),
        (LUNGS + "ark_kind: masks\n---\n", r"ark_kind 'masks' is unknown; use one of \('classification', 'segm"),
        (LUNGS + "ark_modality: fundus\n---\n", "ark_modality 'fundus' is unknown; use DICOM's code, one of"),
        (LUNGS + "ark_modality: [CR]\n---\n", "ark_modality .'CR'. is unknown"),
        (LUNGS.replace("}", ", modality: OP}") + "---\n", "write `ark_modality: OP` beside `ark_task`, not within it"),
    ],
)
def test_folder_without_a_task_in_its_card_is_refused(tmp_path, card, message):
    if card is not None:
        (tmp_path / "README.md").write_bytes(card if isinstance(card, bytes) else card.encode())
    with pytest.raises(ValueError, match=message):
        read_task(tmp_path)


def test_a_damaged_shard_is_told_without_its_bytes(findings, tmp_path):
    folder = shutil.copytree(findings, tmp_path / "copy")
    shard = next(folder.glob("data/train-*.parquet"))
    content = shard.read_bytes()
    at = len(content) - 8 - int.from_bytes(content[-8:-4], "little")  # where the footer begins
    for byte in (b"\x0e", b"\x0f", b"\0"):
        shard.write_bytes(content[:at] + byte * 8 + content[at + 8 :])
        with pytest.raises(ValueError, match="Cannot load split 'train'") as caught:
            load_task_dataset(folder, "train")
        assert str(caught.value).isprintable()


# The checks ----------------------------------------------------------------------------------------------------------


def labelled(labels, feature=None) -> Dataset:
    return Dataset.from_dict({"labels": labels}, features=feature and Features({"labels": feature}))


@pytest.mark.parametrize(
    ("task", "dataset"),
    [
        (FINDINGS, labelled([[0.0, 1.0], [-1.0, None], [math.nan, 0.0]])),
        (ArkTask("tb", ["TB"]), labelled([0, 1, -1, None])),
        (KINDS, labelled([0, 2, -1, None], ClassLabel(names=KINDS.labels))),
        (KINDS, labelled([0.0, 2.0])),
    ],
    ids=["multi", "binary without a list", "classes", "classes as floats"],
)
def test_labels_that_fit_the_task_pass(task, dataset):
    TaskDataset("here", task, {"train": dataset}).stored_labels("train")


@pytest.mark.parametrize(
    ("task", "labels", "first"),
    [
        (FINDINGS, [[0.0, 1.0], [0.0, 0.5], [2.0, 0.0]], 1),
        (FINDINGS, [[0.0, 1.0], [1.0], [1.0, 1.0, 1.0]], 1),
        (FINDINGS, [[0.0, 1.0], [None, 1.0], None, []], 2),
        (FINDINGS, [["0", "1"], ["1", "1"]], 0),
        (KINDS, [2, 3, -2], 1),
        (KINDS, [-1, 0, -2, 3], 2),
        (KINDS, [1.0, 1.5, math.nan], 1),
        (KINDS, [[0, 1, 0], [1, 0, 0]], 0),
        (KINDS, ["normal", "viral"], 0),
    ],
    ids=["half", "width", "none", "strings", "too large", "too small", "fraction", "one-hot", "names"],
)
def test_first_row_whose_labels_do_not_fit_is_named(task, labels, first):
    allowed = "a class index from 0 to 2, or -1" if task is KINDS else "2 values, each 0, 1, -1"
    with pytest.raises(ValueError) as caught:
        TaskDataset("data/x", task, {"train": labelled(labels)}).stored_labels("train")
    assert str(caught.value).startswith(
        f"data/x, split 'train', row {first}: labels {labels[first]!r}; task {task.name!r} takes {allowed}"
    )
    assert "2 rows are wrong" in str(caught.value)


def test_patient_in_two_splits_is_named_by_rows_alone():
    splits = {
        "train": Dataset.from_dict({"patient_id": ["a", f"{PATIENT}-7", "a"]}),
        "validation": Dataset.from_dict({"patient_id": ["b", "c"]}),
        "test": Dataset.from_dict({"patient_id": ["c2", "d", "e", f"{PATIENT}-7"]}),
    }
    with pytest.raises(
        ValueError, match="row 3 of split 'test' and row 1 of split 'train' are of one patient"
    ) as caught:
        check_disjoint(TaskDataset("data/x", FINDINGS, splits))
    assert str(caught.value).startswith("data/x: ") and PATIENT not in str(caught.value)


def test_what_other_readers_stored_is_read_as_ours_would_have_stored_it():
    """As an earlier version stored patients that are not known, and words for sexes."""
    rows = Dataset.from_dict(
        {
            "labels": [[1.0]] * 4,
            "image_id": ["nan", "b", "c", "d"],
            "patient_id": ["nan", "NaN", "p1", "10000032.0"],
            "sex": [0, 1, -1, 0],
            "age": ["045Y", ">89", "", "?"],
            "view": ["LATERAL", "pa", "None", "odd"],
        }
    ).cast_column("sex", ClassLabel(names=["Female", "male"]))
    data = TaskDataset(
        "x", ArkTask("tb", ["TB"]), {"train": rows, "test": rows.select([0, 1]).remove_columns("image_id")}
    )
    assert data.patients("train") == [None, None, "p1", "10000032"]
    assert data.column("train", "sex") == ["F", "M", None, "F"]
    assert data.column("train", "age") == [45, 90, None, None]
    assert data.column("train", "view") == ["lateral", "PA", None, "odd"]
    assert data.column("train", "image_id") == ["nan", "b", "c", "d"]
    check_disjoint(data)
    assert number_clusters(["nan", "nan", "", None, "p", "p"], 6)[1] == 5
    assert split_facts(data.task, data.stored_labels("train"), ["nan", "NA", "p"])["patients"] == 1


def test_splits_without_known_common_patients_are_disjoint():
    check_disjoint(
        TaskDataset(
            "here",
            FINDINGS,
            {
                "train": Dataset.from_dict({"patient_id": ["a", "a", "", None]}),
                "validation": Dataset.from_dict({"patient_id": ["b", "", None]}),
                "test": Dataset.from_dict({"image_id": ["a"]}),
            },
        )
    )


# Targets -------------------------------------------------------------------------------------------------------------

STORED = st.lists(st.sampled_from([0.0, 1.0, -1.0, math.nan, None]), min_size=1, max_size=14)
RANGES = {"ones": (1, 1), "zeros": (0, 0), "lsr_ones": (0.55, 0.85), "lsr_zeros": (0, 0.3)}


@given(STORED, st.sampled_from(UNCERTAIN_POLICIES), st.integers(0, 2**32))
def test_policy_changes_uncertain_labels_alone(labels, policy, seed):
    task = ArkTask("x", [str(number) for number in range(len(labels))])
    targets = resolve_labels(labels, task, policy, np.random.default_rng(seed))
    again = resolve_labels(labels, task, policy, np.random.default_rng(seed))
    np.testing.assert_array_equal(targets, again)
    assert targets.dtype == np.float32 and targets.shape == (len(labels),)
    for label, target in zip(labels, targets.tolist(), strict=True):
        if label in (0, 1):
            assert target == label
        elif label == -1 and policy != "ignore":
            low, high = np.float32(RANGES[policy])
            assert low <= target <= high
        else:
            assert math.isnan(target)


@pytest.mark.parametrize("policy", ["lsr_ones", "lsr_zeros"])
def test_label_smoothing_is_uniform_and_drawn_for_each_label(policy):
    task = ArkTask("x", [str(number) for number in range(4000)])
    targets = resolve_labels([-1.0] * 4000, task, policy, np.random.default_rng(0))
    low, high = RANGES[policy]
    shares, _ = np.histogram(targets, bins=10, range=(low, high))
    assert shares.sum() == 4000 and shares.min() > 340 and shares.max() < 460  # 400 each, three standard deviations
    other = resolve_labels([-1.0] * 4000, task, policy, np.random.default_rng(1))
    assert not np.any(targets == other)


def test_uncertain_is_ignored_by_default():
    np.testing.assert_equal(resolve_labels([-1.0, 1.0], FINDINGS), np.array([np.nan, 1], dtype=np.float32))


def test_binary_label_without_a_list_is_one_target():
    assert resolve_labels(1, ArkTask("tb", ["TB"])).tolist() == [1.0]


@pytest.mark.parametrize("policy", UNCERTAIN_POLICIES)
@pytest.mark.parametrize(("stored", "target"), [(0, 0), (2, 2), (1.0, 1), (-1, -100), (None, -100)])
def test_class_index_passes_and_unknown_becomes_minus_100(policy, stored, target):
    resolved = resolve_labels(stored, KINDS, policy, np.random.default_rng(0))
    assert resolved.dtype == np.int64 and resolved.shape == () and resolved == target


# The phantom sites ---------------------------------------------------------------------------------------------------


def test_phantom_sites_load_and_agree_with_their_description(tmp_path):
    counts = {"train": 5, "validation": 2, "test": 3}
    folders = build_phantom_sites(tmp_path / "phantom", counts, size=40)
    assert list(folders) == list(SITES)
    for name, folder in folders.items():
        task = read_task(folder)
        assert task == ArkTask(name, list(SITES[name].labels), SITES[name].problem_type)
        data = open_dataset(folder)
        for split, rows in data.splits.items():
            assert len(rows) == counts[split]
            assert rows.column_names == ["image", "labels", "image_id", "patient_id", "sex", "age", "view"]
            assert max(rows[0]["image"].size) == 40 and rows[0]["image"].mode == "L"
        assert list(data.splits) == list(counts) and data.task == task
        card = (folder / "README.md").read_text()
        assert "never evidence about patients" in card and "- phantom\n" in card


def test_datasets_of_one_folder_name_and_rebuilt_ones_are_told_apart(tmp_path):
    def build(folder, labels):
        task = ArkTask("tb", labels)
        row = {"image": encode_png(np.zeros((40, 40), np.uint8)), "labels": [1.0] * len(labels), "image_id": "0"}
        write_task_dataset(folder, task, {"train": lambda: iter([row])}, [], {})

    build(tmp_path / "one" / "same", ["TB"])
    build(tmp_path / "two" / "same", ["TB", "Other"])
    assert load_task_dataset(tmp_path / "one" / "same", "train")[0]["labels"] == [1]
    assert load_task_dataset(tmp_path / "two" / "same", "train")[0]["labels"] == [1, 1]
    build(tmp_path / "one" / "same", ["TB", "Other", "Third"])
    assert load_task_dataset(tmp_path / "one" / "same", "train")[0]["labels"] == [1, 1, 1]
    assert split_names(tmp_path / "one" / "same") == ["train"]


def test_a_rebuilt_dataset_leaves_no_copy_of_the_old_one(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def build(folder, value):
        row = {"image": encode_png(np.zeros((40, 40), np.uint8)), "labels": [value], "image_id": "0"}
        write_task_dataset(folder, ArkTask("tb", ["TB"]), {"train": lambda: iter([row])}, [], {})

    def copies():
        return len(list((tmp_path / "cache").rglob("*.arrow")))

    build(tmp_path / "one", 0.0)
    build(tmp_path / "other", 1.0)
    old = load_task_dataset(tmp_path / "one", "train")
    load_task_dataset(tmp_path / "other", "train")
    load_task_dataset(tmp_path / "one", "train")
    assert copies() == 2
    build(tmp_path / "one", 1.0)
    monkeypatch.chdir(tmp_path)
    assert load_task_dataset("one", "train")[0]["labels"] == [1]
    assert copies() == 2
    assert old[0]["labels"] == [0]  # who has it open can still read it


@pytest.mark.parametrize("name", ["data", "data@v1"])
def test_a_dataset_that_vanishes_while_it_is_loaded_takes_nothing_else_along(findings, tmp_path, monkeypatch, name):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    keepsake, other = tmp_path / "keepsake" / "file", tmp_path / "cache" / "ark_hf" / "other" / "state" / "file"
    for file in (keepsake, other):
        file.parent.mkdir(parents=True)
        file.touch()
    folder, forget = tmp_path / name, task_dataset.forget_earlier_states
    shutil.copytree(findings, folder)

    def vanish_first(*args):
        shutil.rmtree(folder)
        forget(*args)

    monkeypatch.setattr(task_dataset, "forget_earlier_states", vanish_first)
    assert len(load_task_dataset(folder, "train")) == 3
    assert keepsake.exists() and other.exists() and not folder.exists()

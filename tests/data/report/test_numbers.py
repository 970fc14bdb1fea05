"""The data report: its numbers against direct computation, its page as HTML, and what neither may say."""

import json
import math
import re
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ark_hf.cli.main import main
from ark_hf.data.build.duplicates import HASH_FILE, HASH_SCHEMA, hash_picture
from ark_hf.data.build.pictures import encode_png
from ark_hf.data.report import numbers as data_report
from ark_hf.data.report import stored_splits
from ark_hf.data.report.numbers import describe_dataset, describe_datasets
from ark_hf.data.report.page import render_page, things_to_look_at, write_data_report
from ark_hf.metrics.prevalence import co_occurrence, prevalence
from ark_hf.metrics.shortcut import SHORTCUT_STATISTICS, image_statistics
from ark_hf.models.ark.configuration_ark import ArkTask
from tests.pages.html_page import Page

NAN = math.nan
LABELS = ["Edema", "<script>alert('x')</script>", 'Größe $x_1$ & "quoted"', "Never known"]
PATIENT, IMAGE = "Sentinel-Patient", "Sentinel-Image"


def picture(seed: int, bright: float = 0.5, deep: bool = False) -> np.ndarray:
    """A noisy picture of a size and brightness of its own."""
    random = np.random.default_rng(seed)
    grey = bright * random.random((20 + seed % 5, 24))
    return (grey * (4095 if deep else 255)).astype(np.uint16 if deep else np.uint8)


def make_rows(split: str, count: int, first: int = 0) -> list[dict]:
    """Rows whose first label shows in the brightness; two images a patient; the last label is unknown throughout."""
    random = np.random.default_rng(len(split))
    rows = []
    for number in range(count):
        edema = float(random.random() < 0.4)
        others = random.choice([0.0, 1.0, -1.0, NAN], 2, p=[0.5, 0.3, 0.1, 0.1]).tolist()
        rows.append(
            {
                "image": encode_png(picture(number + first, 0.4 + 0.4 * edema, deep=number % 7 == 0)),
                "labels": [edema, *others, NAN],
                "image_id": f"{IMAGE}-{split}-{number}",
                "patient_id": f"{PATIENT}-{split}-{number // 2}" if number % 9 else None,
                "sex": ["F", "M", None][number % 3],
                "age": float(20 + number % 60) if number % 4 else None,
                "view": "PA" if number % 5 else None,
            }
        )
    return rows


def write_dataset(
    folder: Path, splits: dict[str, list[dict]], labels=tuple(LABELS), single=False, hashes=True, group=8
) -> Path:
    """A task dataset in the layout that the builders write, `group` rows a row group, two groups a file."""
    kind = pa.int64() if single else pa.list_(pa.float32())
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    texts = {name: pa.string() for name in ("image_id", "patient_id", "sex", "view")}
    schema = pa.schema({"image": image, "labels": kind, **texts, "age": pa.float32()})
    (folder / "data").mkdir(parents=True)
    hashed = []
    for split, rows in splits.items():
        table = pa.Table.from_pylist(rows, schema)
        shards = range(0, max(len(rows), 1), 2 * group)
        for number, start in enumerate(shards):
            path = folder / "data" / f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
            pq.write_table(table.slice(start, 2 * group), path, row_group_size=group)
        for number, row in enumerate(rows):
            digests = (row["image"] or {}).get("bytes")
            plane = stored_splits._decode(row["image"]) if digests else None
            if plane is not None:
                hashed.append([split, number, *(bytes.fromhex(digest) for digest in hash_picture(plane[0]))])
    if hashes:
        columns = dict(zip(HASH_SCHEMA.names, zip(*hashed, strict=True), strict=True))
        pq.write_table(
            pa.table({name: list(column) for name, column in columns.items()}, HASH_SCHEMA), folder / HASH_FILE
        )
    kind_name = "single_label_classification" if single else "multi_label_classification"
    card = yaml.safe_dump({"ark_task": ArkTask("lungs", list(labels), kind_name).to_dict()}, allow_unicode=True)
    (folder / "README.md").write_text(f"---\n{card}---\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict]]:
    rows = {"train": make_rows("train", 60), "validation": make_rows("validation", 20, 100)}
    rows["test"] = make_rows("test", 30, 200)
    rows["test"][3] |= {"patient_id": rows["train"][5]["patient_id"]}
    rows["test"][4] |= {"image": rows["train"][10]["image"]}
    rows["test"][5] |= {"image": rows["test"][6]["image"]}
    rows["validation"][2] |= {"image": {"bytes": rows["validation"][2]["image"]["bytes"][:60], "path": None}}
    rows["validation"][7] |= {"image": None}
    return rows


@pytest.fixture(scope="module")
def dataset(splits, tmp_path_factory) -> Path:
    folder = write_dataset(tmp_path_factory.mktemp("report") / "set", splits)
    noted = {"problems": [{"where": PATIENT, "reason": PATIENT}] * 3, "expected": ["images: 110, not 112"]}
    noted["facts"] = {"title": "Lungs & <more>", "license": "CC0"}
    (folder / "build_report.json").write_text(json.dumps(noted))
    return folder


@pytest.fixture(scope="module")
def described(dataset):
    return describe_datasets([dataset], num_images=1000)


@pytest.fixture
def no_figures(monkeypatch):
    """Figures are drawn in full only for the page of the module, where they are looked at."""
    monkeypatch.setattr("ark_hf.data.report.figures.to_svg", lambda *args: "")
    monkeypatch.setattr("ark_hf.pages.figures.to_svg", lambda *args: "")


def test_numbers_are_those_of_direct_computation(splits, described):
    report = described[0]["datasets"]["set"]
    assert list(report["splits"]) == ["train", "validation", "test"]
    assert report["left_out"] == 3
    for split, rows in splits.items():
        numbers = report["splits"][split]
        patients = {row["patient_id"] for row in rows} - {None}
        assert (numbers["rows"], numbers["patients"]) == (len(rows), len(patients))
        assert numbers["rows_without_patient"] == sum(row["patient_id"] is None for row in rows)
        assert numbers["rows_without_known_label"] == 0
        assert numbers["sex"] == Counter(sorted(row["sex"] for row in rows if row["sex"]))
        decades = Counter(str(int(row["age"]) // 10 * 10) for row in rows if row["age"] is not None)
        assert numbers["ages_by_decade"] == decades
        clusters = [row["patient_id"] or f"alone {number}" for number, row in enumerate(rows)]
        for column, label in enumerate(LABELS):
            values = [row["labels"][column] for row in rows]
            states = numbers["labels"][label]
            assert states == {
                "positive": values.count(1),
                "negative": values.count(0),
                "uncertain": values.count(-1),
                "unknown": sum(value != value for value in values),
            }
            expected = prevalence(values, np.unique(clusters, return_inverse=True)[1])
            assert numbers["prevalence"][label] == pytest.approx(expected, nan_ok=True)
    every = [row["labels"] for rows in splits.values() for row in rows]
    both, known = co_occurrence(every)
    assert report["co_occurrence"] == {"both": both.tolist(), "known": known.tolist()}


def test_images_are_measured_and_the_unreadable_named(splits, described):
    report = described[0]["datasets"]["set"]["splits"]
    assert report["validation"]["unreadable_rows"] == [2, 7]
    assert report["train"]["unreadable_rows"] == report["test"]["unreadable_rows"] == []
    assert report["validation"]["images_looked_at"] == 18
    measured = np.array([image_statistics(stored_splits._decode(row["image"])) for row in splits["train"]])
    for name, values in zip(SHORTCUT_STATISTICS, measured.T, strict=True):
        found = report["train"]["statistics"][name]
        assert (found["min"], found["max"]) == pytest.approx((values.min(), values.max()))
        assert found["median"] == pytest.approx(np.median(values)) and found["p5"] == pytest.approx(
            np.percentile(values, 5)
        )
    sizes = Counter(f"{int(width)} x {int(height)}" for width, height in measured[:, :2])
    assert report["train"]["sizes"] == dict(sizes.most_common(5))


def test_overlaps_and_duplicates(described):
    report, name = described[0], "set"
    assert report["datasets"][name]["overlap"] == {
        "patients": {"train/validation": 0, "train/test": 1, "validation/test": 0},
        "images": {"train/validation": 0, "train/test": 0, "validation/test": 0},
    }
    duplicates = report["duplicates"]
    (pair,) = [pair for pair in duplicates["pairs"] if pair["equal"]]
    assert pair["splits"] == ["set/test", "set/train"] and pair["equal"] == 1
    assert {"rows": [4, 10], "equal": True} in pair["examples"]
    assert duplicates["repeated_in_split"] == {"set/test": 1}
    assert duplicates["searched"] == ["set"] and duplicates["not_searched"] == []


def test_shortcut_tells_the_label_that_shows_in_the_brightness(described):
    shortcut = described[0]["datasets"]["set"]["shortcut"]
    assert (shortcut["fitted_on"], shortcut["tested_on"]) == ("train", "test")
    assert shortcut["labels"]["Edema"]["auroc"] > 0.9 > 0.8 > shortcut["labels"][LABELS[1]]["auroc"]
    assert math.isnan(shortcut["labels"]["Never known"]["auroc"])


def test_things_to_look_at(described):
    report = described[0]
    text = "\n".join(things_to_look_at("set", report["datasets"]["set"], report["duplicates"]))
    assert "Patients both in train and in test: 1." in text
    assert "Pictures both in set/test and in set/train: 1 equal" in text
    assert "Images in validation that cannot be decoded: 2 of 20 looked at (rows 2, 7)." in text
    assert "left out: 3" in text and "Not what the release has: images: 110, not 112" in text
    assert "No row knows: Never known." in text
    assert re.search(r"size, shape and grey levels alone.*: Edema \(\d\.\d\d\)", text)
    assert "Patients both in train and in validation" not in text


@pytest.mark.slow_ci
def test_pictures_of_two_datasets(splits, tmp_path):
    other = write_dataset(
        tmp_path / "other" / "set", {"train": make_rows("train", 20, 500), "test": splits["test"][:10]}
    )
    one = write_dataset(tmp_path / "set", {"train": splits["train"]})
    bare = write_dataset(tmp_path / "bare", {"train": splits["train"]}, hashes=False)
    report, _ = describe_datasets([one, other, bare], 5)
    assert list(report["datasets"]) == ["set", "set (2)", "bare"]
    (pair,) = report["duplicates"]["pairs"]
    assert pair["datasets"] == ["set", "set (2)"] and pair["equal"] == 1
    assert report["duplicates"]["not_searched"] == ["bare"]
    page = render_page(report, {})
    assert "Not searched" in page and "There is no split validation" in page


def test_contact_sheet_shows_positive_images(splits, described):
    thumbnails = described[1]["set"]
    assert [each.label for each in thumbnails] == [label for label in LABELS[:3] for _ in range(4)]
    for each in thumbnails:
        assert splits[each.split][each.row]["labels"][LABELS.index(each.label)] == 1
        assert each.jpeg.startswith(b"\xff\xd8")


def test_a_sample_is_drawn_from_few_parts_of_the_files(dataset, monkeypatch):
    monkeypatch.setattr(data_report, "MAX_GROUPS", 2)
    monkeypatch.setattr(data_report, "THUMBNAILS", 0)
    opened = []
    read = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda self, **options: opened.append(options) or read(self, **options)
    )
    report, thumbnails = describe_dataset(dataset, 5)
    looked_at = [
        numbers["images_looked_at"] + len(numbers["unreadable_rows"]) for numbers in report["splits"].values()
    ]
    assert looked_at == [5, 5, 5]
    assert len(opened) <= 6 and all(len(options["row_groups"]) == 1 for options in opened)
    assert thumbnails == []
    assert report["splits"]["train"]["rows"] == 60


def test_rare_positives_are_shown_though_the_sample_missed_them(tmp_path):
    rows = make_rows("train", 64)
    for number, row in enumerate(rows):
        row["labels"][1] = float(number in (17, 40))
    folder = write_dataset(tmp_path / "set", {"train": rows})
    _, thumbnails = describe_dataset(folder, 3)
    assert {each.row for each in thumbnails if each.label == LABELS[1]} == {17, 40}


def test_single_label_tasks(tmp_path):
    rows = make_rows("train", 30)
    for number, row in enumerate(rows):
        row["labels"] = [-1, 0, 1, None, 1][number % 5]
    folder = write_dataset(tmp_path / "set", {"train": rows}, ["normal", "viral"], single=True)
    report, thumbnails = describe_datasets([folder])
    numbers = report["datasets"]["set"]
    assert numbers["splits"]["train"]["labels"] == {
        "normal": {"positive": 6, "negative": 12, "uncertain": 0, "unknown": 12},
        "viral": {"positive": 12, "negative": 6, "uncertain": 0, "unknown": 12},
    }
    assert numbers["splits"]["train"]["prevalence"]["viral"]["share"] == pytest.approx(2 / 3)
    assert numbers["splits"]["train"]["rows_without_known_label"] == 12
    assert numbers["co_occurrence"] is None and numbers["shortcut"] is None
    page = render_page(report, thumbnails)
    assert "Labels that stand together" not in page and "Not tested" in page


def test_no_patient_is_known(tmp_path, no_figures):
    rows = [row | {"patient_id": None} for row in make_rows("train", 20)]
    report, thumbnails = describe_datasets([write_dataset(tmp_path / "set", {"train": rows})])
    found = report["datasets"]["set"]["splits"]["train"]
    assert found["patients"] is None and found["prevalence"]["Edema"]["patient_low"] is None
    assert "by patient" not in render_page(report, thumbnails)


# The page


@pytest.fixture(scope="module")
def written(described, tmp_path_factory) -> Path:
    """The folder of the report."""
    folder = tmp_path_factory.mktemp("written") / "out"
    assert write_data_report(*described, folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def text(written) -> str:
    return (written / "report.html").read_text(encoding="utf-8")


def test_page_is_sound_html_that_fetches_and_runs_nothing(text):
    page = Page(text)
    assert page.tags["script"] == page.tags["link"] == page.tags["iframe"] == 0
    assert page.tags["svg"] >= 8 and page.tags["img"] == 12
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert set(re.findall(r"https?://[^\"' <]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "default-src 'none'" in text and 'name="viewport"' in text and "prefers-color-scheme: dark" in text


def test_labels_are_shown_as_they_are_called(text):
    texts = "\n".join(Page(text).texts)
    assert "Title: Lungs & <more>" in texts and "License: CC0" in texts
    for label in LABELS:
        assert texts.count(label) >= 6  # in tables, in figures and over the contact sheet
    assert "<script" not in text


def test_references_within_figures_have_a_target(text):
    ids = set(re.findall(r'\bid="([^"]+)"', text))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', text)) <= ids


def test_page_and_json_name_no_patient_and_no_image(dataset, written):
    for file in ("report.html", "report.json"):
        text = (written / file).read_text(encoding="utf-8")
        assert "Sentinel" not in text and str(dataset.parents[1]) not in text
    stored = json.loads((written / "report.json").read_text(encoding="utf-8"))
    assert stored["datasets"]["set"]["splits"]["train"]["prevalence"]["Never known"]["share"] is None
    assert stored["datasets"]["set"]["task"]["labels"] == LABELS


@pytest.mark.slow_ci
def test_same_dataset_gives_the_same_bytes(dataset, written, tmp_path):
    write_data_report(*describe_datasets([dataset], num_images=1000), tmp_path)
    for file in ("report.html", "report.json"):
        assert (written / file).read_bytes() == (tmp_path / file).read_bytes()


def test_numbers_of_the_page_are_those_of_the_json(described, text):
    report = described[0]
    cells = Page(text).texts
    share = report["datasets"]["set"]["splits"]["test"]["prevalence"]["Edema"]
    assert f"{100 * share['share']:.1f}" in cells
    assert f"{100 * share['patient_low']:.1f} to {100 * share['patient_high']:.1f}" in cells
    auroc = report["datasets"]["set"]["shortcut"]["labels"]["Edema"]["auroc"]
    assert f"{auroc:.3f}" in cells


# Wrong input


def damage(folder: Path, how: str) -> None:
    shard = sorted((folder / "data").glob("train-*"))[0]
    table = pq.read_table(shard)
    values = table.drop_columns("labels")
    labels = {
        "too few": [[0.0, 1.0]] * len(table),
        "half": [[0.0, 1.0, 0.5, 0.0]] * len(table),
        "texts": [["a"] * 4] * len(table),
        "numbers": [1.0] * len(table),
    }
    if how in labels:
        pq.write_table(values.append_column("labels", pa.array(labels[how])), shard)
    elif how == "no labels":
        pq.write_table(values, shard)
    elif how == "cut":
        shard.write_bytes(shard.read_bytes()[:100])
    elif how == "pages":  # an impossible length in the first page's header; the footer stays whole
        content = bytearray(shard.read_bytes())
        content[4:2000] = struct.pack("<B", 255) * 1996
        shard.write_bytes(content)
    elif how == "no files":
        for path in (folder / "data").iterdir():
            path.unlink()
    elif how == "no card":
        (folder / "README.md").unlink()
    elif how == "hashes":
        (folder / HASH_FILE).write_bytes(b"not parquet")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("too few", r"train-00000-of-00004.parquet, row 0: labels .0.0, 1.0.; task 'lungs' takes 4 values"),
        ("half", "row 0: labels .*; task 'lungs' takes 4 values, each 0, 1, -1"),
        ("texts", r"row 0: labels \['a', 'a', 'a', 'a'\]; task 'lungs' takes 4 values"),
        ("numbers", "row 0: labels 1.0; task 'lungs' takes 4 values"),
        ("no labels", r"lacks the columns \['labels'\]"),
        ("cut", "Cannot read .*train-00000.*Rebuild"),
        ("pages", "Cannot read .*train-00000.*Rebuild"),
        ("no files", "has no rows"),
        ("no card", "not a task dataset: it has no card"),
        ("hashes", "image_hashes.parquet .*damaged"),
    ],
)
def test_damaged_datasets_are_refused_with_the_reason(splits, tmp_path, how, reason):
    folder = write_dataset(tmp_path / "set", {"train": splits["train"]})
    damage(folder, how)
    with pytest.raises(ValueError, match=reason) as refusal:
        describe_datasets([folder])
    assert "Sentinel" not in str(refusal.value)


def test_single_label_tasks_with_impossible_classes_are_refused(splits, tmp_path):
    rows = [row | {"labels": 2} for row in splits["train"]]
    folder = write_dataset(tmp_path / "set", {"train": rows}, ["normal", "viral"], single=True)
    with pytest.raises(ValueError, match="row 0: labels 2; task 'lungs' takes a class index from 0 to 1"):
        describe_datasets([folder])
    card = (folder / "README.md").read_text().replace("single_label", "multi_label")
    (folder / "README.md").write_text(card)
    with pytest.raises(ValueError, match="row 0: labels 2; task 'lungs' takes 2 values"):
        describe_datasets([folder])


def test_an_empty_split_and_labels_that_nothing_knows_are_said(splits, tmp_path):
    rows = [row | {"labels": [NAN] * 4, "image": {"bytes": b"", "path": None}} for row in splits["train"]]
    folder = write_dataset(tmp_path / "set", {"train": rows, "test": []}, hashes=False)
    report, thumbnails = describe_datasets([folder])
    text = "\n".join(things_to_look_at("set", report["datasets"]["set"], report["duplicates"]))
    assert "test has no rows." in text and f"No row knows: {', '.join(LABELS)}." in text
    assert "Images in train that cannot be decoded: 60 of 60" in text
    page = Page(render_page(report, thumbnails))
    assert "No image could be read." in page.texts and page.texts.count("No positive image.") == 4


def test_command_line(dataset, tmp_path, capsys, no_figures):
    assert main(["data", "report", str(dataset), "--out", str(tmp_path / "out"), "--images", "4"]) == 0
    assert f"The report is in {tmp_path / 'out' / 'report.html'}." in capsys.readouterr().out
    for argv, reason in (
        ([str(tmp_path / "nowhere")], "no such folder"),
        ([str(tmp_path)], "no card"),
        ([str(dataset), str(dataset)], "given once"),
        ([str(dataset), "--images", "0"], "at least 1"),
    ):
        assert main(["data", "report", *argv, "--out", str(tmp_path / "out")]) == 2
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert message.startswith("ark-hf data: error:") and reason in message

"""`ark-hf embed` and `ark-hf probe`, from datasets on disk to the numbers in the report."""

import csv
import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ark_hf import ArkModel, load_ark, load_task_dataset, read_input
from ark_hf.cli.main import main
from ark_hf.data.build.build import encode_png, write_task_dataset
from ark_hf.data.sources.phantom_sites import build_phantom_sites
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification
from tests.pages.html_page import Page
from tests.training.conftest import TINY


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "ark-cxr"
    settings = {name: TINY[name] for name in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}
    ArkForImageClassification(ArkConfig(**settings, tasks=[ArkTask("other", ["x"])])).save_pretrained(folder)
    ArkImageProcessor(size=TINY["image_size"]).save_pretrained(folder)
    return str(folder)


def write_dataset(folder, counts: dict[str, int], labels: list[str], seed: int = 0) -> str:
    """Noise that is brighter above with the first label; two pictures a patient, whose sex a grey bar tells."""

    def rows(split: str, count: int):
        random = np.random.default_rng([seed, len(split)])
        for number in range(count):
            values, patient = random.integers(0, 2, len(labels)), number // 2
            picture = random.integers(0, 128, (40, 40), dtype=np.uint8)
            picture[:20] += np.uint8(60 * values[0])
            picture[:, :6] = 200 * (patient % 2)
            yield {
                "image": encode_png(picture),
                "labels": values.astype(float).tolist(),
                "patient_id": f"{split}{patient}",
                "sex": "FM"[patient % 2],
                "image_id": None,
            }

    splits = {split: lambda split=split, count=count: rows(split, count) for split, count in counts.items()}
    write_task_dataset(folder, ArkTask(folder.name, labels), splits, ["patient_id", "sex"], {})
    return str(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    counts = {"train": 60, "validation": 6, "test": 40}
    return write_dataset(tmp_path_factory.mktemp("data") / "bright", counts, ["Bright", "Noise"])


@pytest.fixture(scope="module")
def probed(tmp_path_factory, model_folder, dataset):
    out = tmp_path_factory.mktemp("probe") / "out"
    options = ["--few_shot", "--neighbours", "3", "--shortcuts", "--bootstrap", "100", "--out", str(out)]
    assert main(["probe", model_folder, dataset, *options]) == 0
    return out


def test_embed_computes_what_is_missing_and_says_so(model_folder, dataset, tmp_path, capsys):
    store = tmp_path / "store"
    assert main(["embed", model_folder, dataset, "--store", str(store), "--splits", "test"]) == 0
    assert "bright, test: 40 images, 40 embeddings computed." in capsys.readouterr().out
    assert main(["embed", model_folder, dataset, "--store", str(store)]) == 0
    printed = capsys.readouterr().out
    assert "bright, train: 60 images, 60 embeddings computed." in printed
    assert "bright, test: 40 images, 0 embeddings computed." in printed


def test_images_without_labels_are_embedded_and_neither_probed_nor_tested(model_folder, dataset, tmp_path, capsys):
    chests, store = tmp_path / "chests", str(tmp_path / "store")
    for number, image in enumerate(load_task_dataset(dataset, "test").select(range(6))["image"]):
        folder = tmp_path / "raw" / ("test" if number % 2 else "train")
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number}.png")
    built = ["data", "build", "generic", "--unlabelled", "--raw", str(tmp_path / "raw"), "--out", str(chests)]
    assert main(built) == 0
    assert main(["embed", model_folder, str(chests), dataset, "--store", store, "--splits", "test"]) == 0
    told = capsys.readouterr().out
    assert "chests, test: 3 images, 3 embeddings computed." in told
    assert "bright, test: 40 images, 37 embeddings computed." in told  # the same pictures
    for command in (
        ["probe", model_folder, str(chests), "--out", str(tmp_path / "out")],
        ["evaluate", model_folder, str(chests), "--out", str(tmp_path / "out")],
        ["evaluate", model_folder, str(chests), "--zero_shot", "--out", str(tmp_path / "out")],
        ["finetune", model_folder, str(chests), "--output_dir", str(tmp_path / "out")],
    ):
        assert main(command) == 2
        told = capsys.readouterr().err
        assert "chests' holds images without labels, and labels are wanted here" in told and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_probe_takes_the_embeddings_of_the_store(model_folder, dataset, tmp_path, monkeypatch):
    store = str(tmp_path / "store")
    assert main(["embed", model_folder, dataset, "--store", store]) == 0
    monkeypatch.setattr("ark_hf.models.ark.modeling_ark.ArkModel.forward", None)
    assert main(["probe", model_folder, dataset, "--store", store, "--out", str(tmp_path / "out")]) == 0


def test_the_report_tells_what_is_learnt_and_what_is_not(probed):
    (report,) = json.loads((probed / "probe.json").read_text())["tasks"]
    bright, noise = report["labels"]
    assert bright["auroc"] > 0.95 and bright["num_known"] == 40 and bright["num_clusters"] == 20
    assert noise["ci_low"] < 0.5 < noise["ci_high"]
    assert report["mean"]["auroc"] == pytest.approx((bright["auroc"] + noise["auroc"]) / 2)
    assert report["baseline_labels"][0]["auroc"] > 0.8  # brightness is a global number
    assert report["choices"][1]["strength"] > report["choices"][0]["strength"]
    text = (probed / "probe.md").read_text()
    assert f"| Bright | {bright['num_positive']}/40 | {bright['auroc']:.3f} |" in text
    assert "(test: 40 images of 20 patients; train: 60)" in text


def test_the_report_holds_curve_neighbours_and_shortcuts(probed):
    values = json.loads((probed / "probe.json").read_text())
    (report,) = values["tasks"]
    names = [shot["name"] for shot in report["few_shot"]]
    assert names == ["1 a class", "5 a class", "10 a class", "20 a class", "50 a class", "all"]
    assert report["few_shot"][4]["mean"] is None and "50 images per class" in report["few_shot"][4]["note"]
    assert report["few_shot"][5]["mean"] == report["mean"]["auroc"]
    assert (probed / "few_shot.png").read_bytes().startswith(b"\x89PNG")
    bright = report["retrieval"][0]
    assert bright["precision"] > bright["chance"] + 0.2
    (sex,) = report["shortcuts"]
    assert sex["attribute"] == "sex" and sex["mean"]["auroc"] > 0.95
    assert values["sources"] is None


def test_neighbours_are_listed_by_row(probed):
    with open(probed / "neighbours_bright.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 40 and [row["rank"] for row in rows[:3]] == ["1", "2", "3"]
    assert {int(row["train_row"]) for row in rows} <= set(range(60))
    similarities = [float(row["similarity"]) for row in rows[:3]]
    assert similarities == sorted(similarities, reverse=True)
    agree = np.mean([("Bright" in row["test_labels"]) == ("Bright" in row["train_labels"]) for row in rows])
    (report,) = json.loads((probed / "probe.json").read_text())["tasks"]
    assert agree > 0.7 and "patient" not in rows[0]
    assert [row["test_image_id"] for row in rows[::3]] == [str(number) for number in range(40)]  # it has no names
    assert all(row["train_image_id"] == row["train_row"] for row in rows)
    positive = [row for row in rows if "Bright" in row["test_labels"]]
    share = np.mean(["Bright" in row["train_labels"] for row in positive])
    assert share == pytest.approx(report["retrieval"][0]["precision"])


def test_the_page_shows_tables_figures_and_pictures_beside_their_neighbours(probed):
    text = (probed / "probe.html").read_text()
    page = Page(text)
    assert page.tags["svg"] == 1 and page.tags["table"] >= 4
    assert page.tags["img"] == 4 * page.tags["figcaption"] - 4  # of each test image three neighbours; one is a figure
    for words in ("Few-shot", "What else the embeddings know: sex", "Neighbours: precision at 3", "Research use only"):
        assert words in text
    assert "**" not in "".join(page.texts)


def test_neighbours_and_tables_go_by_the_names_of_images(model_folder, sites, tmp_path):
    site, out = str(sites["phantom_hill"]), tmp_path / "out"
    assert main(["probe", model_folder, site, "--neighbours", "2", "--bootstrap", "5", "--out", str(out)]) == 0
    with open(out / "neighbours_phantom_hill.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = {split: load_task_dataset(site, split)["image_id"][:] for split in ("train", "test")}
    assert all(row["train_image_id"] == names["train"][int(row["train_row"])] for row in rows)
    assert all(row["test_image_id"] == names["test"][int(row["test_row"])] for row in rows)
    shown = next(row["test_image_id"] for row in rows if row["test_labels"])
    assert shown in (out / "probe.html").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three pictures, of which two are the same, a file that is none, and a text that is not looked at."""
    folder = tmp_path_factory.mktemp("scans")
    (folder / "sub").mkdir()
    for seed, name in enumerate(("a.png", "b.png")):
        (folder / name).write_bytes(
            encode_png(np.random.default_rng(seed).integers(0, 256, (40, 40), np.uint8))["bytes"]
        )
    shutil.copy(folder / "b.png", folder / "sub" / "c.png")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("mine")
    (folder / "README.md").write_text("Scans of May, no task dataset.")
    (folder / "odd.xyz").write_text("what is this?")
    return folder


@pytest.mark.parametrize("suffix", ["parquet", "npz"])
def test_a_folder_of_images_becomes_a_table_by_path(model_folder, folder, sites, tmp_path, capsys, suffix):
    out, site = tmp_path / f"table.{suffix}", str(sites["phantom_hill"])
    words = ["embed", model_folder, str(folder), site, "--splits", "test", "--store", str(tmp_path / "store")]
    assert main([*words, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "3 images, 2 embeddings computed." in said.out and str(out) in said.out
    assert f"Left out: {folder / 'broken.png'}" in said.err and "notes.txt" not in said.err
    assert f"1 files left out, such as {folder / 'odd.xyz'}" in said.err
    if suffix == "npz":
        table = dict(np.load(out))
    else:
        table = {name: column.to_pylist() for name, column in zip(*_columns(out), strict=True)}
    names = [str(folder / name) for name in ("a.png", "b.png", "sub/c.png")]
    assert list(table["image_id"]) == names + load_task_dataset(site, "test")["image_id"][:]
    assert list(table["split"]) == [""] * 3 + ["test"] * 12 and list(table["dataset"])[3:] == ["phantom_hill"] * 12
    vectors = np.array(table["embedding"], dtype=np.float32)
    model, processor = load_ark(model_folder, ArkModel)
    picture = read_input(folder / "a.png").pixels
    expected = model(processor([picture], return_tensors="pt")["pixel_values"]).embeddings[0].detach().numpy()
    np.testing.assert_allclose(vectors[0], expected, atol=1e-6)
    assert (vectors[1] == vectors[2]).all() and not (vectors[0] == vectors[1]).all()
    assert main(words) == 0 and "3 images, 0 embeddings computed." in capsys.readouterr().out


def test_a_file_name_that_is_no_utf8_is_escaped_in_the_table(model_folder, folder, tmp_path, capsys):
    (tmp_path / "scans").mkdir()
    shutil.copy(folder / "a.png", os.fsdecode(os.fsencode(tmp_path) + b"/scans/m\xfcller.png"))
    out = tmp_path / "table.parquet"
    words = [str(tmp_path / "scans"), "--store", str(tmp_path / "store"), "--out", str(out)]
    assert main(["embed", model_folder, *words]) == 0
    assert pq.read_table(out)["image_id"].to_pylist() == [str(tmp_path / "scans") + r"/m\xfcller.png"]


def _columns(path):
    table = pq.read_table(path)
    return table.column_names, table.columns


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["FOLDER", "--out", "table.csv"], "use one of .parquet, .npz"),
        (["FOLDER", "--splits", "test"], "splits are those of task datasets"),
        (["EMPTY"], "holds neither a task dataset"),
        (["FOLDER/broken.png"], "none of 1 files can be read"),
    ],
)
def test_images_that_cannot_be_embedded_are_explained(model_folder, folder, tmp_path, capsys, words, message):
    (tmp_path / "empty").mkdir()
    words = [each.replace("FOLDER", str(folder)).replace("EMPTY", str(tmp_path / "empty")) for each in words]
    assert main(["embed", model_folder, *words, "--store", str(tmp_path / "store")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow_ci
def test_sites_are_told_apart_and_two_draws_of_one_are_not(model_folder, tmp_path):
    counts = {"train": 60, "test": 60}
    same = [write_dataset(tmp_path / name, counts, ["Bright"], seed) for seed, name in enumerate(("one", "two"))]
    sites = build_phantom_sites(tmp_path / "sites", counts, size=40)
    different = [str(sites[name]) for name in ("phantom_city", "phantom_coast")]
    aurocs = []
    for number, datasets in enumerate((same, different)):
        out = tmp_path / f"out{number}"
        assert main(["probe", model_folder, *datasets, "--shortcuts", "--bootstrap", "50", "--out", str(out)]) == 0
        sources = json.loads((out / "probe.json").read_text())["sources"]
        assert [each["label"] for each in sources["classes"]] == [os.path.basename(each) for each in datasets]
        aurocs.append(sources["mean"]["auroc"])
    assert 0.35 < aurocs[0] < 0.65 and aurocs[1] > 0.8


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train": 6, "validation": 4}, "has no test split"),
        ({"validation": 6, "test": 4}, "has no train split"),
    ],
)
def test_a_missing_split_is_explained(model_folder, tmp_path, capsys, counts, message):
    folder = write_dataset(tmp_path / "toy", counts, ["a"])
    assert main(["probe", model_folder, folder, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_a_label_of_one_class_is_reported_as_undefined(model_folder, tmp_path):
    def rows(split: str):
        for number in range(12):
            picture = np.random.default_rng([number, len(split)]).integers(0, 256, (32, 32), dtype=np.uint8)
            yield {"image": encode_png(picture), "labels": [float(number % 2), 0.0], "image_id": None}

    task = ArkTask("toy", ["both", "never"])
    write_task_dataset(
        tmp_path / "toy", task, {each: lambda each=each: rows(each) for each in ("train", "test")}, [], {}
    )
    out = tmp_path / "out"
    assert main(["probe", model_folder, str(tmp_path / "toy"), "--out", str(out), "--bootstrap", "20"]) == 0
    (report,) = json.loads((out / "probe.json").read_text())["tasks"]
    assert report["labels"][1]["auroc"] is None and report["labels"][1]["num_known"] == 12
    assert (report["mean"]["num_defined"], report["mean"]["num_labels"]) == (1, 2)
    text = (out / "probe.md").read_text()
    assert "| never | 0/12 | undefined |" in text
    assert "never: only one class is known: no probe (12 known images in train, 0 positive)" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["probe", "MODEL", "DATASET", "--neighbours", "0"], "--neighbours must be at least 1"),
        (["probe", "MODEL", "DATASET", "--neighbours", "61"], "between 1 and 60"),
        (["probe", "MODEL", "DATASET", "DATASET"], "Two datasets are called bright"),
        (["probe", "MODEL", "nowhere"], "nowhere"),
        (["embed", "MODEL", "DATASET", "--splits", "tests"], "Unknown split 'tests'"),
        (["embed", "nowhere", "DATASET"], "nowhere"),
        (["embed", "MODEL", "DATASET", "--store", "FOREIGN"], "is no store of embeddings"),
    ],
)
def test_wrong_arguments_are_one_line(model_folder, dataset, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    known = {"MODEL": model_folder, "DATASET": dataset, "FOREIGN": "foreign"}
    assert main([known.get(each, each) for each in arguments]) == 2
    errors = capsys.readouterr().err
    assert f"ark-hf {arguments[0]}: error: " in errors and message in errors and "Traceback" not in errors

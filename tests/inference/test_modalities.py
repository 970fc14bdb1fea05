"""Pictures of several modalities and one model: each is answered by its own heads, and by no others."""

import csv
import json
import warnings

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from transformers import pipeline

import ark_hf  # noqa: F401  (registers the classes)
from ark_hf.cli.main import main
from ark_hf.data.build.build import encode_png, write_task_dataset
from ark_hf.data.images.image_files import UnreadableImageError
from ark_hf.evaluation.scoring import load_evaluation_data
from ark_hf.inference.agreement import compare_heads, labels_by_finding
from ark_hf.inference.embeddings import embed, embed_files, open_store
from ark_hf.inference.load import load_ark
from ark_hf.inference.model_input import model_input, read_for
from ark_hf.inference.predict import predict_files
from ark_hf.inference.predictions import predict
from ark_hf.inference.zeroshot import match_dataset, match_label
from ark_hf.labels import read_synonyms
from ark_hf.models.ark.configuration_ark import ArkTask
from ark_hf.models.ark.modeling_ark import ArkModel
from tests.data.images.test_dicom import make_dicom, save
from tests.data.test_colours import colour_dicom
from tests.models.ark.several_modalities import CHEST, EYE, OF_CHESTS, OF_EYES, TASKS, model_of_both, save_both

NAMES = [f"{task.name}/{label}" for task in TASKS for label in task.labels]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(save_both(tmp_path_factory.mktemp("several") / "ark-cxr"))


@pytest.fixture(scope="module")
def loaded(folder):
    return load_ark(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A radiograph and a photograph as pictures, and as DICOM files that say what they are."""
    files = tmp_path_factory.mktemp("pictures")
    (files / "chest.png").write_bytes(encode_png(CHEST)["bytes"])
    (files / "eye.png").write_bytes(encode_png(EYE)["bytes"])
    save(make_dicom(CHEST[0], 8, Modality="DX"), files / "chest.dcm")
    save(colour_dicom(EYE), files / "eye.dcm")
    return files


def table(path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_batch_of_both_is_what_each_is_by_itself(loaded, pictures):
    _, processor = loaded
    names = ["eye.dcm", "chest.png", "eye.dcm", "chest.dcm"]
    images = [read_for(pictures / name, processor) for name in names]
    assert [each.modality for each in images] == ["OP", "CR", "OP", "CR"]
    together = model_input(images, processor)
    for row, image in zip(together, images, strict=True):
        alone = processor.of(image.modality)(image.pixels, return_tensors="pt")["pixel_values"][0]
        np.testing.assert_array_equal(row.numpy(), alone.numpy())


@pytest.mark.parametrize("workers", [0, 2])
def test_heads_of_another_modality_have_no_probability(loaded, pictures, workers):
    results = dict(predict_files(*loaded, [pictures / "eye.dcm", pictures / "chest.dcm"], 2, num_workers=workers))
    for name, own in {"eye.dcm": OF_EYES, "chest.dcm": OF_CHESTS}.items():
        assert np.flatnonzero(~np.isnan(results[pictures / name])).tolist() == own
    alone = dict(predict_files(*loaded, [pictures / "eye.png"], modality="OP"))
    np.testing.assert_allclose(results[pictures / "eye.dcm"], alone[pictures / "eye.png"], atol=1e-6)


def test_a_table_leaves_the_heads_that_were_not_asked_blank(folder, pictures, tmp_path, capsys):
    files = [str(pictures / name) for name in ("chest.png", "eye.dcm")]
    assert (
        main(["predict", folder, *files, "--out", str(tmp_path / "wide.csv"), "--heatmaps", str(tmp_path / "maps")])
        == 0
    )
    said = capsys.readouterr().out
    assert "Not asked, for images of another modality: eye (1 of modality CR)." in said
    assert "chest (1 of modality OP)" in said and "kinds (1 of modality OP)" in said
    chest, eye = table(tmp_path / "wide.csv")
    assert [NAMES.index(name) for name in NAMES if chest[name]] == OF_CHESTS
    assert [NAMES.index(name) for name in NAMES if eye[name]] == OF_EYES
    drawn = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert drawn and all(("eye" in name.split("_")[3:]) == name.startswith("00002") for name in drawn)

    assert main(["predict", folder, *files, "--out", str(tmp_path / "long.jsonl"), "--format", "long"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "long.jsonl").read_text().splitlines()]
    assert [(row["image"][-9:], row["task"]) for row in rows] == [("chest.png", "chest")] * 2 + [
        ("chest.png", "kinds")] * 3 + [(files[1][-9:], "eye")] * 2  # fmt: skip


def test_a_picture_is_of_the_first_modality_unless_somebody_says_another(folder, pictures, tmp_path):
    written = predict(folder, [pictures / "eye.png"], tmp_path / "first.csv")
    assert any("it is in colour" in each and "no radiograph" in each for each in written.warnings)
    assert written.not_asked == {"eye": {"CR": 1}}
    written = predict(folder, [pictures / "eye.png"], tmp_path / "told.csv", modality="OP")
    assert not any("colour" in each for each in written.warnings)
    (row,) = table(tmp_path / "told.csv")
    assert [name for name in NAMES if row[name]] == ["eye/any_dr", "eye/Edema"]


def test_a_modality_that_the_model_lacks_is_refused(folder, pictures, tmp_path, capsys):
    assert main(["predict", folder, str(pictures), "--modality", "MG", "--out", str(tmp_path / "p.csv")]) != 0
    assert "the model's heads are for images of CR and OP; it has none for others" in capsys.readouterr().err
    save(make_dicom(CHEST[0], 8, Modality="MG"), tmp_path / "breast.dcm")
    written = predict(folder, [tmp_path / "breast.dcm", pictures / "chest.png"], tmp_path / "p.csv")
    (refused,) = table(written.unreadable)
    assert "its header says that it is of modality MG, and this model takes CR and OP" in refused["reason"]
    written = predict(folder, [tmp_path / "breast.dcm"], tmp_path / "p.csv", modality="CR")
    assert written.images == 1 and any("header says" in each for each in written.warnings)


def test_second_opinions_do_not_cross_modalities(folder, pictures, tmp_path):
    with pytest.raises(ValueError, match="No finding is known to two of the heads"):
        labels_by_finding(TASKS, read_synonyms())  # Edema of the lung, and of the eye
    tasks = [TASKS[0], ArkTask("other", ["Edema"]), TASKS[1], ArkTask("clinic", ["any_dr"], modality="OP")]
    shared, _ = labels_by_finding(tasks, read_synonyms())
    assert sorted(shared) == ["Edema (CR)", "any dr (OP)"]
    asked = np.array([0.2, 0.3, 0.9, np.nan, np.nan, np.nan])
    assert [each.finding for each in compare_heads(asked, shared)] == ["Edema (CR)"]


def test_the_pipeline_answers_with_a_picture_s_own_tasks(folder, pictures):
    pipe = pipeline("chest-xray-classification", model=folder)
    chest, eye = pipe([str(pictures / "chest.png"), str(pictures / "eye.dcm")], batch_size=2, heatmaps=True)
    assert (chest["modality"], [*chest["tasks"]], chest["not_asked"]) == ("CR", ["chest", "kinds"], ["eye"])
    assert (eye["modality"], [*eye["tasks"]], eye["not_asked"]) == ("OP", ["eye"], ["chest", "kinds"])
    told = pipe(EYE, modality="OP")
    for one, other in zip(told["tasks"]["eye"], eye["tasks"]["eye"], strict=True):
        assert one["label"] == other["label"] and one["score"] == pytest.approx(other["score"], abs=1e-5)
    with pytest.raises(ValueError, match="modality MG: the model's heads are for images of CR and OP"):
        pipe(EYE, modality="MG")
    with pytest.raises(UnreadableImageError, match="this is no PNG"):
        pipe(b"no picture")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_of_a_dataset_tells_the_modality(folder, streaming):
    features = Features({"image": Image(), "modality": Value("string")})
    rows = {"image": [encode_png(CHEST), encode_png(EYE), encode_png(CHEST)], "modality": ["CR", "OP", None]}
    rows = Dataset.from_dict(rows, features=features)
    pipe = pipeline("chest-xray-classification", model=folder)
    answers = list(pipe(rows.to_iterable_dataset() if streaming else rows))
    assert [[*each["tasks"]] for each in answers] == [["chest", "kinds"], ["eye"], ["chest", "kinds"]]


def test_a_model_of_one_modality_says_nothing_of_it(tmp_path, pictures):
    model = model_of_both([TASKS[0]])
    model.save_pretrained(tmp_path)
    ark_hf.ArkImageProcessor(size=32).save_pretrained(tmp_path)
    pipe = pipeline("chest-xray-classification", model=str(tmp_path))
    assert set(pipe(CHEST)) == {"image", "warnings", "tasks"}
    with pytest.raises(
        UnreadableImageError, match="its header says that it is of modality OP, and this model takes CR"
    ):
        pipe(str(pictures / "eye.dcm"))


# Datasets ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    for task, picture in ((ArkTask("eye", ["any_dr", "Edema"], modality="OP"), EYE), (TASKS[0], CHEST)):
        rows = [
            {"image": encode_png(np.roll(picture, n, axis=-1)), "labels": [n % 2, 1 - n % 2], "image_id": str(n)}
            for n in range(6)
        ]
        splits = {"train": lambda rows=rows: rows[:3], "test": lambda rows=rows: rows[3:]}
        write_task_dataset(root / task.name, task, splits, [], {"phantom": True})
    return root


def test_a_dataset_s_card_says_how_it_is_embedded(folder, datasets, pictures, tmp_path):
    store, done = embed(folder, [str(datasets / "eye"), str(datasets / "chest")], tmp_path / "store", ["train"])
    model, processor = load_ark(folder, ArkModel)
    for each, picture, modality in zip(done, (EYE, CHEST), ("OP", "CR"), strict=True):
        pixels = processor.of(modality)(picture, return_tensors="pt")["pixel_values"]
        np.testing.assert_allclose(store.load(each.keys)[0], model(pixels).embeddings[0].detach().numpy(), atol=1e-5)


def test_one_file_read_in_two_modalities_has_two_embeddings(folder, pictures, tmp_path):
    model, processor = load_ark(folder, ArkModel)
    store = open_store(tmp_path, model, processor, "embeddings", folder)
    found = [
        store.load(embed_files(model, processor, [pictures / "eye.png"], store, modality=modality).keys)
        for modality in ("OP", "CR", None)
    ]
    assert np.abs(found[0] - found[1]).max() > 1e-3
    np.testing.assert_array_equal(found[1], found[2])
    with pytest.raises(ValueError, match="of image files, and none are named"):
        embed(folder, [], tmp_path, modality="OP")


def test_a_head_is_tested_on_images_of_its_own_modality(loaded, datasets, tmp_path):
    assert load_evaluation_data(loaded[0], str(datasets / "eye")).task.modality == "OP"
    rows = [{"image": encode_png(EYE), "labels": [0, 1], "image_id": "0"}]
    task = ArkTask("eye", ["any_dr", "Edema"])
    write_task_dataset(tmp_path / "eye", task, {"test": lambda: rows}, [], {"phantom": True})
    with pytest.raises(ValueError, match="of modality CR, and the head 'eye' is for images of modality OP"):
        load_evaluation_data(loaded[0], str(tmp_path / "eye"))


def test_zero_shot_transfer_stays_within_the_modality_unless_heads_are_named():
    synonyms = read_synonyms()
    clinic = ArkTask("clinic", ["Edema"], modality="OP")
    assert [each.task for each in match_dataset(clinic, TASKS, synonyms)["Edema"]] == ["eye"]
    assert [each.task for each in match_dataset(clinic, TASKS, synonyms, heads=["chest"])["Edema"]] == ["chest"]
    breast = ArkTask("breast", ["Mass"], modality="MG")
    with pytest.raises(
        ValueError, match=r"is of modality MG, and the model's heads are for images of others: chest \(CR\)"
    ):
        match_dataset(breast, TASKS, synonyms)
    with pytest.raises(ValueError, match=r"images of several modalities: chest \(CR\), eye \(OP\). Name the heads"):
        match_label("Edema", TASKS, synonyms)
    assert [each.task for each in match_label("Edema", TASKS, synonyms, heads=["eye"])] == ["eye"]


def test_nothing_is_warned_of(folder, pictures, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict(folder, [pictures / "chest.dcm"], tmp_path / "p.csv")

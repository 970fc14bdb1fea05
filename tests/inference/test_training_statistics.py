"""Pictures unlike the training images: the statistics, their file, and what pipeline and prediction say by them."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from transformers import pipeline

from ark_hf.data.build.build import encode_png
from ark_hf.data.inputs import read_input
from ark_hf.inference.load import load_ark
from ark_hf.inference.pipeline import ChestXrayClassificationPipeline
from ark_hf.inference.predict import crop_outputs, with_crops
from ark_hf.inference.predictions import predict
from ark_hf.inference.training_statistics import (
    LEAST_HELD_OUT,
    LEAST_IMAGES,
    TrainingStatistics,
    modality_statistics,
    model_hashes,
    open_training_statistics,
    read_training_statistics,
    write_training_statistics,
)
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification
from ark_hf.provenance import STATISTICS_FILE
from tests.models.ark.several_modalities import CHEST, EYE, save_both

SIZE, WIDTH = 32, 8
TASKS = [ArkTask("findings", ["Edema", "Mass"]), ArkTask("tb", ["TB"])]


def pictures_like(kind: str, count: int) -> list[np.ndarray]:
    """Grey noise that is "dark" or "light"."""
    low, high = {"dark": (0, 120), "light": (150, 256)}[kind]
    generator = np.random.default_rng(len(kind))
    return [generator.integers(low, high, (SIZE, SIZE)).astype(np.uint8) for _ in range(count)]


def save_with_statistics(folder) -> str:
    """A model that was trained, for all its statistics say, on dark pictures."""
    torch.manual_seed(0)
    config = ArkConfig(backbone="test_resnet", image_size=SIZE, projector_dim=WIDTH, tasks=TASKS)
    model, processor = ArkForImageClassification(config).eval(), ArkImageProcessor(size=SIZE)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    seen = pictures_like("dark", LEAST_IMAGES + LEAST_HELD_OUT)
    with torch.no_grad():
        embeddings = crop_outputs(model, processor(seen, return_tensors="pt")["pixel_values"])[1].numpy()
    found = modality_statistics(embeddings[:LEAST_IMAGES], embeddings[LEAST_IMAGES:], ["north", "south"], rank=4)
    write_training_statistics(folder, TrainingStatistics(model_hashes(model, processor), {"CR": found}))
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_with_statistics(tmp_path_factory.mktemp("known") / "ark-cxr")


@pytest.fixture(scope="module")
def pipe(folder) -> ChestXrayClassificationPipeline:
    return pipeline("chest-xray-classification", model=folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """Dark, light, no picture, dark, light."""
    place = tmp_path_factory.mktemp("pictures")
    kinds = ["dark", "light", "dark", "light"]
    names = [str(place / f"{number}_{kind}.png") for number, kind in enumerate(kinds)]
    for name, kind in zip(names, kinds, strict=True):
        (place / name).write_bytes(encode_png(pictures_like(kind, 1)[0])["bytes"])
    (place / "no.png").write_text("nothing")
    return [*names[:2], str(place / "no.png"), *names[2:]]


def unlike(warnings: list[str]) -> list[str]:
    return [each for each in warnings if "unlike" in each]


# Statistics


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(LEAST_HELD_OUT, 400))
def test_at_most_one_in_twenty_held_out_images_lies_above_the_threshold(seed, held_out):
    points = np.random.default_rng(seed).normal(size=(LEAST_IMAGES + held_out, WIDTH))
    found = modality_statistics(points[:LEAST_IMAGES], points[LEAST_IMAGES:], ["a"], rank=3)
    above = (found.distances(points[LEAST_IMAGES:]) > found.threshold).sum()
    np.testing.assert_allclose(found.distances(3 * points), found.distances(points))  # its length says nothing
    assert 0.05 * held_out - 1 <= above <= 0.05 * held_out
    assert (found.images, found.held_out) == (LEAST_IMAGES, held_out)


@pytest.mark.parametrize("images, held_out", [(LEAST_IMAGES - 1, 90), (900, LEAST_HELD_OUT - 1), (0, 0)])
def test_too_few_images_are_refused_with_their_numbers(images, held_out):
    points = np.random.default_rng(0).normal(size=(1000, 4))
    with pytest.raises(ValueError, match=f"{LEAST_IMAGES} images.*there are {images} and {held_out}"):
        modality_statistics(points[:images], points[:held_out], ["a"])


def test_many_datasets_are_not_all_named():
    points = np.random.default_rng(0).normal(size=(700, 4))
    found = modality_statistics(points, points, ["a", "b", "c"], rank=2)
    assert found.named == "a, b, c" and replace(found, datasets=tuple("abcdef")).named == "a, b, c, 3 more"


# The file


def test_what_is_written_is_read(folder):
    (model, processor), path = load_ark(folder), f"{folder}/{STATISTICS_FILE}"
    there = read_training_statistics(model, processor)
    known = there.modalities["CR"]
    assert (known.images, known.held_out, known.datasets) == (LEAST_IMAGES, LEAST_HELD_OUT, ("north", "south"))
    seen = pictures_like("dark", LEAST_IMAGES + LEAST_HELD_OUT)[LEAST_IMAGES:]
    with torch.no_grad():
        embeddings = crop_outputs(model, processor(seen, return_tensors="pt")["pixel_values"])[1]
    doubted = sum(map(len, there.doubts(embeddings, ["CR"] * len(seen))))
    assert 0 < doubted <= 0.05 * len(seen) + 1  # the file has float32
    assert there.doubts(embeddings, ["OP"] * len(seen)) == [[]] * len(seen)
    assert list(open_training_statistics(path, WIDTH).model_hashes) == ["float32", "bfloat16", "float16"]


def without_metadata(path):
    save_file(load_file(path), path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def change(name, values):
    def spoil(path):
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            metadata = json.loads(file.read(size))["__metadata__"]
        save_file(load_file(path) | {name: np.asarray(values, np.float32)}, path, metadata)

    return spoil


SPOILT = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("{}"),
    "without metadata": without_metadata,
    "not finite": change("CR.mean", np.full(WIDTH, np.nan)),
    "negative": change("CR.variances", [1, 1, 1, -1]),
    "another width": change("CR.mean", np.zeros(WIDTH + 1)),
    "other directions": change("CR.directions", np.zeros((3, WIDTH))),
    "something else": change("patients", np.zeros(3)),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_damaged_file_is_named_with_what_to_do(folder, tmp_path, spoil):
    path = tmp_path / STATISTICS_FILE
    path.write_bytes(open(f"{folder}/{STATISTICS_FILE}", "rb").read())
    open_training_statistics(path, WIDTH)
    spoil(path)
    with pytest.raises(ValueError, match=f"{STATISTICS_FILE} is damaged.*delete it, or calibrate"):
        open_training_statistics(path, WIDTH)


def test_statistics_of_a_model_of_another_width_are_refused(folder):
    with pytest.raises(ValueError, match="no statistics of training images for this model"):
        open_training_statistics(f"{folder}/{STATISTICS_FILE}", WIDTH + 1)


def test_without_the_file_nothing_is_compared(pipe, folder, files, tmp_path):
    pipe.model.save_pretrained(tmp_path)  # as transformers saves, without the statistics
    pipe.image_processor.save_pretrained(tmp_path)
    bare = pipeline("chest-xray-classification", model=str(tmp_path))
    assert bare.statistics is None
    found, expected = bare(files), pipe(files)
    assert [each.get("tasks") for each in found] == [each.get("tasks") for each in expected]
    assert not any(unlike(each.get("warnings", [])) for each in found)


def test_what_is_trained_on_loses_them_aloud(folder, monkeypatch):
    told = []
    monkeypatch.setattr("ark_hf.inference.training_statistics.logger.warning", told.append)
    model, processor = load_ark(folder)
    with torch.no_grad():
        model.heads["tb"].weight.add_(1)  # the embeddings are the same
        assert read_training_statistics(model, processor) is not None and not told
        assert read_training_statistics(model, with_crops(processor, SIZE, "center")) is None
        next(model.ark.encoder.parameters()).add_(0.1)
    assert ChestXrayClassificationPipeline(model=model, image_processor=processor).statistics is None
    assert len(told) == 2 and all("measured on other weights, or on another view" in each for each in told)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_cast_model_keeps_them(folder, dtype):
    model, processor = load_ark(folder)
    assert read_training_statistics(model.to(getattr(torch, dtype)), processor) is not None


# What is said of pictures


@pytest.mark.parametrize("batch_size, heatmaps", [(1, False), (2, False), (5, False), (2, True)])
def test_the_pipeline_doubts_what_is_unlike(pipe, files, batch_size, heatmaps):
    answers = pipe(files, batch_size=batch_size, heatmaps=heatmaps)
    assert "error" in answers[2] and "warnings" not in answers[2]
    told = [unlike(answers[number]["warnings"]) for number in (0, 1, 3, 4)]
    assert [len(each) for each in told] == [0, 1, 0, 1]
    distance = told[1][0].split("distance from them is ")[1].split(",")[0]
    threshold = pipe.statistics.modalities["CR"].threshold
    assert float(distance) > threshold and told[1][0] == (
        f"it is unlike the training images of north, south: its distance from them is {distance}, and 95% of held-out "
        f"ones lie below {threshold:.1f}"
    )


def test_a_picture_in_memory_keeps_its_own_warnings(pipe):
    image = read_input(pictures_like("light", 1)[0])
    before = [*image.warnings]
    assert len(unlike(pipe(image)["warnings"])) == len(unlike(pipe(image)["warnings"])) == 1
    assert image.warnings == before


def test_a_saved_pipeline_keeps_the_statistics(pipe, files, tmp_path):
    pipe.save_pretrained(tmp_path)
    assert (
        pipeline("chest-xray-classification", model=str(tmp_path))(files[1])["warnings"] == pipe(files[1])["warnings"]
    )


def test_no_forward_pass_is_made_for_it(pipe, files):
    passes = []
    hook = pipe.model.ark.register_forward_hook(lambda *_: passes.append(1))
    pipe(files[1])
    hook.remove()
    assert len(passes) == 1


def test_prediction_writes_the_doubt(folder, files, tmp_path):
    written = predict(folder, files, tmp_path / "p.csv", format="long", batch_size=2, num_workers=0)
    with open(tmp_path / "p.csv", newline="") as file:
        doubted = {row["image"] for row in csv.DictReader(file) if "unlike the training images" in row["warnings"]}
    assert doubted == {files[1], files[4]}
    assert [each.partition(":")[0] for each in written.warnings if "unlike" in each] == [files[1], files[4]]
    wide = predict(folder, files, tmp_path / "w.csv", crops="center", num_workers=0)
    assert not any("unlike" in each for each in wide.warnings)  # the view is another: nothing is known of it


def test_each_modality_has_its_own(tmp_path):
    folder = save_both(tmp_path / "both")
    model, processor = load_ark(str(folder))
    points = np.random.default_rng(0).normal(size=(LEAST_IMAGES, model.base_model.embedding_dim))
    known = modality_statistics(points, points, ["a"], 2)
    near, far = replace(known, threshold=1e9), replace(known, threshold=0.0)
    for modalities in ({"CR": near, "OP": far}, {"CR": far, "OP": near}, {"OP": far}):
        write_training_statistics(folder, TrainingStatistics(model_hashes(model, processor), modalities))
        both = pipeline("chest-xray-classification", model=str(folder))
        for modality, picture in (("CR", CHEST), ("OP", EYE)):
            doubted = bool(unlike(both(picture, modality=modality)["warnings"]))
            assert doubted == (modalities.get(modality) is far)

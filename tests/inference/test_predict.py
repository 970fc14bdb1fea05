"""Crops and probabilities: every crop goes through the model by itself, and probabilities are averaged, not logits."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from ark_hf.data.build.build import encode_png
from ark_hf.data.inputs import read_input
from ark_hf.data.loading import InferenceSamples
from ark_hf.inference.agreement import FindingLabel, writing_second_opinions
from ark_hf.inference.heatmaps import heat_maps
from ark_hf.inference.load import load_ark, usual_batch_size
from ark_hf.inference.predict import mean_probabilities, predict_files, predict_logits, with_crops
from ark_hf.inference.prediction_files import write_predictions
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor, ArkImageProcessorPil
from ark_hf.models.ark.modeling_ark import ArkForImageClassification, ArkModel
from tests.models.ark.test_image_processing_ark import GREY_LEVEL, PILLOW_13
from tests.training.conftest import TINY

SIZE, RESIZED = 32, 37  # 8/7 of 32 is 36.6
TASKS = [
    ArkTask("findings", ["Edema", "Mass"]),
    ArkTask("kinds", ["normal", "bacterial", "viral"], "single_label_classification"),
]
LABELS = {"findings": [[0.0, 1.0], [-1.0, 1.0], [1.0, 0.0]], "kinds": [0, -1, 2]}
CROPS = ("whole", "center", "ten")


def tiny_model(**kwargs) -> ArkForImageClassification:
    """Heads so steep that the mean of probabilities is not the probability of the mean."""
    torch.manual_seed(0)
    settings = {name: TINY[name] for name in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}
    model = ArkForImageClassification(ArkConfig(**settings, **kwargs)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("heads.", "classifier.")) and parameter.ndim == 2:
                parameter.normal_(std=40)
    return model


@pytest.fixture(scope="module")
def model() -> ArkForImageClassification:
    return tiny_model(tasks=TASKS)


@pytest.fixture(scope="module")
def processor() -> ArkImageProcessor:
    return ArkImageProcessor(size=SIZE, image_mean=[0.5] * 3)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    shapes = [(40, 56), (64, 48), (32, 36)]
    return [np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8) for i, shape in enumerate(shapes)]


@pytest.fixture(scope="module")
def rows(pictures) -> dict[str, Dataset]:
    images = [encode_png(picture) for picture in pictures]
    kinds = {"findings": List(Value("float32")), "kinds": Value("int64")}
    return {
        name: Dataset.from_dict(
            {"image": images, "labels": LABELS[name]}, features=Features({"image": Image(), "labels": kind})
        )
        for name, kind in kinds.items()
    }


@pytest.fixture(scope="module")
def files(pictures, tmp_path_factory) -> list:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{number}.png" for number in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        PILImage.fromarray(picture).save(path)
    return paths


def explicit_crops(picture, processor, crops) -> list[torch.Tensor]:
    """The views of one picture cut by hand, each (1, 3, SIZE, SIZE)."""
    if crops == "whole":
        return [processor(picture, size=SIZE, return_tensors="pt").pixel_values]
    image = processor(picture, size=RESIZED, return_tensors="pt").pixel_values
    far = RESIZED - SIZE
    middle = round(far / 2)
    if crops == "center":
        return [image[..., middle : middle + SIZE, middle : middle + SIZE]]
    corners = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
    return [
        each[..., top : top + SIZE, left : left + SIZE] for each in (image, image.flip(-1)) for top, left in corners
    ]


@torch.no_grad()
def explicit_logits(model, processor, pictures, crops, task=None) -> torch.Tensor:
    """(pictures, crops, labels), one forward pass a crop."""
    crops_of = [explicit_crops(picture, processor, crops) for picture in pictures]
    return torch.stack([torch.cat([model(crop, task=task).logits.double() for crop in each]) for each in crops_of])


@pytest.mark.parametrize("crops", CROPS)
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_logits_and_probabilities_equal_those_of_explicit_crops(model, processor, pictures, rows, task, crops):
    samples = InferenceSamples(rows[task.name], task, with_crops(processor, SIZE, crops))
    logits, targets = predict_logits([model], samples, batch_size=2)
    assert logits.dtype == np.float64 and logits.shape[:-1] == ((3, 10) if crops == "ten" else (3,))
    expected = explicit_logits(model, processor, pictures, crops, task.name)
    np.testing.assert_allclose(logits.reshape(expected.shape), expected, atol=1e-4)
    known = [[0, 1], [np.nan, 1], [1, 0]] if task.name == "findings" else [0, -100, 2]
    np.testing.assert_array_equal(targets, known)

    probabilities = mean_probabilities(logits, task)
    each = expected.softmax(-1) if task.name == "kinds" else expected.sigmoid()
    assert probabilities.dtype == np.float64 and probabilities.shape == (3, len(task.labels))
    np.testing.assert_allclose(probabilities, each.mean(dim=1), atol=1e-5)
    if task.name == "kinds":
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)


def test_probabilities_are_averaged_and_not_logits():
    logits = np.array([[[-4.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]])
    multi = ArkTask("multi", ["a", "b", "c"])
    single = ArkTask("single", ["a", "b", "c"], "single_label_classification")
    sigmoid = 1 / (1 + np.exp(-logits))
    softmax = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    for task, each, of_mean in [
        (multi, sigmoid, 1 / (1 + np.exp(-logits.mean(axis=1)))),
        (single, softmax, np.exp(logits.mean(axis=1)) / np.exp(logits.mean(axis=1)).sum()),
    ]:
        probabilities = mean_probabilities(logits, task)
        np.testing.assert_allclose(probabilities, each.mean(axis=1), atol=1e-15)
        assert np.abs(probabilities - of_mean).max() > 0.01
        np.testing.assert_array_equal(mean_probabilities(logits[:, 0].astype(np.float32), task), each[:, 0])


@pytest.mark.parametrize("crops", CROPS)
def test_files_get_the_mean_of_each_head_s_probabilities(model, processor, pictures, files, crops, tmp_path):
    unreadable = tmp_path / "text.png"
    unreadable.write_text("not a picture")
    paths = [files[0], unreadable, *files[1:]]
    results = list(predict_files(model, with_crops(processor, SIZE, crops), paths, batch_size=2))
    assert [path for path, _ in results] == paths and isinstance(results.pop(1)[1], str)
    expected = torch.cat(
        [
            explicit_logits(model, processor, pictures, crops, "findings").sigmoid().mean(dim=1),
            explicit_logits(model, processor, pictures, crops, "kinds").softmax(-1).mean(dim=1),
        ],
        dim=1,
    )
    np.testing.assert_allclose([row for _, row in results], expected, atol=1e-5)
    of_mean = explicit_logits(model, processor, pictures, crops, "findings").mean(dim=1).sigmoid()
    if crops == "ten":
        assert (of_mean - expected[:, :2]).abs().max() > 0.005


@pytest.mark.parametrize(
    ("config", "softmax"),
    [
        ({"num_labels": 3}, True),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, False),
        ({"num_labels": 1}, False),
        ({"tasks": TASKS[1:]}, True),
        ({"tasks": TASKS[:1]}, False),
    ],
)
def test_files_with_ten_crops_and_one_head(processor, pictures, files, config, softmax):
    model = tiny_model(**config)
    results = predict_files(model, with_crops(processor, SIZE, "ten"), files)
    logits = explicit_logits(model, processor, pictures, "ten")
    expected = (logits.softmax(-1) if softmax else logits.sigmoid()).mean(dim=1)
    np.testing.assert_allclose([row for _, row in results], expected, atol=1e-5)


def test_heat_maps_come_from_the_pass_that_gives_the_probabilities(model, processor, files, monkeypatch):
    encoded, processed, found = [], [], {}
    kind, process = type(processor), type(processor).__call__
    monkeypatch.setattr(kind, "__call__", lambda *args, **kwargs: processed.append(1) or process(*args, **kwargs))
    plain = dict(predict_files(model, processor, files, batch_size=2))
    processed.clear()
    with model.ark.register_forward_pre_hook(lambda _, inputs: encoded.append(len(inputs[0]))):
        results = predict_files(
            model,
            processor,
            files,
            batch_size=2,
            on_image=lambda image, probabilities, maps: found.setdefault(image.name, maps),
            explained=lambda probabilities: np.argsort(probabilities)[-2:].tolist(),
        )
        results = dict(results)
    assert encoded == [2, 1] and len(processed) == 2
    assert list(found) == [str(path) for path in files]
    for path, probabilities in results.items():
        np.testing.assert_array_equal(probabilities, plain[path])
        labels = sorted(found[str(path)])
        assert labels == sorted(np.argsort(probabilities)[-2:])
        pixel_values = processor(read_input(path).pixels, return_tensors="pt")["pixel_values"]
        expected = heat_maps(model, pixel_values, labels)[0]
        np.testing.assert_allclose([found[str(path)][label] for label in labels], expected, rtol=1e-4, atol=1e-5)


def test_prediction_leaves_the_model_s_mode_alone(model, processor, rows):
    samples = InferenceSamples(rows["kinds"], TASKS[1], processor)
    expected, _ = predict_logits([model], samples, batch_size=3)
    model.train()
    logits, _ = predict_logits([model], samples, batch_size=3)
    assert model.training
    model.eval()
    np.testing.assert_array_equal(logits, expected)


def test_crops_replace_only_the_geometry(processor):
    assert with_crops(processor, SIZE, "whole") is processor
    other = ArkImageProcessor(do_resize=False, intermediate_size=50, do_center_crop=True, image_mean=[0.4] * 3)
    for crops, flags in [("center", (True, False)), ("ten", (False, True))]:
        changed = with_crops(other, SIZE, crops)
        assert (changed.do_center_crop, changed.do_ten_crop) == flags
        assert changed.do_resize and changed.intermediate_size is None and list(changed.image_mean) == [0.4] * 3
        assert dict(changed.size) == {"height": RESIZED, "width": RESIZED}
        assert dict(changed.crop_size) == {"height": SIZE, "width": SIZE}
    given = ArkImageProcessor(size=SIZE + 4, crop_size=SIZE, do_center_crop=True)  # the originals' 896 for 768
    for crops in ("center", "ten"):
        assert dict(with_crops(given, SIZE, crops).size) == {"height": SIZE + 4, "width": SIZE + 4}
        assert dict(with_crops(given, SIZE, crops).crop_size) == {"height": SIZE, "width": SIZE}
    assert not other.do_resize and dict(other.intermediate_size) == {"height": 50, "width": 50}
    with pytest.raises(ValueError, match="'whole', 'center' or 'ten', not 'five'"):
        with_crops(processor, SIZE, "five")


@pytest.mark.parametrize("crops", ["center", "ten"])
def test_original_views(shared, crops):
    golden = np.load(shared / "golden/ark/preprocess_gray_300x260.npz")
    changed = with_crops(ArkImageProcessorPil(), int(golden["crop"]), crops)
    values = changed(PILImage.fromarray(golden["image"]), return_tensors="np").pixel_values[0]
    view = {"center": "valid_imagenet", "ten": "test_tencrop"}[crops]
    stride = int(golden["stride"])
    difference = np.abs(values[..., ::stride, ::stride] - golden[f"{view}_strided"])
    assert difference.max() <= 1.001 * GREY_LEVEL and (difference > 1e-6).mean() <= (0 if PILLOW_13 else 0.02)


def test_an_encoder_without_heads_is_no_classifier(processor, tmp_path):
    """Its config names no tasks, so a classifier could be made; its weights would be random."""
    model = tiny_model()
    encoder = ArkModel(model.config)
    encoder.load_state_dict(model.ark.state_dict())
    for name, saved in {"encoder": encoder, "classifier": model}.items():
        saved.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    loaded, _ = load_ark(str(tmp_path / "classifier"))
    assert torch.equal(loaded.classifier.weight.cpu(), model.classifier.weight)
    with pytest.raises(ValueError, match="an encoder without heads; `ark-hf finetune` gives it one"):
        load_ark(str(tmp_path / "encoder"))


def test_a_model_that_lacks_other_tensors_is_refused_by_name(model, processor, tmp_path):
    weights = {name: value for name, value in model.state_dict().items() if name != "heads.kinds.bias"}
    model.save_pretrained(tmp_path, state_dict=weights)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks 1 of the model's tensors, such as heads\.kinds\.bias"):
        load_ark(str(tmp_path))


def test_predictions_are_kept_if_nothing_can_be_read(tmp_path):
    out, unreadable = tmp_path / "predictions.csv", tmp_path / "predictions.unreadable.csv"
    assert write_predictions(out, ["a"], iter([(tmp_path / "x.png", "is text")])) == (0, unreadable)
    assert not out.exists() and "is text" in unreadable.read_text()
    assert write_predictions(out, ["a"], iter([(tmp_path / "x.png", np.array([0.5]))])) == (1, None)
    before = out.read_bytes()
    assert write_predictions(out, ["a"], iter([(tmp_path / "y.png", "is text")])) == (0, unreadable)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, unreadable.name]


def test_names_that_are_no_utf8_are_escaped_in_every_table(model, processor, tmp_path):
    names = [b"m\xfcller.png", "mäller.png".encode(), b"\xfctext.png"]
    paths = [Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))) for name in names]
    for path in paths[:2]:
        PILImage.fromarray(np.zeros((40, 40), np.uint8)).save(path)
    paths[2].write_text("no picture")
    out, opinions = tmp_path / "p.csv", tmp_path / "o.csv"
    source = FindingLabel(0, "findings", "Edema", 0.5, True)
    results = writing_second_opinions(opinions, {"edema": [source]}, predict_files(model, processor, paths))
    assert write_predictions(out, [str(label) for label in range(5)], results) == (2, tmp_path / "p.unreadable.csv")
    for path in (out, opinions):
        rows = path.read_text(encoding="utf-8").splitlines()[1:]
        assert [row.split(",")[0] for row in rows] == [str(tmp_path / "m\\xfcller.png"), str(tmp_path / "mäller.png")]
    refused = (tmp_path / "p.unreadable.csv").read_text(encoding="utf-8")
    assert refused.count(str(tmp_path / "\\xfctext.png")) == 2  # in the column of the images, and in the reason


def test_why_a_model_cannot_be_loaded_is_one_line():
    with pytest.raises(ValueError, match="Cannot load an Ark model from 'someone/nothing'") as caught:
        load_ark("someone/nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side, most, images", [(224, 32, 32), (384, 32, 16), (768, 16, 4), (4096, 16, 1)])
def test_models_of_large_pictures_take_fewer_at_once(side, most, images):
    assert usual_batch_size(SimpleNamespace(config=SimpleNamespace(image_size=side)), most) == images
    assert usual_batch_size(SimpleNamespace(config=SimpleNamespace()), most) == most

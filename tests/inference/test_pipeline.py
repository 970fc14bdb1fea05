"""The radiograph pipeline: the stock one's probabilities by task, for every input, in batches, and what it refuses."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Image, Value
from huggingface_hub import HfApi
from PIL import Image as PILImage
from transformers import AutoModel, AutoModelForImageClassification, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from ark_hf.data.images.image_files import UnreadableImageError
from ark_hf.data.radiograph import read_radiograph
from ark_hf.data.sources.phantom import SITES, draw_phantom_image
from ark_hf.inference.heatmaps import heat_maps
from ark_hf.inference.pipeline import ChestXrayClassificationPipeline
from ark_hf.inference.predict import predict_files, with_crops
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor, ArkImageProcessorPil
from ark_hf.models.ark.modeling_ark import ArkForImageClassification
from tests.data.images.test_dicom import make_dicom, save
from tests.training.conftest import TINY
from tests.wrong_inputs import wrong_inputs  # noqa: F401

SIZE = 64
TASKS = [
    ArkTask("findings", ["Edema", "Pleural/Effusion", "Mass"], thresholds={"Edema": 0.0, "Mass": 1.0}),
    ArkTask("kinds", ["normal", "bacterial", "viral"], "single_label_classification", thresholds={"viral": 0.4}),
    ArkTask("tb", ["TB"]),
]


def tiny_model(**kwargs) -> ArkForImageClassification:
    torch.manual_seed(0)
    settings = {name: TINY[name] for name in ("backbone", "backbone_kwargs", "projector_dim")}
    model = ArkForImageClassification(ArkConfig(image_size=SIZE, **settings, **kwargs)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("heads.", "classifier.")) and parameter.ndim == 2:
                parameter.normal_(std=5)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model") / "ark-cxr"
    tiny_model(tasks=TASKS).save_pretrained(folder)
    ArkImageProcessor(size=SIZE).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pipe(folder) -> ChestXrayClassificationPipeline:
    return pipeline("chest-xray-classification", model=folder)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """(H, W) uint8 of different sizes."""
    sites = [*SITES.values()]
    return [
        np.asarray(draw_phantom_image(sites[number % 4], "test", number, size=80 + 16 * number)["image"])
        for number in range(5)
    ]


@pytest.fixture(scope="module")
def files(pictures, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "deeper").mkdir()
    names = ["0.png", "1.tif", "2.dcm", "deeper/3.png", "deeper/4.png"]
    for name, picture in zip(names, pictures, strict=True):
        if name.endswith(".dcm"):
            save(make_dicom(picture, 8), folder / name)
        else:
            PILImage.fromarray(picture.astype(np.uint16) * 16 + 3 if name[-5] == "4" else picture).save(folder / name)
    (folder / "labels.csv").write_text("image,label\n")
    return [str(folder / name) for name in names]


def scores(result: dict) -> dict[str, float]:
    """By task/label, as the stock pipeline names them."""
    return {f"{task}/{each['label']}": each["score"] for task, labels in result["tasks"].items() for each in labels}


def assert_close(result: dict, other: dict, tolerance: float) -> None:
    ours, theirs = scores(result), scores(other)
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose([ours[name] for name in theirs], list(theirs.values()), atol=tolerance, rtol=0)


# Probabilities


def test_tasks_have_the_stock_pipeline_s_probabilities_and_their_own_thresholds(pipe, folder, files):
    stock = pipeline("image-classification", model=folder)
    for path in files:
        result = pipe(path)
        assert (
            result["image"] == path and result["warnings"] == [] and list(result["tasks"]) == [t.name for t in TASKS]
        )
        expected = {each["label"]: each["score"] for each in stock(read_radiograph(path), top_k=100)}
        assert scores(result).keys() == expected.keys()
        for name, score in scores(result).items():
            assert score == pytest.approx(expected[name], abs=1e-6)
        assert sum(each["score"] for each in result["tasks"]["kinds"]) == pytest.approx(1, abs=1e-6)
        for task in TASKS:
            answers = result["tasks"][task.name]
            assert [each["score"] for each in answers] == sorted([each["score"] for each in answers], reverse=True)
            for each in answers:
                threshold = (task.thresholds or {}).get(each["label"])
                assert each["threshold"] == threshold
                assert each["positive"] is (None if threshold is None else each["score"] >= threshold)


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"tasks": TASKS[:1]}, "findings"),
        ({"tasks": TASKS[1:2]}, "kinds"),
        ({"num_labels": 3}, "classifier"),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, "classifier"),
        ({"id2label": {0: "TB"}}, "classifier"),
    ],
)
def test_one_head_has_the_stock_pipeline_s_probabilities(config, task, pictures):
    parts = {"model": tiny_model(**config), "image_processor": ArkImageProcessor(size=SIZE)}
    (answers,) = pipeline("chest-xray-classification", **parts)(pictures[0])["tasks"].values()
    expected = pipeline("image-classification", **parts)(pictures[0][None], top_k=100)
    assert list(pipeline("chest-xray-classification", **parts)(pictures[0])["tasks"]) == [task]
    assert [each["label"] for each in answers] == [each["label"] for each in expected]
    for each, other in zip(answers, expected, strict=True):
        assert each["score"] == pytest.approx(other["score"], abs=1e-6)


def test_a_regression_has_no_probabilities():
    model = tiny_model(num_labels=1, problem_type="regression")
    with pytest.raises(ValueError, match="gives no probabilities"):
        pipeline("chest-xray-classification", model=model, image_processor=ArkImageProcessor(size=SIZE))


def in_every_depth(picture: np.ndarray, folder) -> list[str]:
    widened = picture.astype(np.uint16) * 257
    PILImage.fromarray(picture).save(folder / "8.png")
    PILImage.fromarray(widened).save(folder / "16.png")
    save(make_dicom(picture, 8), folder / "8.dcm")
    save(make_dicom(widened, 16, WindowCenter=32768, WindowWidth=65536), folder / "16.dcm")
    return [str(folder / name) for name in ("8.png", "16.png", "8.dcm", "16.dcm")]


@pytest.mark.parametrize("kind", [ArkImageProcessor, ArkImageProcessorPil])
@pytest.mark.parametrize("which", ["phantom", "real"])
def test_one_picture_has_one_result_in_every_depth(kind, which, pipe, pictures, tmp_path, request):
    picture = pictures[0]
    if which == "real":
        real = request.getfixturevalue("shared") / "realdata/nih_multilabel/originals/nih00000022_000.png"
        picture = read_radiograph(real)[0]
    parts = {"model": pipe.model, "image_processor": kind(size=SIZE)}
    ours, stock = pipeline("chest-xray-classification", **parts), pipeline("image-classification", **parts)
    paths = in_every_depth(picture, tmp_path)
    first, *others = ours(paths)
    for path, result in zip(paths, [first, *others], strict=True):
        assert_close(result, first, 1e-5)
        expected = {each["label"]: each["score"] for each in stock(read_radiograph(path), top_k=100)}
        for name, score in scores(first).items():
            assert score == pytest.approx(expected[name], abs=1e-5)


@pytest.mark.parametrize("crops", ["center", "ten"])
def test_crops_are_averaged_as_in_predict(crops, pipe, files):
    processor = with_crops(ArkImageProcessor(size=SIZE), SIZE, crops)
    results = pipeline("chest-xray-classification", model=pipe.model, image_processor=processor)(files, batch_size=2)
    expected = dict(predict_files(pipe.model, processor, files))
    labels = list(pipe.model.config.id2label.values())
    for path, result in zip(files, results, strict=True):
        ours = scores(result)
        np.testing.assert_allclose([ours[label] for label in labels], expected[path], atol=1e-6)


def test_bfloat16(folder, pipe, files):
    half = pipeline("chest-xray-classification", model=folder, dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    for result, expected in zip(half(files, batch_size=3, heatmaps=True), pipe(files), strict=True):
        assert_close(result, expected, 0.1)  # heads of random weights are steep
        assert result["tasks"]["tb"][0]["heatmap"].dtype == np.float32


# Inputs


def test_every_batch_size_gives_the_same(pipe, files):
    wrong = ["nowhere.png", *files[:2], __file__, *files[2:]]
    single = [pipe(path) for path in files]
    for batch_size in (1, 2, 3, 7):
        results = pipe(wrong, batch_size=batch_size)
        assert [result["image"] for result in results] == wrong
        read = [result for result in results if "error" not in result]
        for result, expected in zip(read, single, strict=True):
            assert_close(result, expected, 1e-5)
        assert results[0].keys() == {"image", "error"} and "no such file" in results[0]["error"]
        assert "no PNG, JPEG" in results[3]["error"]


def test_every_kind_of_input_gives_the_same(pipe, files, pictures):
    expected = pipe(files[:3])
    (first, *_), directory = pictures, files[0].removesuffix("/0.png")
    stored = [{"bytes": open(path, "rb").read(), "path": path} for path in files[:3]]
    several = {
        "list": pipe(files[:3], batch_size=2),
        "folder": pipe(directory)[:3],
        "arrays": pipe([*pictures[:2], torch.from_numpy(pictures[2].copy())], batch_size=3),
        "bytes": pipe([each["bytes"] for each in stored]),
        "generator": pipe((path for path in files[:3]), batch_size=2),
    }
    rows = Dataset.from_dict(
        {"image": stored, "row": [0, 1, 2]}, features=Features({"image": Image(), "row": Value("int64")})
    )
    several["dataset"] = pipe(rows, batch_size=2)
    several["iterable dataset"] = pipe(rows.to_iterable_dataset())
    several["key dataset"] = pipe(KeyDataset([{"chest": path} for path in files[:3]], "chest"))
    for kind, results in several.items():
        results = list(results)
        assert len(results) == 3, kind
        for result, other in zip(results, expected, strict=True):
            assert_close(result, other, 1e-5)
        named = kind not in ("arrays", "bytes")
        assert [result["image"] for result in results] == (files[:3] if named else [None] * 3), kind
    for one in (first, PILImage.fromarray(first), stored[0], torch.from_numpy(first.copy())[None]):
        assert_close(pipe(one), expected[0], 1e-5)


def test_a_folder_is_searched_in_order(pipe, files, tmp_path):
    directory = files[0].removesuffix("/0.png")
    assert [result["image"] for result in pipe(directory)] == files
    with pytest.raises(UnreadableImageError, match="a folder without files in .png"):
        pipe(tmp_path)
    assert pipe([]) == []


def test_generators_are_streamed(pipe, files):
    asked = []

    def paths():
        for path in files:
            asked.append(path)
            yield path

    results = pipe(paths(), batch_size=2)
    next(iter(results))
    assert len(asked) <= 3


@pytest.mark.parametrize("columns", [{"picture": [1]}, {"image": [1]}])
def test_a_dataset_without_pictures_is_refused(pipe, columns):
    rows = Dataset.from_dict(columns)
    if "image" in columns:
        assert "a radiograph is a path" in next(iter(pipe(rows)))["error"]
        rows = DatasetDict({"train": rows})
    with pytest.raises(ValueError, match="needs a column `image`"):
        pipe(rows)


# Options


def test_tasks_and_top_k(pipe, files):
    whole = pipe(files[0])
    some = pipe(files[0], tasks=["tb", "findings"], top_k=2)
    assert list(some["tasks"]) == ["findings", "tb"]
    assert some["tasks"]["findings"] == whole["tasks"]["findings"][:2] and some["tasks"]["tb"] == whole["tasks"]["tb"]
    fixed = pipeline("chest-xray-classification", model=pipe.model, image_processor=pipe.image_processor, tasks=["tb"])
    assert list(fixed(files[0])["tasks"]) == ["tb"]
    for tasks in (["rsna"], "tb", [], ["tb", "TB"]):
        with pytest.raises(ValueError, match=r"\['findings', 'kinds', 'tb'\], which this model has"):
            pipe(files[0], tasks=tasks)
    with pytest.raises(ValueError, match="top_k"):
        pipe(files[0], top_k=0)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_heat_maps_are_those_of_the_labels(pipe, files, batch_size):
    results = pipe([*files[:2], __file__, files[2]], heatmaps=True, top_k=2, batch_size=batch_size)
    assert "error" in results.pop(2)
    columns = {label: column for column, label in pipe.model.config.id2label.items()}
    for path, result in zip(files, results, strict=False):
        pixel_values = pipe.image_processor(read_radiograph(path), return_tensors="pt")["pixel_values"]
        for task, answers in result["tasks"].items():
            for each in answers:
                (expected,) = heat_maps(pipe.model, pixel_values, [columns[f"{task}/{each['label']}"]])[0]
                assert each["heatmap"].dtype == np.float32 and each["heatmap"].shape == (2, 2)
                np.testing.assert_allclose(each["heatmap"], expected, atol=1e-4)
    assert "heatmap" not in pipe(files[0])["tasks"]["tb"][0]
    assert_close(results[0], pipe(files[0], top_k=2), 1e-5)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_heat_maps_take_no_forward_pass_of_their_own(pipe, files, batch_size):
    seen = []
    with pipe.model.ark.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0]))):
        pipe(files[:3], heatmaps=True, batch_size=batch_size)
    assert sum(seen) == 3 and len(seen) == 3 // batch_size


@pytest.mark.parametrize("crops", ["center", "ten"])
def test_heat_maps_of_crops_are_refused(crops, pipe, files):
    processor = with_crops(ArkImageProcessor(size=SIZE), SIZE, crops)
    cropping = pipeline("chest-xray-classification", model=pipe.model, image_processor=processor)
    with pytest.raises(ValueError, match="whole pictures"):
        cropping(files[0], heatmaps=True)


# What is wrong


def test_wrong_inputs_are_refused_alone_and_named_among_others(pipe, files, wrong_inputs):  # noqa: F811
    assert len(wrong_inputs) >= 40
    results = pipe([files[0], *(each.path for each in wrong_inputs), files[1]], batch_size=8, tasks=["tb"])
    assert_close(results.pop(0), pipe(files[0], tasks=["tb"]), 1e-5)
    assert_close(results.pop(), pipe(files[1], tasks=["tb"]), 1e-5)
    for wrong, result in zip(wrong_inputs, results, strict=True):
        assert result["image"] == str(wrong.path)
        said = [result["error"]] if wrong.kind == "refused" else result["warnings"]
        assert any(wrong.message in each for each in said), (wrong.name, said)
        assert not any("\n" in each for each in said)
        if wrong.kind == "refused":
            with pytest.raises(UnreadableImageError, match=wrong.name):
                pipe(wrong.path)
        else:
            assert pipe(wrong.path, tasks=["tb"])["warnings"] == said


def test_nothing_is_refused_in_our_words(pipe):
    with pytest.raises(ValueError, match="was given None; give it a radiograph"):
        pipe(None)


@pytest.mark.parametrize("array", [np.full((80, 80), np.nan), np.full((80, 80), 7.0), np.zeros((2, 80, 80), np.uint8)])
def test_wrong_arrays_are_refused(pipe, pictures, array):
    with pytest.raises(UnreadableImageError, match="float images must lie in|1, 3 or 4 channels"):
        pipe(array)
    read, refused = pipe([pictures[0], array])
    assert "tasks" in read and refused["image"] is None and "input of type ndarray" in refused["error"]


# Where models come from and go to


def test_a_model_on_the_hub(hub, folder, pipe, files):
    HfApi().create_repo("someone/ark-cxr")
    HfApi().upload_folder(repo_id="someone/ark-cxr", folder_path=folder)
    result = pipeline("chest-xray-classification", model="someone/ark-cxr")(files[0])
    assert_close(result, pipe(files[0]), 0)


def test_a_saved_pipeline_is_its_model_and_image_processor(pipe, files, tmp_path):
    pipe.save_pretrained(tmp_path)
    tasks = AutoModelForImageClassification.from_pretrained(tmp_path).config.tasks
    assert [task.labels for task in tasks] == [task.labels for task in TASKS]
    assert [task.thresholds for task in tasks] == [task.thresholds for task in TASKS]
    assert_close(pipeline("chest-xray-classification", model=str(tmp_path))(files[0]), pipe(files[0]), 0)


def test_stock_features_are_the_pooled_ones(folder, pipe, files, pictures):
    features = pipeline("image-feature-extraction", model=folder)
    pixel_values = pipe.image_processor(pictures[0], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = AutoModel.from_pretrained(folder)(pixel_values)
    np.testing.assert_allclose(features(files[0], pool=True), expected.pooler_output, atol=1e-5)
    np.testing.assert_allclose(features(files[0]), expected.last_hidden_state, atol=1e-5)


@pytest.mark.slow_ci
def test_importing_registers_the_pipeline_and_loads_nothing_that_only_its_use_needs():
    code = (
        "import sys, ark_hf; from transformers.pipelines import PIPELINE_REGISTRY\n"
        "assert 'chest-xray-classification' in PIPELINE_REGISTRY.get_supported_tasks()\n"
        "print([name for name in ('datasets', 'captum', 'matplotlib', 'pydicom', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("top_k", ["3", 1.5, 0])
def test_a_number_of_labels_that_is_none_is_refused(pipe, top_k):
    with pytest.raises(ValueError, match="`top_k` must be a whole number of at least 1"):
        pipe(np.zeros((64, 64), np.uint8), top_k=top_k)


def test_tuples_are_lists(pipe):
    pictures = (np.zeros((64, 64), np.uint8), np.full((64, 64), 9, np.uint8))
    assert pipe(pictures) == pipe(list(pictures)) and pipe(()) == []

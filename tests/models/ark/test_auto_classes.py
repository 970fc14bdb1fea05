"""A saved folder `ark-cxr` through the Auto classes, the stock pipeline and Trainer."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
    logging,
    pipeline,
    set_seed,
)
from transformers.testing_utils import CaptureLogger

import ark_hf  # noqa: F401  (registers the classes)
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor, ArkImageProcessorPil
from ark_hf.models.ark.modeling_ark import ArkForImageClassification, ArkModel

MULTI, SINGLE = "multi_label_classification", "single_label_classification"
TASKS = [
    ArkTask("vindr", ["Tuberculosis", "Mass/Nodule"]),
    ArkTask("rsna", ["Normal", "Other", "Opacity"], SINGLE),
    ArkTask("tb", ["Tuberculosis"]),
]
CODE_FILES = {
    "configuration_ark.py",
    "heads_ark.py",
    "image_processing_ark.py",
    "masks_ark.py",
    "modeling_ark.py",
    "modeling_ark_segmentation.py",
    "swin_ark.py",
    "tasks_ark.py",
    "thresholds_ark.py",
}
SIZE = {"height": 32, "width": 32}


def tiny_model(tasks: list[ArkTask] | None) -> ArkForImageClassification:
    set_seed(0)
    config = ArkConfig(
        backbone="swin_tiny_patch4_window7_224",
        backbone_kwargs={"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
        image_size=32,
        projector_dim=12,
        tasks=tasks,
    )
    model = ArkForImageClassification(config).eval()
    with torch.no_grad():
        for head in model.heads.values():
            head.weight.mul_(5)  # probabilities far from each other
    return model


@pytest.fixture(scope="module")
def model() -> ArkForImageClassification:
    return tiny_model(TASKS)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "ark-cxr"
    model.save_pretrained(folder)
    ArkImageProcessor(size=SIZE).save_pretrained(folder)
    return folder


def log_of(load, *args, **kwargs) -> tuple:
    """What a loading call returns, and what it writes to transformers' log at the default verbosity."""
    with CaptureLogger(logging.get_logger("transformers")) as log:
        result = load(*args, **kwargs)
    return result, log.out


RANDOM = np.random.RandomState(0)
GREY = RANDOM.randint(0, 256, (40, 50), dtype=np.uint8)
RGB = RANDOM.randint(0, 256, (40, 50, 3), dtype=np.uint8)
DEEP = RANDOM.randint(0, 4096, (1, 40, 50)).astype(np.uint16)
IMAGES = {
    "PIL grey": Image.fromarray(GREY),
    "PIL RGB": Image.fromarray(RGB),
    "(1, H, W) uint16": DEEP,
    "(H, W, 1) uint8": GREY[..., None],
    "(H, W, 3) uint8": RGB,
    "(3, H, W) float tensor": torch.from_numpy(RGB).permute(2, 0, 1) / 255,
}


@torch.no_grad()
def own_probabilities(model: ArkForImageClassification, image) -> dict[str, float]:
    """Softmax or sigmoid of every head's raw logits, by the names that the pipeline uses."""
    pixel_values = ArkImageProcessor(size=SIZE)(image, return_tensors="pt").pixel_values
    probabilities = []
    for task in model.config.tasks:
        logits = model(pixel_values, task=task.name).logits[0]
        probabilities += (logits.softmax(-1) if task.problem_type == SINGLE else logits.sigmoid()).tolist()
    return dict(zip(model.config.id2label.values(), probabilities, strict=True))


def scores(predictions: list[dict]) -> dict[str, float]:
    return {prediction["label"]: prediction["score"] for prediction in predictions}


def close(expected: dict[str, float]) -> dict:
    return pytest.approx(expected, rel=0, abs=1e-6)


# --- as it was saved ----------------------------------------------------------------------------------------------


def test_the_auto_classes_load_our_classes_from_a_bare_folder_name(folder, model, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert type(AutoConfig.from_pretrained("ark-cxr")) is ArkConfig
    assert type(AutoModel.from_pretrained("ark-cxr")) is ArkModel
    assert type(AutoImageProcessor.from_pretrained("ark-cxr")) is ArkImageProcessor
    classifier = AutoModelForImageClassification.from_pretrained("ark-cxr")
    assert type(classifier) is ArkForImageClassification
    pixel_values = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(classifier(pixel_values).logits, model(pixel_values).logits, rtol=0, atol=1e-6)


def test_the_registered_classes_win_over_the_code_of_the_folder(folder):
    assert type(AutoModel.from_pretrained(folder, trust_remote_code=True)) is ArkModel


@pytest.mark.parametrize(
    "backend, processor_class", [("pil", ArkImageProcessorPil), ("torchvision", ArkImageProcessor)]
)
@pytest.mark.parametrize("saved_class", [ArkImageProcessorPil, ArkImageProcessor])
def test_the_backend_chooses_the_processor_whichever_was_saved(tmp_path, saved_class, backend, processor_class):
    ArkConfig().save_pretrained(tmp_path)
    saved_class(size=SIZE).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    assert type(processor) is processor_class
    assert processor(Image.fromarray(GREY), return_tensors="pt").pixel_values.shape == (1, 3, 32, 32)


def test_the_folder_holds_the_code_and_names_all_its_classes(folder):
    assert CODE_FILES < {file.name for file in folder.iterdir()}
    assert set(json.loads((folder / "config.json").read_text())["auto_map"]) == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForImageClassification",
        "AutoModelForSemanticSegmentation",
    }
    assert json.loads((folder / "preprocessor_config.json").read_text())["auto_map"]["AutoImageProcessor"] == {
        "torchvision": "image_processing_ark.ArkImageProcessor",
        "pil": "image_processing_ark.ArkImageProcessorPil",
    }


def test_loading_the_features_alone_reports_no_unexpected_heads(folder, model):
    features, log = log_of(AutoModel.from_pretrained, folder)
    assert log == ""
    pixel_values = torch.randn(2, 3, 32, 32)
    assert torch.equal(features(pixel_values).embeddings, model(pixel_values).embeddings)


def test_loading_every_head_reports_nothing(folder):
    assert log_of(AutoModelForImageClassification.from_pretrained, folder)[1] == ""


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_the_stock_pipeline_gives_the_models_probabilities_for_every_head(folder, model, image):
    pipe, log = log_of(pipeline, "image-classification", model=str(folder))
    assert log == ""
    predictions = pipe(image, top_k=6)
    assert scores(predictions) == close(own_probabilities(model, image))
    assert [prediction["score"] for prediction in predictions] == sorted(scores(predictions).values(), reverse=True)


def test_the_stock_pipeline_takes_paths_and_batches(folder, model, tmp_path):
    IMAGES["PIL grey"].save(tmp_path / "chest.png")
    pipe = pipeline("image-classification", model=str(folder))
    path = str(tmp_path / "chest.png")
    expected = own_probabilities(model, IMAGES["PIL grey"])
    assert scores(pipe(path, top_k=6)) == close(expected)
    for predictions in pipe([path, IMAGES["PIL grey"]], top_k=6, batch_size=2):
        assert scores(predictions) == close(expected)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_stock_pipeline_of_a_single_task_gives_its_probabilities_under_plain_labels(task, tmp_path):
    model = tiny_model([task])
    model.save_pretrained(tmp_path)
    ArkImageProcessor(size=SIZE).save_pretrained(tmp_path)
    predictions = pipeline("image-classification", model=str(tmp_path))(IMAGES["PIL grey"])
    assert scores(predictions) == close(own_probabilities(model, IMAGES["PIL grey"]))
    assert set(scores(predictions)) == set(task.labels)


AUTO_CLASSES = [AutoConfig, AutoModel, AutoModelForImageClassification, AutoImageProcessor]


@pytest.mark.parametrize("auto_class", AUTO_CLASSES, ids=lambda auto_class: auto_class.__name__)
def test_a_folder_that_is_not_a_model_is_named_in_the_error(tmp_path, auto_class):
    (tmp_path / "notes.txt").write_text("no model here")
    with pytest.raises((OSError, ValueError), match=tmp_path.name):
        auto_class.from_pretrained(tmp_path)


@pytest.mark.parametrize("auto_class", AUTO_CLASSES[1:3], ids=lambda auto_class: auto_class.__name__)
def test_a_folder_without_weights_is_named_in_the_error(tmp_path, auto_class):
    tiny_model(TASKS).config.save_pretrained(tmp_path)
    with pytest.raises(OSError, match=f"model.safetensors.*{tmp_path.name}"):
        auto_class.from_pretrained(tmp_path)


def test_a_damaged_config_is_named_in_the_error(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "ark",')
    with pytest.raises(OSError, match=f"{tmp_path.name}.config.json.*not a valid JSON"):
        AutoModel.from_pretrained(tmp_path)


# --- fine-tuning as stock scripts do it ---------------------------------------------------------------------------

OWN_LABELS = ["cat", "dog", "fish"]
OWN_ID2LABEL = dict(enumerate(OWN_LABELS))
OWN_LABEL2ID = {label: i for i, label in enumerate(OWN_LABELS)}


def assert_fresh_head_learns(model: ArkForImageClassification, num_labels: int, folder: Path) -> None:
    """One head of the asked size over the saved encoder, and a step of training moves both."""
    assert model.config.tasks is None and not hasattr(model, "heads")
    assert model.config.num_labels == model.num_labels == model.classifier.out_features == num_labels
    saved = AutoModel.from_pretrained(folder)
    for name, parameter in model.ark.named_parameters():
        assert torch.equal(parameter, saved.get_parameter(name)), name
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    outputs = model.train()(torch.randn(4, 3, 32, 32), labels=torch.arange(4) % num_labels)
    outputs.loss.backward()
    optimizer.step()
    assert outputs.logits.shape == (4, num_labels) and outputs.loss.isfinite()
    assert model.config.problem_type == SINGLE
    for name in ("classifier.weight", "classifier.bias", "ark.projector.weight"):
        assert not torch.equal(model.get_parameter(name), before[name]), name


def assert_heads_are_reported_dropped(log: str) -> None:
    for task in TASKS:
        assert f"heads.{task.name}.weight" in log and f"heads.{task.name}.bias" in log
    assert "classifier.weight" in log and "MISSING" in log and "UNEXPECTED" in log


FINE_TUNING = {
    "num_labels": {"num_labels": 5},
    "num_labels and ignore_mismatched_sizes": {"num_labels": 5, "ignore_mismatched_sizes": True},
    "as many classes as the old total": {"num_labels": 6, "ignore_mismatched_sizes": True},
    "id2label": {"id2label": OWN_ID2LABEL},
    "id2label, label2id and num_labels": {"num_labels": 3, "label2id": OWN_LABEL2ID, "id2label": OWN_ID2LABEL},
    "string keys": {"id2label": {str(i): label for i, label in OWN_ID2LABEL.items()}, "label2id": OWN_LABEL2ID},
}


@pytest.mark.parametrize("kwargs", FINE_TUNING.values(), ids=FINE_TUNING)
def test_label_arguments_of_from_pretrained_give_a_fresh_head_and_name_the_dropped_ones(folder, kwargs):
    model, log = log_of(AutoModelForImageClassification.from_pretrained, folder, **kwargs)
    assert_heads_are_reported_dropped(log)
    assert_fresh_head_learns(model, kwargs.get("num_labels", 3), folder)
    if "id2label" in kwargs:
        assert model.config.id2label == OWN_ID2LABEL and model.config.label2id == OWN_LABEL2ID


def test_a_config_with_label_maps_gives_a_fresh_head(folder):
    strings = {"label2id": {label: str(i) for label, i in OWN_LABEL2ID.items()}}
    strings["id2label"] = {str(i): label for i, label in OWN_ID2LABEL.items()}
    config = AutoConfig.from_pretrained(folder, num_labels=3, **strings)
    model, log = log_of(
        AutoModelForImageClassification.from_pretrained, folder, config=config, ignore_mismatched_sizes=True
    )
    assert_heads_are_reported_dropped(log)
    assert_fresh_head_learns(model, 3, folder)
    assert model.config.id2label == OWN_ID2LABEL


@pytest.mark.parametrize("num_labels", [3, 6])
def test_labels_set_on_the_config_with_string_keys_give_a_fresh_head(folder, num_labels):
    config = AutoConfig.from_pretrained(folder)
    config.id2label = {str(i): f"own {i}" for i in range(num_labels)}
    config.label2id = {f"own {i}": str(i) for i in range(num_labels)}
    model, log = log_of(AutoModelForImageClassification.from_pretrained, folder, config=config)
    assert_heads_are_reported_dropped(log)
    assert_fresh_head_learns(model, num_labels, folder)
    assert model.config.id2label == {i: f"own {i}" for i in range(num_labels)}


def test_a_problem_type_given_with_the_labels_trains_as_it_says(folder):
    model = AutoModelForImageClassification.from_pretrained(folder, problem_type=MULTI, id2label=OWN_ID2LABEL)
    labels = torch.tensor([[1.0, 0.0, float("nan")], [0.0, 1.0, 1.0]])
    assert model(torch.randn(2, 3, 32, 32), labels=labels).loss.isfinite()
    assert model.config.problem_type == MULTI


def test_a_fine_tuned_model_loads_again_as_it_was_saved(folder, tmp_path):
    model = AutoModelForImageClassification.from_pretrained(folder, id2label=OWN_ID2LABEL).eval()
    model.save_pretrained(tmp_path)
    loaded, log = log_of(AutoModelForImageClassification.from_pretrained, tmp_path)
    assert log == "" and loaded.config.id2label == OWN_ID2LABEL
    pixel_values = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(pixel_values).logits, model(pixel_values).logits)
    assert log_of(AutoModel.from_pretrained, tmp_path)[1] == ""


FINDINGS_6 = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, float("nan")])


@pytest.mark.parametrize(
    "kwargs, label, num_logits",
    [({"id2label": OWN_ID2LABEL}, torch.tensor(2), 3), ({}, FINDINGS_6, 6)],
    ids=["own classes", "all heads"],
)
def test_the_stock_trainer_writes_checkpoints_that_load_with_the_same_logits(
    folder, tmp_path, kwargs, label, num_logits
):
    model = AutoModelForImageClassification.from_pretrained(folder, **kwargs)
    data = [{"pixel_values": torch.randn(3, 32, 32), "labels": label} for _ in range(4)]
    predictions = []

    def compute_metrics(prediction) -> dict[str, float]:
        predictions.append(prediction.predictions)
        return {"seen": float(len(prediction.predictions))}

    trainer = Trainer(
        model,
        TrainingArguments(
            str(tmp_path),
            max_steps=2,
            save_steps=2,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=data,
        eval_dataset=data,
        processing_class=AutoImageProcessor.from_pretrained(folder),
        compute_metrics=compute_metrics,
    )
    before = model.ark.projector.weight.detach().clone()
    trainer.train()
    assert not torch.equal(model.ark.projector.weight, before)

    metrics = trainer.evaluate()
    assert metrics["eval_seen"] == 4 and np.isfinite(metrics["eval_loss"])
    assert isinstance(predictions[0], np.ndarray) and predictions[0].shape == (4, num_logits)

    checkpoint = tmp_path / "checkpoint-2"
    assert CODE_FILES < {file.name for file in checkpoint.iterdir()}
    loaded = AutoModelForImageClassification.from_pretrained(checkpoint)
    assert loaded.config.id2label == model.config.id2label and loaded.config.tasks == model.config.tasks
    pixel_values = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(pixel_values).logits, model.eval()(pixel_values).logits)
    assert AutoImageProcessor.from_pretrained(checkpoint).to_dict() == trainer.processing_class.to_dict()

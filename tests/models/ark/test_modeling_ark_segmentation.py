"""The segmenter: its loss, the encoder that it takes over, label maps, the stock idioms, and what is refused."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    Trainer,
    TrainingArguments,
    pipeline,
    set_seed,
)

pytest.importorskip("segmentation_models_pytorch")

from ark_hf import (
    ArkConfig,
    ArkForImageClassification,
    ArkForSemanticSegmentation,
    ArkImageProcessor,
    ArkTask,
    SegmentationTask,
    segmentation_loss,
)
from ark_hf.models.ark.modeling_ark_segmentation import ArkSemanticSegmenterOutput

ORGANS = SegmentationTask("organs", ["lungs", "heart"])
LESIONS = SegmentationTask("lesions", ["lungs", "nodule"], overlapping=True, thresholds={"nodule": 0.2})
TINY = {
    "backbone": "swin_tiny_patch4_window7_224",
    "backbone_kwargs": {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
    "image_size": 32,
    "projector_dim": 12,
    "decoder_channels": 16,
}
SIZE = {"height": 32, "width": 32}


def segmenter(**changes) -> ArkForSemanticSegmentation:
    set_seed(0)
    return ArkForSemanticSegmentation(ArkConfig(**{**TINY, "segmentation": ORGANS, **changes})).eval()


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory):
    set_seed(1)
    folder = tmp_path_factory.mktemp("ark-cxr")
    tasks = [ArkTask("vindr", ["Tuberculosis", "Nodule"]), ArkTask("tb", ["Tuberculosis"])]
    ArkForImageClassification(ArkConfig(**TINY, tasks=tasks)).save_pretrained(folder)
    ArkImageProcessor(size=SIZE).save_pretrained(folder)
    return folder


def encoder_of(model) -> dict[str, torch.Tensor]:
    return getattr(model, "ark", model).state_dict()


def assert_same_encoder(model, other) -> None:
    ours, theirs = encoder_of(model), encoder_of(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# The loss


def test_loss_of_exclusive_classes_by_hand():
    logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 1.0]]]])  # background and one label, two pixels
    labels = torch.tensor([[[0, 1]]])
    p = torch.tensor([1 / (1 + np.e**2), 1 / (1 + np.e**-1)])  # of the label
    entropy = -(torch.log(1 - p[0]) + torch.log(p[1])) / 2
    dice = 1 - (2 * p[1] + 1) / (p.sum() + 1 + 1)
    torch.testing.assert_close(segmentation_loss(logits, labels), (entropy + dice).float())
    torch.testing.assert_close(segmentation_loss(logits, labels, dice=0), entropy.float())
    torch.testing.assert_close(segmentation_loss(logits, labels, cross_entropy=0), dice.float())


def test_loss_of_overlapping_labels_by_hand():
    logits = torch.tensor([[[[3.0, -1.0]], [[0.5, 0.5]]]])
    labels = torch.tensor([[[[1.0, 0.0]], [[1.0, 1.0]]]])
    p = logits.sigmoid()
    entropy = F.binary_cross_entropy(p, labels)
    lungs = (2 * p[0, 0, 0, 0] + 1) / (p[0, 0].sum() + 1 + 1)
    heart = (2 * p[0, 1].sum() + 1) / (p[0, 1].sum() + 2 + 1)
    torch.testing.assert_close(segmentation_loss(logits, labels), entropy + 1 - (lungs + heart) / 2)


@pytest.mark.parametrize("overlapping", [False, True])
def test_unknown_pixels_and_images_do_not_count(overlapping):
    set_seed(0)
    logits = torch.randn(3, 2, 6, 6)
    labels = torch.randint(0, 2, (3, 2, 6, 6)).float() if overlapping else torch.randint(0, 2, (3, 6, 6))
    unknown = float("nan") if overlapping else 255
    labels[1] = unknown
    labels[0, ..., 3:] = unknown
    labels[2, ..., 3:] = unknown
    known = segmentation_loss(logits[[0, 2], ..., :3], labels[[0, 2], ..., :3])
    torch.testing.assert_close(segmentation_loss(logits, labels), known)
    changed = logits.clone()
    changed[1] += 5
    changed[..., 3:] -= 3
    torch.testing.assert_close(segmentation_loss(changed, labels), known)


@pytest.mark.parametrize("labels", [torch.full((2, 4, 4), 255), torch.full((2, 2, 4, 4), float("nan"))])
def test_nothing_known_gives_zero_with_a_graph(labels):
    logits = torch.randn(2, 2, 4, 4, requires_grad=True)
    loss = segmentation_loss(logits, labels)
    loss.backward()
    assert loss == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


def test_an_absent_structure_asks_for_no_probability():
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    sure, unsure = (torch.tensor([0.0, z]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4) for z in (-9, 0))
    assert segmentation_loss(sure, labels) < 0.01 < segmentation_loss(unsure, labels)


@pytest.mark.parametrize(
    "labels",
    [torch.zeros(2, 3, 4, 4), torch.zeros(2, 2, 4, 4, dtype=torch.long), torch.zeros(1, 4, 4, dtype=torch.long)],
)
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ValueError, match="Segmentation takes labels"):
        segmentation_loss(torch.zeros(2, 2, 4, 4), labels)


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (3, torch.long, "with 3 classes are 0 to 2, 255 unknown; got 3"),
        (-1, torch.long, "got -1"),
        (1.5, torch.float, "with 3 classes lie in .0, 1., NaN unknown; got 1.5"),
        (255.0, torch.float, "got 255.0"),
    ],
)
def test_values_that_name_no_class_are_refused(value, dtype, message):
    labels = torch.zeros((1, 3, 8, 8) if dtype is torch.float else (1, 8, 8), dtype=dtype)
    labels[..., 2, 2] = value
    with pytest.raises(ValueError, match=message):
        segmentation_loss(torch.zeros(1, 3, 4, 4), labels)


def test_labels_of_the_other_kind_are_refused():
    with pytest.raises(ValueError, match="'organs' are integers"):
        segmenter()(torch.zeros(2, 3, 32, 32), labels=torch.zeros(2, 3, 32, 32))


# What it starts from


@pytest.mark.parametrize("arguments", [{"num_labels": 3}, {"id2label": {0: "background", 1: "lungs", 2: "heart"}}])
def test_the_stock_idioms_take_the_encoder_and_make_a_decoder(classifier_folder, arguments):
    model = AutoModelForSemanticSegmentation.from_pretrained(classifier_folder, **arguments)
    assert isinstance(model, ArkForSemanticSegmentation)
    assert (model.config.tasks, model.config.num_labels, model.segmentation_head.out_channels) == (None, 3, 3)
    assert_same_encoder(model, AutoModelForImageClassification.from_pretrained(classifier_folder))


def test_a_named_segmentation_drops_the_heads_and_names_them(classifier_folder, caplog):
    model = ArkForSemanticSegmentation.from_pretrained(classifier_folder, segmentation=LESIONS)
    assert (model.config.tasks, model.config.segmentation) == (None, LESIONS)
    assert model.config.id2label == {0: "background", 1: "lungs", 2: "nodule"}
    assert model.segmentation_head.out_channels == 2
    ArkForSemanticSegmentation.from_pretrained(classifier_folder)
    assert "heads of tasks ['vindr', 'tb'] are dropped" in caplog.text


def test_it_is_saved_with_its_code_and_any_class_takes_the_encoder_back(tmp_path):
    model = segmenter(decoder_type="upernet", segmentation=LESIONS)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["segmentation"] == LESIONS.to_dict() and config.get("tasks") is None
    assert (tmp_path / "modeling_ark_segmentation.py").exists()
    again = AutoModelForSemanticSegmentation.from_pretrained(tmp_path).eval()
    pixels = torch.randn(1, 3, 32, 32)
    assert again.config.segmentation == LESIONS
    torch.testing.assert_close(again(pixels).logits, model(pixels).logits, rtol=0, atol=1e-6)
    assert_same_encoder(AutoModel.from_pretrained(tmp_path), model)
    with pytest.raises(ValueError, match="AutoModelForSemanticSegmentation"):
        AutoModelForImageClassification.from_pretrained(tmp_path)
    classifier = AutoModelForImageClassification.from_pretrained(tmp_path, tasks=[ArkTask("tb", ["Tuberculosis"])])
    assert classifier.config.segmentation is None and classifier.config.id2label == {0: "Tuberculosis"}
    assert_same_encoder(classifier, model)


@pytest.mark.parametrize("decoder", ["upernet", "fpn"])
@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_other_pyramids(backbone, decoder):
    changes = {"backbone": backbone, "backbone_kwargs": None, "image_size": 64, "decoder_channels": 32}
    outputs = segmenter(**changes, decoder_type=decoder)(torch.randn(1, 3, 64, 64))
    assert outputs.logits.shape == (1, 3, 16, 16)


def test_an_encoder_without_a_pyramid_and_a_width_that_does_not_divide_are_refused():
    with pytest.raises(ValueError, match="use a Swin"):
        segmenter(backbone="test_vit", backbone_kwargs=None, image_size=160)
    with pytest.raises(ValueError, match="multiple of 32"):
        changes = {"backbone": "test_resnet", "backbone_kwargs": None, "image_size": 64}
        segmenter(**changes, decoder_type="fpn", decoder_channels=20)


def test_a_batch_of_one_trains():
    model = segmenter().train()
    pixels, labels = torch.randn(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.long)
    pooled = model.decoder.psp.blocks[0][1][1]
    before = pooled.running_mean.clone()
    model(pixels, labels=labels).loss.backward()
    assert torch.equal(pooled.running_mean, before)
    model(pixels.expand(2, -1, -1, -1), labels=labels.expand(2, -1, -1)).loss.backward()
    assert not torch.equal(pooled.running_mean, before)


# Label maps


def test_maps_of_exclusive_classes():
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, -1.0, -1.0]]).T[None, :, None, :]  # (1, 3, 1, 2)
    processor, outputs = ArkImageProcessor(), ArkSemanticSegmenterOutput(logits=logits)
    assert [each.tolist() for each in processor.post_process_semantic_segmentation(outputs)] == [[[1, 0]]]
    enlarged = processor.post_process_semantic_segmentation(outputs, [(2, 4)])[0]
    assert enlarged.shape == (2, 4) and enlarged[:, 0].tolist() == [1, 1] and enlarged[:, -1].tolist() == [0, 0]
    with pytest.raises(ValueError, match="2 for 1"):
        processor.post_process_semantic_segmentation(outputs, [(2, 4)] * 2)


def test_maps_of_overlapping_labels_show_the_largest_margin_over_the_threshold():
    model = segmenter(segmentation=LESIONS)
    cutoffs = model(torch.zeros(1, 3, 32, 32)).cutoffs
    torch.testing.assert_close(cutoffs, torch.tensor([[0.5, 0.2]]).logit())
    #                lungs alone | both, the nodule by more | neither | the nodule by its own threshold
    logits = torch.tensor([[1.0, 1.0, -1.0, -2.0], [-2.0, 0.9, -2.0, -1.0]])[None, :, None]
    outputs = ArkSemanticSegmenterOutput(logits=logits, cutoffs=cutoffs)
    assert ArkImageProcessor().post_process_semantic_segmentation(outputs)[0].tolist() == [[1, 2, 0, 2]]


@pytest.mark.parametrize("task", [ORGANS, LESIONS], ids=lambda task: task.name)
def test_the_stock_pipeline_names_what_it_shows(tmp_path, task):
    model = segmenter(segmentation=task)
    with torch.no_grad():
        model.segmentation_head.weight.mul_(20)
    model.save_pretrained(tmp_path)
    processor = ArkImageProcessor(size=SIZE)
    processor.save_pretrained(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 40), dtype=np.uint8))
    with torch.no_grad():
        outputs = model(processor(image, return_tensors="pt").pixel_values)
    expected = processor.post_process_semantic_segmentation(outputs, [(50, 40)])[0].numpy()
    shown = pipeline("image-segmentation", model=str(tmp_path))(image)
    assert {each["label"] for each in shown} == {model.config.id2label[value] for value in np.unique(expected)}
    for each in shown:
        np.testing.assert_array_equal(np.asarray(each["mask"]) > 0, expected == model.config.label2id[each["label"]])


def test_the_stock_trainer_learns(tmp_path, classifier_folder):
    set_seed(0)
    model = AutoModelForSemanticSegmentation.from_pretrained(classifier_folder, num_labels=2)
    generator = torch.Generator().manual_seed(0)
    labels = (F.interpolate(torch.randn(8, 1, 4, 4, generator=generator), size=32) > 0).long()[:, 0]
    pixels = labels[:, None].float().expand(-1, 3, -1, -1) + 0.1 * torch.randn(8, 3, 32, 32, generator=generator)
    samples = [{"pixel_values": each, "labels": label} for each, label in zip(pixels, labels, strict=True)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=40,
        learning_rate=3e-3,
        per_device_train_batch_size=4,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = Trainer(model, arguments, train_dataset=samples, eval_dataset=samples)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before / 3


# Without the library


WITHOUT_THE_LIBRARY = """
import sys
sys.modules["segmentation_models_pytorch"] = None
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForSemanticSegmentation
trusted = {"trust_remote_code": True}
AutoModel.from_pretrained(sys.argv[1], **trusted)
AutoModelForImageClassification.from_pretrained(sys.argv[1], **trusted)
assert "ark_hf" not in sys.modules
try:
    AutoModelForSemanticSegmentation.from_pretrained(sys.argv[1], num_labels=2, **trusted)
except ImportError as error:
    assert 'pip install "ark-hf[segmentation]"' in str(error), error
else:
    raise AssertionError("a segmenter without its decoder")
del sys.modules["segmentation_models_pytorch"]
model = AutoModelForSemanticSegmentation.from_pretrained(sys.argv[1], num_labels=2, **trusted)
model.save_pretrained(sys.argv[2])
"""


@pytest.mark.slow_ci
def test_remote_code_needs_the_library_for_segmenters_alone(classifier_folder, tmp_path):
    words = [sys.executable, "-c", WITHOUT_THE_LIBRARY, str(classifier_folder), str(tmp_path / "saved")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=_environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert_same_encoder(
        ArkForSemanticSegmentation.from_pretrained(tmp_path / "saved"),
        ArkForImageClassification.from_pretrained(classifier_folder),
    )


def _environment(folder) -> dict[str, str]:
    return {**os.environ, "HF_MODULES_CACHE": str(folder / "modules"), "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}

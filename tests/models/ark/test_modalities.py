"""One model for images of several modalities: its processor's settings for each, and heads that are not asked."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from ark_hf.models.ark.image_processing_ark import ArkImageProcessor, ArkImageProcessorPil
from ark_hf.models.ark.tasks_ark import MODALITIES
from tests.models.ark.several_modalities import (
    CHEST,
    EYE,
    OF_CHESTS,
    OF_EYES,
    SETTINGS,
    SIZE,
    model_of_both,
    processor_of_both,
    save_both,
)

BOTH_BACKENDS = pytest.mark.parametrize("kind", [ArkImageProcessor, ArkImageProcessorPil])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_both(tmp_path_factory.mktemp("several") / "ark-cxr")


# The image processor -------------------------------------------------------------------------------------------------


@BOTH_BACKENDS
def test_each_modality_is_prepared_by_its_own_settings(kind):
    processor = processor_of_both(kind)
    assert processor.all_modalities == ["CR", "OP"]
    for modality, plain in {"CR": kind(size=SIZE), "OP": kind(size=SIZE, **SETTINGS["OP"])}.items():
        expected = plain(EYE, return_tensors="pt")["pixel_values"]
        for given in (processor(EYE, modality=modality, return_tensors="pt"), processor.of(modality)(
            EYE, return_tensors="pt")):  # fmt: skip
            torch.testing.assert_close(given["pixel_values"], expected, rtol=0, atol=0)
    torch.testing.assert_close(
        processor(EYE, return_tensors="pt")["pixel_values"],
        processor(EYE, modality="CR", return_tensors="pt")["pixel_values"],
    )


@BOTH_BACKENDS
def test_its_output_says_of_which_modality_the_pixels_are(kind):
    processor = processor_of_both(kind)
    told = processor([EYE, EYE], modality="OP", return_tensors="pt")["modality"]
    assert told.dtype == torch.int64 and told.tolist() == [MODALITIES.index("OP")] * 2
    assert processor(CHEST)["modality"] == [MODALITIES.index("CR")]
    assert set(kind(size=SIZE)(CHEST)) == set(processor.of("OP")(EYE)) == {"pixel_values"}


def test_what_the_caller_says_comes_before_the_modality_s_settings():
    given = processor_of_both()(EYE, modality="OP", image_mean=[0.0] * 3, return_tensors="pt")["pixel_values"]
    expected = ArkImageProcessor(size=SIZE, image_mean=[0.0] * 3)(EYE, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(given, expected, rtol=0, atol=0)


def test_its_file_holds_the_settings_and_a_plain_one_s_none(folder, tmp_path):
    loaded = AutoImageProcessor.from_pretrained(folder)
    assert (loaded.modality, loaded.modalities) == ("CR", SETTINGS)
    ArkImageProcessor(size=SIZE).save_pretrained(tmp_path)
    assert not {"modality", "modalities"} & set(json.loads((tmp_path / "preprocessor_config.json").read_text()))
    eyes = AutoImageProcessor.from_pretrained(folder, modality="CT", modalities={"OP": {}})
    assert eyes.all_modalities == ["CT", "OP"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modalities": {"EYE": {}}}, "modalities: 'EYE' is unknown; use DICOM's code"),
        ({"modalities": {"CR": {}}}, "modalities: CR is the default one already"),
        ({"modalities": {"OP": {"size": 64}}}, r"modalities: OP sets \['size'\]; what may be another for each is"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ArkImageProcessor(**settings)


def test_a_modality_that_it_lacks_is_refused():
    with pytest.raises(ValueError, match="for images of modality CR and OP, not MG"):
        processor_of_both()(EYE, modality="MG")
    assert processor_of_both().of("MG").modality == "MG"  # for an encoder, which has no heads to be wrong


# The model -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_heads_of_another_modality_are_not_asked():
    model, pixels = model_of_both(), processor_of_both().of("OP")([EYE, CHEST], return_tensors="pt")["pixel_values"]
    everything = model(pixels).logits
    for modality, own in {"CR": OF_CHESTS, "OP": OF_EYES}.items():
        for told in (modality, torch.tensor([MODALITIES.index(modality)] * 2)):
            logits = model(pixels, modality=told).logits
            others = [column for column in range(7) if column not in own]
            torch.testing.assert_close(logits[:, own], everything[:, own], rtol=0, atol=0)
            assert (logits[:, others] == -torch.inf).all()
    mixed = model(pixels, modality=torch.tensor([MODALITIES.index("OP"), MODALITIES.index("CR")])).logits
    assert torch.isfinite(mixed[0]).nonzero().flatten().tolist() == OF_EYES
    assert torch.isfinite(mixed[1]).nonzero().flatten().tolist() == OF_CHESTS


@torch.no_grad()
def test_a_head_that_is_named_and_the_loss_are_as_ever():
    model, pixels = model_of_both(), processor_of_both()(CHEST, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(model(pixels, task="eye", modality="CR").logits, model(pixels, task="eye").logits)
    labels = torch.tensor([[1.0, 0, np.nan, np.nan, 0, 1, 0]])
    told = model(pixels, labels=labels, modality="CR")
    assert torch.isfinite(told.loss) and told.loss == model(pixels, labels=labels).loss
    with pytest.raises(ValueError, match=r"no head for images of modality 'MG'; it has some of \['CR', 'OP'\]"):
        model(pixels, modality="MG")


@torch.no_grad()
def test_the_stock_pipeline_answers_with_the_heads_of_the_picture_s_modality(folder):
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    for modality, picture, own in (("CR", CHEST, OF_CHESTS), ("OP", EYE, OF_EYES)):
        processor = AutoImageProcessor.from_pretrained(folder)
        if modality != processor.modality:
            processor = processor.of(modality)
            processor.modalities = {"CR": {}}
        pipe = pipeline("image-classification", model=str(folder), image_processor=processor)
        pixels = processor(picture, return_tensors="pt")["pixel_values"]
        expected = model(pixels).logits[0].sigmoid()
        for answers in (pipe(picture, top_k=7), pipe([picture, picture], top_k=7, batch_size=2)[1]):
            scores = {each["label"]: each["score"] for each in answers}
            for column, label in model.config.id2label.items():
                assert scores[label] == pytest.approx(expected[column].item() if column in own else 0, abs=1e-6)
            assert {each["label"] for each in answers[: len(own)]} == {model.config.id2label[each] for each in own}

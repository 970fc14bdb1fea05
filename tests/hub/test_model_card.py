"""The card: everything in it comes from the model's files and its report."""

import json

import pytest
import torch
from huggingface_hub import ModelCard

import ark_hf  # noqa: F401  (its code travels with what is saved)
from ark_hf.evaluation.report.task_report import report_task
from ark_hf.hub.model_card import model_card
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification, ArkModel
from ark_hf.provenance import write_provenance
from tests.metrics.made_scores import PATIENT, made_scores

CLINIC = ArkTask("clinic", ["Mass | <b>", "Edema"], thresholds={"Edema": 0.3})
SPLIT = {"rows": 12, "patients": 7, "labels": {"Edema": {"positive": 4, "negative": 8, "uncertain": 0, "unknown": 0}}}


def data(name, **facts):
    return {"task": "clinic", "dataset": name, "uncertain": "ignore", "splits": {"train": SPLIT}, **facts}


def save(folder, kind=ArkForImageClassification, **settings):
    torch.manual_seed(0)
    config = ArkConfig(backbone="test_resnet", image_size=32, projector_dim=None, **settings)
    kind(config).save_pretrained(folder)
    ArkImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "ark-cxr", tasks=[CLINIC])


def text_of(folder, *args, **settings) -> str:
    card = model_card(folder, "someone/ark-cxr", *args, **settings)
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    return card.text


def test_of_unknown_weights_it_says_that_nothing_is_known(folder):
    card = model_card(folder, "someone/ark-cxr")
    assert card.data.license_name == "unknown" and "neither data nor settings are known" in card.text
    assert "original authors" not in card.text and "was not measured" in card.text


def test_names_stay_text(folder):
    report = report_task(*made_scores(CLINIC)[:2], 10, groups=made_scores(CLINIC)[2])
    text = text_of(folder, {"figures/a.png": report})
    assert "<b>" not in text and "| Mass \\| &lt;b&gt; |" in text and "Mass \\| &lt;b&gt;, Edema |" in text
    assert "![AUROC of each label" in text and "(figures/a.png)" in text
    assert PATIENT not in text and "/somewhere" not in text


def test_it_says_which_tasks_were_not_tested_and_have_operating_points(tmp_path):
    folder = save(tmp_path / "two", tasks=[CLINIC, ArkTask("wards", ["x"])])
    report = report_task(*made_scores(CLINIC)[:2], 10, groups={})
    text = text_of(folder, {"a.png": report})
    assert "**Not tested here**: `wards`." in text and "Operating points are saved for: `clinic`." in text
    plain = text_of(save(tmp_path / "plain", tasks=[ArkTask("wards", ["x"])]))
    assert "Not tested here" not in plain and "No operating points are saved" in plain


def test_results_of_crops_are_called_that(folder):
    report = report_task(*made_scores(CLINIC)[:2], 10, groups={})
    assert "`--crops ten`" in text_of(folder, {"a.png": report}, crops="ten")
    assert "--crops" not in text_of(folder, {"a.png": report})


def test_the_view_is_the_processors(folder):
    assert "It takes the whole radiograph, resized to 32 x 32 pixels." in text_of(folder)
    processor = ArkImageProcessor(
        size={"height": 40, "width": 40}, do_center_crop=True, crop_size={"height": 32, "width": 32}
    )
    processor.save_pretrained(folder)
    assert "It takes the centre of 32 x 32 pixels of the radiograph, resized to 40 x 40." in text_of(folder)


def test_an_ordinary_classifier_and_an_encoder(tmp_path):
    plain = text_of(save(tmp_path / "plain", id2label={1: "sick", 0: "well"}))
    assert "| `classifier` | one class per image | well, sick |" in plain
    encoder = model_card(save(tmp_path / "encoder", ArkModel), "someone/encoder")
    assert encoder.data.pipeline_tag == "image-feature-extraction" and "## Labels" not in encoder.text
    assert 'AutoModel.from_pretrained("someone/encoder")' in encoder.text
    assert "AutoModelForImageClassification" not in encoder.text


def pretrained(**facts):
    return {"kind": "pretraining", "cycle": 3, **facts}


def test_the_data_of_what_it_started_from_are_told_too(folder):
    first = pretrained(start="none", data=[data("someone/nih", title="NIH", license="other", access="Ask | them.",
                                                citation="@misc{nih}")])  # fmt: skip
    facts = {"head": "fresh", "train_images": 10, "steps": 5, "best_step": 4, "seed": 1, "start": "someone/teacher"}
    write_provenance(folder, "fine-tuning", {**facts, "data": [data("mine")], "start_provenance": first})
    card = model_card(folder, "someone/tuned")
    assert card.data.base_model == "someone/teacher" and card.data.datasets == ["someone/nih"]
    before, after = card.text.split("<summary>Before that")
    assert "Trained on 10 images for 5 steps, seed 1; weights of step 4" in before and "| mine |" in before
    assert "| NIH | see below | 12 | 7 |" in after and "NIH: Ask \\| them." in after and "@misc{nih}" in after


def peac(**facts):
    losses = {"order": 2.512345, "restoration": 0.25, "global": 0.0000123, "local": None, "total": 3.99}
    films = {"task": "films", "dataset": "someone/films", "splits": {"train": SPLIT, "validation": SPLIT}}
    settings = {"method": "peac", "epochs": 12}
    return {"method": "peac", "epoch": 12, "settings": settings, "data": [films], "validation": losses, **facts}


def test_a_peac_model_says_what_it_learned_without_labels(tmp_path):
    encoder = save(tmp_path / "encoder", ArkModel)
    write_provenance(encoder, "self-supervision", peac(start="none"))
    card = model_card(encoder, "someone/peac")
    assert card.data.pipeline_tag == "image-feature-extraction" and card.data.datasets == ["someone/films"]
    assert {"peac", "self-supervised"} <= set(card.data.tags) and card.data.eval_results is None
    text = text_of(encoder)
    assert "without a look at labels. It learned by PEAC (patch embedding of anatomical consistency)" in text
    assert "Weights of the end of epoch 12 of PEAC, without labels. Validation losses: order 2.51, " in text
    assert (
        "restoration 0.25, global 1.23e-05, total 3.99." in text and "local" not in text.split("Validation losses")[1]
    )
    assert "| `films` | someone/films | not stated | 12 | 7 | 12 |\n" in text and "Labels of the training" not in text
    assert "uncertain" not in text and "AUROC" not in text and "epochs: 12" in text
    assert "zhou2023learning" in text and "ma2023foundation" not in text
    assert "ark-hf finetune someone/ark-cxr DATASET" in text and "pooler_output" in text
    assert "image-classification" not in text


def test_without_validation_no_losses_are_told(tmp_path):
    encoder = save(tmp_path / "encoder", ArkModel)
    write_provenance(encoder, "self-supervision", peac(validation=None))
    assert "of PEAC, without labels. Training data:" in text_of(encoder)


def test_what_started_from_peac_names_it(folder):
    facts = {"head": "fresh", "train_images": 10, "steps": 5, "best_step": 4, "seed": 1, "start": "someone/peac"}
    write_provenance(
        folder,
        "fine-tuning",
        {**facts, "data": [data("mine")], "start_provenance": {"kind": "self-supervision", **peac()}},
    )
    card = model_card(folder, "someone/tuned")
    now, before = card.text.split("<summary>Before that")
    assert "PEAC" not in now and "Started from: `someone/peac`." in now and "clinic" in now
    assert "epoch 12 of PEAC" in before and "zhou2023learning" in before and "ma2023foundation" not in before
    assert card.data.pipeline_tag == "image-classification" and "peac" in card.data.tags
    write_provenance(
        folder, "pretraining", pretrained(start="x", start_provenance={"kind": "self-supervision", **peac()})
    )
    assert text_of(folder).index("ma2023foundation") < text_of(folder).index("zhou2023learning")


def test_a_converted_peac_checkpoint_says_so(tmp_path):
    encoder = save(tmp_path / "encoder", ArkModel)
    write_provenance(encoder, "conversion", {"source": "peac.pth", "summary": "heads: kept", "method": "peac"})
    text = text_of(encoder)
    assert (
        "original authors'. It learned by PEAC (patch" in text and "zhou2023learning" in text and "heads: kept" in text
    )
    write_provenance(encoder, "conversion", {"source": "ark.pth", "summary": "heads: kept"})
    assert "learned by PEAC" not in text_of(encoder) and "ma2023foundation" in text_of(encoder)


@pytest.mark.parametrize(
    ("facts", "only_phantoms"),
    [
        ({"start": "none", "data": [data("a", phantom=True)]}, True),
        ({"start": "none", "data": [data("a", phantom=True), data("b")]}, False),
        ({"start": "imagenet", "data": [data("a", phantom=True)]}, False),
        ({"start": "someone/teacher", "data": [data("a", phantom=True)]}, False),
        ({"start": "x", "data": [data("a", phantom=True)],
          "start_provenance": pretrained(start="none", data=[data("b", phantom=True)])}, True),
        ({"start": "x", "data": [data("a", phantom=True)],
          "start_provenance": pretrained(start="none", data=[data("b")])}, False),
    ],
)  # fmt: skip
def test_what_knows_phantoms_alone_says_so(folder, facts, only_phantoms):
    write_provenance(folder, "pretraining", {"cycle": 3, **facts})
    assert ("trained on drawn phantoms alone" in text_of(folder)) == only_phantoms


def test_validation_alone_is_no_training_data(folder):
    validated = {**data("someone/kept"), "splits": {"validation": SPLIT}}
    write_provenance(folder, "pretraining", {"cycle": 3, "data": [data("someone/learned"), validated]})
    card = model_card(folder, "someone/ark-cxr")
    assert card.data.datasets == ["someone/learned"] and "| not trained on | unknown | 12 |" in card.text


def test_it_names_the_last_and_the_best_teacher(tmp_path):
    encoder = save(tmp_path / "encoder", ArkModel)
    write_provenance(encoder, "self-supervision", peac(best={"epoch": 7, "total": 3.9}))
    told = "total 3.99. Validation loss of the last teacher, of epoch 12: 3.9900; of the best, of epoch 7: 3.9000; "
    assert f"{told}difference +0.0900." in text_of(encoder)
    write_provenance(encoder, "self-supervision", peac(epoch=7, last={"epoch": 12, "total": 5.9}))
    assert "epoch 12: 5.9000; of the best, of epoch 7: 3.9900; difference +1.9100, which is clearly worse." in text_of(
        encoder
    )


def test_time_that_was_not_counted_is_not_claimed(folder):
    compute = {"device": "CPU, 2 cores", "num_processes": 1, "precision": "no", "seconds": 5400.0}
    write_provenance(folder, "pretraining", {"cycle": 3, "compute": compute})
    assert "Compute: 1.5 hours on 1 x CPU, 2 cores, float32." in text_of(folder)
    write_provenance(folder, "pretraining", {"cycle": 3, "compute": {**compute, "seconds": None}})
    assert "Compute: a time not counted, as it was resumed, on 1 x CPU" in text_of(folder)


def test_a_card_of_damaged_facts_names_the_file(folder):
    (folder / "provenance.json").write_text(json.dumps({"kind": "pretraining"}))
    with pytest.raises(ValueError, match=r"provenance.json lacks \['cycle'\]"):
        model_card(folder, "someone/ark-cxr")

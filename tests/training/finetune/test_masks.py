"""Fine-tuning on masks: what it starts from, learns by, keeps, resumes and refuses."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from ark_hf import (
    ArkConfig,
    ArkForImageClassification,
    ArkForSemanticSegmentation,
    ArkImageProcessor,
    ArkTask,
    SegmentationTask,
)
from ark_hf.evaluation.mask_scoring import score_masks
from ark_hf.inference.load import load_ark
from ark_hf.metrics.overlap import dice
from ark_hf.provenance import read_provenance
from ark_hf.training.finetune.arguments import FinetuningArguments
from ark_hf.training.finetune.data import check_batches, choose_training_rows, load_finetuning_data
from ark_hf.training.finetune.layerwise import parameter_groups
from ark_hf.training.finetune.run import finetune, initial_model
from ark_hf.training.finetune.segmentation import MaskCounts, MaskLoss, MeanDice
from ark_hf.training.finetune.trainer import create_trainer

from ..conftest import TINY
from .test_run import weights

SHAPE = {key: TINY[key] for key in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}
FAST = {**SHAPE, "batch_size": 4, "epochs": 2, "bootstrap": 20, "decoder_channels": 32, "learning_rate": 3e-3}


def arguments(folder, **changes) -> FinetuningArguments:
    return FinetuningArguments(output_dir=str(folder), **(FAST | changes))


@pytest.fixture(scope="module")
def organs(phantom_masks):
    return load_finetuning_data(str(phantom_masks["phantom_organs"]), arguments("runs/x"))


@pytest.fixture(scope="module")
def findings(phantom_masks):
    return load_finetuning_data(str(phantom_masks["phantom_findings"]), arguments("runs/x"))


@pytest.fixture(scope="module")
def finished(organs, tmp_path_factory):
    """The folder and the results of a run; tests only read them. Its last batch of an epoch has one image."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, finetune("none", "organs", arguments(folder), organs)


def test_the_best_validation_is_kept_and_the_test_split_scored(finished, organs):
    folder, results = finished
    (seed,) = results["seeds"]
    assert [entry["step"] for entry in seed["history"]] == [3, 6]
    model, processor = load_ark(str(folder / "seed-0" / "ark-cxr"))
    assert isinstance(model, ArkForSemanticSegmentation)
    assert model.config.segmentation == organs.task
    scored = score_masks(model, processor, organs, "validation")
    assert seed["validation"]["mean_dice"] == pytest.approx(np.nanmean(np.nanmean(scored.dice, axis=0)))
    assert results["test"]["mean"] == pytest.approx(seed["test"]["dice"][-1]["mean"])
    assert [each["label"] for each in seed["test"]["prior_dice"]] == ["lungs", "heart", "mean"]
    report = json.loads((folder / "seed-0" / "report" / "report.json").read_text())
    assert report["kind"] == "segmentation"
    assert report["tasks"][0]["dice"] == seed["test"]["dice"]
    origin = read_provenance(folder / "seed-0" / "ark-cxr")
    assert origin["validation"]["dice"].keys() == {"lungs", "heart"}
    stored = np.load(folder / "seed-0" / "test_predictions.npz")
    assert stored["dice"].shape == (6, 2)


def test_the_same_command_adds_the_test_and_resumes_bitwise(finished, organs, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    count, validations = MaskCounts.__call__, iter("live")

    def die(*args):
        if next(validations) == "v":  # two batches each
            raise Killed
        return count(*args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("ark_hf.training.finetune.trainer.MaskCounts.__call__", die)  # in the second validation
        finetune("none", "organs", arguments(tmp_path / "run", test=False, eval_batch_size=3), organs)
    finetune("none", "organs", arguments(tmp_path / "run", test=False), organs)
    ours, theirs = weights(tmp_path / "run" / "seed-0"), weights(finished[0] / "seed-0")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    results = finetune("none", "organs", arguments(tmp_path / "run"), organs)
    assert results["seeds"][0]["test"] == finished[1]["seeds"][0]["test"]


@pytest.mark.parametrize("kind", [ArkForImageClassification, ArkForSemanticSegmentation])
def test_the_encoder_of_what_it_starts_from_is_kept_bitwise(kind, tmp_path, organs):
    shape = {**SHAPE, "decoder_channels": 32}
    task = {"tasks": [ArkTask("city", ["Effusion"])]} if kind is ArkForImageClassification else {}
    task = task or {"segmentation": SegmentationTask("other", organs.task.labels)}
    torch.manual_seed(3)
    start = kind(ArkConfig(**shape, **task))
    start.save_pretrained(tmp_path / "start")
    ArkImageProcessor(size=32, do_center_crop=True, crop_size=28).save_pretrained(tmp_path / "start")
    for new_head in (False, True):
        model, processor = initial_model(str(tmp_path / "start"), organs.task, arguments("x", new_head=new_head), 0)
        assert model.config.segmentation == organs.task and model.config.tasks is None
        assert not processor.do_center_crop and processor.size == {"height": 32, "width": 32}
        mine, theirs = model.state_dict(), start.state_dict()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs if name.startswith("ark."))
        goes_on = kind is ArkForSemanticSegmentation and not new_head
        name = "segmentation_head.weight"
        assert goes_on == (name in theirs and torch.equal(mine[name], theirs[name]))


def test_a_segmenter_goes_on_with_the_decoder_that_it_has(tmp_path, organs):
    config = ArkConfig(**SHAPE, segmentation=organs.task, decoder_type="fpn", decoder_channels=64)
    start = ArkForSemanticSegmentation(config)
    start.save_pretrained(tmp_path)
    ArkImageProcessor(size=32).save_pretrained(tmp_path)
    model, _ = initial_model(str(tmp_path), organs.task, arguments("x", decoder_channels=256), 0)
    assert (model.config.decoder_type, model.config.decoder_channels) == ("fpn", 64)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in start.state_dict().items())
    with pytest.raises(ValueError, match="has decoder_channels 64, not 32, and keeps it: .* or set new_head"):
        initial_model(str(tmp_path), organs.task, arguments("x"), 0)
    fresh, _ = initial_model(str(tmp_path), organs.task, arguments("x", new_head=True), 0)
    assert (fresh.config.decoder_type, fresh.config.decoder_channels) == ("upernet", 32)


@pytest.mark.parametrize("overlapping", [False, True])
def test_the_metric_of_training_is_the_mean_of_the_images_dice(overlapping):
    task = SegmentationTask("organs", ["a", "b"], overlapping, {"a": 0.7} if overlapping else None)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 2 + (not overlapping), 8, 8, generator=generator) * 2
    if overlapping:
        labels = torch.randint(0, 2, (6, 2, 8, 8), generator=generator).float()
        labels[0, 1] = torch.nan
        found = torch.sigmoid(logits) >= torch.tensor([0.7, 0.5])[:, None, None]
        truth = labels == 1
    else:
        labels = torch.randint(0, 3, (6, 8, 8), generator=generator)
        labels[0][labels[0] == 2] = 1
        found, truth = (torch.stack([each == 1, each == 2], dim=1) for each in (logits.argmax(dim=1), labels))
    metric, counts = MeanDice(), MaskCounts(task)
    for start in (0, 4):  # in two batches, as Trainer gives them
        part = slice(start, start + 4)
        predictions = counts((logits[part], None) if overlapping else logits[part], labels[part])
        given = metric(EvalPrediction(predictions=predictions.numpy(), label_ids=None), start == 4)
    pairs = zip(found.flatten(0, 1).numpy(), truth.flatten(0, 1).numpy(), strict=True)
    table = np.array([dice(*pair) for pair in pairs]).reshape(6, 2)
    if overlapping:
        table[0, 1] = np.nan
    assert given == {"mean_dice": pytest.approx(np.nanmean(np.nanmean(table, axis=0)))}


def test_outputs_that_are_not_finite_stop_the_run():
    counts = MaskCounts(SegmentationTask("organs", ["a"]))
    broken = counts(torch.full((1, 2, 4, 4), torch.nan), torch.zeros(1, 4, 4, dtype=torch.long))
    with pytest.raises(FloatingPointError, match="no longer finite"):
        MeanDice()(EvalPrediction(predictions=broken.numpy(), label_ids=None), True)


def test_a_step_in_parts_is_the_whole_step(organs, tmp_path):
    """With norms that look at one image at a time, and no matter how Trainer counts what is in a step."""
    steps = []
    for number in (1, 2):
        args = arguments(tmp_path, gradient_accumulation_steps=number, batch_size=8, max_steps=1, decoder_type="fpn")
        model, processor = initial_model("none", organs.task, args, 0)
        trainer = create_trainer(model, processor, organs, args, 0, tmp_path / str(number))
        trainer.train()
        steps.append(trainer.model.state_dict())
    for name, whole in steps[0].items():
        torch.testing.assert_close(steps[1][name], whole, rtol=1e-3, atol=2e-5)


def test_soft_dice_alone_is_a_loss(findings):
    logits, labels = torch.randn(2, 4, 8, 8), torch.randint(0, 2, (2, 4, 8, 8)).float()
    outputs = type("Outputs", (), {"logits": logits})
    alone, both = (MaskLoss(name)(outputs, labels) for name in ("dice", "cross_entropy"))
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(both, alone + entropy)


def test_layers_learn_at_their_rates_and_what_is_frozen_stays(findings, tmp_path):
    args = arguments(
        tmp_path / "run", epochs=1, freeze="encoder", loss="dice", decoder_type="fpn", images=8, test=False
    )
    model, _ = initial_model("none", findings.task, args, 0)
    rates = {group["lr"] for group in parameter_groups(model, 1.0, 0.5, 0.01)}
    assert max(rates) == 1.0 and len(rates) > 3
    finetune("none", "findings", args, findings.select("train", range(8)))
    kept = weights(tmp_path / "run" / "seed-0")
    before = model.state_dict()
    changed = {name.split(".")[0] for name in kept if not torch.equal(kept[name], before[name])}
    assert changed == {"decoder", "segmentation_head"}


def test_a_number_of_images_is_drawn_by_the_seed(organs):
    chosen = [
        choose_training_rows(organs, arguments("x", images=number), seed).column("train", "image_id")
        for number, seed in ((5, 0), (3, 0), (5, 1))
    ]
    assert len(set(chosen[0])) == 5
    assert chosen[0][:3] == chosen[1]
    assert set(chosen[0]) != set(chosen[2])
    with pytest.raises(ValueError, match="10 images are asked for, but there are only 9"):
        choose_training_rows(organs, arguments("x", images=10), 0)


def test_a_process_needs_two_images_for_upernet(monkeypatch):
    monkeypatch.setattr("ark_hf.training.finetune.data.PartialState", lambda: SimpleNamespace(num_processes=4))
    with pytest.raises(ValueError, match="at least 2 for each process and accumulation step"):
        check_batches(arguments("x", batch_size=4))
    check_batches(arguments("x", batch_size=8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1}, "batch norm of UPerNet's pooled branch no statistics: use a batch_size of at least 2"),
        ({"batch_size": 4, "gradient_accumulation_steps": 4}, "pooled branch"),
        ({"uncertain": "ones"}, "uncertain is for datasets of labels"),
        ({"per_class": 3}, "per_class is for datasets of labels"),
        ({"class_weighting": "balanced"}, "class_weighting is for datasets of labels"),
        ({"lora_rank": 4}, "lora_rank is for datasets of labels"),
        ({"loss": "focal"}, r"masks take cross_entropy \(with Dice\) or dice"),
    ],
)
def test_what_masks_cannot_be_trained_with_is_refused(phantom_masks, changes, message):
    with pytest.raises(ValueError, match=message):
        load_finetuning_data(str(phantom_masks["phantom_organs"]), arguments("x", **changes))


def test_labels_are_not_trained_with_the_loss_of_masks(sites):
    with pytest.raises(ValueError, match="loss: dice is for masks, and .* holds labels"):
        load_finetuning_data(str(sites["phantom_hill"]), arguments("x", loss="dice"))

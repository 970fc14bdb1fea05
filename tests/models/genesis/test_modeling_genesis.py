"""The models of Genesis: shapes, batch norm of both kinds, heads, masks, and weights that go from one to another."""

import copy

import pytest
import torch
from transformers import Trainer, TrainingArguments, logging, set_seed
from transformers.testing_utils import CaptureLogger

from ark_hf.models.ark.configuration_ark import ArkTask, SegmentationTask
from ark_hf.models.genesis.configuration_genesis import GenesisConfig
from ark_hf.models.genesis.modeling_genesis import (
    GenesisForImageClassification,
    GenesisForPreTraining,
    GenesisForSemanticSegmentation,
    GenesisModel,
)

NAN = float("nan")
SMALL = {"width": 2, "depth": 3, "cube_size": [8, 16, 16]}
NODULE = ArkTask("luna16", ["Nodule"], modality="CT")
KIND = ArkTask("kind", ["Solid", "Part-solid", "Ground glass"], "single_label_classification", modality="CT")
ORGANS = SegmentationTask("organs", ["lungs", "trachea"], modality="CT")
LESIONS = SegmentationTask("lesions", ["lungs", "nodule"], overlapping=True, thresholds={"nodule": 0.2})


def small(kind, **kwargs):
    set_seed(0)
    return kind(GenesisConfig(**SMALL, **kwargs)).eval()


def volumes(count: int = 2, size=(8, 16, 16), seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(seed))


def log_of(load, *args, **kwargs) -> tuple:
    with CaptureLogger(logging.get_logger("transformers")) as log:
        result = load(*args, **kwargs)
    return result, log.out


# --- shapes -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_what_each_model_gives():
    cubes = volumes()
    features = small(GenesisModel)(cubes, output_hidden_states=True)
    assert features.last_hidden_state.shape == (2, 16, 2, 4, 4) and features.pooler_output.shape == (2, 16)
    assert [each.shape[1:] for each in features.hidden_states] == [(4, 8, 16, 16), (8, 4, 8, 8), (16, 2, 4, 4)]
    assert features.hidden_states[-1] is features.last_hidden_state
    torch.testing.assert_close(features.pooler_output, features.last_hidden_state.mean(dim=(2, 3, 4)))

    restored = small(GenesisForPreTraining)(cubes, labels=cubes)
    assert restored.reconstruction.shape == cubes.shape and restored.hidden_states is None
    assert 0 < restored.reconstruction.min() and restored.reconstruction.max() < 1
    torch.testing.assert_close(restored.loss, (restored.reconstruction - cubes).square().mean())

    classified = small(GenesisForImageClassification, num_labels=3)(cubes)
    assert classified.logits.shape == (2, 3) and classified.embeddings.shape == (2, 16)
    assert small(GenesisForSemanticSegmentation, num_labels=3)(cubes).logits.shape == (2, 3, 8, 16, 16)


@torch.no_grad()
@pytest.mark.parametrize("size", [(4, 8, 12), (8, 4, 4), (20, 4, 8)])
def test_any_size_that_divides(size):
    cubes = volumes(2, size)
    assert small(GenesisForPreTraining)(cubes).reconstruction.shape == cubes.shape
    assert small(GenesisForSemanticSegmentation, num_labels=2)(cubes).logits.shape[2:] == size


@pytest.mark.parametrize(
    "shape, message",
    [
        ((2, 1, 8, 16, 18), "multiple of 4, got 8x16x18: pad it, or cut cubes of it .8x16x16, as the image processor"),
        ((2, 1, 3, 16, 16), "multiple of 4, got 3x16x16"),
        ((2, 1, 0, 16, 16), "multiple of 4, got 0x16x16"),
        ((2, 3, 8, 16, 16), r"must be \(batch, 1, depth, height, width\), got shape \(2, 3, 8, 16, 16\)"),
        ((1, 8, 16, 16), r"must be \(batch, 1, depth, height, width\), got shape \(1, 8, 16, 16\)"),
    ],
)
def test_other_shapes_are_refused(shape, message):
    for kind in (GenesisModel, GenesisForPreTraining, GenesisForImageClassification, GenesisForSemanticSegmentation):
        with pytest.raises(ValueError, match=message):
            small(kind)(torch.zeros(shape))


def test_a_single_voxel_at_the_bottom_is_no_batch():
    one = volumes(1, (4, 4, 4))
    small(GenesisModel)(one)
    for model in (small(GenesisModel).train(), small(GenesisModel, batch_statistics=True)):
        with pytest.raises(ValueError, match="One volume of 4x4x4 is a single voxel at the bottom"):
            model(one)


def test_labels_of_pretraining_are_cubes():
    with pytest.raises(ValueError, match=r"of shape \(2, 1, 8, 16, 16\); got \(2, 8, 16, 16\)"):
        small(GenesisForPreTraining)(volumes(), labels=volumes()[:, 0])


@pytest.mark.parametrize("activation", ["relu", "elu", "prelu"])
def test_gradients_reach_every_weight(activation):
    for kind, labels in (
        (GenesisForPreTraining, volumes(seed=2)),
        (GenesisForImageClassification, torch.tensor([0, 1])),
        (GenesisForSemanticSegmentation, torch.randint(0, 2, (2, 8, 16, 16))),
    ):
        model = small(kind, activation=activation, num_labels=2).train()
        model(volumes(), labels=labels).loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_logits_are_float32_in_half_precision():
    for kind in (GenesisForImageClassification, GenesisForSemanticSegmentation):
        model = small(kind, num_labels=2).to(torch.bfloat16)
        assert model(volumes().bfloat16()).logits.dtype == torch.float32


# --- batch norm ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def statistics_after(model, *batches) -> torch.Tensor:
    for batch in batches:
        model(batch)
    norm = model.genesis.encoder.levels[0][0].normalization
    return torch.cat([norm.running_mean, norm.running_var])


@torch.no_grad()
def test_batch_statistics_make_an_output_depend_on_its_batch_and_move_in_eval():
    first, others = volumes(1), 3 * volumes(1, seed=5)
    own = small(GenesisForPreTraining)
    beside = own(torch.cat([first, others])).reconstruction[:1]
    torch.testing.assert_close(own(first).reconstruction, beside)
    before = statistics_after(own)
    assert torch.equal(statistics_after(own, first), before)

    original = small(GenesisForPreTraining, batch_statistics=True)
    beside = original(torch.cat([first, others])).reconstruction[:1]
    assert not torch.allclose(original(first).reconstruction, beside)
    before = statistics_after(original).clone()
    moved = statistics_after(original, first)
    assert not torch.equal(moved, before)
    convolved = original.genesis.encoder.levels[0][0].convolution(first)
    seen = torch.cat([convolved.mean(dim=(0, 2, 3, 4)), convolved.transpose(0, 1).flatten(1).var(dim=1)])
    torch.testing.assert_close(moved, 0.9 * before + 0.1 * seen)
    assert original.genesis.encoder.levels[0][0].normalization.num_batches_tracked == 0


@torch.no_grad()
def test_eval_and_train_mode_of_an_original_are_the_same():
    model = small(GenesisForPreTraining, batch_statistics=True)
    assert torch.equal(model(volumes()).reconstruction, model.train()(volumes()).reconstruction)


def test_a_model_tuned_from_an_original_switches_batch_statistics_off(tmp_path):
    original = small(GenesisForPreTraining, batch_statistics=True)
    statistics_after(original, *(volumes(4, seed=seed) for seed in range(3)))
    original.save_pretrained(tmp_path / "original")
    tuned = GenesisForSemanticSegmentation.from_pretrained(
        tmp_path / "original", segmentation=ORGANS, batch_statistics=False
    )
    tuned.train()(volumes(), labels=torch.randint(0, 3, (2, 8, 16, 16))).loss.backward()
    tuned.save_pretrained(tmp_path / "tuned")
    again = GenesisForSemanticSegmentation.from_pretrained(tmp_path / "tuned").eval()
    assert again.config.batch_statistics is False
    with torch.no_grad():
        torch.testing.assert_close(again(volumes()).logits[:1], again(volumes()[:1]).logits)
    before = statistics_after(again).clone()
    assert torch.equal(statistics_after(again, volumes()), before)


# --- weights that go from one to another --------------------------------------------------------------------------


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in first.state_dict().items())


def test_pretraining_gives_every_other_model_what_it_has(tmp_path):
    trained = small(GenesisForPreTraining)
    trained.save_pretrained(tmp_path)
    features, log = log_of(GenesisModel.from_pretrained, tmp_path)
    assert log == "" and same(features, trained.genesis)
    segmenter, log = log_of(GenesisForSemanticSegmentation.from_pretrained, tmp_path, segmentation=ORGANS)
    assert same(segmenter.genesis, trained.genesis) and same(segmenter.decoder, trained.decoder)
    assert "segmentation_head.weight" in log and "UNEXPECTED" not in log.replace("UNEXPECTED:", "")
    assert "decoder" not in log and segmenter.segmentation_head.weight.abs().max() < 1
    classifier, log = log_of(GenesisForImageClassification.from_pretrained, tmp_path, tasks=[NODULE])
    assert same(classifier.genesis, trained.genesis)
    assert "heads.luna16.weight" in log and "decoder" not in log and "restoration_head" not in log


def test_a_classifier_that_becomes_a_segmenter_says_what_is_dropped(tmp_path):
    small(GenesisForImageClassification, tasks=[NODULE, KIND]).save_pretrained(tmp_path)
    segmenter, log = log_of(GenesisForSemanticSegmentation.from_pretrained, tmp_path, num_labels=3)
    assert "heads.kind.weight" in log and segmenter.config.tasks is None
    assert segmenter.segmentation_head.out_channels == 3
    small(GenesisForSemanticSegmentation, segmentation=ORGANS).save_pretrained(tmp_path / "masks")
    with pytest.raises(ValueError, match="segmenter of .'lungs', 'trachea'.*AutoModelForSemanticSegmentation"):
        GenesisForImageClassification.from_pretrained(tmp_path / "masks")


# --- heads and masks, as those of Ark -----------------------------------------------------------------------------


def test_heads_are_named_and_come_and_go():
    model = small(GenesisForImageClassification, tasks=[NODULE])
    model.add_task(KIND)
    logits = model(volumes()).logits
    assert logits.shape == (2, 4) and model.num_labels == 4
    chosen = model(volumes(), labels=torch.tensor([2, -100]), task="kind")
    assert chosen.loss.isfinite() and chosen.logits.shape == (2, 3)
    torch.testing.assert_close(logits[:, 1:].sigmoid(), chosen.logits.softmax(dim=-1))
    known = model(volumes(), labels=torch.tensor([[1.0, NAN, NAN, NAN], [NAN, NAN, NAN, NAN]])).loss
    torch.testing.assert_close(known, torch.nn.functional.softplus(-logits[0, 0]))
    model.keep_tasks(["kind"])
    assert list(model.heads) == ["kind"] and model.config.id2label[0] == "Solid"
    with pytest.raises(ValueError, match="Unknown task 'luna16'"):
        model(volumes(), task="luna16")


def test_operating_points_stay_with_the_weights_that_they_were_found_on(tmp_path, caplog):
    model = small(GenesisForImageClassification, tasks=[ArkTask("luna16", ["Nodule"], thresholds={"Nodule": 0.3})])
    model.bind_thresholds()
    model.save_pretrained(tmp_path)
    again = GenesisForImageClassification.from_pretrained(tmp_path)
    assert again.config.tasks[0].thresholds == {"Nodule": 0.3}
    assert not caplog.text
    other = GenesisForImageClassification.from_pretrained(tmp_path, hu_window=[-160, 240])
    assert other.config.tasks[0].thresholds is None
    assert "operating points of 'luna16' are dropped" in caplog.text
    with torch.no_grad():
        again.genesis.encoder.levels[0][0].convolution.bias += 1
    again.save_pretrained(tmp_path / "changed")
    assert GenesisForImageClassification.from_pretrained(tmp_path / "changed").config.tasks[0].thresholds is None


def test_masks_that_exclude_each_other():
    model = small(GenesisForSemanticSegmentation, segmentation=ORGANS)
    labels = torch.randint(0, 3, (2, 8, 16, 16))
    labels[:, :4] = 255
    outputs = model(volumes(), labels=labels)
    assert outputs.logits.shape == (2, 3, 8, 16, 16) and outputs.cutoffs is None
    probabilities = outputs.logits.softmax(dim=1)
    known, truth = (labels != 255)[:, None], torch.stack([labels == 1, labels == 2], dim=1)
    entropy = torch.nn.functional.cross_entropy(outputs.logits, labels, ignore_index=255)
    counted = probabilities[:, 1:] * known
    shared, both = (counted * truth).sum(dim=(2, 3, 4)), (counted + truth).sum(dim=(2, 3, 4))
    torch.testing.assert_close(outputs.loss, entropy + (1 - (2 * shared + 1) / (both + 1)).mean())


def test_masks_that_overlap():
    model = small(GenesisForSemanticSegmentation, segmentation=LESIONS)
    labels = torch.randint(0, 2, (2, 2, 8, 16, 16)).float()
    labels[0, 1] = NAN
    outputs = model(volumes(), labels=labels)
    assert outputs.logits.shape == (2, 2, 8, 16, 16) and outputs.loss.isfinite()
    torch.testing.assert_close(outputs.cutoffs.sigmoid(), torch.tensor([[0.5, 0.2]] * 2))
    nothing = model(volumes(), labels=torch.full_like(labels, NAN)).loss
    nothing.backward()
    assert nothing == 0
    with pytest.raises(ValueError, match="Labels of task 'lesions' are float"):
        model(volumes(), labels=labels[:, 0].long())


@pytest.mark.parametrize(
    "labels, message",
    [
        (torch.zeros(2, 16, 16, dtype=torch.long), r"shape \(2, depth, height, width\).*got torch.int64 of shape"),
        (torch.full((2, 8, 16, 16), 3), "are 0 to 2, 255 unknown; got 3"),
    ],
)
def test_labels_that_do_not_fit(labels, message):
    with pytest.raises(ValueError, match=message):
        small(GenesisForSemanticSegmentation, segmentation=ORGANS)(volumes(), labels=labels)


@pytest.mark.slow_ci  # with what else Trainer does
def test_the_stock_trainer_learns_to_restore(tmp_path):
    model = small(GenesisForPreTraining).train()
    cubes = volumes(4)
    data = [{"pixel_values": cube, "labels": 1 - cube} for cube in cubes]
    before = copy.deepcopy(model)(cubes, labels=1 - cubes).loss
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=12,
        per_device_train_batch_size=4,
        learning_rate=0.05,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    assert model.train()(cubes, labels=1 - cubes).loss < 0.9 * before

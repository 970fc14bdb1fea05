"""The baselines of the papers differ from cyclic training in what shares a batch and a head, and in nothing else."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from ark_hf import ArkTask
from ark_hf.cli.main import main
from ark_hf.data.loading import InferenceSamples
from ark_hf.data.task_dataset import load_task_dataset, read_task
from ark_hf.inference.load import load_ark
from ark_hf.inference.predict import mean_probabilities, predict_logits
from ark_hf.models.ark.heads_ark import log_odds, masked_classification_loss
from ark_hf.training.ark.curriculum import merge_labels
from ark_hf.training.ark.objective import Objective
from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.ark.recipe import PretrainingArguments

from ..conftest import TINY, open_site
from .test_pretrainer import distance
from .test_resume import Killed, MortalPretrainer, same_weights

BASELINES = ["concurrent", "single_head"]
# Of two that are alike, make test has one
ONE_BASELINE = ["concurrent", pytest.param("single_head", marks=pytest.mark.slow_ci)]
FINDINGS = ArkTask("findings", ["Effusion", "Nodule"])
KINDS = ArkTask("kinds", ["normal", "bacterial", "viral"], "single_label_classification")
LEARNERS = [FINDINGS, KINDS]


def pretrainer(folder, sites, kind=CyclicPretrainer, **settings) -> CyclicPretrainer:
    args = PretrainingArguments(output_dir=str(folder), **{**TINY, **settings})
    return kind(args, [open_site(path, uncertain="lsr_ones") for path in sites.values()])


def seen_in_a_cycle(trainer) -> tuple[list[int], dict[float, torch.Tensor]]:
    """The sizes of the steps' batches, and the target of each sample by the sum of what the student sees of it."""
    sizes, targets = [], {}
    for each in trainer.passes:
        for (batch,) in trainer.train_batches(each, 0):
            sizes.append(len(batch["labels"]))
            targets |= dict(zip(batch["pixel_values"].sum(dim=(1, 2, 3)).tolist(), batch["labels"], strict=True))
    return sizes, targets


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))


@pytest.mark.parametrize("strategy", BASELINES)
def test_a_mixed_cycle_has_the_steps_and_the_samples_of_a_cyclic_one(tmp_path, sites, strategy):
    sizes, expected = seen_in_a_cycle(pretrainer(tmp_path, sites))
    trainer = pretrainer(tmp_path, sites, strategy=strategy)
    mixed_sizes, targets = seen_in_a_cycle(trainer)
    assert mixed_sizes == sizes == [8, 8, 4] * 3
    assert targets.keys() == expected.keys() and len(targets) == 60 and [*targets] != [*expected]

    # No two of these sites share a name: four findings, three classes (stored as a number), one finding
    for sample, target in expected.items():
        wide = torch.full((8,), torch.nan)
        if target.ndim == 0:
            wide[4:7] = F.one_hot(target, 3).float()
        elif len(target) == 4:
            wide[:4] = target
        else:
            wide[7:] = target
        assert same(targets[sample], wide)


def test_a_mixed_batch_has_images_of_several_tasks(tmp_path, sites):
    trainer = pretrainer(tmp_path, sites, strategy="concurrent")
    (batch,) = next(trainer.train_batches(trainer.passes[0], 0))
    known = ~batch["labels"].isnan()
    owners = {tuple(row) for row in torch.stack([known[:, :4].any(1), known[:, 4:7].any(1), known[:, 7]], 1).tolist()}
    assert len(owners) == 3 and all(sum(owner) == 1 for owner in owners)


def test_other_cycles_and_seeds_mix_otherwise(tmp_path, sites):
    trainer = pretrainer(tmp_path, sites, strategy="concurrent")
    orders = [np.concatenate([each.order(*when) for each in trainer.passes]) for when in [(0, 0), (0, 1), (1, 0)]]
    assert all(sorted(order) == [*range(60)] for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def own_criterion(labels, task):
    return labels, task.problem_type


@st.composite
def mixed_batches(draw):
    """Raw logits and labels (n, 5) of two findings and three kinds; each image is of one of the tasks, or unknown."""
    values = st.floats(-8, 8, width=32)
    count = draw(st.integers(1, 8))
    logits = draw(st.lists(st.lists(values, min_size=5, max_size=5), min_size=count, max_size=count))
    labels = torch.full((count, 5), torch.nan)
    for row in labels:
        if draw(st.booleans()):
            row[:2] = torch.tensor([draw(st.sampled_from([0.0, 0.7, 1.0, torch.nan])) for _ in range(2)])
        elif draw(st.booleans()):
            row[2:] = F.one_hot(torch.tensor(draw(st.integers(0, 2))), 3).float()
    return torch.tensor(logits), labels


def mixed_loss(objective, raw, labels, counts):
    logits = torch.cat([log_odds(raw[:, 2:]), raw[:, :2]], dim=1)  # the model has its heads in another order
    return objective.loss(logits, labels, counts)


@settings(max_examples=50)
@given(mixed_batches(), st.integers(0, 8))
def test_the_loss_of_a_mixed_batch_is_that_of_its_images_by_task(batch, cut):
    raw, labels = batch[0].requires_grad_(), batch[1]
    objective = Objective(LEARNERS, [KINDS, FINDINGS], own_criterion)
    of_findings, of_kinds = (~labels[:, :2].isnan()).any(1), ~labels[:, 2].isnan()
    parts = [
        masked_classification_loss(raw[of_findings, :2], labels[of_findings, :2], FINDINGS.problem_type),
        masked_classification_loss(raw[of_kinds, 2:], labels[of_kinds, 2:].argmax(1), KINDS.problem_type),
    ]
    shares = torch.stack([of_findings.sum(), of_kinds.sum()]) / max(of_findings.sum() + of_kinds.sum(), 1)
    expected = (torch.stack(parts) * shares).sum()
    loss = mixed_loss(objective, raw, labels, objective.counts(labels))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(each, raw)[0] for each in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)

    # In two micro-batches, or on two processes, the parts add up to the loss of the whole
    pieces = [piece for piece in (slice(0, cut), slice(cut, None)) if len(labels[piece])]
    counts = sum(objective.counts(labels[piece]) for piece in pieces)
    summed = sum(mixed_loss(objective, raw[piece], labels[piece], counts) for piece in pieces)
    torch.testing.assert_close(summed, loss, rtol=1e-5, atol=1e-6)


def test_the_loss_of_one_head_is_bitwise_the_masked_mean():
    logits, labels = torch.randn(6, 2), torch.tensor([0.0, 1.0, torch.nan, 0.7]).repeat(3).view(6, 2)
    for task, target in ((FINDINGS, labels), (ArkTask("two", ["a", "b"], KINDS.problem_type), torch.arange(6) % 2)):
        objective = Objective([task], [task], own_criterion)
        loss = objective.loss(logits, target, objective.counts(target))
        assert torch.equal(loss, masked_classification_loss(logits, target, task.problem_type))
        assert objective.head == task.name


@pytest.mark.slow_ci
@pytest.mark.parametrize("strategy", ONE_BASELINE)
def test_accumulation_gives_the_step_of_the_whole_batch(tmp_path, sites, strategy):
    settings = {"cycles": 1, "drop_path_rate": 0.0, "strategy": strategy}
    whole = pretrainer(tmp_path / "whole", sites, **settings)
    parts = pretrainer(tmp_path / "parts", sites, gradient_accumulation_steps=3, dataloader_num_workers=2, **settings)
    whole.train(), parts.train()
    assert 0 < distance(whole.student, parts.student) < 1e-5
    assert whole.state.history[0]["train"] == pytest.approx(parts.state.history[0]["train"], abs=1e-5)


def test_every_head_learns_in_every_step_and_is_validated_alone(tmp_path, sites):
    trainer = pretrainer(tmp_path, sites, strategy="concurrent", cycles=1)
    before = {key: value.clone() for key, value in trainer.student.heads.state_dict().items()}
    trainer._train_step(trainer.passes[0], next(trainer.train_batches(trainer.passes[0], 0)))
    assert not any(torch.equal(value, before[key]) for key, value in trainer.student.heads.state_dict().items())
    trainer.train()
    assert list(trainer.state.history[0]["validation"]["teacher"]["tasks"]) == list(sites)
    assert trainer.teacher.config.id2label == pretrainer(tmp_path / "cyclic", sites).teacher.config.id2label


@pytest.mark.slow_ci
@pytest.mark.parametrize("strategy", ONE_BASELINE)
def test_the_teacher_follows_as_in_cyclic_training(tmp_path, sites, strategy):
    class Recorder(CyclicPretrainer):
        def log_step(self, data, losses, momentum):
            super().log_step(data, losses, momentum)
            recorded.append((momentum, losses["coefficient"], self.schedules.learning_rate(self.state)))

    runs = []
    for name in ("cyclic", strategy):
        recorded: list[tuple] = []
        trainer = pretrainer(tmp_path / name, sites, Recorder, strategy=name, ema_mode="epoch")
        updates = []
        trainer._update_teacher = lambda momentum, at=updates, run=trainer: at.append((run.state.step, momentum))
        trainer.train()
        runs.append((recorded, updates))
    assert runs[0] == runs[1] and [step for step, _ in runs[0][1]] == [3, 6, 9, 12, 15, 18]


@pytest.mark.parametrize("strategy", ONE_BASELINE)
def test_a_killed_run_resumes_to_the_same_weights(tmp_path, sites, strategy):
    sites = dict(list(sites.items())[1:])
    settings = {"strategy": strategy, "save_steps": 4}  # of the six steps of a cycle
    pretrainer(tmp_path / "whole", sites, **settings).train()
    mortal = pretrainer(tmp_path / "killed", sites, MortalPretrainer, **settings)
    mortal.dies_at = 9
    with pytest.raises(Killed):
        mortal.train()
    resumed = pretrainer(tmp_path / "killed", sites, **settings)
    resumed.train()
    assert resumed.state.step == 12
    for model in ("ark-cxr", "student"):
        assert same_weights(tmp_path / "whole" / model, tmp_path / "killed" / model)
    with pytest.raises(ValueError, match=f"strategy was '{strategy}', now 'cyclic'"):
        pretrainer(tmp_path / "killed", sites, save_steps=4).train()


def test_labels_of_one_name_share_a_column():
    lake = ArkTask("lake", ["pleural-effusion", "NODULE", "Normal"])
    merged, columns = merge_labels([FINDINGS, KINDS, lake])
    assert merged.labels == ["Effusion", "Nodule", "normal", "bacterial", "viral", "pleural-effusion"]
    assert merged.problem_type == "multi_label_classification"
    assert columns == [[0, 1], [2, 3, 4], [5, 1, 2]]


def test_labels_that_cannot_be_told_apart_are_named():
    with pytest.raises(ValueError, match=r"labels \['Mass', 'mass'\] of task 'twice'"):
        merge_labels([FINDINGS, ArkTask("twice", ["Mass", "mass", "Nodule"])])


@pytest.mark.slow_ci
def test_a_merged_head_is_validated_on_all_sites_and_tested_on_each(tmp_path, sites, capsys):
    """A site's labels are those columns of the merged head that bear their names, or are called synonyms of them."""
    trainer = pretrainer(tmp_path / "run", sites, strategy="single_head")
    trainer.train()
    labels = ["Effusion", "Cardiomegaly", "Nodule", "No Finding", "normal", "bacterial", "viral", "Tuberculosis"]
    validated = trainer.state.history[-1]["validation"]["teacher"]["tasks"]
    assert list(validated) == ["merged"] and validated["merged"]["samples"] == 36
    assert list(validated["merged"]["auroc"]) == labels
    rows = {name: load_task_dataset(path, "validation") for name, path in sites.items()}
    assert validated["merged"]["positives"]["viral"] == rows["phantom_coast"]["labels"][:].count(2)

    model, processor = load_ark(str(tmp_path / "run/ark-cxr"))
    assert model.config.id2label == dict(enumerate(labels))
    merged = model.config.tasks[0]
    columns = {"phantom_city": [[0], [1], [2], [3, 4]], "phantom_hill": [[7]]}
    for name, expected in columns.items():
        out = tmp_path / name
        command = ["evaluate", str(tmp_path / "run/ark-cxr"), str(sites[name]), "--zero_shot", "--out", str(out)]
        assert main([*command, "--bootstrap", "10"]) == 0
        (report,) = json.loads((out / "report.json").read_text())["tasks"]
        samples = InferenceSamples(load_task_dataset(sites[name], "test"), read_task(sites[name]), processor)
        logits, targets = predict_logits([model], samples, 12, all_heads=True)
        probabilities = mean_probabilities(logits, merged)
        for label, own, target in zip(report["labels"], expected, targets.T, strict=True):
            known = ~np.isnan(target)
            auroc = roc_auc_score(target[known], probabilities[known][:, own].mean(axis=1))
            assert label["auroc"] == pytest.approx(auroc, abs=1e-12)


def test_what_a_baseline_goes_without_is_said():
    for name, value in {"streaming": True, "reproduce": ["zero_idle_grads"]}.items():
        with pytest.raises(ValueError, match=f"strategy: concurrent goes without {name}"):
            PretrainingArguments(output_dir="run", strategy="concurrent", **{name: value})
    with pytest.raises(ValueError, match="strategy is 'mixed'"):
        PretrainingArguments(output_dir="run", strategy="mixed")

"""The report of a head on its own task: which labels its means are over, and accuracy of a single-label task."""

import numpy as np
import pytest
import torch

from ark_hf.data.build import build_phantom_sites
from ark_hf.data.task_dataset import load_task_dataset, read_task
from ark_hf.evaluation.report import evaluate_task, load_evaluation_data, report_text
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification
from tests.training.conftest import TINY


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    splits = {"train": 12, "test": 14}
    return build_phantom_sites(tmp_path_factory.mktemp("report") / "sites", splits, size=40)


def tiny_model(task: ArkTask) -> ArkForImageClassification:
    torch.manual_seed(0)
    settings = {name: TINY[name] for name in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}
    model = ArkForImageClassification(ArkConfig(**settings, tasks=[task])).eval()
    with torch.no_grad():
        model.heads[task.name].weight.normal_()
    return model


def test_means_are_over_the_evaluated_labels(sites):
    site = str(sites["phantom_city"])
    task = read_task(site)
    evaluated = task.labels[1:3]
    model = tiny_model(ArkTask.from_dict({**task.to_dict(), "eval_labels": evaluated}))
    data = load_evaluation_data(model, site)
    report = evaluate_task(model, ArkImageProcessor(size=32), data, num_bootstrap=20)
    assert [result.label for result in report.labels] == task.labels
    for mean, labels in ((report.mean, report.labels), (report.baseline_mean, report.baseline_labels)):
        defined = [result.auroc for result in labels if result.label in evaluated and not np.isnan(result.auroc)]
        assert mean.num_labels == 2 and mean.auroc == pytest.approx(np.mean(defined))
    assert "of 2 evaluated**" in report_text([report])
    assert report.accuracy is None


@torch.no_grad()
def test_accuracy_of_a_single_label_task(sites):
    site = str(sites["phantom_coast"])
    model = tiny_model(read_task(site))
    processor = ArkImageProcessor(size=32)
    report = evaluate_task(model, processor, load_evaluation_data(model, site), num_bootstrap=0)
    rows = load_task_dataset(site, "test")
    chosen = model(processor(list(rows["image"]), return_tensors="pt").pixel_values).logits.argmax(dim=1)
    assert report.accuracy == pytest.approx(np.mean(chosen.numpy() == np.array(rows["labels"][:])))
    text = report_text([report])
    assert f"Accuracy of the most probable class: {report.accuracy:.3f}." in text and "evaluated" not in text

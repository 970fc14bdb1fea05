"""Statistics of training images, as a calibration leaves them beside the weights."""

import warnings

import numpy as np
import pytest
import torch

import ark_hf.evaluation.training_statistics as module
from ark_hf.cli.main import main
from ark_hf.data.open_dataset import open_dataset
from ark_hf.evaluation.evaluate import calibrate
from ark_hf.evaluation.training_statistics import measure_training_statistics
from ark_hf.inference.load import load_ark
from ark_hf.inference.training_statistics import read_training_statistics
from ark_hf.models.ark.configuration_ark import ArkConfig
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification
from ark_hf.provenance import STATISTICS_FILE
from tests.conftest import COUNTS

SITES = ("phantom_city", "phantom_hill")
SIZE = 32


@pytest.fixture(scope="module")
def datasets(sites) -> list[str]:
    return [str(sites[name]) for name in SITES]


@pytest.fixture(scope="module")
def opened(datasets):
    return [open_dataset(each, ["train", "validation"]) for each in datasets]


@pytest.fixture(scope="module")
def folder(opened, tmp_path_factory) -> str:
    torch.manual_seed(0)
    tasks = [data.task for data in opened]
    config = ArkConfig(backbone="test_resnet", image_size=SIZE, projector_dim=8, tasks=tasks)
    folder = tmp_path_factory.mktemp("model") / "ark-cxr"
    ArkForImageClassification(config).save_pretrained(folder)
    ArkImageProcessor(size=SIZE).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def few_will_do(monkeypatch):
    for name, number in (("LEAST_IMAGES", 30), ("LEAST_HELD_OUT", 20)):
        monkeypatch.setattr(f"ark_hf.inference.training_statistics.{name}", number)


def test_a_calibration_keeps_statistics_of_all_datasets_that_it_is_given(
    folder, datasets, tmp_path, few_will_do, no_figures, capsys
):
    assert main(["evaluate", folder, *datasets, "--bootstrap", "0", "--calibrate", str(tmp_path / "both")]) == 0
    both = str(tmp_path / "both")
    known = read_training_statistics(*load_ark(both)).modalities["CR"]
    assert (known.images, known.held_out) == (2 * COUNTS["train"], 2 * COUNTS["validation"])
    assert known.datasets == SITES
    assert f"statistics of {2 * COUNTS['train']} training images of modality CR" in capsys.readouterr().out
    # One dataset alone has too few: those that are there stay, as the encoder is the same
    with pytest.warns(UserWarning, match="No statistics of training images of modality CR are kept.*there are 20 and"):
        calibrate(both, datasets[:1], tmp_path / "again")
    again = read_training_statistics(*load_ark(str(tmp_path / "again"))).modalities["CR"]
    assert again.datasets == SITES and again.threshold == pytest.approx(known.threshold)


def test_where_images_are_few_nothing_is_written_and_the_reason_said(folder, datasets, tmp_path):
    with pytest.warns(UserWarning, match="they take 500 images of train splits and 50 of validation splits"):
        calibrate(folder, datasets, tmp_path / "few")
    assert not (tmp_path / "few" / STATISTICS_FILE).exists()


def test_of_many_images_the_same_few_are_drawn_of_each_dataset(folder, opened, few_will_do, monkeypatch):
    model, processor = load_ark(folder)
    all_of_them = measure_training_statistics(model, processor, opened, 16)["CR"]
    monkeypatch.setattr(module, "MOST_IMAGES", 30)
    monkeypatch.setattr("ark_hf.inference.training_statistics.LEAST_HELD_OUT", 10)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (measure_training_statistics(model, processor, opened, size)["CR"] for size in (4, 16))
    assert (first.images, first.held_out, all_of_them.images) == (30, 24, 40)
    np.testing.assert_allclose(first.gaussian.mean, second.gaussian.mean, atol=1e-6)
    assert first.threshold == pytest.approx(second.threshold, rel=1e-4)
    assert not model.training and all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_split_that_is_not_there_is_no_image(folder, opened, few_will_do):
    model, processor = load_ark(folder)
    train_alone = [type(data)(data.source, data.task, {"train": data.splits["train"]}) for data in opened]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert measure_training_statistics(model, processor, train_alone, 16) == {}
    assert "there are 40 and 0" in str(told[0].message)

"""A cycle over tasks of two modalities: what is read, reported, saved and refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from ark_hf.data.build.build import encode_png
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.ark.recipe import PretrainingArguments, TaskSpec
from ark_hf.training.ark.tasks import load_tasks
from tests.data.test_colours import fundus
from tests.training.conftest import EYES, TINY


@pytest.fixture(scope="module")
def chest(sites) -> Path:
    return next(iter(sites.values()))


def specs(*folders: Path, **more) -> list[TaskSpec]:
    return [TaskSpec(str(folder), **more) for folder in folders]


def trainer(out: Path, tasks, **settings) -> CyclicPretrainer:
    processor = settings.pop("processor", None)
    return CyclicPretrainer(
        PretrainingArguments(str(out), **{**TINY, "cycles": 1, **settings}), tasks, None, processor
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory, chest, eyes) -> CyclicPretrainer:
    run = trainer(tmp_path_factory.mktemp("both"), load_tasks(specs(chest, eyes)))
    run.train()
    return run


def test_one_model_learns_both_and_says_which_is_which(finished, chest):
    folder = finished.output_dir / "ark-cxr"
    model, processor = (kind.from_pretrained(folder) for kind in (AutoModelForImageClassification, AutoImageProcessor))
    assert [task.modality for task in model.config.tasks] == ["CR", "OP"]
    assert (processor.modality, processor.modalities) == ("CR", {"OP": {}})
    assert f"Modalities: CR: {chest.name}; OP: eye." in finished.describe()


def test_validation_is_reported_by_modality(finished, chest):
    entry = json.loads((finished.output_dir / "metrics.json").read_text())["history"][-1]["validation"]["teacher"]
    by_task = {name: task["mean_auroc"] for name, task in entry["tasks"].items()}
    assert entry["modalities"] == {"CR": by_task[chest.name], "OP": by_task["eye"]}


def test_a_run_of_radiographs_alone_has_nothing_of_it(tmp_path, chest):
    run = trainer(tmp_path, load_tasks(specs(chest)))
    assert "Modalities" not in run.describe() and run.processor.to_dict().keys().isdisjoint({"modalities", "modality"})
    assert "modalities" not in run.validate()["teacher"]


def test_each_task_s_batches_are_prepared_by_its_own_settings(tmp_path, chest, eyes):
    means = {"CR": [0.5] * 3, "OP": [0.4, 0.2, 0.1]}
    processor = ArkImageProcessor(size=32, image_mean=means["CR"], modalities={"OP": {"image_mean": means["OP"]}})
    run = trainer(tmp_path, load_tasks(specs(chest, eyes)), processor=processor)
    with run.loader:
        for each, modality in zip(run.passes, means, strict=True):
            (batch,) = next(run.train_batches(each, 0))
            samples = run.loader.samples["train", each.name]
            raw = samples.collate(samples.__getitems__(each.order(0, 0)[:8]))["teacher_pixel_values"]
            plain = ArkImageProcessor(size=32, image_mean=means[modality])
            grey = raw.expand(-1, 3, -1, -1)
            expected = plain.rescale_and_normalize(grey, True, 1 / 255, True, tuple(means[modality]), plain.image_std)
            torch.testing.assert_close(batch["teacher_pixel_values"], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="concurrent mixes images of .* prepares them in different ways"):
        trainer(tmp_path / "mixed", load_tasks(specs(chest, eyes)), processor=processor, strategy="concurrent")


def test_batches_of_both_are_mixed_where_they_are_prepared_alike(tmp_path, chest, eyes):
    run = trainer(tmp_path, load_tasks(specs(chest, eyes)), strategy="concurrent")
    losses = run.run_cycle()
    assert losses and all(np.isfinite(loss) for loss in losses.values())
    with pytest.raises(ValueError, match="single_head makes one head, and the tasks are of several modalities"):
        trainer(tmp_path / "merged", load_tasks(specs(chest, eyes)), strategy="single_head")


def test_a_run_that_goes_on_keeps_the_settings_of_each_modality(tmp_path, finished, eyes, chest):
    folder = tmp_path / "ark-cxr"
    finished.teacher.save_pretrained(folder)
    settings = {"OP": {"image_std": [0.3] * 3}}
    ArkImageProcessor(size=32, image_mean=[0.5] * 3, modalities=settings).save_pretrained(folder)
    both = trainer(tmp_path / "both", load_tasks(specs(chest, eyes)), init=str(folder), **_of_init())
    assert list(both.processor.of("OP").image_std) == [0.3] * 3 and list(both.processor.image_mean) == [0.5] * 3
    eye = trainer(tmp_path / "eye", load_tasks(specs(eyes)), init=str(folder), **_of_init())
    assert (eye.processor.modality, [*eye.processor.modalities]) == ("OP", ["CR"])
    for modality, std in {"OP": [0.3] * 3, "CR": ArkImageProcessor().image_std}.items():
        assert list(eye.processor.of(modality).image_std) == list(std)


def _of_init() -> dict:
    return {
        name: getattr(PretrainingArguments("x"), name) for name in ("backbone", "backbone_kwargs", "projector_dim")
    }


def test_nobody_is_taken_for_a_radiograph_beside_others_because_nothing_is_said(tmp_path, eyes):
    with pytest.raises(
        ValueError, match="task 'other': it is read through `columns`, and stands beside .*modality: CR"
    ):
        load_tasks([*specs(eyes), _of_columns(tmp_path)])
    loaded = load_tasks([*specs(eyes), _of_columns(tmp_path, modality="MG")])
    assert [data.task.modality for data in loaded] == ["OP", "MG"]
    (alone,) = load_tasks([_of_columns(tmp_path)])
    assert alone.task.modality == "CR"


def _of_columns(folder: Path, **more) -> TaskSpec:
    """A dataset whose card tells of no task."""
    from datasets import Dataset, Features, Image, Value

    where = folder / "foreign"
    if not where.exists():
        for split, count in EYES.items():
            rows = {"picture": [encode_png(fundus(n)[:1]) for n in range(count)], "tb": [n % 2 for n in range(count)]}
            features = Features({"picture": Image(), "tb": Value("int64")})
            (where / "data").mkdir(parents=True, exist_ok=True)
            Dataset.from_dict(rows, features=features).to_parquet(where / "data" / f"{split}-00000-of-00001.parquet")
    return TaskSpec(str(where), name="other", columns={"image": "picture", "labels": ["tb"]}, **more)


def test_a_recipe_cannot_gainsay_a_card(eyes, chest):
    with pytest.raises(ValueError, match="its card says modality OP, not MG; leave modality out"):
        load_tasks(specs(eyes, modality="MG"))
    with pytest.raises(ValueError, match="modality 'eye' is unknown; use DICOM's code"):
        TaskSpec(str(eyes), modality="eye")
    (loaded,) = load_tasks(specs(chest, modality="MG"))  # a card without one counts as CR
    assert loaded.task.modality == "MG"

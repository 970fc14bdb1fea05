"""Training from streams: as from loaded datasets but for the order; resumed in the middle of a pass; broken off."""

import json
import time

import pytest
from huggingface_hub import HfApi

from ark_hf.data import loading, streaming
from ark_hf.data.build import shards
from ark_hf.data.sources.phantom_sites import build_phantom_sites
from ark_hf.data.streaming import StreamedRows
from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.ark.recipe import PretrainingArguments, TaskSpec
from ark_hf.training.ark.tasks import load_tasks

from ..conftest import TINY
from .test_resume import Killed, MortalPretrainer, finish, same_weights, start, write_recipe


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """Two phantom sites (multi-label, 3-class) of seven row groups of training images."""
    folder = tmp_path_factory.mktemp("phantom") / "sites"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROWS_PER_GROUP", 3)
        return dict(list(build_phantom_sites(folder, {"train": 20, "validation": 12}, size=40).items())[:2])


@pytest.fixture(autouse=True)
def small_window(monkeypatch):
    """So small that a pass reads one row group after the other."""
    monkeypatch.setattr(streaming, "WINDOW", 4)
    monkeypatch.setattr(streaming, "AT_ONCE", 0)


def pretrainer(folder, sites, kind=CyclicPretrainer, **settings):
    args = PretrainingArguments(output_dir=str(folder), **{**TINY, "streaming": True, **settings})
    specs = [TaskSpec(str(path), uncertain="lsr_ones") for path in sites.values()]
    return kind(args, load_tasks(specs, ".", args.streaming))


def sample_sums(trainer, first_step=0) -> list[float]:
    """What the student sees of each sample of the first task's pass, as one number."""
    steps = trainer.train_batches(trainer.passes[0], first_step)
    return [view.sum().item() for batches in steps for batch in batches for view in batch["pixel_values"]]


def test_a_stream_has_the_samples_of_the_loaded_dataset_in_another_order(tmp_path, sites):
    streamed = sample_sums(pretrainer(tmp_path, sites))
    loaded = sample_sums(pretrainer(tmp_path, sites, streaming=False))
    assert len(set(streamed)) == 20
    assert sorted(streamed) == sorted(loaded) and streamed != loaded


@pytest.mark.slow_ci
def test_workers_and_accumulation_see_the_same_pass(tmp_path, sites):
    whole = sample_sums(pretrainer(tmp_path, sites))
    assert sample_sums(pretrainer(tmp_path, sites, dataloader_num_workers=2)) == whole
    assert sample_sums(pretrainer(tmp_path, sites, gradient_accumulation_steps=3)) == whole
    assert sample_sums(pretrainer(tmp_path, sites), first_step=1) == whole[8:]


def test_a_run_is_validated_and_ends_as_from_loaded_datasets(tmp_path, sites):
    streamed = pretrainer(tmp_path / "streamed", sites, cycles=1, learning_rate=1e-9)
    loaded = pretrainer(tmp_path / "loaded", sites, cycles=1, learning_rate=1e-9, streaming=False)
    streamed.train(), loaded.train()
    assert isinstance(streamed.tasks[0].splits["validation"], StreamedRows)
    ours, theirs = (each.state.history[0]["validation"]["teacher"]["tasks"] for each in (streamed, loaded))
    for task, figures in ours.items():  # without training, the models are the same
        assert figures["loss"] == pytest.approx(theirs[task]["loss"], abs=1e-6)
        assert figures["auroc"] == pytest.approx(theirs[task]["auroc"], nan_ok=True)
        assert figures["samples"] == 12


def test_a_quirk_that_needs_validation_looks_for_it_in_the_stream(tmp_path, sites):
    trainer = pretrainer(tmp_path, sites, reproduce=["lr_by_val_loss"])
    assert all(data.has_known_label("validation") for data in trainer.tasks)
    for data in trainer.tasks:
        del data.splits["validation"]
    with pytest.raises(ValueError, match="lr_by_val_loss needs a task whose validation split has a known label"):
        CyclicPretrainer(trainer.args, trainer.tasks)


@pytest.mark.slow_ci
def test_a_streamed_run_resumes_in_the_middle_of_a_pass_to_the_same_weights(tmp_path, sites, monkeypatch):
    settings = {"cycles": 2, "save_steps": 1}
    pretrainer(tmp_path / "whole", sites, **settings).train()
    for step in (2, 5, 8):  # passes of 3 steps
        mortal = pretrainer(tmp_path / "killed", sites, MortalPretrainer, **settings)
        mortal.dies_at = step
        with pytest.raises(Killed):
            mortal.train()
    decoded = []
    picture = loading.open_stored
    monkeypatch.setattr(loading, "open_stored", lambda *cell: (decoded.append(1), picture(*cell))[1])
    pretrainer(tmp_path / "killed", sites, **settings).train()
    for model in ("ark-cxr", "student"):
        assert same_weights(tmp_path / "whole" / model, tmp_path / "killed" / model)
    # What was left are the last step of a pass (4 images), one whole pass, and one validation of two tasks
    assert len(decoded) == 4 + 20 + 2 * 12


@pytest.mark.slow_ci
def test_a_streamed_run_is_not_resumed_from_loaded_datasets_nor_from_other_files(tmp_path, sites):
    pretrainer(tmp_path / "run", sites, cycles=1).train()
    with pytest.raises(ValueError, match="streaming was True, now False"):
        pretrainer(tmp_path / "run", sites, cycles=1, streaming=False).train()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROWS_PER_GROUP", 5)
        other = build_phantom_sites(tmp_path / "sites", {"train": 20, "validation": 12}, size=40)
    with pytest.raises(ValueError, match="tasks was"):
        pretrainer(tmp_path / "run", {name: other[name] for name in sites}, cycles=1).train()


@pytest.mark.slow
def test_two_processes_share_a_streamed_pass(tmp_path, sites):
    recipe = write_recipe(tmp_path, sites, cycles=1, drop_path_rate=0.0, batch_size=7, streaming=True)
    finish(start(recipe, tmp_path / "one"))
    launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "ark_hf.cli")
    finish(start(recipe, tmp_path / "two", *launcher))
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert one["history"][0]["train"] == pytest.approx(two["history"][0]["train"], abs=1e-5)


@pytest.mark.slow_ci
def test_a_run_goes_on_after_its_stream_broke_off(tmp_path, sites, hub, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # huggingface_hub waits before it tries again
    remote = {}
    for name, folder in sites.items():
        HfApi().create_repo(f"someone/{name}", repo_type="dataset")
        HfApi().upload_folder(folder_path=folder, repo_id=f"someone/{name}", repo_type="dataset")
        remote[name] = f"someone/{name}"
    settings = {"cycles": 1, "save_steps": 1}
    pretrainer(tmp_path / "whole", sites, **settings).train()
    trainer = pretrainer(tmp_path / "broken", remote, **settings)
    with hub.failing(r"GET /storage/", status=0, skip=12):
        with pytest.raises(OSError, match="Cannot read .* The last checkpoint is intact: the same command goes on"):
            trainer.train()
    assert 0 < trainer.state.step < 6 and trainer.state.step_in_pass > 0
    resumed = pretrainer(tmp_path / "broken", remote, **settings)
    resumed.train()
    for model in ("ark-cxr", "student"):
        assert same_weights(tmp_path / "whole" / model, tmp_path / "broken" / model)


def test_nothing_is_copied_to_the_cache(tmp_path, sites, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    pretrainer(tmp_path / "run", sites, cycles=1).train()
    assert not [path for path in (tmp_path / "cache").rglob("*.arrow")]

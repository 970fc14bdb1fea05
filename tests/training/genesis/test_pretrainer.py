"""A run of Models Genesis: what it sees, learns, measures and leaves, and that it goes on where it was broken off."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining

from ark_hf import GenesisForPreTraining, GenesisForSemanticSegmentation
from ark_hf.cli.main import main
from ark_hf.data.build.build import build_dataset
from ark_hf.data.open_dataset import open_images
from ark_hf.data.sources.phantom_volumes import TASKS, phantom_volume_release
from ark_hf.training.ark.recipe import TaskSpec
from ark_hf.training.genesis.objective import restoration_loss
from ark_hf.training.genesis.pretrainer import GenesisPretrainer
from ark_hf.training.genesis.tasks import load_volumes
from ark_hf.training.peac.arguments import PeacArguments
from ark_hf.training.peac.pretrainer import PeacPretrainer

from .conftest import trainer


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def losses(run, part):
    return [entry[part]["loss"] for entry in run.state.history]


def test_a_run_leaves_a_genesis_that_transfers(finished):
    model = AutoModelForPreTraining.from_pretrained(finished / "genesis")
    assert type(model) is GenesisForPreTraining
    assert model.eval()(torch.zeros(1, 1, 16, 16, 16)).reconstruction.shape == (1, 1, 16, 16, 16)
    assert GenesisForSemanticSegmentation.from_pretrained(finished / "genesis", num_labels=2).decoder is not None
    notes = json.loads((finished / "genesis" / "provenance.json").read_text())
    metrics = json.loads((finished / "metrics.json").read_text())
    assert (notes["kind"], notes["method"], notes["epoch"]) == (
        "self-supervision",
        "genesis",
        metrics["best"]["epoch"],
    )
    assert notes["data"][0]["splits"]["train"]["rows"] == 6 and notes["data"][0]["pictures_sha256"]["train"]
    assert notes["settings"]["width"] == 2 and notes["settings"]["hu_window"] == [-1000, 1000]


def test_a_run_measures_its_losses_and_keeps_the_best(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["cubes"] == {"train": 18, "validation": 6}
    assert [entry["epoch"] for entry in metrics["history"]] == [1, 2]
    found = [entry["validation"]["loss"] for entry in metrics["history"]]
    assert metrics["best"]["loss"] == min(found) and metrics["best"]["epoch"] == 1 + int(np.argmin(found))


@pytest.mark.slow_ci
def test_it_learns(volumes, tmp_path):
    run = trainer(tmp_path, volumes, width=4, cubes_per_volume=8, epochs=8, learning_rate=1.0)
    before = run.validate()
    run.train()
    assert run.state.best["loss"] < 0.7 * before


def test_every_cube_is_seen_once_an_epoch_and_resumed_epochs_see_the_rest(volumes, tmp_path):
    run = trainer(tmp_path, volumes)

    def seen(first_step=0):
        return [
            [round(cube.double().sort().values[::2].sum().item(), 6) for cube in batch["labels"].flatten(1)]
            for (batch,) in run.train_batches(first_step)
        ]

    whole = seen()
    assert [len(batch) for batch in whole] == [4, 4, 4, 4, 2]
    assert len({cube for batch in whole for cube in batch}) == 18
    assert seen(3) == whole[3:]
    run.state.cycle = 1
    other = seen()
    assert sorted(sum(other, [])) == sorted(sum(whole, [])) and other != whole
    (first,), (again,) = (run.loader.load([("train", np.arange(2))], epoch) for epoch in (0, 1))
    assert not torch.equal(first["pixel_values"], again["pixel_values"])


def test_batches_may_be_drawn_anew(volumes, tmp_path):
    run = trainer(tmp_path, volumes, reproduce=["batches_drawn_anew"])
    batches = run._plan(0)
    assert [len(set(batch)) for batch in batches] == [4] * 5  # none twice in a batch
    assert len(np.unique(np.concatenate(batches))) < 18
    assert all(np.array_equal(one, other) for one, other in zip(batches, run._plan(0), strict=True))


def test_validation_is_comparable_unless_it_is_drawn_anew(volumes, tmp_path):
    run = trainer(tmp_path / "usual", volumes)
    statistics = {key: value.clone() for key, value in run.model.named_buffers()}
    first = run.validate()
    run.state.cycle = 1
    assert run.validate() == first > 0
    assert same(statistics, dict(run.model.named_buffers()))
    quirk = trainer(tmp_path / "quirk", volumes, reproduce=["validation_drawn_anew", "batch_statistics"])
    first = quirk.validate()
    quirk.state.cycle = 1
    assert quirk.validate() != first
    assert not same(statistics, dict(quirk.model.named_buffers()))


def test_a_step_of_micro_batches_is_one_of_the_global_mean(volumes, tmp_path):
    run = trainer(tmp_path, volumes, gradient_accumulation_steps=2, batch_size=5, reproduce=["batch_statistics"])
    batches = next(run.train_batches(0))
    assert [len(batch["weight"]) for batch in batches] == [3, 2]
    model = GenesisForPreTraining(run.config)
    model.load_state_dict(run.model.state_dict())
    loss = sum(
        restoration_loss(model(batch["pixel_values"]).logits, batch["labels"], batch["weight"], torch.tensor(5.0))
        for batch in batches
    )
    loss.backward()
    before = {key: value.clone() for key, value in run.model.named_parameters()}
    assert run.train_step(batches).item() == pytest.approx(loss.item(), rel=1e-6)
    rate = run.schedules.learning_rate(run.state)
    for key, value in model.named_parameters():
        torch.testing.assert_close(run.model.state_dict()[key], before[key] - rate * value.grad, rtol=0, atol=1e-6)


@pytest.mark.slow_ci
@pytest.mark.parametrize("settings", [{"mixed_precision": "bf16"}, {"channels_last": True}])
def test_faster_runs_train_nearly_the_same(volumes, finished, tmp_path, settings):
    run = trainer(tmp_path, volumes, **settings)
    run.train()
    expected = [
        entry["validation"]["loss"] for entry in json.loads((finished / "metrics.json").read_text())["history"]
    ]
    assert losses(run, "validation") == pytest.approx(expected, rel=0.05)
    assert weights(tmp_path / "genesis")["restoration_head.weight"].dtype == torch.float32


def test_a_run_ends_when_it_has_not_been_better_for_long(volumes, tmp_path, monkeypatch):
    measured = iter([0.3, 0.2, 0.25, 0.21])
    monkeypatch.setattr(GenesisPretrainer, "validate", lambda self: next(measured))
    run = trainer(tmp_path, volumes, epochs=10, patience=2)
    monkeypatch.setattr(run, "train_batches", lambda first_step: iter([]))
    monkeypatch.setattr(run, "_finish_epoch", with_loss(run._finish_epoch, run.state))
    run.train()
    assert run.state.cycle == 4 and run.state.best == {"epoch": 2, "loss": 0.2}
    assert json.loads((tmp_path / "genesis" / "provenance.json").read_text())["epoch"] == 2
    assert trainer(tmp_path, volumes, epochs=10, patience=2).schedules.is_over(run.state)


def with_loss(finish, state):
    def finish_epoch(started):
        state.pass_losses = {"loss": [0.1]}
        finish(started)

    return finish_epoch


class Killed(Exception):
    pass


class MortalPretrainer(GenesisPretrainer):
    """Dies at the end of a step, and writes nothing more."""

    dies_at: int | None = None

    def log_step(self, loss):
        super().log_step(loss)
        if self.state.step == self.dies_at:
            raise Killed


def test_a_broken_run_ends_with_the_same_weights(volumes, tmp_path, finished):
    for step in (1, 7):
        run = trainer(tmp_path, volumes, save_steps=1)
        run.__class__, run.dies_at = MortalPretrainer, step
        with pytest.raises(Killed):
            run.train()
    shutil.rmtree(tmp_path / "cubes")  # which are cut again
    last = trainer(tmp_path, volumes, save_steps=1)
    assert last.state.step == 7
    last.train()
    assert same(weights(tmp_path / "genesis"), weights(finished / "genesis"))
    assert (
        last.state.history[-1]["validation"]
        == json.loads((finished / "metrics.json").read_text())["history"][-1]["validation"]
    )


def test_another_run_is_not_gone_on_with(volumes, images_of_peac, finished):
    noted = (finished / "cubes" / "cubes.json").read_text()
    with pytest.raises(ValueError, match="cubes_per_volume was 3, now 4"):
        trainer(finished, volumes, cubes_per_volume=4)
    assert (finished / "cubes" / "cubes.json").read_text() == noted
    with pytest.raises(ValueError, match="holds a run of method: genesis; this is method: peac"):
        PeacPretrainer(PeacArguments(str(finished)), images_of_peac)


@pytest.fixture
def images_of_peac(sites):
    return [open_images(next(iter(sites.values())))]


def test_a_run_goes_on_from_another(volumes, finished, tmp_path):
    run = trainer(tmp_path, volumes, init=str(finished / "genesis"), width=None, depth=None)
    assert same(dict(run.model.state_dict()), weights(finished / "genesis"))
    assert run.start.facts["start_provenance"]["method"] == "genesis"


@pytest.fixture(scope="module")
def swapped(tmp_path_factory):
    """The same CTs, those for training held out for the test, and the others trained on."""
    counts = {"train": 6, "validation": 2}
    release = phantom_volume_release(TASKS["phantom_ct_nodule"], counts, size=32, seed=0)
    drawn, now = release.read_volume, {"train": "test", "validation": "train"}
    before = {new: old for old, new in now.items()}
    release.read_volume = lambda row: drawn(replace(row, split=before[row.split]))
    for row in release.rows:
        row.split = now[row.split]
    build_dataset(release, tmp_path_factory.mktemp("swapped") / "cts", num_workers=1)
    return tmp_path_factory.getbasetemp() / "swapped0" / "cts"


def test_volumes_that_are_trained_on_are_not_held_out(volumes, swapped, finished, tmp_path):
    with pytest.warns(UserWarning, match="no split 'validation'"):
        other = load_volumes([TaskSpec(str(swapped), name="swapped")])
    with pytest.raises(ValueError, match="Held-out images are trained on: .*6 pictures to the pixel"):
        trainer(tmp_path / "beside", [*volumes, *other])
    with pytest.raises(ValueError, match="The pictures of the split 'test' are those that the model was trained on"):
        trainer(tmp_path / "after", other, init=str(finished / "genesis"), width=None, depth=None)
    allowed = trainer(tmp_path / "allowed", [*volumes, *other], allow_shared_images=True)
    assert allowed.data[1].facts["shared_images"]


def test_a_run_without_validation_ends_with_its_last_weights(phantom_volumes, tmp_path):
    run = trainer(tmp_path, [open_images(phantom_volumes["phantom_ct_structures"], ["train"])])
    model = run.train()
    assert run.state.best is None and np.isnan(losses(run, "validation")).all()
    assert same(dict(run.model.state_dict()), dict(model.state_dict()))


def test_datasets_that_do_not_suit_are_refused(phantom_volumes, sites, tmp_path):
    pictures, cts = str(next(iter(sites.values()))), str(phantom_volumes["phantom_ct_nodule"])
    with pytest.raises(ValueError, match="holds pictures, and method: genesis learns from volumes"):
        load_volumes([TaskSpec(pictures)])
    with pytest.raises(ValueError, match="`columns` has no effect on volumes"):
        load_volumes([TaskSpec(cts, name="cts", columns={"image": "ct"})])
    with pytest.raises(ValueError, match="`uncertain` has no effect where labels are not read"):
        load_volumes([TaskSpec(cts, uncertain="ones")])
    shutil.copytree(cts, tmp_path / "mr")
    card = tmp_path / "mr" / "README.md"
    card.write_text(card.read_text().replace("CT", "MR"))
    with pytest.raises(ValueError, match="is of modality MR and .* of CT"):
        load_volumes([TaskSpec(cts), TaskSpec(str(tmp_path / "mr"), name="mr")])


def test_cubes_that_nothing_gives_are_told_with_the_remedy(volumes, tmp_path):
    with pytest.warns(
        UserWarning, match="8 of 8 volumes give no cube. .* row 0 .*: the volume has 32 x 24 x 24 voxels"
    ):
        with pytest.raises(ValueError, match="choose smaller cubes or borders"):
            trainer(tmp_path / "large", volumes, cube_size=[16, 16, 64])
    with pytest.warns(UserWarning, match="has more tissue than most_tissue"), pytest.raises(ValueError):
        trainer(tmp_path / "dense", volumes, most_tissue=0.001)


def test_the_verb_trains_and_says_where_the_network_is(phantom_volumes, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(
        f"{{method: genesis, output_dir: run, width: 2, depth: 2, cube_size: [16, 16, 16], cubes_per_volume: 1, "
        f"epochs: 1, tasks: [{{dataset: {phantom_volumes['phantom_ct_nodule']}}}]}}"
    )
    assert main(["pretrain", "recipe.yaml"]) == 0
    assert "The network is in run/genesis." in capsys.readouterr().out
    assert "border: null" in (tmp_path / "run" / "recipe.yaml").read_text()


def test_fsdp_is_refused(tmp_path, volumes, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="method: genesis is not trained with FSDP"):
        trainer(tmp_path, volumes)

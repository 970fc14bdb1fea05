"""A run of PEAC: what it sees, learns, measures and leaves, and that it goes on where it was broken off."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel

from ark_hf.data.open_dataset import open_images
from ark_hf.models.ark.modeling_ark import ArkModel
from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.ark.recipe import PretrainingArguments, TaskSpec
from ark_hf.training.ark.tasks import load_tasks
from ark_hf.training.peac.heads import HEADS_FILE
from ark_hf.training.peac.objective import TERMS
from ark_hf.training.peac.pretrainer import PeacPretrainer
from ark_hf.training.peac.tasks import load_images

from .conftest import trainer


def weights(folder, file="model.safetensors"):
    return load_file(folder / file)


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def all_weights(folder):
    return {f"{name}/{file}": weights(folder / name, file)
            for name in ("ark-cxr", "student") for file in ("model.safetensors", HEADS_FILE)}  # fmt: skip


def test_a_run_leaves_plain_encoders_with_heads_beside_them(finished):
    for name in ("ark-cxr", "student", "best"):
        model = AutoModel.from_pretrained(finished / name)
        assert type(model) is ArkModel and model.projector is None
        assert model(torch.zeros(1, 3, 32, 32)).last_hidden_state.shape == (1, 16, 24)
        assert weights(finished / name, HEADS_FILE)["order.weight"].shape == (16, 24)
    assert not same(weights(finished / "ark-cxr"), weights(finished / "student"))
    notes = json.loads((finished / "ark-cxr" / "provenance.json").read_text())
    assert (notes["kind"], notes["method"], notes["epoch"]) == ("self-supervision", "peac", 2)
    assert all(each["splits"]["train"]["rows"] == 20 and each["splits"]["test"] for each in notes["data"])


def test_a_run_measures_its_losses(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    assert [entry["epoch"] for entry in metrics["history"]] == [1, 2]
    for entry in metrics["history"]:
        for part in ("train", "validation"):
            values = entry[part]
            weighted = values["order"] + values["restoration"] + 100 * values["global"] + values["local"]
            assert values["total"] == pytest.approx(weighted, rel=1e-5)
    totals = [entry["validation"]["total"] for entry in metrics["history"]]
    assert metrics["best"]["total"] == min(totals)


@pytest.mark.slow_ci
def test_it_learns(images, tmp_path):
    run = trainer(tmp_path, images, epochs=12, optim="adamw", learning_rate=3e-3, global_weight=10.0)
    before = run.validate()
    run.train()
    after = run.state.history[-1]["validation"]
    assert after["restoration"] < 0.8 * before["restoration"] and after["order"] < before["order"]


def test_every_image_is_seen_once_an_epoch_in_batches_of_one_dataset(images, tmp_path):
    run = trainer(tmp_path, images)
    sums = []
    for (batch,) in run.train_batches(0):
        sums.append([round(target.sum().item(), 3) for target in batch["target"]])
    assert sorted(len(each) for each in sums) == [4, 4, 8, 8, 8, 8]  # 20 images of each site
    assert len({value for each in sums for value in each}) == 40
    rest = [[round(target.sum().item(), 3) for target in batch["target"]] for (batch,) in run.train_batches(2)]
    assert rest == sums[2:]
    run.state.cycle = 1
    other = [[round(target.sum().item(), 3) for target in batch["target"]] for (batch,) in run.train_batches(0)]
    assert other != sums


def test_accumulated_steps_are_whole_ones(images, tmp_path):
    whole = trainer(tmp_path / "whole", images, epochs=1, drop_path_rate=0.0)
    parts = trainer(tmp_path / "parts", images, epochs=1, drop_path_rate=0.0, gradient_accumulation_steps=3)
    for run in (whole, parts):
        run.train()
    for file in ("model.safetensors", HEADS_FILE):
        one, other = (weights(run.output_dir / "student", file) for run in (whole, parts))
        for key in one:
            torch.testing.assert_close(other[key], one[key], rtol=0, atol=2e-6)


def test_half_precision_and_checkpointing_train_nearly_the_same(images, tmp_path):
    usual = {"epochs": 1, "drop_path_rate": 0.0}
    whole = trainer(tmp_path / "whole", images[:1], **usual)
    half = trainer(tmp_path / "half", images[:1], **usual, mixed_precision="bf16", gradient_checkpointing=True)
    for run in (whole, half):
        run.train()
    expected, found = (run.state.history[0]["validation"] for run in (whole, half))
    assert found == pytest.approx(expected, rel=0.05) and found != expected


class Killed(Exception):
    pass


class MortalPretrainer(PeacPretrainer):
    """Dies at the end of a step, and writes nothing more."""

    dies_at: int | None = None

    def log_step(self, losses, momentum):
        super().log_step(losses, momentum)
        if self.state.step == self.dies_at:
            raise Killed


def test_a_broken_run_ends_with_the_same_weights(images, tmp_path, finished):
    for step in (1, 6):
        run = trainer(tmp_path, images, save_steps=1)
        run.__class__, run.dies_at = MortalPretrainer, step
        with pytest.raises(Killed):
            run.train()
    last = trainer(tmp_path, images, save_steps=1)
    assert last.state.step == 6
    last.train()
    ends = all_weights(tmp_path)
    for name, expected in all_weights(finished).items():
        assert same(ends[name], expected), name


def test_a_folder_of_the_other_method_is_not_gone_on_with(images, finished, sites, tmp_path):
    labelled = load_tasks([TaskSpec(str(next(iter(sites.values()))))])
    with pytest.raises(ValueError, match="holds a run of method: peac; this is method: ark"):
        CyclicPretrainer(PretrainingArguments(str(finished)), labelled)
    shutil.copytree(finished, tmp_path / "run")
    for file in tmp_path.glob("run/checkpoints/*/settings.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"method": "ark"}))
        file.with_name("files.json").unlink()
    with pytest.raises(ValueError, match="holds a run of method: ark; this is method: peac"):
        trainer(tmp_path / "run", images)


def test_another_run_is_not_gone_on_with(images, finished):
    with pytest.raises(ValueError, match="local_weight was 1.0, now 0.0"):
        trainer(finished, images, local_weight=0.0)


def test_a_run_goes_on_from_another_with_its_heads(images, finished, tmp_path):
    run = trainer(tmp_path, images, init=str(finished / "ark-cxr"))
    for key, value in weights(finished / "ark-cxr", HEADS_FILE).items():
        assert torch.equal(run.teacher.heads.state_dict()[key], value)
    assert same(dict(run.teacher.ark.state_dict()), weights(finished / "ark-cxr"))
    assert run.start.facts["start"] == "ark-cxr" and run.start.facts["start_provenance"]["method"] == "peac"
    kept = {key: value for key, value in weights(finished / "ark-cxr", HEADS_FILE).items() if "local" not in key}
    older = tmp_path / "older"
    AutoModel.from_pretrained(finished / "ark-cxr").save_pretrained(older)
    run.processor.save_pretrained(older)
    save_file(kept, older / HEADS_FILE)
    with pytest.warns(UserWarning, match="has no head local_projector; it is new"):
        trainer(tmp_path / "older_run", images, init=str(older))


def test_a_run_folder_beside_the_model_in_it_is_told_of(images, finished, tmp_path):
    with pytest.raises(ValueError, match=f"Did you mean {finished / 'ark-cxr'}"):
        trainer(tmp_path, images, init=str(finished))


def test_terms_of_no_weight_teach_nothing(images, tmp_path):
    run = trainer(tmp_path, images, epochs=1, order_weight=0, local_weight=0, learning_rate=0.1)
    before = {key: value.clone() for key, value in run.student.heads.state_dict().items()}
    run.train()
    after = run.student.heads.state_dict()
    for key, value in before.items():
        moved = not key.startswith(("order", "local"))
        assert torch.equal(after[key], value) != moved, key
    assert run.state.history[-1]["validation"]["order"] > 0


@pytest.mark.parametrize("kind", ["masks", "streamed"])
def test_what_the_images_are_labelled_with_does_not_matter(images, phantom_masks, sites, tmp_path, kind):
    if kind == "masks":
        data = [open_images(phantom_masks["phantom_organs"], ["train"])]
    else:
        data = load_images([TaskSpec(str(folder)) for folder in list(sites.values())[:2]], streaming=True)
    run = trainer(tmp_path, data, epochs=1)
    run.train()
    validation = run.state.history[0]["validation"]
    assert all((validation[term] > 0) == (kind == "streamed") for term in TERMS)
    if kind == "streamed":
        loaded = trainer(tmp_path / "loaded", images, epochs=1)
        loaded.train()
        assert loaded.state.history[0]["validation"] == pytest.approx(validation, rel=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 36}, "not a multiple of the patch size"),
        ({"backbone": "vit_tini", "backbone_kwargs": None}, "Unknown backbone"),
        ({"image_size": 8}, "four at least"),
        ({"image_size": 8, "backbone_kwargs": {"patch_size": 4}}, "leaves no room to distort crops: 14 at least"),
    ],
)
def test_encoders_that_do_not_suit_are_refused(images, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, images, **settings)


def test_encoders_with_batch_norm_are_warned_of(images, tmp_path):
    settings = {"backbone": "test_resnet", "backbone_kwargs": None, "image_size": 64, "epochs": 1}
    with pytest.warns(UserWarning, match="has batch norm"):
        run = trainer(tmp_path, images[:1], **settings)
    assert run.grid.side == 2
    run.train()


def test_entries_that_say_how_labels_are_read_are_refused(sites):
    folder = str(next(iter(sites.values())))
    with pytest.raises(ValueError, match="`uncertain` has no effect where labels are not read"):
        load_images([TaskSpec(folder, uncertain="ones")])
    with pytest.raises(ValueError, match="`train` has no effect"):
        load_images([TaskSpec(folder, train=False)])
    with pytest.raises(ValueError, match="Two datasets are named"):
        load_images([TaskSpec(folder), TaskSpec(folder)])


def test_fsdp_is_refused(tmp_path, images, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="method: peac is not trained with FSDP"):
        trainer(tmp_path, images)


def test_photographs_are_learned_from_in_their_colours(tmp_path, eyes):
    run = trainer(tmp_path, load_images([TaskSpec(str(eyes))]), epochs=1)
    assert run.processor.modality == "OP"
    run.train()
    assert AutoImageProcessor.from_pretrained(tmp_path / "ark-cxr").modality == "OP"
    with run.loader:
        batch = run.loader.load([(next(iter(run.loader.samples)), np.arange(4))], 0)
        pictures = next(batch)["target"]
    assert pictures.shape[1] == 3 and (pictures[:, 0].float() - pictures[:, 2].float()).mean() > 20

"""Fine-tuning a Genesis on volumes: what it starts from, learns, keeps, resumes and refuses."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ark_hf import (
    ArkTask,
    GenesisConfig,
    GenesisForImageClassification,
    GenesisForPreTraining,
    GenesisForSemanticSegmentation,
    GenesisImageProcessor,
    GenesisModel,
    SegmentationTask,
    load_genesis,
)
from ark_hf.cli.main import main
from ark_hf.evaluation.mask_scoring import score_masks
from ark_hf.hub.push_model import model_files
from ark_hf.provenance import read_provenance
from ark_hf.training.finetune import trainer as module
from ark_hf.training.finetune.arguments import FinetuningArguments
from ark_hf.training.finetune.data import check_content, load_finetuning_data
from ark_hf.training.finetune.layerwise import parameter_groups
from ark_hf.training.finetune.run import finetune
from ark_hf.training.finetune.trainer import create_trainer
from ark_hf.training.finetune.volume_start import initial_genesis

SHAPE = {"width": 2, "depth": 2, "cube_size": [8, 8, 8]}
FAST = {**SHAPE, "batch_size": 8, "cubes_per_volume": 4, "epochs": 2, "bootstrap": 20, "learning_rate": 1e-2}
LABELS = {key: value for key, value in FAST.items() if key != "cubes_per_volume"} | {"cube_size": [12, 12, 16]}


def arguments(folder, **changes) -> FinetuningArguments:
    return FinetuningArguments(output_dir=str(folder), **(FAST | changes))


def of_labels(folder, **changes) -> FinetuningArguments:
    return FinetuningArguments(output_dir=str(folder), **(LABELS | changes))


@pytest.fixture(scope="module")
def structures(phantom_volumes):
    return load_finetuning_data(str(phantom_volumes["phantom_ct_structures"]), arguments("runs/x"))


@pytest.fixture(scope="module")
def nodule(phantom_volumes):
    return load_finetuning_data(str(phantom_volumes["phantom_ct_nodule"]), of_labels("runs/x"))


@pytest.fixture(scope="module")
def finished(structures, tmp_path_factory, no_figures):
    """The folder and the results of a run; tests only read them."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, finetune("none", "structures", arguments(folder), structures)


def test_the_best_validation_of_whole_volumes_is_kept_and_the_test_split_scored(finished, structures):
    folder, results = finished
    (seed,) = results["seeds"]
    assert [entry["step"] for entry in seed["history"]] == [3, 6]  # six volumes, two a step
    model, processor = load_genesis(str(folder / "seed-0" / "genesis"))
    assert isinstance(model, GenesisForSemanticSegmentation)
    assert model.config.segmentation == structures.task and not model.config.batch_statistics
    scored = score_masks(model, processor, structures, "validation", distances=False)
    best = max(entry["mean_dice"] for entry in seed["history"])
    assert seed["validation"]["mean_dice"] == pytest.approx(best)
    assert best == pytest.approx(np.nanmean(np.nanmean(scored.dice, axis=0)))
    assert results["test"]["mean"] == pytest.approx(seed["test"]["dice"][-1]["mean"])
    assert seed["test"]["distance_unit"] == "mm" and seed["test"]["prior_dice"][0]["mean"] > 0.5
    report = json.loads((folder / "seed-0" / "report" / "report.json").read_text())
    assert (report["kind"], report["model"]) == ("segmentation", "genesis")
    assert report["tasks"][0]["dice"] == seed["test"]["dice"]
    origin = read_provenance(folder / "seed-0" / "genesis")
    assert origin["seeds"]["runs"][0]["test"] == results["test"]["mean"] and origin["start"] == "none"
    stored = np.load(folder / "seed-0" / "test_predictions.npz")
    assert stored["dice"].shape == (4, 3) and stored["labels"].tolist() == structures.task.labels


def test_the_verb_goes_on_with_a_run_and_says_where_the_model_is(finished, structures, capsys):
    words = ["finetune", "none", structures.source, "--output_dir", str(finished[0])]
    for name, value in FAST.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    assert main(words) == 0
    assert capsys.readouterr().out.rstrip().endswith(f"The model is in {finished[0] / 'seed-0' / 'genesis'}.")


def test_the_model_can_be_pushed_with_its_report(finished):
    seed = finished[0] / "seed-0"
    files = model_files(seed / "genesis", "someone/genesis", seed / "report")
    assert "modeling_genesis.py" in files.model and "Dice" in files.card["README.md"].decode()


@pytest.mark.slow_ci
def test_a_run_that_was_killed_ends_with_the_same_weights(finished, structures, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    scores, validations = module.validation_scores, iter("live")

    def die(*args):
        if next(validations) == "i":  # in the second
            raise Killed
        return scores(*args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "validation_scores", die)
        finetune("none", "structures", arguments(tmp_path / "run", test=False), structures)
    finetune("none", "structures", arguments(tmp_path / "run", test=False), structures)
    name = "seed-0/genesis/model.safetensors"
    ours, theirs = (load_file(folder / name) for folder in (tmp_path / "run", finished[0]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_labels_of_volumes_are_learnt_and_chosen_by_auroc(nodule, finished, tmp_path, no_figures):
    start = str(finished[0] / "seed-0" / "genesis")
    results = finetune(start, "nodule", of_labels(tmp_path / "run", batch_size=3, seeds=[1]), nodule)
    for seed in results["seeds"]:
        assert seed["head"] == "fresh" and seed["history"][-1]["step"] == 4
        assert "Nodule" in seed["validation"]["auroc"]
        assert [each["label"] for each in seed["test"]["baseline_labels"]] == ["Nodule"]
    model, processor = load_genesis(str(tmp_path / "run" / "seed-1" / "genesis"))
    assert isinstance(model, GenesisForImageClassification)
    assert processor.cube_size == model.config.cube_size == [12, 12, 16]
    stored = np.load(tmp_path / "run" / "seed-1" / "test_predictions.npz")
    assert stored["probabilities"].shape == (4, 1)
    assert "phantom_ct_nodule" in (tmp_path / "run" / "results.md").read_text()


def save(folder, kind, **config) -> tuple[str, dict[str, torch.Tensor]]:
    torch.manual_seed(5)
    start = kind(GenesisConfig(**({"width": 2, "depth": 2, "cube_size": [8, 8, 8]} | config)))
    start.save_pretrained(folder)
    GenesisImageProcessor.from_config(start.config).save_pretrained(folder)
    return str(folder), start.state_dict()


STARTS = {
    GenesisForPreTraining: {},
    GenesisModel: {},
    GenesisForSemanticSegmentation: {"segmentation": SegmentationTask("other", ["spleen"])},
    GenesisForImageClassification: {"tasks": [ArkTask("phantom_ct_nodule", ["Nodule"])]},
}


@pytest.mark.parametrize("kind", STARTS, ids=lambda kind: kind.__name__)
def test_encoder_and_decoder_of_what_it_starts_from_are_kept_bitwise(kind, structures, nodule, tmp_path):
    place, theirs = save(tmp_path, kind, batch_statistics=True, activation="prelu", **STARTS[kind])
    theirs = {name if name.split(".")[0] != "encoder" else f"genesis.{name}": each for name, each in theirs.items()}
    for data, make in ((structures, arguments), (nodule, of_labels)):
        model, processor = initial_genesis(place, data.task, make("x"), seed=0)
        assert model.training and not model.config.batch_statistics and model.config.activation == "prelu"
        assert processor.modality == "CT" and processor.cube_size == make("x").cube_size
        mine = model.state_dict()
        shared = [name for name in mine if name in theirs and mine[name].shape == theirs[name].shape]
        assert all(torch.equal(mine[name], theirs[name]) for name in shared)
        kept = {name.split(".")[0] for name in shared}
        assert kept == {"genesis", "decoder", "heads"} & {name.split(".")[0] for name in {*mine} & {*theirs}}


def test_a_head_of_the_same_name_goes_on_unless_a_fresh_one_is_asked_for(structures, nodule, tmp_path):
    place, theirs = save(tmp_path / "s", GenesisForSemanticSegmentation, segmentation=structures.task)
    for new_head in (False, True):
        model, _ = initial_genesis(place, structures.task, arguments("x", new_head=new_head), 0)
        same = torch.equal(model.segmentation_head.weight, theirs["segmentation_head.weight"])
        assert same != new_head and torch.equal(
            model.decoder.state_dict()["levels.0.0.convolution.weight"],
            theirs["decoder.levels.0.0.convolution.weight"],
        )
    task = ArkTask(nodule.task.name, ["Nodule", "Emphysema"], modality="CT")
    place, _ = save(tmp_path / "c", GenesisForImageClassification, tasks=[task])
    with pytest.raises(
        ValueError, match="has a task 'phantom_ct_nodule' with labels .'Nodule', 'Emphysema'.*new_head"
    ):
        initial_genesis(place, nodule.task, of_labels("x"), 0)


def test_the_view_may_be_changed_and_is_told_in_one_order(structures, tmp_path):
    place, _ = save(tmp_path, GenesisForPreTraining, axes="xyz", cube_size=[4, 8, 16], spacing=[1, 2, 3])
    args = arguments("x", cube_size=[4, 6, 8], hu_window=[-200, 300])
    model, processor = initial_genesis(place, structures.task, args, 0)
    assert model.config.cube_size == processor.cube_size == [8, 6, 4]
    assert processor.spacing == [1, 2, 3] and processor.hu_window == [-200, 300]
    model, processor = initial_genesis(place, structures.task, arguments("x", cube_size=None, spacing=[5, 2, 2]), 0)
    assert (processor.cube_size, processor.spacing) == ([4, 8, 16], [2, 2, 5])


def test_frozen_levels_stay(structures, tmp_path):
    for freeze, frozen in (("1", ["levels.0"]), ("encoder", ["levels.0", "levels.1"])):
        args = arguments("x", freeze=freeze)
        model, processor = initial_genesis("none", structures.task, args, 0)
        create_trainer(model, processor, structures, args, 0, tmp_path / "checkpoints")
        trained = {name for name, each in model.genesis.encoder.named_parameters() if each.requires_grad}
        assert not any(name.startswith(tuple(frozen)) for name in trained) and bool(trained) == (freeze == "1")
        model.train()
        assert not model.genesis.encoder.levels[0][0].normalization.training
        groups = parameter_groups(model, 1e-3, 1.0, 0.1)
        counted = sum(each.numel() for group in groups for each in group["params"])
        assert counted == sum(each.numel() for each in model.parameters() if each.requires_grad)
    with pytest.raises(ValueError, match="the encoder 'genesis' has 2 stages, not 3"):
        create_trainer(model, processor, structures, arguments("x", freeze="3"), 0, tmp_path / "checkpoints")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"backbone": "resnet50"}, "backbone is for datasets of pictures, and phantom_ct_structures holds volumes"),
        ({"layer_decay": 0.5}, "layer_decay is for datasets of pictures"),
        ({"lora_rank": 4}, "lora_rank is for datasets of"),
        ({"decoder_type": "fpn"}, "decoder_type is for datasets of pictures"),
        ({"image_size": 64}, "image_size is for datasets of pictures"),
        ({"uncertain": "ones"}, "uncertain is for datasets of labels"),
        ({"loss": "focal"}, "focal is for datasets of labels"),
    ],
)
def test_options_of_pictures_and_of_labels_are_refused_by_name(structures, settings, message):
    with pytest.raises(ValueError, match=message):
        load_finetuning_data(structures.source, arguments("x", **settings))


def test_options_of_volumes_are_refused_by_name_elsewhere(sites, phantom_masks, nodule):
    for folder in (sites["phantom_city"], phantom_masks["phantom_organs"]):
        args = FinetuningArguments("x", cube_size=[8, 8, 8])
        with pytest.raises(ValueError, match="cube_size is for datasets of volumes, and phantom_.* holds pictures"):
            load_finetuning_data(str(folder), args)
    with pytest.raises(ValueError, match="cubes_per_volume is for label maps"):
        check_content(nodule, of_labels("x", cubes_per_volume=2))
    with pytest.raises(ValueError, match="batch_size 6 cannot be cut into 4 equal parts.* use 4 or 8"):
        module.training_arguments(arguments("x", batch_size=6), 0, nodule.source, None, cubes=4)


@pytest.mark.parametrize(
    "model, message",
    [
        ("imagenet", "volumes take `none`, or a folder or Hub id of a Genesis; timm's weights are of pictures"),
        ("ark", "it is an Ark, a model of radiographs"),
        ("wide", "has width 2, not 3, and keeps it: leave width out"),
        ("channels", "takes volumes of 2 channels, and a dataset's have one"),
        ("cube", "cube_size must have sides that are multiples of 2 .* got .7, 8, 8"),
        ("run", "has no config.json. Did you mean .*genesis"),
    ],
)
def test_what_it_cannot_start_from_is_named(model, message, structures, tmp_path):
    place, changes = model, {}
    if model == "ark":
        (tmp_path / "config.json").write_text('{"model_type": "ark"}')
        place = str(tmp_path)
    elif model == "wide":
        place, changes = save(tmp_path, GenesisForPreTraining)[0], {"width": 3}
    elif model == "channels":
        place, _ = save(tmp_path, GenesisForPreTraining, num_channels=2)
    elif model == "cube":
        place, changes = "none", {"cube_size": [7, 8, 8]}
    elif model == "run":
        save(tmp_path / "genesis", GenesisForPreTraining)
        place = str(tmp_path)
    with pytest.raises(ValueError, match=message):
        initial_genesis(place, structures.task, arguments("x", **changes), 0)

"""Fine-tuning with the stock Trainer: what it gives, that it resumes bitwise, and what it refuses."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ark_hf import ArkConfig, ArkForImageClassification, ArkTask
from ark_hf.data.loading import InferenceSamples
from ark_hf.data.open_dataset import TaskDataset
from ark_hf.data.subsets import fraction_rows
from ark_hf.evaluation.report.stored import read_report
from ark_hf.inference.load import load_ark
from ark_hf.inference.predict import predict_logits
from ark_hf.metrics.auroc import auroc
from ark_hf.provenance import read_provenance, weights_sha256
from ark_hf.training.finetune import run as module
from ark_hf.training.finetune.arguments import FinetuningArguments
from ark_hf.training.finetune.data import choose_training_rows, load_finetuning_data
from ark_hf.training.finetune.layerwise import freeze_encoder, parameter_groups
from ark_hf.training.finetune.lora import add_adapters
from ark_hf.training.finetune.report import seed_interval
from ark_hf.training.finetune.run import finetune, initial_model
from ark_hf.training.finetune.trainer import Progress, create_trainer
from ark_hf.training.selection import label_aurocs

from ..conftest import TINY

SHAPE = {key: TINY[key] for key in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}
FAST = {**SHAPE, "batch_size": 8, "epochs": 3, "bootstrap": 20, "drop_path_rate": 0.2}


def arguments(folder, **changes) -> FinetuningArguments:
    return FinetuningArguments(output_dir=str(folder), **(FAST | changes))


def with_splits(data: TaskDataset, **changes) -> TaskDataset:
    splits = {name: rows for name, rows in (data.splits | changes).items() if rows is not None}
    return TaskDataset(data.source, data.task, splits, facts=data.facts)


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "ark-cxr" / "model.safetensors")


@pytest.fixture(scope="module")
def hill(sites):
    """The binary site, loaded once."""
    return load_finetuning_data(str(sites["phantom_hill"]), arguments("runs/x"))


@pytest.fixture(scope="module")
def finished(hill, tmp_path_factory):
    """The folder of a run of one epoch without the test split; tests only read it."""
    folder = tmp_path_factory.mktemp("finished")
    finetune("none", "hill", arguments(folder, epochs=1, test=False), hill)
    return folder


@pytest.mark.slow_ci
def test_it_learns_the_training_images(sites, tmp_path):
    args = arguments(tmp_path / "run", epochs=25, learning_rate=5e-3, min_crop_scale=1.0, test=False, eval_steps=75)
    data = load_finetuning_data(str(sites["phantom_city"]), args)
    finetune("none", "city", args, data)
    model, processor = load_ark(str(tmp_path / "run" / "seed-0" / "ark-cxr"))
    samples = InferenceSamples(data.splits["train"], data.task, processor)
    logits, _ = predict_logits([model], samples, 32)
    scores = label_aurocs(logits, data.targets("train"), data.task)
    assert scores["mean_auroc"] > 0.85


def test_the_best_validation_is_kept_and_reported(hill, tmp_path):
    results = finetune("none", "hill", arguments(tmp_path / "run", epochs=4, learning_rate=3e-3), hill)
    (seed,) = results["seeds"]
    best = max(entry["mean_auroc"] for entry in seed["history"])
    assert [entry["step"] for entry in seed["history"]] == [3, 6, 9, 12]
    assert seed["validation"]["mean_auroc"] == pytest.approx(best, abs=1e-12)
    assert results["validation"]["mean"] == pytest.approx(best, abs=1e-12)


def test_stored_predictions_give_the_reported_auroc(sites, tmp_path):
    results = finetune("none", str(sites["phantom_coast"]), arguments(tmp_path / "run", epochs=1))
    stored = np.load(tmp_path / "run" / "seed-0" / "test_predictions.npz")
    reported = results["seeds"][0]["test"]["labels"]
    assert stored["probabilities"].shape == (12, 3) and list(stored["labels"]) == [row["label"] for row in reported]
    assert np.allclose(stored["probabilities"].sum(axis=1), 1)
    for column, row in enumerate(reported):
        assert auroc(stored["targets"][:, column], stored["probabilities"][:, column]) == row["auroc"]
    text = (tmp_path / "run" / "results.md").read_text()
    assert f"| {reported[0]['label']} | 4/12 | {reported[0]['auroc']:.3f} |" in text
    saved = json.loads((tmp_path / "run" / "results.json").read_text())
    assert saved["seeds"][0]["test"]["mean"]["auroc"] == results["test"]["mean"]


def test_a_stopped_run_ends_with_the_same_weights(hill, tmp_path, monkeypatch):
    settings = {"eval_steps": 2, "gradient_accumulation_steps": 1, "test": False}
    whole = finetune("none", "hill", arguments(tmp_path / "whole", **settings), hill)
    stopped = arguments(tmp_path / "stopped", **settings)

    def stop(self, args, state, control, **kwargs):
        if state.global_step == 5:  # in the second epoch; the newest checkpoint is of step 4, in its middle
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step_end", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune("none", "hill", stopped, hill)
    checkpoints = tmp_path / "stopped" / "seed-0" / "checkpoints"
    assert max(path.name for path in checkpoints.iterdir()) == "checkpoint-4"
    (checkpoints / "checkpoint-6").mkdir()  # as a kill in the middle of saving leaves it
    resumed = finetune("none", "hill", stopped, hill)
    first, second = weights(tmp_path / "whole" / "seed-0"), weights(tmp_path / "stopped" / "seed-0")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert resumed["seeds"] == whole["seeds"]


def test_patience_goes_on_counting_in_a_resumed_run(hill, tmp_path, monkeypatch):
    # A rate of almost nothing, so that no validation is better than the first, of step 2
    args = arguments(tmp_path / "run", epochs=30, learning_rate=1e-12, eval_steps=2, patience=3, test=False)

    def stop(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step_end", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune("none", "hill", args, hill)
    (seed,) = finetune("none", "hill", args, hill)["seeds"]
    assert seed["steps"] == 8 and seed["best_step"] == 2


def test_a_run_that_is_stopped_while_it_saves_its_model_ends_the_same(hill, finished, tmp_path, monkeypatch):
    whole = json.loads((finished / "results.json").read_text())
    args = arguments(tmp_path / "stopped", epochs=1, test=False)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", stop)
        (tmp_path / "stopped").mkdir()
        shutil.copy(finished / "settings.json", tmp_path / "stopped")
        with pytest.raises(KeyboardInterrupt):
            finetune("none", "hill", args, hill)
    assert finetune("none", "hill", args, hill)["seeds"] == whole["seeds"]
    first, second = weights(finished / "seed-0"), weights(tmp_path / "stopped" / "seed-0")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_finished_seeds_are_kept_and_the_test_split_is_scored_later(hill, finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "run")
    chosen = json.loads((finished / "results.json").read_text())
    assert chosen["test"] is None and not (tmp_path / "run" / "seed-0" / "test_predictions.npz").exists()
    trained = weights(tmp_path / "run" / "seed-0")
    calls = []
    create = module.create_trainer
    monkeypatch.setattr(module, "create_trainer", lambda *args: calls.append(args[4]) or create(*args))
    results = finetune("none", "hill", arguments(tmp_path / "run", epochs=1, seeds=[0, 1]), hill)
    assert calls == [1]
    assert all(torch.equal(trained[key], value) for key, value in weights(tmp_path / "run" / "seed-0").items())
    aurocs = [seed["test"]["mean"]["auroc"] for seed in results["seeds"]]
    assert results["test"]["mean"] == pytest.approx(np.mean(aurocs)) and results["test"]["num_seeds"] == 2
    assert not torch.equal(
        trained["ark.projector.weight"], weights(tmp_path / "run" / "seed-1")["ark.projector.weight"]
    )


def test_its_model_carries_where_it_comes_from_and_a_report_of_these_weights(hill, tmp_path):
    finetune("none", "hill", arguments(tmp_path, epochs=1, per_class=4, seeds=[0, 1]), hill)
    model, chosen = tmp_path / "seed-1" / "ark-cxr", choose_training_rows(hill, arguments(tmp_path, per_class=4), 1)
    origin = read_provenance(model)
    train = origin["data"][0]["splits"]["train"]
    assert origin["kind"] == "fine-tuning" and origin["start"] == "none" and origin["seed"] == 1
    assert train["rows"] == origin["train_images"] == len(chosen.splits["train"]) < len(hill.splits["train"])
    assert sum(train["labels"]["Tuberculosis"].values()) == len(chosen.splits["train"])
    assert origin["data"][0]["phantom"] and [run["seed"] for run in origin["seeds"]["runs"]] == [0, 1]
    facts, reports = read_report(tmp_path / "seed-1" / "report")
    assert facts["weights_sha256"] == weights_sha256(model) and reports[0].task == "phantom_hill"


def test_a_run_of_an_earlier_version_gets_its_report_and_stays_sound(hill, tmp_path):
    results = finetune("none", "hill", arguments(tmp_path, epochs=1), hill)
    model = tmp_path / "seed-0" / "ark-cxr"
    (model / "provenance.json").unlink()
    shutil.rmtree(tmp_path / "seed-0" / "report")
    for _ in range(2):
        again = finetune("none", "hill", arguments(tmp_path, epochs=1), hill)
        assert again["test"]["mean"] == results["test"]["mean"]
    assert read_provenance(model) is None and read_report(tmp_path / "seed-0" / "report")


def test_other_settings_in_the_same_folder_are_refused(hill, finished, tmp_path):
    with pytest.raises(ValueError, match=r"learning_rate was 0.0003, now 0.01\."):
        finetune("none", "hill", arguments(finished, epochs=1, test=False, learning_rate=0.01), hill)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        finetune("none", "hill", arguments(tmp_path / "other"), hill)


def test_settings_bind_once_something_is_trained(tmp_path):
    folder = tmp_path / "run"
    module.check_same_run(folder, {"per_class": 500})  # too many, as it then turned out
    module.check_same_run(folder, {"per_class": 5})
    (folder / "seed-0").mkdir()
    module.check_same_run(folder, {"per_class": 5})
    with pytest.raises(ValueError, match="per_class was 5, now 6"):
        module.check_same_run(folder, {"per_class": 6})


def test_seed_interval_is_the_t_interval():
    # mean 2, standard deviation 1, t(0.975, 2) = 4.302653
    interval = seed_interval([1.0, 2.0, 3.0])
    assert interval["mean"] == 2 and interval["num_seeds"] == 3
    assert interval["ci_high"] - 2 == pytest.approx(4.302653 / np.sqrt(3), abs=1e-6)
    assert np.isnan(seed_interval([1.0])["ci_low"]) and seed_interval([1.0, float("nan")])["num_seeds"] == 1


def test_a_head_of_the_same_labels_goes_on_unless_a_new_one_is_asked_for(hill, finished, tmp_path):
    teacher = finished / "seed-0" / "ark-cxr"
    task = hill.task
    saved = weights(finished / "seed-0")
    head = f"heads.{task.name}.weight"
    continued, processor = initial_model(str(teacher), task, arguments(tmp_path), 0)
    assert torch.equal(continued.state_dict()[head], saved[head])
    fresh, _ = initial_model(str(teacher), task, arguments(tmp_path, new_head=True), 0)
    assert not torch.equal(fresh.state_dict()[head], saved[head])
    assert torch.equal(fresh.state_dict()["ark.projector.weight"], saved["ark.projector.weight"])
    other = ArkTask("other", ["A", "B"])
    moved, _ = initial_model(str(teacher), other, arguments(tmp_path), 0)
    assert list(moved.heads) == ["other"] and moved.config.id2label == {0: "A", 1: "B"}
    assert torch.equal(moved.state_dict()["ark.projector.weight"], saved["ark.projector.weight"])


def test_image_size_and_stochastic_depth_change_without_the_weights(hill, finished, tmp_path):
    teacher = str(finished / "seed-0" / "ark-cxr")
    task = hill.task
    model, processor = initial_model(teacher, task, arguments(tmp_path, image_size=64, drop_path_rate=0.4), 0)
    assert model.config.image_size == 64 and processor.size == {"height": 64, "width": 64}
    rates = [
        block.drop_path.drop_prob for block in model.modules() if hasattr(getattr(block, "drop_path", 0), "drop_prob")
    ]
    assert max(rates) == pytest.approx(0.4)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in weights(finished / "seed-0").items())


def test_the_subset_of_a_seed(hill, tmp_path):
    args = arguments(tmp_path / "k", per_class=3, epochs=1, test=False)
    results = finetune("none", "hill", args, hill)
    assert results["seeds"][0]["train_images"] == 6
    drawn = [choose_training_rows(hill, args, seed).splits["train"] for seed in (0, 0, 1)]
    assert all(sum(label for (label,) in rows["labels"]) == 3 for rows in drawn)
    assert drawn[0]["image_id"][:] == drawn[1]["image_id"][:] != drawn[2]["image_id"][:]
    with pytest.raises(ValueError, match=r"50 images per class are asked for, but there are only: .* \d+"):
        choose_training_rows(hill, arguments(tmp_path, per_class=50), 0)
    half = choose_training_rows(hill, arguments(tmp_path, percent=50.0), 0).splits["train"]
    rows = hill.column("train", "image_id")
    assert half["image_id"][:] == [rows[number] for number in fraction_rows(len(rows), 50)]


def test_frozen_stages_and_their_statistics_stay(hill, tmp_path):
    settings = {"backbone": "resnet10t", "backbone_kwargs": None, "freeze": "2", "epochs": 2, "weight_decay": 0.5}
    task = hill.task
    start, _ = initial_model("none", task, arguments(tmp_path, **settings), 0)
    finetune("none", "hill", arguments(tmp_path / "run", test=False, **settings), hill)
    saved, before = weights(tmp_path / "run" / "seed-0"), start.state_dict()
    same = {key for key, value in saved.items() if torch.equal(value, before[key])}
    encoder = {key for key in saved if key.startswith("ark.encoder.")}
    frozen = {key for key in encoder if key.split(".")[2] in ("conv1", "bn1", "layer1", "layer2")}
    statistics = {key for key in frozen if key.endswith("running_mean")}
    assert statistics and frozen <= same
    assert same & {key for key in saved.keys() - frozen if not key.endswith(".bias")} == set()


def test_a_whole_frozen_encoder_leaves_projector_and_head(hill, tmp_path):
    model, _ = initial_model("none", hill.task, arguments(tmp_path), 0)
    freeze_encoder(model, "encoder")
    trained = {
        name.split(".")[0] + "." + name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad
    }
    assert trained == {"ark.projector", "heads.phantom_hill"}
    assert not model.train().ark.encoder.training and model.ark.projector.training
    with pytest.raises(ValueError, match="has 5 stages, not 9"):
        freeze_encoder(model, "9")


@pytest.mark.parametrize(
    "backbone, first, middle",
    [
        ("swin_tiny_patch4_window7_224", "patch_embed.proj.weight", "layers.2.blocks.0.mlp.fc1.weight"),
        ("convnext_atto", "stem.0.weight", "stages.2.blocks.0.mlp.fc1.weight"),
        ("tf_efficientnet_lite0", "conv_stem.weight", "blocks.3.0.conv_pw.weight"),
    ],
)
def test_layers_learn_more_slowly_the_further_they_are_from_the_head(backbone, first, middle):
    model = ArkForImageClassification(ArkConfig(backbone=backbone, tasks=[ArkTask("a", ["A"])]))
    groups = parameter_groups(model, 0.1, 0.5, weight_decay=0.3)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    decays = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert rates.keys() == dict(model.named_parameters()).keys()
    assert rates["heads.a.weight"] == rates["ark.projector.weight"] == 0.1
    powers = np.log(np.array(list(rates.values())) / 0.1) / np.log(0.5)
    assert np.allclose(powers, powers.round()) and max(powers) == pytest.approx(
        powers[list(rates).index(f"ark.encoder.{first}")]
    )
    assert rates[f"ark.encoder.{first}"] < rates[f"ark.encoder.{middle}"] < 0.1
    assert decays["heads.a.weight"] == 0.3 and decays["heads.a.bias"] == 0
    assert all(decays[name] == 0 for name, p in model.named_parameters() if p.ndim <= 1)


def test_accumulation_gives_the_same_step_where_labels_are_missing(sites, tmp_path):
    """One step of 8 images and one of 4 + 4 are the same, though the halves have other numbers of known labels."""
    data = load_finetuning_data(str(sites["phantom_city"]), arguments(tmp_path))

    def forget(labels, index):
        return {"labels": [np.nan] * len(labels) if index % 3 == 0 else [*labels[:-1], np.nan]}

    data = with_splits(data, train=data.splits["train"].map(forget, with_indices=True, input_columns=["labels"]))
    settings = {"max_steps": 1, "test": False, "warmup": 0.0, "drop_path_rate": 0.0}
    for name, changes in {
        "whole": {"batch_size": 8},
        "cut": {"batch_size": 8, "gradient_accumulation_steps": 2},
    }.items():
        finetune("none", "city", arguments(tmp_path / name, **settings, **changes), data)
    first, second = weights(tmp_path / "whole" / "seed-0"), weights(tmp_path / "cut" / "seed-0")
    assert all(torch.allclose(first[key], second[key], atol=1e-6) for key in first)


def test_adapters_are_merged_into_an_ordinary_model(hill, tmp_path):
    peft = pytest.importorskip("peft")
    task = hill.task
    start, _ = initial_model("none", task, arguments(tmp_path), 0)
    before = {key: value.clone() for key, value in start.state_dict().items()}
    settings = {"lora_rank": 2, "epochs": 3, "learning_rate": 0.01}
    results = finetune("none", "hill", arguments(tmp_path / "run", **settings), hill)
    saved = weights(tmp_path / "run" / "seed-0")
    changed = {key for key in saved if not torch.equal(saved[key], before[key])}
    blocks = {key for key in saved if "mlp.fc" in key and key.endswith("weight")}
    head = {"ark.projector.weight", "ark.projector.bias", "heads.phantom_hill.weight", "heads.phantom_hill.bias"}
    assert saved.keys() == before.keys() and changed == blocks | head
    update = (saved[min(blocks)] - before[min(blocks)]).flatten(1)
    assert torch.linalg.matrix_rank(update, rtol=1e-4) <= 2
    stored = np.load(tmp_path / "run" / "seed-0" / "test_predictions.npz")
    assert auroc(stored["targets"][:, 0], stored["probabilities"][:, 0]) == results["test"]["mean"]
    assert isinstance(add_adapters(start, 1), peft.PeftModel)
    convolutions = ArkForImageClassification(ArkConfig(backbone="resnet10t", image_size=32, tasks=[task]))
    with pytest.raises(ValueError, match="none of the layers that take adapters"):
        add_adapters(convolutions, 1)


def test_views_hang_on_seed_epoch_and_image_alone(hill, tmp_path):
    data = hill
    model, processor = initial_model("none", data.task, arguments(tmp_path), 0)

    def pictures(seed, epoch, numbers):
        trainer = create_trainer(model, processor, data, arguments(tmp_path), seed, tmp_path / "run")
        trainer.state.epoch = float(epoch)
        trainer.callback_handler.on_epoch_begin(trainer.args, trainer.state, trainer.control)
        return [each["pixel_values"] for each in trainer.train_dataset.__getitems__(numbers)]

    first = pictures(0, 1, [3, 5])
    assert torch.equal(first[1], pictures(0, 1, [5])[0])
    assert not torch.equal(first[0], pictures(0, 2, [3])[0])
    assert not torch.equal(first[0], pictures(1, 1, [3])[0])


def test_bf16_and_channels_last_train_too(hill, finished, tmp_path):
    plain = json.loads((finished / "results.json").read_text())
    settings = {"epochs": 1, "test": False, "mixed_precision": "bf16", "channels_last": True}
    fast = finetune("none", "hill", arguments(tmp_path / "b", **settings), hill)
    first, second = (each["seeds"][0]["history"][-1]["loss"] for each in (plain, fast))
    assert first != second and second == pytest.approx(first, abs=0.05)


def test_a_diverged_run_says_so_and_keeps_nothing(hill, tmp_path):
    with pytest.raises(FloatingPointError, match="Lower learning_rate"):
        finetune("none", "hill", arguments(tmp_path / "run", learning_rate=1e30, epochs=2), hill)
    assert not (tmp_path / "run" / "seed-0" / "ark-cxr").exists()


def test_what_training_cannot_use_is_explained(sites, hill, finished, tmp_path):
    data = hill
    one_class = data.splits["train"].filter(lambda labels: labels == [0.0], input_columns=["labels"])
    with pytest.raises(ValueError, match=r"the \d+ training images are all of one class"):
        finetune("none", "x", arguments(tmp_path / "one"), with_splits(data, train=one_class))
    with pytest.raises(ValueError, match="no validation split in which a label has both"):
        finetune("none", "x", arguments(tmp_path / "v", patience=1), with_splits(data, validation=one_class))
    with pytest.warns(UserWarning, match="the last weights are kept"):
        results = finetune(
            "none", "x", arguments(tmp_path / "w", epochs=1), with_splits(data, validation=None, test=None)
        )
    assert results["validation"] is None and results["test"] is None
    with pytest.raises(ValueError, match="neither a folder with a task dataset nor a reachable Hub dataset"):
        finetune("none", str(tmp_path / "nothing"), arguments(tmp_path / "x"))
    teacher = str(finished / "seed-0" / "ark-cxr")
    with pytest.raises(ValueError, match="give the dataset's task another `name`"):
        finetune(teacher, str(sites["phantom_coast"]), arguments(tmp_path / "y", name="phantom_hill"))


def test_a_label_of_one_class_is_named(sites, tmp_path):
    data = load_finetuning_data(str(sites["phantom_city"]), arguments(tmp_path))
    labels = [[0.0, *each[1:]] for each in data.splits["train"]["labels"]]
    data = with_splits(data, train=data.splits["train"].remove_columns("labels").add_column("labels", labels))
    with pytest.warns(UserWarning, match=f"cannot be learned from them: {data.task.labels[0]}"):
        choose_training_rows(data, arguments(tmp_path), 0)


@pytest.mark.parametrize(
    "wrong, match",
    [
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"layer_decay": 0.0}, r"layer_decay must lie in \(0, 1\]"),
        ({"freeze": "half"}, "use none, encoder or a number of stages"),
        ({"percent": 10.0, "per_class": 5}, "give one of them"),
        ({"seeds": [1, 1]}, "different numbers"),
        ({"lora_rank": 4, "freeze": "2"}, "leave out freeze"),
        ({"backbone_kwargs": "{depths: 1}"}, "JSON object"),
    ],
)
def test_impossible_settings(wrong, match):
    with pytest.raises(ValueError, match=match):
        FinetuningArguments(output_dir="runs/x", **wrong)

"""The sex protocol: who is trained on, who is tested on, and what the gaps are."""

import json

import numpy as np
import pytest
from accelerate import PartialState
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from ark_hf import ArkTask
from ark_hf.data.open_dataset import TaskDataset
from ark_hf.metrics.auroc import auroc
from ark_hf.training.finetune import sex_protocol as module
from ark_hf.training.finetune.arguments import FinetuningArguments
from ark_hf.training.finetune.data import load_finetuning_data
from ark_hf.training.finetune.sex_protocol import choose_groups, compare_groups, protocol_text, sex_protocol

from ..conftest import TINY

SHAPE = {key: TINY[key] for key in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}


def arguments(folder, **changes) -> FinetuningArguments:
    return FinetuningArguments(output_dir=str(folder), **SHAPE, batch_size=8, epochs=1, bootstrap=50, **changes)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("MF"), st.integers(0, 8)), min_size=4, max_size=40), st.integers(0, 3))
def test_groups_are_equal_in_size_and_made_of_patients(people, seed):
    sexes = [sex for sex, _ in people]
    patients = [f"{sex}{number}" for sex, number in people]
    of_sex = {"male": np.flatnonzero(np.array(sexes) == "M"), "female": np.flatnonzero(np.array(sexes) == "F")}
    images = min(len(rows) for rows in of_sex.values())
    groups = choose_groups(patients, of_sex, images, seed)
    assert {arm: len(set(chosen.tolist())) for arm, chosen in groups.items()} == dict.fromkeys(module.ARMS, images)
    assert set(groups["male"]) <= set(of_sex["male"]) and set(groups["female"]) <= set(of_sex["female"])
    assert sum(sexes[row] == "M" for row in groups["mixed"]) == images // 2
    for arm in ("male", "female"):  # at most one patient is there in part
        inside = set(groups[arm].tolist())
        cut = {patients[row] for row in inside} & {patients[row] for row in set(of_sex[arm].tolist()) - inside}
        assert len(cut) <= 1
    again = choose_groups(patients, of_sex, images, seed)
    assert all(np.array_equal(groups[arm], again[arm]) for arm in groups)


def test_the_table_and_its_gaps_by_hand():
    """Models of men are right about men and guess about women; models of women the reverse; mixed ones are right."""
    number = 40
    sexes, labels = np.array(["M", "F"] * number), np.repeat([0.0, 1.0], number)
    test = Dataset.from_dict(
        {"labels": [[each] for each in labels], "sex": sexes.tolist(), "patient_id": [str(n // 2) for n in range(80)]}
    )
    data = TaskDataset("site", ArkTask("tb", ["TB"]), {"train": test, "test": test})
    of_test = {"male": np.flatnonzero(sexes == "M"), "female": np.flatnonzero(sexes == "F")}
    right, wrong = labels[:, None], 1 - labels[:, None]
    by_arm = {
        "male": np.where((sexes == "M")[:, None], right, 0.5),
        "female": np.where((sexes == "F")[:, None], right, 0.5),
        "mixed": wrong,
    }
    results = compare_groups(data, of_test, {arm: [scores, scores] for arm, scores in by_arm.items()}, 200)
    means = {arm: [results["auroc"][arm][sex]["mean"] for sex in ("male", "female")] for arm in by_arm}
    assert means == {"male": [1, 0.5], "female": [0.5, 1], "mixed": [0, 0]}
    for sex in ("male", "female"):
        gap = results["gaps"][sex]
        assert gap["mean"] == gap["ci_low"] == gap["ci_high"] == 0.5 and gap["seeds"] == [0.5, 0.5]
    described = {"model": "m", "dataset": "site", "task": {"name": "tb"}, "seeds": [0, 1], "images": 9, **results}
    text = protocol_text(described)
    assert "| male | 1.000 (1.000 to 1.000) | 0.500 (0.500 to 0.500) |" in text
    assert "| own sex less the other | +0.500 (+0.500 to +0.500) |" in text


def test_a_run_from_start_to_end_and_again(sites, tmp_path, monkeypatch):
    site = str(sites["phantom_hill"])
    args = arguments(tmp_path / "run", seeds=[3])
    results = sex_protocol("none", site, args, max_images=6)
    data = load_finetuning_data(site, args)
    assert results["images"] == 6
    sexes = np.array(data.column("test", "sex"))
    for arm in module.ARMS:
        for position, seed in enumerate(args.seeds):
            folder = tmp_path / "run" / arm / f"seed-{seed}"
            assert json.loads((folder / "metrics.json").read_text())["train_images"] == 6
            stored = np.load(folder / "test_predictions.npz")
            for sex, code in module.SEXES.items():
                expected = auroc(stored["targets"][sexes == code, 0], stored["probabilities"][sexes == code, 0])
                assert results["auroc"][arm][sex]["seeds"][position] == expected
    monkeypatch.setattr("ark_hf.training.finetune.run.create_trainer", None)  # nothing is trained again
    again = sex_protocol("none", site, args, max_images=6)
    assert json.dumps(again) == json.dumps(results)
    with pytest.raises(ValueError, match="images was 6, now 5"):
        sex_protocol("none", site, args, max_images=5)


@pytest.mark.slow_ci
def test_only_the_main_process_writes(sites, tmp_path, monkeypatch):
    folder, site = tmp_path / "run", str(sites["phantom_hill"])
    results = sex_protocol("none", site, arguments(folder, seeds=[3]), max_images=6)
    predictions = {path: path.read_bytes() for path in folder.rglob("test_predictions.npz")}
    assert len(predictions) == 3
    for path in predictions:
        path.unlink()
    written = []
    for name in ("write_json", "write_text", "save_predictions"):
        monkeypatch.setattr(module, name, lambda target, *args: written.append(target))
    # Another process: meanwhile the main one writes
    monkeypatch.setattr(PartialState, "is_main_process", False)
    monkeypatch.setattr(
        PartialState, "wait_for_everyone", lambda self: [path.write_bytes(predictions[path]) for path in predictions]
    )
    again = sex_protocol("none", site, arguments(folder, seeds=[3]), max_images=6)
    assert not written and json.dumps(again) == json.dumps(results)


def test_weights_are_chosen_on_validation_images_of_the_same_kind(sites, tmp_path):
    data = load_finetuning_data(str(sites["phantom_hill"]), arguments(tmp_path))
    for arm in module.ARMS:
        chosen = module.with_validation_of(data, arm)
        assert (
            set(chosen.splits["validation"]["sex"])
            == set(chosen.column("validation", "sex"))
            == ({module.SEXES[arm]} if arm != "mixed" else {"M", "F"})
        )


def test_what_the_protocol_cannot_use_is_explained(sites, tmp_path):
    data = load_finetuning_data(str(sites["phantom_hill"]), arguments(tmp_path))
    with pytest.raises(ValueError, match="no column `sex`"):
        sex_protocol("none", "x", arguments(tmp_path / "a"), data=_without_sex(data))
    men = data.select("train", np.flatnonzero(np.array(data.column("train", "sex")) == "M"))
    with pytest.raises(
        ValueError, match=r"split 'train': no image is known to be female \(found \{'M': \d+, 'F': 0\}"
    ):
        sex_protocol("none", "x", arguments(tmp_path / "b"), data=men)
    with pytest.raises(ValueError, match="no split 'test'"):
        sex_protocol("none", "x", arguments(tmp_path / "c"), data=_with(data, {"train": data.splits["train"]}))
    with pytest.raises(ValueError, match="limit them by max_images"):
        sex_protocol("none", "x", arguments(tmp_path / "d", percent=50.0), data=data)


def _without_sex(data: TaskDataset) -> TaskDataset:
    return _with(data, {name: rows.remove_columns("sex") for name, rows in data.splits.items()})


def _with(data: TaskDataset, splits: dict) -> TaskDataset:
    return TaskDataset(data.source, data.task, splits)

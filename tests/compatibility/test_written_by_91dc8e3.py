"""What version 91dc8e3 wrote stays readable: datasets, runs, models, reports, embeddings, fine-tuning folders."""

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

import ark_hf  # noqa: F401
from ark_hf.cli.main import main
from ark_hf.data.report.numbers import describe_datasets
from ark_hf.data.task_dataset import load_task_dataset, read_build_facts, read_task
from ark_hf.evaluation.report.stored import read_report
from ark_hf.hub import push_model
from ark_hf.hub.families import FAMILIES
from ark_hf.inference.embeddings import open_store, picture_keys
from ark_hf.inference.load import load_ark
from ark_hf.models.ark.configuration_ark import AUTO_MAP
from ark_hf.models.ark.modeling_ark import ArkModel
from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.ark.recipe import PretrainingArguments, TaskSpec
from ark_hf.training.ark.tasks import load_tasks

pytestmark = pytest.mark.usefixtures("no_figures")

SITES = {
    "phantom_city": ["Effusion", "Cardiomegaly", "Nodule", "No Finding"],
    "phantom_coast": ["normal", "bacterial", "viral"],
}
DATA = [f"data/{site}" for site in SITES]
# Each with its report
MODELS = {
    "whole/ark-cxr": "report",
    "calibrated": "calibrated_report",
    "finetuned/seed-0/ark-cxr": "finetuned/seed-0/report",
}
CHECKPOINT_SETTINGS = "run/checkpoints/step-0000000005/settings.json"
FINETUNING = [
    "finetune", "whole/ark-cxr", DATA[1], "--freeze", "encoder", "--max_steps", "4", "--eval_steps", "2",
    "--learning_rate", "1e-2", "--bootstrap", "20",
]  # fmt: skip


def read_json(path: str | Path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def edit_json(path: str | Path, **changes) -> None:
    """Sets values of a JSON file; ... takes one out."""
    values = {key: value for key, value in (read_json(path) | changes).items() if value is not ...}
    Path(path).write_text(json.dumps(values), encoding="utf-8")


def assert_same_weights(one: str, other: str) -> None:
    weights, others = (load_file(Path(folder, "model.safetensors")) for folder in (one, other))
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], rtol=0, atol=1e-6, msg=name)


# Task datasets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
def test_datasets_load(written, site):
    folder = written / "data" / site
    assert read_task(folder).labels == SITES[site] and read_build_facts(folder)["phantom"] is True
    for split, count in {"train": 8, "validation": 6, "test": 8}.items():
        rows = load_task_dataset(folder, split)
        assert len(rows) == count and {"image", "labels", "patient_id", "sex", "age", "view"} <= set(rows.column_names)
        assert all(row["image"].mode == "L" and max(row["image"].size) == 32 for row in rows)


def test_datasets_are_reported_on(written):
    numbers, _ = describe_datasets([written / folder for folder in DATA], num_images=8)
    for site in SITES:
        rows = {split: summary["rows"] for split, summary in numbers["datasets"][site]["splits"].items()}
        assert rows == read_json(written / "data" / site / "build_report.json")["rows"]


# A pretraining run ---------------------------------------------------------------------------------------------------


def test_a_killed_run_ends_as_it_would_have_ended(workplace, capsys):
    assert main(["pretrain", "recipe.yaml"]) == 0
    assert "Resuming from run/checkpoints/step-0000000005 (step 5)" in capsys.readouterr().out
    for model in ("ark-cxr", "student"):
        assert_same_weights(f"run/{model}", f"whole/{model}")
    cycles, expected = (read_json(f"{run}/metrics.json")["history"] for run in ("run", "whole"))
    assert [cycle["step"] for cycle in cycles] == [cycle["step"] for cycle in expected] == [4, 8]
    for cycle, other in zip(cycles, expected, strict=True):
        assert cycle["train"] == pytest.approx(other["train"], abs=1e-5)
        for model in ("student", "teacher"):
            for figure in ("mean_loss", "mean_auroc"):
                value = cycle["validation"][model][figure]
                assert value == pytest.approx(other["validation"][model][figure], abs=1e-5)


def test_a_run_whose_settings_are_tuples_goes_on(workplace):
    recipe = yaml.safe_load(Path("recipe.yaml").read_text())
    kwargs = {"embed_dim": 4, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
    tasks = load_tasks([TaskSpec(**task) for task in recipe.pop("tasks")], ".")
    CyclicPretrainer(PretrainingArguments(**recipe | {"backbone_kwargs": kwargs}), tasks).train()
    assert_same_weights("run/ark-cxr", "whole/ark-cxr")


def test_a_setting_that_the_checkpoint_does_not_know_counts_as_its_default(workplace):
    edit_json(CHECKPOINT_SETTINGS, channels_last=..., ema_momentum=..., max_grad_norm=..., reproduce=...)
    assert main(["pretrain", "recipe.yaml"]) == 0
    assert_same_weights("run/ark-cxr", "whole/ark-cxr")


@pytest.mark.parametrize("setting", ["min_crop_scale", "ema_mode"])
def test_a_setting_that_the_checkpoint_does_not_know_may_not_differ_from_its_default(workplace, capsys, setting):
    edit_json(CHECKPOINT_SETTINGS, **{setting: ...})
    assert main(["pretrain", "recipe.yaml"]) == 2
    error = capsys.readouterr().err
    assert "run holds a run with other settings" in error and setting in error


# Models --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_models_load_and_say_what_they_said(written, model):
    """The mean probability of each class of phantom_coast is that of the report of then."""
    folder = str(written / model)
    pictures = load_task_dataset(written / "data" / "phantom_coast", "test")["image"][:]
    several = len(AutoModelForImageClassification.from_pretrained(folder).config.tasks) > 1
    scores = [
        {answer["label"]: answer["score"] for answer in answers}
        for answers in pipeline("image-classification", model=folder)(pictures, top_k=99)
    ]
    (report,) = (each for each in read_report(written / MODELS[model])[1] if each.task == "phantom_coast")
    for each in report.calibration:
        label = f"phantom_coast/{each.label}" if several else each.label
        assert np.mean([score[label] for score in scores]) == pytest.approx(each.mean_probability, abs=1e-6)


def test_a_calibrated_model_keeps_its_operating_points(written):
    tasks = AutoModelForImageClassification.from_pretrained(written / "calibrated").config.tasks
    fitted = {each["task"]: each for each in read_json(written / "calibrated" / "calibration.json")}
    assert [task.name for task in tasks] == [*SITES]
    assert all(task.thresholds and task.thresholds == fitted[task.name]["thresholds"] for task in tasks)


def test_models_are_evaluated_and_compared_as_they_were(workplace):
    options = ["--against", "whole/ark-cxr", "--bootstrap", "20", "--out", "again"]
    assert main(["evaluate", "calibrated", DATA[0], *options]) == 0
    (facts, (report,)), (earlier_facts, (earlier, _)) = map(read_report, (Path("again"), Path("calibrated_report")))
    assert facts["weights_sha256"] == earlier_facts["weights_sha256"]
    assert report.task == earlier.task and report.thresholds_saved == earlier.thresholds_saved
    for figures in (
        lambda each: [label.auroc for label in each.labels],
        lambda each: [label.auroc for label in each.baseline_labels],
        lambda each: [label.ece for label in each.calibration],
        lambda each: [point.sensitivity for point in each.operating_points],
        lambda each: [result.auroc_a for result in each.comparison.results],
        lambda each: [each.mean.auroc, each.mean_f1, each.mean_mcc],
    ):
        np.testing.assert_allclose(figures(report), figures(earlier), rtol=0, atol=1e-6)


def test_embeddings_are_found_again(workplace, capsys):
    assert main(["embed", "whole/ark-cxr", DATA[0], "--store", "embeddings", "--splits", "test"]) == 0
    assert "8 images, 0 embeddings computed" in capsys.readouterr().out
    rows = load_task_dataset(DATA[0], "test")
    model, processor = load_ark("whole/ark-cxr", ArkModel)
    stored = open_store(Path("embeddings"), model, processor, "embeddings", "whole/ark-cxr").load(picture_keys(rows))
    auto = AutoModel.from_pretrained("whole/ark-cxr")
    inputs = AutoImageProcessor.from_pretrained("whole/ark-cxr")(rows["image"][:], return_tensors="pt")
    np.testing.assert_allclose(auto(**inputs).embeddings.detach(), stored, rtol=0, atol=1e-5)


# Reports, and pushing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["calibrated", "finetuned/seed-0/ark-cxr"])
def test_models_can_be_pushed_with_their_reports(workplace, capsys, model):
    report = MODELS[model]
    assert main(["push", model, "someone/ark-cxr", "--report", report, "--dry_run", "--card", "card"]) == 0
    assert "report/report.json" in capsys.readouterr().out
    card = Path("card/README.md").read_text()
    for each in read_report(Path(report))[1]:
        assert f"| `{each.task}` | {each.mean.auroc:.3f}" in card and f"| {each.dataset}, test |" in card
    assert not list(Path("card").glob("*.py"))


def test_reports_of_comparison_and_calibration_come_back_whole(written):
    _, reports = read_report(written / "calibrated_report")
    for report in reports:
        assert report.comparison.other == "ark-cxr (other)" and report.fitted.task == report.task
        assert len(report.comparison.results) == len(report.labels) + 1
        assert len(report.calibration_before) == len(report.labels) and set(report.subgroups) == {"sex", "age", "view"}


@pytest.fixture
def later_version(tmp_path, monkeypatch):
    """This package as if its code had changed, got one file more, and the configs named a class of it."""
    code = {name: text + b"# later\n" for name, text in FAMILIES["ark"].code.items()}
    code["modeling_ark_more.py"] = b"# more\n"
    monkeypatch.setitem(FAMILIES, "ark", replace(FAMILIES["ark"], code=code))
    monkeypatch.setitem(AUTO_MAP, "AutoModelForMore", "modeling_ark_more.ArkForMore")
    return code


def test_a_push_renews_the_code_and_says_so(hub, workplace, later_version, capsys):
    assert main(["push", "whole/ark-cxr", "someone/ark-cxr", "--dry_run"]) == 0
    listed = capsys.readouterr().out
    assert main(["push", "whole/ark-cxr", "someone/ark-cxr"]) == 0
    renewed = sorted([*later_version, "config.json"])
    for printed in (listed, capsys.readouterr().out):
        assert "An earlier version of ark-hf wrote this model. Renewed in what is sent, not in the folder: " in printed
        assert f"{', '.join(renewed)}." in printed
    sent, folder = hub.model("someone/ark-cxr").files, workplace / "whole" / "ark-cxr"
    assert all(sent[name] == text for name, text in later_version.items())
    ours, theirs = read_json(folder / "config.json"), json.loads(sent["config.json"])
    assert theirs.pop("auto_map") == dict(AUTO_MAP) != ours.pop("auto_map") and theirs == ours
    assert sent["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert sent["preprocessor_config.json"] == (folder / "preprocessor_config.json").read_bytes()


def test_code_and_classes_that_no_version_wrote_are_refused(workplace, later_version):
    folder = Path("whole/ark-cxr")
    push_model.check_model_folder(folder)
    own_code = folder / "image_processing_ark.py"
    own_code.write_bytes(own_code.read_bytes() + b"# mine\n")
    with pytest.raises(ValueError, match="image_processing_ark.py is not the code of this version"):
        push_model.check_model_folder(folder)
    shutil.copyfile("calibrated/image_processing_ark.py", own_code)
    edit_json(folder / "config.json", auto_map={"AutoModel": "modeling_ark.ArkModel"})
    with pytest.raises(ValueError, match="config.json names other code than this package's"):
        push_model.check_model_folder(folder)


def test_the_code_of_then_is_listed_among_earlier_versions(written):
    listed = yaml.safe_load(push_model.EARLIER_VERSIONS.read_text())["code"]
    for path in written.rglob("*.py"):
        assert listed[path.name][sha256(path.read_bytes()).hexdigest()] == "91dc8e3"


# Fine-tuning ---------------------------------------------------------------------------------------------------------


def test_a_finished_seed_is_not_trained_again(workplace):
    weights = Path("finetuned/seed-0/ark-cxr/model.safetensors")
    before, metrics = weights.stat().st_mtime_ns, read_json("finetuned/seed-0/metrics.json")
    assert main([*FINETUNING, "--output_dir", "finetuned", "--seeds", "0", "--batch_size", "4"]) == 0
    assert weights.stat().st_mtime_ns == before
    assert read_json("finetuned/seed-0/metrics.json") == metrics == read_json("finetuned/results.json")["seeds"][0]


def test_a_killed_seed_ends_as_it_would_have_ended(workplace):
    command = [*FINETUNING, "--output_dir", "finetuned", "--seeds", "0", "1", "--batch_size", "4", "--test", "false"]
    assert main(command) == 0
    assert_same_weights("finetuned/seed-1/ark-cxr", "finetuned_whole/seed-1/ark-cxr")
    assert read_json("finetuned/seed-1/metrics.json")["steps"] == 4


def test_a_setting_that_the_folder_does_not_know_counts_as_its_default(workplace):
    edit_json("finetuned/settings.json", new_head=..., focal_gamma=..., layer_decay=...)
    assert main([*FINETUNING, "--output_dir", "finetuned", "--seeds", "0", "--batch_size", "4"]) == 0


def test_a_setting_that_the_folder_does_not_know_may_not_differ_from_its_default(workplace, capsys):
    edit_json("finetuned/settings.json", freeze=...)
    assert main([*FINETUNING, "--output_dir", "finetuned", "--seeds", "0", "--batch_size", "4"]) == 2
    error = capsys.readouterr().err
    assert "finetuned holds a run with other settings" in error and "freeze" in error


def test_a_batch_size_of_micro_batches_is_refused_with_the_number_to_write(workplace, capsys):
    options = ["--output_dir", "accumulated", "--gradient_accumulation_steps", "2", "--test", "false"]
    assert main([*FINETUNING, *options, "--batch_size", "4"]) == 2
    error = capsys.readouterr().err
    assert "batch_size" in error and " 8" in error and error.count("\n") == 1
    assert main([*FINETUNING, *options, "--batch_size", "8"]) == 0
    assert_same_weights("accumulated/seed-0/ark-cxr", "accumulated_whole/seed-0/ark-cxr")

"""Zero-shot transfer: the right columns of the released models, their mean, and reports on foreign datasets."""

import json

import numpy as np
import pytest
import torch

from ark_hf.data.build.build import encode_png, write_task_dataset
from ark_hf.data.sources.catalog import read_catalog
from ark_hf.data.sources.phantom import SITES, draw_phantom_images
from ark_hf.data.sources.phantom_sites import build_phantom_sites
from ark_hf.data.task_dataset import load_task_dataset
from ark_hf.evaluation.report.task_report import evaluate_task
from ark_hf.evaluation.report.text import report_text
from ark_hf.evaluation.scoring import load_zero_shot_data
from ark_hf.inference.zeroshot import (
    PUBLISHED_TRANSFERS,
    LabelMatch,
    match_dataset,
    match_label,
    match_transfer,
    zero_shot_scores,
)
from ark_hf.labels import read_synonyms
from ark_hf.metrics.auroc import auroc, one_vs_rest
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.convert_ark_checkpoint import RELEASED_TASKS
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification
from tests.metrics.published import published_bootstrap, published_interval
from tests.training.conftest import TINY

TABLE = read_synonyms()
COLUMNS = [f"{task.name}/{label}" for task in RELEASED_TASKS for label in task.labels]
NODE21 = ArkTask("node21", ["Nodule"])


def columns(matches):
    return [f"{match.task}/{match.label}" for match in matches]


def test_the_released_models_have_52_outputs_and_with_covidx_55():
    assert len(COLUMNS) == 55 and COLUMNS[52] == "covidx/normal"


@pytest.mark.parametrize(
    ("key", "dataset", "repeat"),
    [
        ("tbx11k", ArkTask("tbx11k", ["healthy", "sick", "TB"], "single_label_classification"), 0),
        ("siim_acr", ArkTask("siim_acr", ["Pneumothorax"]), 1),
        ("mendeley_v2", ArkTask("kermany", ["NORMAL", "PNEUMONIA"], "single_label_classification"), 3),
        ("mendeley_v2", ArkTask("kermany_pneumonia", ["Pneumonia"]), 3),
        ("node21", NODE21, 0),
    ],
)
@pytest.mark.parametrize("tasks", [RELEASED_TASKS[:6], RELEASED_TASKS])
def test_published_transfers_use_the_published_column(key, dataset, repeat, tasks):
    """The notebook names its columns after the labels and counts repeated names: "Pneumonia.3" is the fourth."""
    labels = [label for task in tasks for label in task.labels]
    published = [i for i, label in enumerate(labels) if label == PUBLISHED_TRANSFERS[key].label][repeat]
    matches = match_transfer(dataset, tasks, TABLE, PUBLISHED_TRANSFERS[key])
    (matched,) = [each for each in matches.values() if each]
    assert list(matches) == dataset.labels
    np.testing.assert_array_equal(
        zero_shot_scores(np.eye(len(labels)), matched, tasks), np.eye(len(labels))[published]
    )
    assert columns(matched) == [COLUMNS[published]]
    assert columns(matched)[0] in columns(match_label(PUBLISHED_TRANSFERS[key].target, tasks, TABLE))


def test_published_numbers_of_node21_come_from_its_column(shared):
    """The score column of the released predictions, among other columns, gives the published AUROC and interval."""
    table = np.loadtxt(shared / "golden/eval/predictions/node21_arkplus.csv", delimiter=",", skiprows=1)
    probabilities = np.random.default_rng(0).random((len(table), len(COLUMNS)))
    probabilities[:, COLUMNS.index("chestxray14/Nodule")] = table[:, 1]
    transfer = PUBLISHED_TRANSFERS["node21"]
    scores = zero_shot_scores(
        probabilities, match_transfer(NODE21, RELEASED_TASKS, TABLE, transfer)["Nodule"], RELEASED_TASKS
    )
    interval = published_interval(published_bootstrap(table[:, 0], scores), "percentile")
    assert round(auroc(table[:, 0], scores), 4) == transfer.auroc
    assert tuple(round(bound, 4) for bound in interval) == transfer.interval


def test_published_numbers_are_those_of_the_figures(shared):
    results = json.loads((shared / "golden/eval/zeroshot_results.json").read_text())["results"]
    figures = {each["dataset"]: each["plot_legend_percent_auc_lo_hi"] for each in results if each["model"] == "Ark+"}
    for key, name in {"tbx11k": "TBX11k", "node21": "Node21"}.items():
        transfer = PUBLISHED_TRANSFERS[key]
        assert [transfer.auroc, *transfer.interval] == pytest.approx(np.array(figures[name]) / 100, abs=1e-12)


def test_the_published_ensemble_of_nodule_mass_and_lung_tumor(shared):
    results = json.loads((shared / "golden/eval/zeroshot_results.json").read_text())
    assert "ensemble_nodule_mass_lungtumor" in results["node21_operating_point"]
    matches = match_label("Nodule", RELEASED_TASKS, TABLE, heads=["chestxray14", "vindr_cxr"], related=True)
    assert columns(matches) == ["chestxray14/Mass", "chestxray14/Nodule", "vindr_cxr/Lung tumor"]
    assert [match.reason for match in matches] == [
        "related: Nodule ~ Mass",
        "same name",
        "related: Nodule ~ Lung tumor",
    ]


@pytest.mark.parametrize(
    ("target", "matched"),
    [
        ("Pneumothorax", ["mimic_cxr/Pneumothorax", "chexpert/Pneumothorax", "chestxray14/Pneumothorax"]),
        ("TB", ["vindr_cxr/Tuberculosis", "shenzhen/TB"]),
        (
            "pleural_effusion",
            ["mimic_cxr/Pleural Effusion", "chexpert/Pleural Effusion", "chestxray14/Effusion", "vindr_cxr/PE"],
        ),
        (
            "healthy",
            ["mimic_cxr/No Finding", "chexpert/No Finding", "rsna/Normal", "vindr_cxr/No finding", "covidx/normal"],
        ),
        ("Pneumonia", ["mimic_cxr/Pneumonia", "chexpert/Pneumonia", "chestxray14/Pneumonia", "vindr_cxr/Pneumonia"]),
        ("Opacity", ["mimic_cxr/Lung Opacity", "chexpert/Lung Opacity"]),
        ("rsna/Lung Opacity", ["rsna/Lung Opacity"]),
        ("covid19", ["covidx/COVID-19"]),
        ("covidx/pneumonia", ["covidx/pneumonia"]),
        ("rsna/No Lung Opacity/Not Normal", ["rsna/No Lung Opacity/Not Normal"]),
    ],
)
def test_ensembles_over_all_heads(target, matched):
    assert columns(match_label(target, RELEASED_TASKS, TABLE)) == matched


def test_heads_restrict_the_search():
    assert columns(match_label("Pneumothorax", RELEASED_TASKS, TABLE, heads=["chexpert"])) == ["chexpert/Pneumothorax"]
    with pytest.raises(ValueError, match="no head 'chexprt'; its heads are .*'chexpert'"):
        match_label("Pneumothorax", RELEASED_TASKS, TABLE, heads=["chexprt"])
    with pytest.raises(ValueError, match=r"No label of the heads \['rsna'\] stands for 'vindr_cxr/PE'"):
        match_label("vindr_cxr/PE", RELEASED_TASKS, TABLE, heads=["rsna"])


def test_no_match_says_what_can_be_done():
    with pytest.raises(ValueError) as error:
        match_label("Nodle", RELEASED_TASKS, TABLE)
    assert "['chestxray14/Nodule']" in str(error.value)
    with pytest.raises(ValueError) as error:
        match_label("Bacterial pneumonia", RELEASED_TASKS, TABLE)
    for part in ("related", "'covidx/pneumonia'", "synonyms.yaml", "--synonyms", "task/label"):
        assert part in str(error.value)
    assert "'covidx/COVID-19'" not in str(error.value)
    with pytest.raises(ValueError, match="has no named heads"):
        match_label("Nodule", [], TABLE)


def test_labels_that_nothing_matches_are_kept():
    dataset = ArkTask("padchest", ["nodule", "scoliosis", "multiple nodules"])
    matches = match_dataset(dataset, RELEASED_TASKS, TABLE)
    assert {label: columns(each) for label, each in matches.items()} == {
        "nodule": ["chestxray14/Nodule"],
        "scoliosis": [],
        "multiple nodules": [],
    }
    assert columns(match_dataset(dataset, RELEASED_TASKS, TABLE, related=True)["multiple nodules"]) == [
        "chestxray14/Nodule"
    ]
    with pytest.raises(ValueError, match="stands for 'scoliosis' or 'kyphosis'"):
        match_dataset(ArkTask("spines", ["scoliosis", "kyphosis"]), RELEASED_TASKS, TABLE)


def test_a_label_means_what_it_means_in_its_dataset():
    foreign = [task for task in RELEASED_TASKS if task.name != "vindr_cxr"]
    vindr = next(task for task in RELEASED_TASKS if task.name == "vindr_cxr")
    assert "chestxray14/Effusion" in columns(match_dataset(vindr, foreign, TABLE)["PE"])
    other = ArkTask("angiography", ["PE", "Pneumonia"])
    assert match_dataset(other, RELEASED_TASKS, TABLE)["PE"] == []


def test_a_dataset_that_the_model_was_trained_on_is_not_new_to_it():
    with pytest.raises(ValueError, match="'shenzhen' is not new to it"):
        match_dataset(ArkTask("shenzhen", ["TB"]), RELEASED_TASKS, TABLE)
    matches = match_dataset(ArkTask("shenzhen", ["TB"]), RELEASED_TASKS, TABLE, heads=["vindr_cxr"])
    assert matches == {"TB": [LabelMatch("vindr_cxr", "Tuberculosis", "synonym: TB = Tuberculosis")]}


def test_a_transfer_needs_its_label_on_both_sides():
    transfer = PUBLISHED_TRANSFERS["mendeley_v2"]
    with pytest.raises(ValueError, match="vindr_cxr/Pneumonia, which the model lacks"):
        match_transfer(ArkTask("kermany", ["pneumonia"]), RELEASED_TASKS[:4], TABLE, transfer)
    with pytest.raises(ValueError) as caught:
        match_transfer(ArkTask("kermany", ["normal", "viral"]), RELEASED_TASKS, TABLE, transfer)
    for part in (
        "the label 'Pneumonia' or a synonym of it",
        "'Bacterial pneumonia' and 'Viral pneumonia'",
        "'kermany' has ['normal', 'viral']",
        "ark-hf data build kermany_pneumonia --splits test",
    ):
        assert part in str(caught.value)


def test_two_labels_that_are_the_finding_by_themselves_stay_two():
    transfer = PUBLISHED_TRANSFERS["tbx11k"]
    for problem_type in ("multi_label_classification", "single_label_classification"):
        matches = match_transfer(
            ArkTask("mine", ["TB", "PTB", "cough"], problem_type), RELEASED_TASKS, TABLE, transfer
        )
        assert {label: len(each) for label, each in matches.items()} == {"TB": 1, "PTB": 1, "cough": 0}
    kinds = ArkTask("mine", ["Bacterial pneumonia", "Viral pneumonia"])
    with pytest.raises(ValueError, match="needs a dataset with the label 'Pneumonia'"):
        match_transfer(kinds, RELEASED_TASKS, TABLE, PUBLISHED_TRANSFERS["mendeley_v2"])


@pytest.mark.parametrize("transfer", PUBLISHED_TRANSFERS.values(), ids=lambda transfer: transfer.dataset)
def test_the_build_that_a_transfer_names_makes_its_dataset(transfer):
    name, *options = transfer.build.split()
    entry = read_catalog()[name]
    for option, value in zip(options[::2], options[1::2], strict=True):
        assert value in entry.options[option.removeprefix("--")].values
    task = ArkTask(name, entry.labels, entry.problem_type)
    assert sum(map(len, match_transfer(task, RELEASED_TASKS, TABLE, transfer).values())) == 1


def test_scores_are_the_mean_of_the_matched_columns():
    probabilities = np.random.default_rng(0).random((5, 55))
    matches = match_label("Pneumothorax", RELEASED_TASKS, TABLE)
    expected = probabilities[:, [12, 14 + 9, 28 + 7]].mean(axis=1)
    np.testing.assert_allclose(zero_shot_scores(probabilities, matches, RELEASED_TASKS), expected, atol=1e-15)
    with pytest.raises(ValueError, match=r"\(n, 55\), a column per label, not \(5, 52\)"):
        zero_shot_scores(probabilities[:, :52], matches, RELEASED_TASKS)
    with pytest.raises(ValueError, match=r"at least one; it lacks \[\]"):
        zero_shot_scores(probabilities, [], RELEASED_TASKS)
    with pytest.raises(ValueError, match=r"it lacks \['chexpert/Nodule'\]"):
        zero_shot_scores(probabilities, [LabelMatch("chexpert", "Nodule", "")], RELEASED_TASKS)


def tiny_model(*tasks) -> ArkForImageClassification:
    """Random weights; the heads are steep, but no sigmoid is so near to 1 that images tie."""
    torch.manual_seed(0)
    settings = {name: TINY[name] for name in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}
    model = ArkForImageClassification(ArkConfig(**settings, tasks=list(tasks))).eval()
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.normal_()
    return model


CLINIC = ArkTask("clinic", ["Enlarged heart", "PTX", "Pleural_Effusion"])
CLASSES = ArkTask("classes", ["Healthy", "Pneumothorax", "Pleural Effusion"], "single_label_classification")


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """A phantom site that has only a test split."""
    return build_phantom_sites(tmp_path_factory.mktemp("external") / "sites", {"test": 14}, size=40)["phantom_lake"]


@torch.no_grad()
def test_a_foreign_dataset_with_a_test_split_alone(lake):
    model, processor = tiny_model(CLINIC, CLASSES), ArkImageProcessor(size=32)
    data, zero_shot = load_zero_shot_data(model, str(lake), TABLE)
    report = evaluate_task(model, processor, data, batch_size=4, num_bootstrap=20, zero_shot=zero_shot)
    rows = load_task_dataset(str(lake), "test")
    pixel_values = processor(list(rows["image"]), return_tensors="pt").pixel_values
    multi = model(pixel_values, task="clinic").logits.double().sigmoid().numpy()
    single = model(pixel_values, task="classes").logits.double().softmax(dim=-1).numpy()
    scores = [(multi[:, 2] + single[:, 2]) / 2, multi[:, 0], (multi[:, 1] + single[:, 1]) / 2]
    targets = np.array(rows["labels"])
    assert [result.label for result in report.labels] == ["Pleural Effusion", "Enlarged Heart", "Pneumothorax"]
    for result, score, target in zip(report.labels, scores, targets.T, strict=True):
        assert result.auroc == pytest.approx(auroc(target, score), abs=1e-9)
    assert [columns(each) for each in report.matches.values()] == [
        ["clinic/Pleural_Effusion", "classes/Pleural Effusion"],
        ["clinic/Enlarged heart"],
        ["clinic/PTX", "classes/Pneumothorax"],
    ]
    assert report.baseline_labels is None and report.baseline_mean is None
    text = report_text([report])
    assert "14 images" in text and text.count("no train split") == 4
    assert "- Pneumothorax: clinic/PTX (synonym: Pneumothorax = PTX), classes/Pneumothorax (same name)" in text


@torch.no_grad()
def test_ten_crops_and_a_lone_softmax_head(lake):
    """A model of one head returns raw logits, and the mean over crops is of probabilities."""
    model = tiny_model(CLASSES)
    ten = ArkImageProcessor(size=36, crop_size=32, do_ten_crop=True)
    data, zero_shot = load_zero_shot_data(model, str(lake), TABLE)
    report = evaluate_task(model, ten, data, num_bootstrap=0, zero_shot=zero_shot)
    rows = load_task_dataset(str(lake), "test")
    crops = ten(list(rows["image"]), return_tensors="pt").pixel_values
    probabilities = model(crops.flatten(0, 1)).logits.double().softmax(dim=-1).unflatten(0, crops.shape[:2])
    expected = probabilities.mean(dim=1).numpy()
    targets = np.array(rows["labels"])
    results = {result.label: result.auroc for result in report.labels}
    assert results["Pleural Effusion"] == pytest.approx(auroc(targets[:, 0], expected[:, 2]), abs=1e-9)
    assert results["Pneumothorax"] == pytest.approx(auroc(targets[:, 2], expected[:, 1]), abs=1e-9)
    assert np.isnan(results["Enlarged Heart"])  # nothing matches


@torch.no_grad()
def test_a_single_label_dataset_is_scored_one_class_against_the_rest(tmp_path):
    coast = build_phantom_sites(tmp_path / "sites", {"train": 9, "test": 12}, size=40)["phantom_coast"]
    model = tiny_model(ArkTask("wards", ["Pneumothorax", "No Finding", "Viral"]))
    processor = ArkImageProcessor(size=32)
    data, zero_shot = load_zero_shot_data(model, str(coast), TABLE)
    report = evaluate_task(model, processor, data, num_bootstrap=0, zero_shot=zero_shot)
    rows = load_task_dataset(str(coast), "test")
    logits = model(processor(list(rows["image"]), return_tensors="pt").pixel_values).logits
    probabilities = logits.double().sigmoid().numpy()
    targets = one_vs_rest(rows["labels"][:], 3)
    normal, bacterial, viral = report.labels
    assert normal.auroc == pytest.approx(auroc(targets[:, 0], probabilities[:, 1]), abs=1e-9)
    assert viral.auroc == pytest.approx(auroc(targets[:, 2], probabilities[:, 2]), abs=1e-9)
    assert np.isnan(bacterial.auroc) and bacterial.num_positive == 4
    # The two means are over the same labels
    assert np.isfinite(report.baseline_labels[0].auroc) and np.isnan(report.baseline_labels[1].auroc)
    assert report.mean.num_defined == report.baseline_mean.num_defined == 2
    text = report_text([report])
    assert "| bacterial | 4/12 | no match | | | |" in text and "- bacterial: nothing matches, not scored" in text


def test_a_transfer_is_reported_beside_the_published_numbers(lake):
    model = tiny_model(ArkTask("chexpert", ["Pneumothorax", "Pleural Effusion"]))
    data, zero_shot = load_zero_shot_data(model, str(lake), TABLE, transfer=PUBLISHED_TRANSFERS["siim_acr"])
    report = evaluate_task(model, ArkImageProcessor(size=32), data, num_bootstrap=0, zero_shot=zero_shot)
    assert {label: columns(each) for label, each in report.matches.items()} == {
        "Pleural Effusion": [],
        "Enlarged Heart": [],
        "Pneumothorax": ["chexpert/Pneumothorax"],
    }
    text = report_text([report])
    assert "Published for Ark+ on SIIM-ACR: 0.9579 (0.9538 to 0.9616)." in text
    assert "- Enlarged Heart: not scored by this transfer\n" in text and "nothing matches" not in text
    assert "| Enlarged Heart | " in text and "no match" not in text
    for wrong in ({"heads": ["chexpert"]}, {"related": True}):
        with pytest.raises(ValueError, match="leave out `heads` and `related`"):
            load_zero_shot_data(model, str(lake), TABLE, transfer=PUBLISHED_TRANSFERS["siim_acr"], **wrong)


@torch.no_grad()
@pytest.mark.parametrize(
    "names", [("normal", "bacterial", "viral"), ("Viral pneumonia", "Normal", "Bacterial pneumonia")]
)
def test_the_transfer_to_pneumonia_takes_its_two_kinds_together(tmp_path, names):
    """The dataset as the README builds it, and as the catalog does: either kind is a positive."""
    task = ArkTask("kermany", list(names), "single_label_classification")
    kinds = [0, 1, 2, 2, 1, 0, -1, 1, 2]
    rng = np.random.default_rng(0)
    pictures = [encode_png(rng.integers(0, 256, (40, 40), dtype=np.uint8)) for _ in kinds]

    def rows(first):
        for number, (kind, picture) in enumerate(zip(kinds, pictures, strict=True), start=first):
            yield {"image": picture, "labels": kind, "patient_id": str(number), "image_id": None}

    splits = {"train": lambda: rows(0), "test": lambda: rows(100)}
    write_task_dataset(tmp_path / "kermany", task, splits, ["patient_id"], {})
    model, processor = tiny_model(ArkTask("vindr_cxr", ["Pneumonia", "PE"])), ArkImageProcessor(size=32)
    transfer = PUBLISHED_TRANSFERS["mendeley_v2"]
    data, zero_shot = load_zero_shot_data(model, str(tmp_path / "kermany"), TABLE, transfer=transfer)
    report = evaluate_task(model, processor, data, num_bootstrap=0, zero_shot=zero_shot)

    known = [number for number, kind in enumerate(kinds) if kind >= 0]
    positive = [names[kinds[number]] not in ("normal", "Normal") for number in known]
    images = [load_task_dataset(str(tmp_path / "kermany"), "test")["image"][number] for number in known]
    scores = model(processor(images, return_tensors="pt").pixel_values).logits.double().sigmoid()[:, 0].numpy()
    (result,) = report.labels
    both = " or ".join(name for name in names if name not in ("normal", "Normal"))
    assert (result.label, result.num_positive, result.num_known) == (both, sum(positive), len(known))
    assert result.auroc == pytest.approx(auroc(np.array(positive), scores), abs=1e-9)
    assert report.mean.auroc == result.auroc and np.isfinite(report.baseline_mean.auroc) and report.accuracy is None
    assert f"- {both}: vindr_cxr/Pneumonia (published transfer to Mendeley V2)" in report_text([report])


def test_a_patient_in_train_and_test_is_refused(tmp_path):
    def rows():
        for drawn in draw_phantom_images(SITES["phantom_hill"], "test", 2, 40):
            yield drawn | {"image": encode_png(np.asarray(drawn["image"])), "image_id": None}

    task = ArkTask("hill", ["Tuberculosis"])
    write_task_dataset(tmp_path / "hill", task, {"train": rows, "test": rows}, ["patient_id"], {})
    with pytest.raises(ValueError, match="patient-disjoint"):
        load_zero_shot_data(tiny_model(ArkTask("wards", ["TB"])), str(tmp_path / "hill"), TABLE)

"""Tests of models of volumes: each on its own grid, in mm, by windows; reports, another model, and what is refused."""

import json

import numpy as np
import pytest
import torch

from ark_hf import (
    ArkConfig,
    ArkForImageClassification,
    ArkImageProcessor,
    EvaluationArguments,
    GenesisConfig,
    GenesisForImageClassification,
    GenesisForPreTraining,
    GenesisImageProcessor,
    SegmentationTask,
    Volume,
    evaluate,
    load_genesis,
    open_dataset,
    reorient,
)
from ark_hf.data.open_dataset import TaskDataset
from ark_hf.data.volumes.nifti import stored_volume
from ark_hf.evaluation.mask_scoring import score_masks, score_prior
from ark_hf.evaluation.report.gallery import without_pictures
from ark_hf.evaluation.volume_scoring import volume_scores
from ark_hf.inference.sliding_window import label_mask, segment_volume
from ark_hf.metrics.overlap import dice, hausdorff_distance, iou

from ..data.test_volume_samples import coded, rows
from ..inference.genesis_models import genesis_segmenter, save_genesis

TINY_ARK = {
    "backbone": "convnext_atto",
    "backbone_kwargs": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "image_size": 32,
    "projector_dim": 16,
}
VIEW = {"cube_size": [8, 8, 8], "spacing": [9.0, 10.0, 11.0]}  # mm of phantoms whose voxels have 10


@pytest.fixture(scope="module")
def structures(phantom_volumes):
    return open_dataset(phantom_volumes["phantom_ct_structures"])


@pytest.fixture(scope="module")
def segmenter(structures, tmp_path_factory):
    network = genesis_segmenter(structures.task, **VIEW)
    return save_genesis(tmp_path_factory.mktemp("segmenter") / "genesis", network)


@pytest.fixture(scope="module")
def scored(segmenter, structures):
    return score_masks(*load_genesis(segmenter), structures, "test")


def test_scores_are_those_of_each_volume_on_its_own_grid_and_in_mm(segmenter, structures, scored):
    network = load_genesis(segmenter)
    assert scored.dice.shape == (4, 3) and (scored.dice > 0).any()
    for row, cells in enumerate(structures.splits["test"]):
        volume, truth = stored_volume(cells["volume"]), stored_volume(cells["mask"]).voxels
        found = segment_volume(*network, volume)
        for number in range(3):
            mask, true = label_mask(found, number), truth == number + 1
            expected = dice(mask, true), iou(mask, true), hausdorff_distance(mask, true, 95, volume.spacing)
            given = scored.dice[row, number], scored.iou[row, number], scored.hd95[row, number]
            np.testing.assert_allclose(given, expected)


def test_distances_take_the_three_spacings_of_the_volume_and_unknown_voxels_count_for_nothing():
    task = SegmentationTask("balls", ["ball", "absent"], modality="CT")
    truth = np.zeros((30, 20, 16), dtype=np.uint8)
    truth[4:9, 5:9, 6:9] = 1
    for axis, distance in enumerate((2 * 0.7, 2 * 0.8, 2 * 2.5)):
        found = np.roll(truth, 2, axis)
        scores = volume_scores(found, truth, task, (0.7, 0.8, 2.5))
        assert scores[2, 0] == pytest.approx(distance) and np.isnan(scores[:, 1]).all()
    shifted = np.roll(truth, 2, 0)
    truth[9:11] = 255  # where the shifted one reaches beyond
    dices = volume_scores(shifted, truth, task, (1, 1, 1), distances=False)
    assert dices[0, 0] == pytest.approx(2 * 3 / (5 + 3)) and np.isnan(dices[2]).all()


@pytest.mark.parametrize("orientation", ["LPS", "SRA"])
def test_the_prior_is_the_most_frequent_label_of_each_place_whatever_the_axes(orientation):
    task = SegmentationTask("parts", ["a", "b", "c"], modality="CT")
    cells = [coded((16, 16, 16), seed, blocks=4) for seed in (1, 1, 2)]
    turned = [tuple(reorient(each, orientation) for each in pair) for pair in cells]
    data = TaskDataset("parts", task, {"train": rows(*cells), "test": rows(*turned)})
    prior = score_prior(data)
    np.testing.assert_array_equal(prior.dice[:2], 1)  # two of three agree
    truth, other = (pair[1].voxels for pair in cells[1:])
    np.testing.assert_allclose(prior.dice[2], [dice(truth == label, other == label) for label in (1, 2, 3)])


def test_the_report_has_every_number_a_table_and_slices_that_can_be_left_out(
    segmenter, structures, scored, tmp_path, no_figures
):
    other = save_genesis(tmp_path / "other", genesis_segmenter(structures.task, cube_size=[8, 8, 8]))
    args = EvaluationArguments(out=str(tmp_path / "report"), against=other, bootstrap=20)
    evaluation = evaluate(segmenter, [structures.source], args)
    values = json.loads((tmp_path / "report" / "report.json").read_text())
    (task,) = values["tasks"]
    assert (values["kind"], task["num_images"], task["distance_unit"]) == ("segmentation", 4, "mm")
    assert [each["mean"] for each in task["dice"][:-1]] == pytest.approx(np.nanmean(scored.dice, axis=0))
    assert task["comparison"]["results"][0]["mean_b"] == pytest.approx(task["dice"][0]["mean"])
    assert task["gain"][0]["label"] == "lungs" and {"sex", "age"} <= task["subgroups"].keys()
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("data:image/png") == 4 and "<img" not in without_pictures(page)
    assert "genesis against other" in evaluation.text
    table = (tmp_path / "report" / "masks-1-phantom_ct_structures.csv").read_text().splitlines()
    assert len(table) == 5 and "dice/lungs" in table[0] and "hd95/nodules" in table[0]


@pytest.fixture(scope="module")
def classifier(phantom_volumes, tmp_path_factory):
    task = open_dataset(phantom_volumes["phantom_ct_nodule"], ["test"]).task
    torch.manual_seed(0)
    model = GenesisForImageClassification(GenesisConfig(width=2, depth=2, cube_size=[12, 12, 16], tasks=[task]))
    network = model.eval(), GenesisImageProcessor.from_config(model.config)
    return save_genesis(tmp_path_factory.mktemp("classifier") / "genesis", network)


def test_labels_of_volumes_are_tested_and_calibrated_as_those_of_pictures(
    classifier, phantom_volumes, tmp_path, no_figures
):
    folder = phantom_volumes["phantom_ct_nodule"]
    args = EvaluationArguments(
        out=str(tmp_path / "report"), against=classifier, calibrate=str(tmp_path / "new"), bootstrap=20
    )
    (report,) = evaluate(classifier, [str(folder)], args).reports
    model, processor = load_genesis(classifier)
    for cells, line in zip(
        open_dataset(folder, ["test"]).splits["test"],
        (tmp_path / "report" / "predictions-1-phantom_ct_nodule.csv").read_text().splitlines()[1:],
        strict=True,
    ):
        volume = reorient(stored_volume(cells["volume"]), "SPL")
        with torch.no_grad():
            logit = model(processor(volume.voxels, return_tensors="pt")["pixel_values"]).logits
        scaled = torch.sigmoid(logit / report.fitted.temperature).item()
        assert any(abs(float(word) - scaled) < 1e-4 for word in line.split(",") if word[:2] == "0.")
    assert report.baseline_labels[0].num_known == 4 and report.comparison.results[0].difference == 0
    assert (tmp_path / "new" / "calibration.json").is_file()


def test_what_does_not_fit_is_refused(
    segmenter, classifier, structures, phantom_volumes, sites, phantom_masks, tmp_path
):
    nodule = str(phantom_volumes["phantom_ct_nodule"])
    city, organs = str(sites["phantom_city"]), str(phantom_masks["phantom_organs"])
    pretrained = GenesisForPreTraining(GenesisConfig(width=2, depth=2, cube_size=[8, 8, 8]))
    pretrained = save_genesis(tmp_path / "p", (pretrained, GenesisImageProcessor.from_config(pretrained.config)))
    config = ArkConfig(**TINY_ARK, tasks=[open_dataset(nodule, ["test"]).task])
    ark = save_genesis(tmp_path / "a", (ArkForImageClassification(config), ArkImageProcessor()))
    ten, crops = EvaluationArguments(crops="ten"), "--crops is for classifiers|--crops ten is for pictures"
    for model, dataset, args, message in (
        (segmenter, organs, None, "holds pictures, and this model takes volumes"),
        (classifier, city, None, "holds pictures, and this model takes volumes"),
        (ark, nodule, None, "holds volumes, and this model takes pictures"),
        (segmenter, nodule, None, "holds labels, and the model is a segmenter"),
        (classifier, structures.source, None, "holds segmentation masks, and a dataset of labels is wanted"),
        (pretrained, nodule, None, "neither classifies nor outlines; `ark-hf finetune` makes a model that does"),
        (segmenter, structures.source, ten, crops),
        (classifier, nodule, ten, crops),
        (segmenter, structures.source, EvaluationArguments(against=classifier), "it is a classifier, and the model"),
        (classifier, nodule, EvaluationArguments(against=segmenter), "is a segmenter, and a classifier is wanted"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(model, [dataset], args)


def test_a_label_map_that_lies_elsewhere_is_named_when_it_is_scored():
    volume, mask = coded()
    data = rows((volume, mask), (volume, Volume(mask.voxels[:-1], mask.affine)))
    task = SegmentationTask("parts", ["a", "b", "c"], modality="CT")
    with pytest.raises(ValueError, match="parts, row 1: it lies elsewhere than the volume: 13 x 12 x 10 voxels"):
        score_masks(*genesis_segmenter(task), TaskDataset("parts", task, {"test": data}))

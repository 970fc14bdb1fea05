"""Tests of segmenters: scores as plain functions give them, the prior, groups, another model, and what is refused."""

import json

import numpy as np
import pytest

from ark_hf import (
    ArkConfig,
    ArkForImageClassification,
    ArkImageProcessor,
    ArkTask,
    EvaluationArguments,
    SegmentationTask,
    compare,
    evaluate,
    open_dataset,
)
from ark_hf.data.masks import MaskInferenceSamples
from ark_hf.evaluation.mask_scoring import (
    mean_masks,
    most_likely,
    predict_masks,
    score_masks,
    score_prior,
    stored_masks,
)
from ark_hf.evaluation.report.gallery import without_pictures
from ark_hf.evaluation.report.mask_gallery import ranked_rows
from ark_hf.inference.load import load_ark
from ark_hf.metrics.overlap import dice, hausdorff_distance, iou

from ..inference.segmenters import save_segmenter


@pytest.fixture(scope="module")
def findings(phantom_masks):
    return open_dataset(phantom_masks["phantom_findings"])


@pytest.fixture(scope="module")
def segmenter(findings, tmp_path_factory):
    return save_segmenter(tmp_path_factory.mktemp("segmenter") / "ark-cxr", findings.task)


@pytest.fixture(scope="module")
def scored(segmenter, findings):
    return score_masks(*load_ark(segmenter), findings, "test", batch_size=4)


def test_scores_are_those_of_each_image_at_its_stored_size(segmenter, findings, scored):
    model, processor = load_ark(segmenter)
    samples = MaskInferenceSamples(findings.splits["test"], findings.task, processor)
    found = list(predict_masks(model, samples, np.arange(6), 6))
    assert [row for row, _, _ in found] == list(range(6))
    for row, masks, truth in found:
        for number, (mask, true) in enumerate(zip(masks, truth, strict=True)):
            given = scored.dice[row, number], scored.iou[row, number], scored.hd95[row, number]
            if true is None:
                assert np.isnan(given).all()
                continue
            assert mask.shape == true.shape
            np.testing.assert_allclose(given, [dice(mask, true), iou(mask, true), hausdorff_distance(mask, true)])
    assert (scored.dice > 0).any() and np.isnan(scored.hd95).any()


def test_spacing_makes_distances_of_pixels_those_of_millimetres(segmenter, findings, scored):
    task = SegmentationTask.from_dict({**findings.task.to_dict(), "pixel_spacing": [0.5, 0.5]})
    data = open_dataset(findings.source, ["test"], task)
    in_mm = score_masks(*load_ark(segmenter), data, "test")
    np.testing.assert_allclose(in_mm.hd95, scored.hd95 / 2)


def test_the_prior_is_the_mean_mask_of_training(findings):
    means = mean_masks(findings.splits["train"], findings.task)
    assert means.shape == (len(findings.task.labels), 256, 256)
    assert 0 <= means.min() and means.max() == pytest.approx(1)
    prior = score_prior(findings, "test")
    lungs = most_likely(means, findings.task)[0]
    (truth, *_) = stored_masks(findings.splits["test"], findings.task)
    rows = np.minimum((np.arange(truth[0].shape[0]) + 0.5) * 256 / truth[0].shape[0], 255).astype(int)
    columns = np.minimum((np.arange(truth[0].shape[1]) + 0.5) * 256 / truth[0].shape[1], 255).astype(int)
    assert prior.dice[0, 0] == pytest.approx(dice(lungs[np.ix_(rows, columns)], truth[0]), abs=0.01)
    assert 0.6 < np.nanmean(prior.dice[:, 0]) < 0.95


def test_exclusive_labels_share_the_prior():
    task = SegmentationTask("organs", ["a", "b"])
    shares = np.array([[0.4, 0.3, 0.2], [0.35, 0.3, 0.1]])[:, None]
    np.testing.assert_array_equal(most_likely(shares, task)[:, 0], [[True, False, False], [False, False, False]])


def test_images_are_ranked_once_each(scored):
    kinds = ranked_rows(scored)
    means = np.nanmean(scored.dice, axis=1)
    assert sorted(sum(kinds.values(), [])) == list(range(6))
    assert kinds["worst"][0] == np.argmin(means) and kinds["best"][0] == np.argmax(means)


@pytest.fixture(scope="module")
def report(segmenter, findings, tmp_path_factory):
    """The folder of a report against another model, and what it returned."""
    folder = tmp_path_factory.mktemp("report")
    other = save_segmenter(folder / "other", findings.task, decoder_channels=32)
    args = EvaluationArguments(out=str(folder / "report"), against=other, bootstrap=20)
    return folder / "report", evaluate(segmenter, [findings.source], args)


def test_the_report_has_every_number_and_pictures_that_can_be_left_out(report, findings, scored):
    folder, evaluation = report
    values = json.loads((folder / "report.json").read_text())
    (task,) = values["tasks"]
    assert (values["kind"], task["task"]["name"], task["num_images"]) == ("segmentation", "phantom_findings", 6)
    assert [each["label"] for each in task["dice"]] == [*findings.task.labels, "mean"]
    means = [np.nanmean(column) for column in scored.dice.T]
    assert [each["mean"] for each in task["dice"][:-1]] == pytest.approx(means)
    assert {"sex", "age"} <= task["subgroups"].keys()
    assert task["comparison"]["other"] == "other"
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png") == 6
    assert "<img" not in without_pictures(page)
    for text in (evaluation.text, (folder / "report.md").read_text(), page):
        assert "ark-cxr against other" in text and "mean mask" in text
    table = (folder / "masks-1-phantom_findings.csv").read_text().splitlines()
    assert len(table) == 7 and "dice/lungs" in table[0]


def test_two_segmenters_are_compared_by_a_function(report, segmenter, findings):
    folder, evaluation = report
    (comparison,) = compare(
        segmenter, str(folder.parent / "other"), [findings.source], EvaluationArguments(bootstrap=20)
    )
    assert comparison == evaluation.reports[0].comparison


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crops": "ten"}, "--crops is for classifiers, and .* is a segmenter"),
        ({"zero_shot": True}, "--zero_shot is for classifiers"),
        ({"calibrate": "new"}, "--calibrate is for classifiers"),
    ],
)
def test_what_is_for_labels_is_refused(segmenter, findings, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        evaluate(segmenter, [findings.source], EvaluationArguments(**options))


def test_what_does_not_fit_is_refused(segmenter, findings, sites, phantom_masks, tmp_path):
    with pytest.raises(ValueError, match="holds labels, and the model is a segmenter"):
        evaluate(segmenter, [str(sites["phantom_hill"])])
    with pytest.raises(ValueError, match=r"its masks are of \['lungs', 'heart'\], exclusive, and the model's of"):
        evaluate(segmenter, [str(phantom_masks["phantom_organs"])])
    config = ArkConfig(backbone="test_resnet", image_size=32, projector_dim=None, tasks=[ArkTask("hill", ["a"])])
    ArkForImageClassification(config).save_pretrained(tmp_path / "classifier")
    ArkImageProcessor(size=32).save_pretrained(tmp_path / "classifier")
    with pytest.raises(ValueError, match="holds segmentation masks, and a dataset of labels is wanted"):
        evaluate(str(tmp_path / "classifier"), [findings.source])
    with pytest.raises(ValueError, match="it is a classifier, and the model a segmenter"):
        evaluate(segmenter, [findings.source], EvaluationArguments(against=str(tmp_path / "classifier")))
    crops = {"do_center_crop": True, "crop_size": 28}
    cropping = save_segmenter(tmp_path / "cropping", findings.task, processor=crops)
    with pytest.raises(ValueError, match="Masks are of whole pictures; this image processor cuts crops"):
        evaluate(cropping, [findings.source])

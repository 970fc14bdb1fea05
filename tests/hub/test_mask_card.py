"""The card of a segmenter: everything in it comes from the model's files and its report."""

import dataclasses
import io
import json

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from ark_hf import ArkForSemanticSegmentation, SegmentationTask
from ark_hf.cli.main import main
from ark_hf.evaluation.report.mask_page import dice_picture
from ark_hf.evaluation.report.stored import MASK_KIND, read_report
from ark_hf.hub.model_card import model_card, model_card_files
from ark_hf.provenance import write_provenance
from tests.hub.mask_reports import PATIENT, made_report, write_report_of
from tests.inference.segmenters import OVERLAPPING, save_segmenter

FACTS = {"head": "fresh", "train_images": 10, "steps": 5, "best_step": 4, "seed": 1}
NAMED = SegmentationTask("organs", ["Lung | <b>", "heart"])


@pytest.fixture(scope="module")
def written(tmp_path_factory, no_figures):
    """A segmenter, and its report."""
    folder = tmp_path_factory.mktemp("segmenter")
    save_segmenter(folder / "model", NAMED)
    facts = {**FACTS, "validation": {"mean_dice": 0.9321, "labels": {"heart": {"dice": 0.9}}}}
    write_provenance(folder / "model", "fine-tuning", facts)
    return folder / "model", folder / "report", write_report_of(folder / "model", folder / "report", NAMED, "me/lungs")


def test_a_report_comes_back_as_it_was(written):
    facts, (report,) = read_report(written[1], MASK_KIND)
    assert dataclasses.asdict(report) == dataclasses.asdict(written[2]) and facts["model"] == "model"
    with pytest.raises(ValueError, match="is a report of the kind 'segmentation', not 'evaluation'"):
        read_report(written[1])


def test_the_card_says_what_it_outlines_how_well_and_how_to_use_it(written):
    folder, report_folder, report = written
    files = model_card_files(folder, "me/organs", report_folder)
    card = ModelCard(files["README.md"].decode())
    assert card.data.pipeline_tag == "image-segmentation" and card.data.metrics == ["dice"]
    results = {(each.metric_name, each.metric_type): each.metric_value for each in card.data.eval_results}
    assert results == {
        (name, "dice"): round(each.mean, 4)
        for name, each in zip(["Dice, Lung | <b>", "Dice, heart", "mean Dice"], report.dice, strict=True)
    }
    assert {each.task_type for each in card.data.eval_results} == {"image-segmentation"}
    assert f"value: {report.dice[-1].mean:.4f}".rstrip("0") in files[".eval_results/ark-hf.yaml"].decode()
    text = card.text
    for words in (
        'pipeline("chest-xray-segmentation", model="me/organs")',
        'AutoModelForSemanticSegmentation.from_pretrained("me/organs", trust_remote_code=True)',
        'pip install "ark-hf[segmentation]"',
        "| `organs` | masks that exclude each other | Lung \\| &lt;b&gt;, heart |",
        "A pixel belongs to the most probable of the labels and the background.",
        "| 2 | 12 | 6 | me/lungs, test |",
        "<summary>Per label: organs on me/lungs, test</summary>",
        "It outlines 2 structures: Lung \\| &lt;b&gt;, heart.",
        "Not shown to be better than the mean mask of training: Lung | &lt;b&gt;",
        "| Lung \\| &lt;b&gt; | 12 | 0.4",
        "Mean validation Dice: 0.932.",
        "(figures/dice-1-organs.png)",
    ):
        assert words in text, words
    assert "<b>" not in text and "AUROC" not in text and PATIENT not in str(files["README.md"])
    assert {"report/report.json", "report/report.md", "report/report.html", "figures/dice-1-organs.png"} < set(files)


def test_overlapping_labels_have_thresholds(tmp_path):
    text = model_card(save_path(tmp_path, OVERLAPPING), "me/chest").text
    assert "| `chest` | masks that may overlap | left lung, right lung, heart, rib |" in text
    assert "A pixel belongs to a label from a probability of 0.5, but heart 0.4." in text
    assert "where labels overlap, it loses the others" in text and "was not measured" in text


def save_path(folder, task):
    save_segmenter(folder, task)
    return folder


def test_a_report_of_other_weights_or_of_a_classifier_is_refused(written, tmp_path, capsys):
    other = save_path(tmp_path / "other", OVERLAPPING)
    assert main(["push", str(other), "me/organs", "--dry_run", "--report", str(written[1])]) == 2
    assert "it is of other weights" in capsys.readouterr().err
    (tmp_path / "report.json").write_text(json.dumps({"kind": "evaluation", "tasks": []}))
    assert main(["push", str(other), "me/organs", "--dry_run", "--report", str(tmp_path)]) == 2
    assert "is a report of the kind 'evaluation', not 'segmentation'" in capsys.readouterr().err


def test_a_segmenter_without_a_named_task_is_refused(tmp_path, capsys):
    unnamed = save_segmenter(tmp_path, None, num_labels=3)
    assert main(["push", unnamed, "me/organs", "--dry_run"]) == 2
    assert "is a segmenter without a named task" in capsys.readouterr().err


def test_what_a_dry_run_lists(written, tmp_path, capsys):
    folder, report, _ = written
    assert (
        main(["push", str(folder), "me/organs", "--dry_run", "--report", str(report), "--card", str(tmp_path / "c")])
        == 0
    )
    listed = capsys.readouterr().out
    assert "figures/dice-1-organs.png" in listed and "modeling_ark_segmentation.py" in listed
    assert (tmp_path / "c" / "README.md").is_file()
    assert ArkForSemanticSegmentation.from_pretrained(folder).config.segmentation == NAMED


@pytest.mark.slow_ci  # matplotlib
def test_the_figure_is_a_picture():
    with Image.open(io.BytesIO(dice_picture(made_report(NAMED)))) as picture:
        assert picture.format == "PNG" and min(picture.size) > 100

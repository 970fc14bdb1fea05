"""Cards are read from the top: two screens without folds, every kind of model and dataset, as Markdown shows them."""

import functools
import re
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from ark_hf import GenesisForPreTraining, GenesisForSemanticSegmentation, SegmentationTask
from ark_hf.evaluation.report.task_report import report_task
from ark_hf.hub.model_card import model_card
from ark_hf.models.ark.configuration_ark import ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkModel
from ark_hf.provenance import write_provenance
from tests.conftest import REPOSITORY
from tests.hub import test_push_genesis as genesis
from tests.hub.mask_reports import made_report
from tests.hub.test_model_card import data, peac, pretrained, save
from tests.inference.segmenters import ORGANS, save_segmenter
from tests.metrics.made_scores import made_scores

TWO_SCREENS = 80  # lines: a paragraph or a table's row each, blank ones too
SIX = [ArkTask(f"task{number}", [f"label {each}" for each in range(4)]) for number in range(5)]
SIX.append(ArkTask("kinds", ["normal", "viral"], "single_label_classification"))
EYES = ArkTask("eyes", ["retinopathy"], modality="OP")
FEDERATED = {"sites": ["north", "south"], "rounds": 2}
COMMITTED = sorted((REPOSITORY / "hub_cards" / "kinds").glob("*/README.md"))
REAL = REPOSITORY / "examples" / "real_radiographs" / "card" / "README.md"


def visible(text: str) -> str:
    return re.sub(r"<details>.*?</details>\n?", "", text, flags=re.DOTALL)


@functools.cache
def report_of(name: str):
    task = {each.name: each for each in [*SIX, EYES]}[name]
    data, scored, groups = made_scores(task)
    return report_task(data, scored, 10, groups=groups)


def reports_of(tasks):
    return [report_of(task.name) for task in tasks]


def shown(reports) -> dict:
    return {f"figures/{number}.png": each for number, each in enumerate(reports)}


def table(text: str, first: str) -> list[list[str]]:
    """The cells of the table whose header begins so."""
    lines = text[text.index(f"| {first} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.replace("\u00a0", " ")[1:-1].split(" | ")] for line in lines]


def several(folder):
    write_provenance(save(folder, tasks=SIX), "pretraining", pretrained(start="none", data=[data("a"), data("b")]))
    return reports_of(SIX)


def one(folder):
    save(folder, tasks=SIX[:1])
    return reports_of(SIX[:1])


def two_modalities(folder):
    save(folder, tasks=[*SIX[:2], EYES])
    ArkImageProcessor(size={"height": 32, "width": 32}, modalities={"OP": {}}).save_pretrained(folder)
    return reports_of([EYES])


def eyes(folder):
    save(folder, tasks=[EYES])
    ArkImageProcessor(size={"height": 32, "width": 32}, modality="OP").save_pretrained(folder)
    return reports_of([EYES])


def segmenter(folder):
    save_segmenter(folder, ORGANS)
    return [replace(made_report(ORGANS), gain=None)]  # and so there is nothing to look at


def encoder(folder):
    write_provenance(save(folder, ArkModel), "self-supervision", peac(start="none"))
    return []


def encoder_of_eyes(folder):
    encoder(folder)
    ArkImageProcessor(size={"height": 32, "width": 32}, modality="OP").save_pretrained(folder)
    return []


def volumes(folder):
    genesis.save(folder, GenesisForPreTraining, batch_statistics=True)
    write_provenance(folder, "self-supervision", genesis.LEARNED)
    return []


def outlines_of_volumes(folder):
    task = SegmentationTask("organs", ["lungs", "nodule"], modality="CT")
    genesis.save(folder, GenesisForSemanticSegmentation, segmentation=task)
    return [made_report(task)]


def federated(folder):
    write_provenance(save(folder, tasks=SIX[:2]), "federated", FEDERATED)
    return []


KINDS = [
    *(several, one, two_modalities, eyes, segmenter, encoder, encoder_of_eyes),
    *(volumes, outlines_of_volumes, federated),
]


def check_markdown(text: str) -> None:
    """That nothing would be shown otherwise than it is meant."""
    text = text.rstrip() + "\n\n"
    assert not re.search(r"\{[{%]|[}%]\}", re.sub(r"```bibtex.*?```", "", text, flags=re.DOTALL)), "a template's rest"
    assert text.count("<details>") == text.count("</details>") and "\n\n\n" not in text
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "```" not in outside
    assert re.findall(r"<details>.*\n", outside) == re.findall(
        r"(?<=\n\n)<details><summary>.+</summary>\n(?=\n)", outside
    )
    assert len(re.findall(r"(?<=\n\n)</details>\n\n", text)) == text.count("</details>")
    for block in re.findall(r"(?:^\|.*\n)+", outside, re.MULTILINE):
        assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1, block
    for block in re.finditer(r"(?:^\|.*\n)+", outside, re.MULTILINE):
        assert outside[: block.start()].endswith("\n\n") and outside[block.end() :].startswith("\n")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_begins_with_two_screens(tmp_path, kind):
    reports = kind(tmp_path / "model")
    card = model_card(tmp_path / "model", "someone/ark-cxr", shown(reports))
    check_markdown(card.text)
    top = visible(card.text)
    assert len(top.strip().splitlines()) <= TWO_SCREENS
    order = ["# ark-cxr\n", "**Research use only.", "## Intended use and limits", "**Not for diagnosis", "## Use\n",
             "## Results\n", "## More\n", "## Licence\n"]  # fmt: skip
    assert sorted(map(top.index, order)) == [top.index(each) for each in order]
    assert len(re.findall(r"^\|---", top, re.MULTILINE)) == (1 if reports else 0)
    assert card.text.count("<summary>Per label: ") == len(reports)
    assert ("was not measured" in top) == (not reports) and "an image |" not in card.text


def test_the_one_table_has_the_reports_numbers(tmp_path):
    reports = several(tmp_path / "model")
    text = visible(model_card(tmp_path / "model", "someone/ark-cxr", shown(reports)).text)
    rows = table(text, "task")
    assert len(rows) == len(reports) == 6
    for row, report in zip(rows, reports, strict=True):
        mean = report.mean
        assert row == [
            f"`{report.task}`",
            f"{mean.auroc:.3f} ({mean.ci_low:.3f} to {mean.ci_high:.3f})",
            "no train split",
            f"{len(report.labels)}",
            f"{report.num_images}",
            f"{report.num_patients}",
            f"{report.dataset}, test",
        ]
    report = segmenter(tmp_path / "organs")[0]
    text = visible(model_card(tmp_path / "organs", "someone/organs", shown([report])).text)
    of_dice, prior = (
        f"{m.mean:.3f} ({m.ci_low:.3f} to {m.ci_high:.3f})" for m in (report.dice[-1], report.prior_dice[-1])
    )
    assert table(text, "task") == [["`organs`", of_dice, prior, "2", "12", "6", "data, test"]]


def test_leaks_are_seen_without_unfolding(tmp_path):
    reports = [replace(each, leaks=["Trained on, with leave: 3 pictures."]) for each in one(tmp_path / "model")]
    text = model_card(tmp_path / "model", "someone/ark-cxr", shown(reports)).text
    assert text.count("Trained on, with leave: 3 pictures.") == 1
    assert f"- **task0 on {reports[0].dataset}, test**: Trained on, with leave" in visible(text)


def test_heads_of_several_modalities_are_told_apart(tmp_path):
    two_modalities(tmp_path / "model")
    card = model_card(tmp_path / "model", "someone/both")
    assert "- CR: `task0`, `task1`\n- OP: `eyes`\n" in visible(card.text)
    assert {"chest-x-ray", "radiology"} < set(card.data.tags) and 'modality="OP")' in card.text
    assert "research on pictures of the modalities" in card.text


@pytest.mark.parametrize("kind", [eyes, encoder_of_eyes])
def test_what_is_not_of_radiographs_does_not_say_so(tmp_path, kind):
    kind(tmp_path / "model")
    card = model_card(tmp_path / "model", "someone/eyes")
    assert card.data.tags[:2] == ["ark", "medical"] and "radiology" not in card.data.tags
    prose = re.sub(r"```.*?```|`[^`]*`", "", card.text.split("## Licence")[0], flags=re.DOTALL)
    assert not re.search("radiograph|chest|x-ray", prose, re.IGNORECASE)


@pytest.mark.parametrize("path", [*COMMITTED, REAL], ids=lambda path: path.parent.name)
def test_committed_cards_are_as_they_are_made_now(path: Path):
    """And those of phantoms say that they are."""
    card = ModelCard(path.read_text(encoding="utf-8"))
    check_markdown(card.text)
    assert len(visible(card.text).strip().splitlines()) <= TWO_SCREENS
    assert path == REAL or re.search("drawn phantoms alone|phantom data|`phantom_city`", card.text)
    for figure in re.findall(r"\]\((figures/[^)]+)\)", card.text):
        assert (path.parent / figure).is_file()
    if card.data.eval_results:
        means = [each.metric_value for each in card.data.eval_results if each.metric_name.startswith("mean ")]
        rows = table(visible(card.text), "task")
        assert [float(row[1].split()[0]) for row in rows] == pytest.approx(means, abs=6e-4)

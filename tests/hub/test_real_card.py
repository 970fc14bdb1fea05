"""The committed card of a model trained on real radiographs, as `ark-hf push` made it."""

import re
from pathlib import Path

from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from PIL import Image

from ark_hf.hub.push import check_text

CARD = Path(__file__).resolve().parents[2] / "examples" / "real_radiographs" / "card"


def test_its_header_is_valid_and_says_what_its_tables_say():
    text = (CARD / "README.md").read_text()
    card = ModelCard(text)
    results = card.data.eval_results
    index = eval_results_to_model_index(card.data.model_name, results)
    assert model_index_to_eval_results(index) == (card.data.model_name, results)
    assert {each.dataset_name for each in results} == {
        "kermany", "nih_multilabel", "nih64", "hannover", "cohen", "brixia",
    }  # fmt: skip
    for result in results:
        label = result.metric_name.removeprefix("AUROC, ")
        row = f"`{result.task_name}` | " if label == "mean AUROC" else f"| {label} | "
        shown = [line for line in card.text.splitlines() if row in line and f" {result.metric_value:.3f} |" in line]
        assert shown, result
    check_text("the card", text)


def test_its_figures_are_there_and_no_larger_than_needed():
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", (CARD / "README.md").read_text())
    assert len(shown) == 6 and {CARD / name for name in shown} == set((CARD / "figures").iterdir())
    for name in shown:
        with Image.open(CARD / name) as figure:
            assert figure.format == "PNG" and min(figure.size) > 100
    assert sum(path.stat().st_size for path in CARD.rglob("*") if path.is_file()) < 200_000

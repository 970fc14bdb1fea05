"""The tables of a fine-tuning run."""

from dataclasses import asdict

from ark_hf.metrics.auroc import LabelResult, MeanResult
from ark_hf.training.finetune.report import results_text, summarise
from tests.pages.markdown_table import column

LABELS = ["Edema | mild", "Mass"]


def test_a_bar_in_a_label_does_not_end_its_cell():
    labels = [asdict(LabelResult(name, 0.75, 0.5, 1.0, 0.5, 8, 4, 8)) for name in LABELS]
    mean = asdict(MeanResult(0.75, 0.5, 1.0, 2, 2))
    test = {"num_images": 8, "num_patients": None, "labels": labels, "mean": mean}
    test |= {"baseline_labels": labels, "baseline_mean": mean}
    seed = {"seed": 0, "train_images": 9, "steps": 2, "best_step": 1, "validation": None, "test": test}
    text = results_text({"model": "m", "dataset": "d", "task": {"name": "t"}, **summarise([seed])})
    assert column(text, "label") == [*LABELS, "**mean of 2 of 2**"]
    assert column(text, "mean over seeds") == ["0.750"] * 3

import math
import os
import subprocess
import sys

import numpy as np
import pytest

from ark_hf.metrics.auroc import evaluate_labels

NAN = float("nan")


@pytest.fixture(scope="module")
def auroc_module():
    from ark_hf.metrics.evaluate_module import Auroc

    return Auroc()


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 3)) < [0.5, 0.2, 0]).astype(np.float32)
    scores = (labels + rng.normal(size=labels.shape)).astype(np.float32)
    labels[rng.random(labels.shape) < 0.1] = NAN
    return labels, scores, [f"p{number // 3}" for number in range(60)]


def test_the_module_computes_what_the_function_does(auroc_module, predictions):
    labels, scores, patients = predictions
    names = ["a", "b", "none positive"]
    table, mean = evaluate_labels(labels, scores, names, None, patients, 50, 0.8, 3)
    results = auroc_module.compute(
        predictions=scores,
        references=labels,
        label_names=names,
        clusters=patients,
        num_bootstrap=50,
        confidence=0.8,
        seed=3,
    )
    assert results.pop("num_defined") == 2
    for prefix, expected in [("", mean), *((f"{row.label}/", row) for row in table)]:
        found = [results.pop(prefix + key) for key in ("auroc", "auroc_low", "auroc_high", "average_precision")]
        np.testing.assert_array_equal(
            found, [expected.auroc, expected.ci_low, expected.ci_high, expected.average_precision]
        )
    assert not results


def test_batches_add_up_and_undefined_stays_undefined(auroc_module, predictions):
    labels, scores, _ = predictions
    whole = auroc_module.compute(predictions=scores, references=labels, num_bootstrap=0)
    for start in range(0, 60, 25):
        auroc_module.add_batch(predictions=scores[start : start + 25], references=labels[start : start + 25])
    np.testing.assert_equal(auroc_module.compute(num_bootstrap=0), whole)
    assert whole["auroc"] > 0.5 and math.isnan(whole["2/auroc"]) and math.isnan(whole["auroc_low"])
    with pytest.raises(ValueError, match="scores must be finite"):
        auroc_module.compute(predictions=[[0.1], [NAN]], references=[[0], [1]])


def test_the_trainer_reads_it_as_metrics(auroc_module, predictions, tmp_path):
    """A stock Trainer with compute_metrics as in the module's documentation."""
    import torch
    from transformers import Trainer, TrainingArguments

    labels, scores, _ = predictions

    class Echo(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, scores, labels):
            return {"loss": self.scale * 0, "logits": scores * self.scale}

    def compute_metrics(prediction):
        return auroc_module.compute(
            predictions=prediction.predictions, references=prediction.label_ids, num_bootstrap=0
        )

    rows = [{"scores": torch.tensor(s), "labels": torch.tensor(y)} for s, y in zip(scores, labels, strict=True)]
    arguments = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True)
    measured = Trainer(Echo(), arguments, eval_dataset=rows, compute_metrics=compute_metrics).evaluate()
    _, mean = evaluate_labels(labels, scores, ["a", "b", "c"], num_bootstrap=0)
    assert measured["eval_auroc"] == pytest.approx(mean.auroc)


@pytest.mark.slow_ci
def test_it_loads_without_network_and_only_when_asked_for(tmp_path):
    """Nothing else imports `evaluate`; the module looks nothing up, and leaves no scores on the disk."""
    code = """
import socket, sys
import ark_hf, ark_hf.metrics.auroc, ark_hf.metrics.significance, ark_hf.metrics.label_groups
assert "evaluate" not in sys.modules

def refuse(*args, **kwargs):
    raise OSError("no network")

socket.getaddrinfo = socket.socket.connect = refuse
from ark_hf.metrics.evaluate_module import Auroc
print(Auroc().compute(predictions=[[1], [2], [3]], references=[[0], [1], [1]])["auroc"])
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1.0"
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".arrow", ".lock")]

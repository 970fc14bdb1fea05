"""benchmarks/evaluation.py runs on little; what it measures is not asserted."""

import argparse
import importlib.util
from pathlib import Path

import numpy as np

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "evaluation.py"


def test_parts_measure_the_same_resamples_and_a_probe_that_learns(capsys):
    spec = importlib.util.spec_from_file_location("evaluation_benchmark", PATH)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    sizes = {"images": 800, "labels": 4, "resamples": 30, "reference_resamples": 3}
    args = argparse.Namespace(**sizes, embeddings=300, width=16, findings=3)
    labels, scores, patients = benchmark.predictions(args)
    assert 1 < len(patients) / len(set(patients)) < 6 and np.isnan(labels).any()
    assert len(np.unique(scores[:, 0])) < len(scores)  # ties

    results = {part: compute(args) for part, compute in benchmark.PARTS.items()}  # fails if the resamples differ
    low, high = results["bootstrap"]["interval"]
    assert low < results["bootstrap"]["mean_auroc"] < high
    assert results["probe"]["mean_auroc"] > 0.6 and len(results["probe"]["strengths"]) == 3
    assert all(result["peak_mb"] > 0 for result in results.values())
    benchmark.print_table(results)
    assert "seconds 60 and peak_mb 4096: met" in capsys.readouterr().out

"""Reports of segmenters on made-up scores, as `ark-hf evaluate` writes them."""

from pathlib import Path

import numpy as np

from ark_hf import SegmentationTask, compare_overlap, overlap_results
from ark_hf.evaluation.report.mask_page import write_mask_report
from ark_hf.evaluation.report.mask_report import MaskReport
from ark_hf.provenance import weights_sha256

PATIENT = "patient-of-the-report"


def made_report(task: SegmentationTask, dataset: str = "data") -> MaskReport:
    generator = np.random.default_rng(0)
    scores, prior = 0.9 + 0.1 * generator.random((2, 12, len(task.labels)))
    scores[:, 0] -= 0.5
    usual = {"clusters": [f"{PATIENT}-{number // 2}" for number in range(12)], "num_bootstrap": 20}
    dice, iou, distances, of_prior = (
        overlap_results(task.labels, each, **usual) for each in (scores, scores / 2, scores * 10, prior)
    )
    gain = compare_overlap(task.labels, prior, scores, **usual)
    return MaskReport(task.to_dict(), dataset, "test", 12, 6, "pixels", dice, iou, distances, of_prior, gain)


def write_report_of(model: Path, folder: Path, task: SegmentationTask, dataset: str = "data") -> MaskReport:
    """Writes the report of a model's weights."""
    report = made_report(task, dataset)
    write_mask_report([report], [[]], folder, {"model": model.name, "weights_sha256": weights_sha256(str(model))})
    return report

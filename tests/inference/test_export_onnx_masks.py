"""`ark-hf export` of segmenters: the file's logits are the model's, and the example makes our masks of them."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from ark_hf import ArkImageProcessorPil, SegmentationTask, export_onnx, label_masks, load_ark, read_radiograph
from ark_hf.cli.export import export
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from tests.inference.segmenters import ORGANS, OVERLAPPING, SIZE, save_segmenter, tiny_segmenter
from tests.inference.test_export_onnx import BLOCKED, EXAMPLE, SWIN

pytestmark = pytest.mark.slow_ci  # an export takes seconds, whatever the model

CASES = {
    "swin, exclusive": (ORGANS, {**SWIN, "image_size": 64}),
    "resnet, overlapping": (OVERLAPPING, {"image_size": SIZE}),
}


@pytest.fixture(scope="module", params=CASES)
def exported(request, tmp_path_factory) -> tuple[SegmentationTask, Path]:
    (task, config), folder = CASES[request.param], tmp_path_factory.mktemp("export")
    save_segmenter(folder / "model", task, {"size": config["image_size"]}, **config)
    assert export([str(folder / "model"), "--out", str(folder / "onnx")]) == 0
    return task, folder


def test_the_logits_are_the_models_for_any_batch_size(exported):
    task, folder = exported
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    model, processor = load_ark(str(folder / "model"))
    side = model.config.image_size
    assert session.get_inputs()[0].shape == ["batch", 3, side, side]
    assert [put.name for put in session.get_outputs()] == ["logits"]
    for batch_size in (1, 3, 5):
        pixel_values = torch.randn(batch_size, 3, side, side, generator=torch.Generator().manual_seed(batch_size))
        (found,) = session.run(None, {"pixel_values": pixel_values.numpy()})
        with torch.no_grad():
            expected = model(pixel_values).logits.numpy()
        assert found.shape == expected.shape == (batch_size, len(task.classes), *expected.shape[2:])
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    metadata = session.get_modelmeta().custom_metadata_map
    assert SegmentationTask.from_dict(json.loads(metadata["segmentation"])) == task
    assert json.loads(metadata["classes"]) == task.classes and "tasks" not in metadata
    assert metadata["notice"].startswith("Research use only") and len(metadata["weights_sha256"]) == 64


def test_the_example_makes_our_masks_without_our_libraries(exported, tmp_path):
    task, folder = exported
    model, paths = load_ark(str(folder / "model"))[0], []
    for number, shape in enumerate(((70, 90), (20, 9))):  # the latter smaller than the logits
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)).save(paths[-1])
    command = [sys.executable, "-c", BLOCKED, str(EXAMPLE), str(folder / "onnx" / "model.onnx"), *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0 and not result.stderr, result.stderr
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["image"], row["label"]) for row in rows] == [(str(p), label) for p in paths for label in task.labels]
    processor = ArkImageProcessorPil.from_pretrained(folder / "model")
    for number, path in enumerate(paths):
        pixels = read_radiograph(path)
        with torch.no_grad():
            logits = model(processor(pixels, return_tensors="pt").pixel_values).logits[0]
        expected = label_masks(logits, task, pixels.shape[1:])
        assert expected.any() and not expected.all()
        for row, mask in zip(rows[number * len(expected) :], expected, strict=False):
            shown = np.asarray(Image.open(tmp_path / row["mask"]))
            assert shown.sum() == int(row["pixels"]) and (shown != mask).mean() < 2e-3


def test_what_the_file_could_not_describe_is_refused(tmp_path):
    with pytest.raises(ValueError, match="without a named task"):
        export_onnx(tiny_segmenter(None, num_labels=3), ArkImageProcessor(size=SIZE), tmp_path / "out")
    processor = ArkImageProcessor(size=40, do_center_crop=True, crop_size=SIZE)
    with pytest.raises(ValueError, match="Masks are of whole pictures"):
        export_onnx(tiny_segmenter(ORGANS), processor, tmp_path / "out")
    assert not list(tmp_path.iterdir())

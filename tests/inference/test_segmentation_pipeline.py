"""The pipeline "chest-xray-segmentation", and the stock one, on radiographs of other sizes than the model's."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from ark_hf import ArkConfig, ArkForImageClassification, ArkImageProcessor, SegmentationTask
from ark_hf.data.images.image_files import UnreadableImageError
from ark_hf.data.inputs import read_input
from ark_hf.inference.measurements import measure
from tests.data.images.test_dicom import make_dicom, save
from tests.inference.segmenters import ORGANS, OVERLAPPING, SIZE, save_segmenter, tiny_segmenter


def pipe_of(task: SegmentationTask, kind: str = "chest-xray-segmentation"):
    return pipeline(kind, model=tiny_segmenter(task), image_processor=ArkImageProcessor(size=SIZE))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    folder, generator = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for number, shape in enumerate(((70, 90), (64, 64), (100, 66))):
        plane = generator.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(plane).save(folder / f"{number}.png")
    save(make_dicom(plane, 8, ImagerPixelSpacing=[2, 3]), folder / "3.dcm")
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("task", [ORGANS, OVERLAPPING], ids=lambda task: task.name)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_masks_are_those_of_the_logits_at_the_pictures_size(files, task, batch_size):
    pipe = pipe_of(task)
    results = pipe([*files[:1], "nowhere.png", *files[1:]], batch_size=batch_size)
    refused = results.pop(1)
    assert refused.keys() == {"image", "error"} and "no such file" in refused["error"]
    for path, result in zip(files, results, strict=True):
        read = read_input(path)
        assert (result["image"], result["warnings"]) == (path, read.warnings)
        with torch.no_grad():
            logits = pipe.model(pipe.image_processor(read.pixels, return_tensors="pt").pixel_values).logits[0]
        masks, measured = measure(logits, task, read.pixels.shape[1:], read.pixel_spacing)
        assert list(result["masks"]) == task.labels
        for number, found in enumerate(result["masks"].values()):
            assert found["mask"].dtype == bool and found["mask"].shape == read.pixels.shape[1:]
            assert (found["mask"] != masks[number]).mean() < 1e-3  # a batch may round otherwise
            assert found["pixels"] == found["mask"].sum()
            assert found["mm2"] == (6 * found["pixels"] if path.endswith("dcm") else None)
            if found["pixels"]:
                assert found["score"] == pytest.approx(measured.scores[number], abs=1e-3)
            else:
                assert found["score"] is None
        ratio = result["cardiothoracic_ratio"]
        assert (ratio is None) == np.isnan(measured.cardiothoracic_ratio)
        assert ratio is None or ratio == pytest.approx(measured.cardiothoracic_ratio, abs=0.05)


@pytest.mark.parametrize("task", [ORGANS, OVERLAPPING], ids=lambda task: task.name)
def test_the_stock_pipeline_shows_what_ours_does_where_labels_do_not_overlap(files, task):
    shown = {each["label"]: np.asarray(each["mask"]) > 0 for each in pipe_of(task, "image-segmentation")(files[0])}
    masks = {label: found["mask"] for label, found in pipe_of(task)(files[0])["masks"].items()}
    alone = sum(mask.astype(int) for mask in masks.values()) <= 1
    assert alone.any() and (task.overlapping or alone.all())
    for label, mask in masks.items():
        stock = shown.get(label, np.zeros_like(mask))
        assert stock.shape == mask.shape == (70, 90)
        assert np.array_equal(stock[alone], mask[alone])


def test_a_model_by_name_and_one_radiograph(files, tmp_path):
    pipe = pipeline("chest-xray-segmentation", model=save_segmenter(tmp_path, ORGANS))
    (one,) = pipe([files[0]])
    assert np.array_equal(
        pipe(np.asarray(Image.open(files[0])))["masks"]["heart"]["mask"], one["masks"]["heart"]["mask"]
    )
    assert pipe([]) == []
    with pytest.raises(UnreadableImageError, match="no such file"):
        pipe("nowhere.png")
    pipe.save_pretrained(tmp_path / "again")
    assert pipeline("chest-xray-segmentation", model=str(tmp_path / "again"))(files[0])["image"] == files[0]
    with pytest.raises(TypeError, match="top_k"):
        pipe(files[0], top_k=3)


@pytest.mark.slow_ci
def test_what_is_no_segmenter_or_has_no_names_is_refused(tmp_path):
    unnamed = save_segmenter(tmp_path / "unnamed", None, num_labels=3)
    with pytest.raises(ValueError, match="is a segmenter without a named task. Name it"):
        pipeline("chest-xray-segmentation", model=unnamed)
    config = ArkConfig(backbone="test_resnet", image_size=SIZE, projector_dim=None, num_labels=2)
    ArkForImageClassification(config).save_pretrained(tmp_path / "classifier")
    ArkImageProcessor(size=SIZE).save_pretrained(tmp_path / "classifier")
    with pytest.raises(ValueError, match="is no segmenter; fine-tuning it on a dataset with masks"):
        pipeline("chest-xray-segmentation", model=str(tmp_path / "classifier"))
    crops = save_segmenter(tmp_path / "crops", ORGANS, {"size": 40, "do_center_crop": True, "crop_size": SIZE})
    with pytest.raises(ValueError, match="Masks are of whole pictures"):
        pipeline("chest-xray-segmentation", model=crops)
    with pytest.raises(ValueError, match="segment"):
        pipeline("chest-xray-classification", model=save_segmenter(tmp_path / "organs", ORGANS))


def test_a_header_that_says_another_modality_can_be_gainsaid(tmp_path):
    pipe = pipe_of(ORGANS)
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64).astype(np.uint8)
    file = str(save(make_dicom(pixels, 8, Modality="XA"), tmp_path / "x.dcm"))
    with pytest.raises(UnreadableImageError, match="says that it is of modality XA, and this model takes CR"):
        pipe(file)
    assert any("header says" in each for each in pipe(file, modality="CR")["warnings"])
    with pytest.raises(ValueError, match="modality XA: the model's heads are for images of CR"):
        pipe(file, modality="XA")

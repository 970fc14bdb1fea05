import csv
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from ark_hf.metrics import shortcut
from ark_hf.metrics.auroc import label_table, mean_auroc, one_vs_rest
from ark_hf.metrics.shortcut import SHORTCUT_STATISTICS, full_scale, image_statistics, shortcut_baseline
from ark_hf.models.ark import image_processing_ark

GREY = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
GREY[0, :2] = [0, 255]
DEEP = GREY.astype(np.uint16) * 257


def test_statistics_of_a_known_image():
    image = np.array([[0, 0, 51, 102], [153, 204, 255, 255]], dtype=np.uint8)
    statistics = dict(zip(SHORTCUT_STATISTICS, image_statistics(image), strict=True))
    grey = image / 255
    assert statistics == pytest.approx(
        {
            "width": 4,
            "height": 2,
            "aspect_ratio": 2,
            "mean": 0.5,
            "std": grey.std(),
            "percentile_5": np.percentile(grey, 5),
            "percentile_50": 0.5,
            "percentile_95": 1,
            "dark_fraction": 0.25,
            "bright_fraction": 0.25,
        }
    )


def statistics_of_pixels(pixels: np.ndarray, white: int) -> list[float]:
    """The ten numbers from every single pixel."""
    grey = pixels / white
    height, width = pixels.shape
    percentiles = np.percentile(grey, [5, 50, 95])
    shares = (grey < 0.1).mean(), (grey > 0.9).mean()
    return [width, height, width / height, grey.mean(), grey.std(), *percentiles, *shares]


@st.composite
def radiographs(draw) -> np.ndarray:
    dtype, bits = draw(st.sampled_from([(np.uint8, 8), *((np.uint16, bits) for bits in (8, 10, 12, 14, 15, 16))]))
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    return draw(arrays(dtype, shape, elements=st.integers(0, 2**bits - 1)))


@given(radiographs())
def test_statistics_are_those_of_the_pixels(pixels):
    found, expected = image_statistics(pixels), statistics_of_pixels(pixels, full_scale(pixels))
    inexact = [SHORTCUT_STATISTICS.index(name) for name in ("mean", "std")]
    np.testing.assert_allclose(found[inexact], np.array(expected)[inexact], rtol=0, atol=1e-12)
    assert np.delete(found, inexact).tolist() == np.delete(expected, inexact).tolist()


@pytest.mark.parametrize("white", [255, 4095, 65535])
def test_statistics_of_a_large_picture_are_those_of_its_pixels(white):
    noise = np.random.default_rng(white).normal(0.4, 0.25, (700, 900))
    pixels = np.rint(np.clip(noise, 0, 1) * white).astype(np.uint8 if white == 255 else np.uint16)
    found, expected = image_statistics(pixels), statistics_of_pixels(pixels, white)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert found[5:8].tolist() == expected[5:8]  # percentiles: to the last bit


@pytest.mark.parametrize(
    "image",
    [
        GREY[None],
        Image.fromarray(GREY),
        Image.fromarray(GREY).convert("RGB"),
        DEEP,
        Image.fromarray(DEEP),
        Image.fromarray(DEEP.astype(np.int32)),
        DEEP.astype(">u2"),
    ],
)
def test_statistics_do_not_depend_on_the_container(image):
    np.testing.assert_allclose(image_statistics(image), image_statistics(GREY), atol=1e-12)


@pytest.mark.parametrize(("bits", "highest"), [(8, 255), (10, 256), (12, 4095), (14, 4096), (15, 30000), (16, 40000)])
def test_full_scale_is_the_smallest_depth_that_holds_the_maximum(bits, highest):
    image = np.full((4, 4), highest, dtype=np.uint16)
    assert image_statistics(image)[SHORTCUT_STATISTICS.index("mean")] == pytest.approx(highest / (2**bits - 1))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4)), r"uint8 or uint16, \(H, W\) or \(1, H, W\), not float64"),
        (np.zeros((4, 4, 3), np.uint8), r"not uint8 \(4, 4, 3\)"),
        (np.zeros((4, 4), np.uint32), "not uint32"),
        (np.zeros((0, 4), np.uint8), "no pixels"),
        (Image.new("F", (4, 4)), "not float32"),
        (Image.fromarray(np.full((4, 4), 70000, np.int32)), "not int32"),
    ],
)
def test_invalid_images(image, message):
    with pytest.raises(ValueError, match=message):
        image_statistics(image)


def test_baseline_finds_a_shortcut_and_ignores_unknown_labels():
    rng = np.random.default_rng(0)
    statistics = rng.normal(size=(400, 10)) * 10.0 ** np.arange(-4, 6)
    statistics[:, 3] = 7
    labels = (statistics[:, :2] / [1e-4, 1e-3] + 0.3 * rng.normal(size=(400, 2)) > 0).astype(float)
    labels[::3, 1] = np.nan
    scores = shortcut_baseline(statistics[:300], labels[:300], statistics[300:])
    assert scores.shape == (100, 2) and ((scores >= 0) & (scores <= 1)).all()
    assert all(row.auroc > 0.95 for row in label_table(labels[300:], scores, ["a", "b"], num_bootstrap=0))
    known = ~np.isnan(labels[:300, 1])
    alone = shortcut_baseline(statistics[:300][known], labels[:300][known], statistics[300:])
    np.testing.assert_array_equal(scores[:, 1], alone[:, 1])


def test_label_of_one_class_in_train_is_reported_as_undefined():
    statistics = np.random.default_rng(0).normal(size=(20, 10))
    labels = np.tile([0.0, 1.0], (2, 10)).T
    labels[:10, 1] = np.where(labels[:10, 1] == 1, np.nan, 0)
    scores = shortcut_baseline(statistics[:10], labels[:10], statistics[10:])
    assert np.isfinite(scores[:, 0]).all() and np.isnan(scores[:, 1]).all()
    first, second = label_table(labels[10:], scores, ["fits", "one class"])
    assert math.isfinite(first.auroc) and math.isnan(second.auroc) and second.num_known == 10
    assert mean_auroc(labels[10:], scores).num_defined == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((4, 10)), np.zeros((4, 1)), np.zeros((2, 8))), r"\(n_train, k\) and \(n_test, k\)"),
        ((np.zeros((4, 10)), np.zeros(4), np.zeros((2, 10))), r"train_labels must be \(4, num_labels\)"),
        ((np.zeros((4, 10)), np.zeros((3, 1)), np.zeros((2, 10))), r"train_labels must be \(4, num_labels\)"),
        ((np.zeros((4, 10)), np.full((4, 1), 0.5), np.zeros((2, 10))), "0, 1 or NaN"),
        ((np.full((4, 10), np.inf), np.zeros((4, 1)), np.zeros((2, 10))), "must be finite"),
    ],
)
def test_invalid_baseline_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        shortcut_baseline(*arguments)


def evaluate_on(folder, label_columns):
    """Baseline fitted on train, evaluated on test: ({label: AUROC}, mean result)."""
    with (folder / "labels.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] != "val"]
    statistics = np.stack([image_statistics(Image.open(folder / row["image"])) for row in rows])
    if "label" in rows[0]:
        labels = one_vs_rest([label_columns.index(row["label"]) for row in rows], len(label_columns))
    else:
        labels = np.array([[float(row[column]) for column in label_columns] for row in rows])
    train = np.array([row["split"] == "train" for row in rows])
    scores = shortcut_baseline(statistics[train], labels[train], statistics[~train])
    patients = [row["patient_id"] for row in rows if row["split"] == "test"]
    table = label_table(labels[~train], scores, label_columns, patients)
    return {row.label: row.auroc for row in table}, mean_auroc(labels[~train], scores, patients)


def test_kermany_is_largely_solved_by_shortcuts(shared):
    aurocs, mean = evaluate_on(shared / "realdata/kermany_pneumonia", ["normal", "bacterial", "viral"])
    assert 0.78 < mean.auroc < 0.86
    assert aurocs["normal"] > 0.88
    assert mean.ci_low < mean.auroc < mean.ci_high and mean.num_defined == 3


def test_hannover_intensive_care_shows_in_the_image_statistics(shared):
    aurocs, _ = evaluate_on(shared / "realdata/hannover_covid", ["icu_ever", "in_icu"])
    assert 0.92 < aurocs["icu_ever"] <= 1
    assert 0.77 < aurocs["in_icu"] < 0.91


def test_nih_findings_show_less(shared):
    findings = (
        "Atelectasis Cardiomegaly Effusion Infiltration Mass Nodule Pneumonia Pneumothorax Consolidation Edema "
        "Emphysema Fibrosis Pleural_Thickening Hernia No_Finding"
    ).split()
    _, mean = evaluate_on(shared / "realdata/nih_multilabel", findings)
    assert 0.55 < mean.auroc < 0.70
    assert mean.num_defined == 15


def test_white_is_what_the_image_processor_takes_for_it():
    assert shortcut.BIT_DEPTHS == image_processing_ark.BIT_DEPTHS

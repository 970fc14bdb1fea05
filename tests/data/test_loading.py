"""Batches: order, shares of processes, views and targets are functions of (seed, cycle, task, sample) alone."""

import math

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from hypothesis import given
from hypothesis import strategies as st

from ark_hf.data.build.build import encode_png
from ark_hf.data.image_statistics import _compute
from ark_hf.data.loading import (
    InferenceSamples,
    TrainingSamples,
    ViewSettings,
    default_num_workers,
    iterate,
    micro_batches,
    open_rows,
    pass_order,
    stored_picture,
)
from ark_hf.data.radiograph import grey_values
from ark_hf.data.views import draw_view, sample_generator, student_view
from ark_hf.models.ark.configuration_ark import ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from tests.data.images.test_deep_colour import layers, png
from tests.data.images.test_dicom import make_dicom, save
from tests.wrong_inputs import chest

FINDINGS = ArkTask("findings", ["Edema", "Mass"])
KINDS = ArkTask("kinds", ["normal", "viral"], "single_label_classification")
LABELS = {"findings": [[0.0, 1.0], [-1.0, math.nan], [1.0, -1.0], [-1.0, 0.0]], "kinds": [0, 1, -1, 1]}
SIZE = 24


def grey_pictures() -> list[np.ndarray]:
    """8 and 16 bits, of four shapes, smooth."""
    pictures = []
    for number, (height, width) in enumerate([(40, 56), (30, 30), (64, 48), (24, 32)]):
        y, x = np.mgrid[:height, :width]
        grey = 0.5 + 0.4 * np.sin(x / (5 + number)) * np.cos(y / 7)
        kind, top = (np.uint16, 60000) if number == 2 else (np.uint8, 255)
        pictures.append((grey * top).astype(kind))
    return pictures


@pytest.fixture(scope="module")
def processor() -> ArkImageProcessor:
    return ArkImageProcessor(size={"height": SIZE, "width": SIZE})


@pytest.fixture(scope="module")
def datasets() -> dict[str, Dataset]:
    images = [encode_png(picture) for picture in grey_pictures()]
    kinds = {"findings": List(Value("float32")), "kinds": Value("int64")}
    return {
        name: Dataset.from_dict(
            {"image": images, "labels": LABELS[name]}, features=Features({"image": Image(), "labels": kind})
        )
        for name, kind in kinds.items()
    }


@pytest.fixture
def training(datasets, processor):
    """Makes training samples; what is not named is the same every time."""

    def make(task=FINDINGS, teacher_view="resize", uncertain="lsr_ones", seed=0, cycle=0) -> TrainingSamples:
        views = ViewSettings(resize=28, size=SIZE, min_crop_scale=0.3, teacher_view=teacher_view)
        return TrainingSamples(datasets[task.name], task, uncertain, processor, views, seed, cycle)

    return make


def load(samples: TrainingSamples, batches, workers: int = 0) -> list[dict[str, torch.Tensor]]:
    """Normalised batches, as the trainer takes them."""
    return [samples.normalise(batch, "cpu") for batch in iterate(samples, batches, workers)]


def assert_same_batches(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key in batch:
            torch.testing.assert_close(batch[key], other[key], rtol=0, atol=0, equal_nan=True, msg=key)


# Order ---------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 500), st.integers(0, 2**40), st.integers(0, 1000), st.text(max_size=10))
def test_pass_visits_every_sample_once_in_an_order_fixed_by_its_key(length, seed, cycle, task):
    order = pass_order(range(length), seed, cycle, task)
    assert order.dtype == np.int64 and sorted(order.tolist()) == list(range(length))
    np.testing.assert_array_equal(order, pass_order(range(length), seed, cycle, task))


def test_order_differs_between_seeds_cycles_and_tasks():
    keys = [(0, 0, "city"), (1, 0, "city"), (0, 1, "city"), (0, 0, "coast")]
    assert len({tuple(pass_order(range(50), *key)) for key in keys}) == len(keys)


SHARING = given(
    length=st.integers(0, 60), processes=st.integers(1, 5), accumulation=st.integers(1, 5), start=st.integers(0, 99)
)


@SHARING
def test_every_sample_of_a_step_is_shared_out_once_whatever_the_number_of_processes(
    length, processes, accumulation, start
):
    step = np.arange(start, start + length)
    shares = [share for group in micro_batches(step, processes, accumulation) for share in group]
    assert [index for share in shares for index in share if index >= 0] == step.tolist()


@SHARING
def test_every_process_runs_the_same_number_of_micro_batches_of_even_size(length, processes, accumulation, start):
    groups = micro_batches(np.arange(start, start + length), processes, accumulation)
    assert len(groups) <= accumulation and all(len(group) == processes for group in groups)
    sizes = [sum(index >= 0 for index in share) for group in groups for share in group]
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert all(any(sizes[i : i + processes]) for i in range(0, len(sizes), processes))


@SHARING
def test_a_process_that_has_none_is_padded_with_the_steps_first_sample(length, processes, accumulation, start):
    for group in micro_batches(np.arange(start, start + length), processes, accumulation):
        for share in group:
            assert share.tolist() == [~start] or (len(share) > 0 and min(share) >= 0)


# Training samples ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "shape", "kind"), [(FINDINGS, (3, 2), torch.float32), (KINDS, (3,), torch.int64)])
def test_batch_has_two_views_labels_and_weights(training, task, shape, kind):
    (batch,) = load(training(task), [np.array([0, 2, 3])])
    for view in ("pixel_values", "teacher_pixel_values"):
        assert batch[view].shape == (3, 3, SIZE, SIZE) and batch[view].dtype == torch.float32
    assert batch["labels"].shape == shape and batch["labels"].dtype == kind
    assert batch["weight"].tolist() == [1, 1, 1] and batch["weight"].dtype == torch.float32


@pytest.mark.parametrize("teacher_view", ["resize", "student"])
def test_views_are_one_channel_of_eight_bits_until_they_are_normalised(training, teacher_view):
    samples = training(teacher_view=teacher_view)
    (plain,), (mixed,) = iterate(samples, [np.array([0, 1, 3])], 0), iterate(samples, [np.array([0, 2])], 0)
    for view in ("pixel_values", "teacher_pixel_values"):
        assert plain[view].shape == (3, 1, SIZE, SIZE) and plain[view].dtype == torch.uint8
        assert mixed[view].dtype == torch.float32  # row 2 has 16 bits
        torch.testing.assert_close(mixed[view][0], plain[view][0] / 255, rtol=0, atol=0)


def test_padding_is_a_sample_without_weight(training):
    padding, sample = load(training(), [np.array([~2]), np.array([2])])
    assert (padding.pop("weight").tolist(), sample.pop("weight").tolist()) == ([0], [1])
    assert_same_batches([padding], [sample])


@pytest.mark.parametrize("task", [FINDINGS, KINDS], ids=["multi", "single"])
def test_batches_are_the_same_whatever_the_number_of_workers(training, task):
    batches = [np.array([2, 0]), np.array([3, ~1]), np.array([1])]
    assert_same_batches(*(load(training(task), batches, workers) for workers in (0, 2)))


def test_a_worker_computes_in_one_thread(training, monkeypatch):
    samples = training()
    monkeypatch.setattr(samples, "samples", lambda *_: [torch.tensor(torch.get_num_threads())])
    monkeypatch.setattr(samples, "collate", lambda found: {"threads": torch.stack(found)})
    assert [batch["threads"].tolist() for batch in iterate(samples, [np.array([0]), np.array([1])], 2)] == [[1], [1]]


@pytest.mark.parametrize(
    ("device", "cores", "processes", "workers"),
    [
        ("cpu", 16, 1, 0),
        ("cuda", 1, 1, 0),
        ("cuda", 6, 1, 5),
        ("cuda", 16, 4, 3),
        ("cuda", 64, 2, 8),
        ("cuda", 2, 4, 0),
    ],
)
def test_workers_leave_a_core_to_each_process_and_the_cpu_to_training(monkeypatch, device, cores, processes, workers):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert default_num_workers(torch.device(device)) == workers


def test_sample_is_the_same_in_any_company(training):
    together = load(training(), [np.array([3, 1, 0, 2])])[0]
    alone = load(training(), [np.array([index]) for index in (3, 1, 0, 2)])
    assert_same_batches([together], [{key: torch.cat([batch[key] for batch in alone]) for key in together}])


def test_what_is_drawn_for_a_sample_hangs_on_its_image_id_and_not_on_its_row(datasets, processor):
    rows = datasets["findings"].add_column("image_id", ["a", "b", "c", "d"])
    views = ViewSettings(28, SIZE, 0.3, "resize")
    batches = [
        load(TrainingSamples(some, FINDINGS, "lsr_ones", processor, views, 0, 0), [order])[0]
        for some, order in [(rows, np.array([3, 1])), (rows.select([1, 3]), np.array([1, 0]))]
    ]
    assert_same_batches([batches[0]], [batches[1]])


def test_views_and_smoothed_labels_change_with_seed_and_cycle(training):
    batches = [
        load(training(seed=seed, cycle=cycle), [np.arange(4)])[0] for seed, cycle in [(0, 0), (1, 0), (0, 1), (0, 0)]
    ]
    assert_same_batches([batches[0]], [batches[3]])
    for batch in batches[1:3]:
        for first, other in zip(batches[0]["pixel_values"], batch["pixel_values"], strict=True):
            assert not torch.equal(first, other)
        smoothed = torch.tensor(LABELS["findings"]) == -1
        assert not (batch["labels"] == batches[0]["labels"])[smoothed].any()
        torch.testing.assert_close(
            batch["labels"][~smoothed], torch.tensor(LABELS["findings"])[~smoothed], equal_nan=True
        )


def test_teacher_sees_what_the_image_processor_makes_of_the_picture(training, datasets, processor):
    (batch,) = load(training(), [np.arange(4)])
    own = processor([row["image"] for row in datasets["findings"]], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["teacher_pixel_values"], own, rtol=0, atol=1e-6)


def test_teacher_may_see_the_crop_of_the_student_without_its_intensities(training):
    samples = training(teacher_view="student")
    changed = 0
    for cycle in range(30):
        samples.cycle = cycle
        (batch,) = load(samples, [np.arange(4)])
        for student, teacher in zip(batch["pixel_values"], batch["teacher_pixel_values"], strict=True):
            changed += not torch.equal(student, teacher)
            # A change of intensities keeps the order of grey values: the geometry is common.
            assert np.corrcoef(student[0].ravel(), teacher[0].ravel())[0, 1] > 0.95
    assert 20 < changed < 55  # three in ten of 120


def two_crops(pictures, generators, processor) -> dict[str, list[torch.Tensor]]:
    """Two views of other names and of two sizes, and their order matters: both draw from one generator."""
    return {
        name: [
            student_view(picture, draw_view(28, 0.3, generator), 28, size)[1]
            for picture, generator in zip(pictures, generators, strict=True)
        ]
        for name, size in (("wide", SIZE), ("near", SIZE // 2))
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_views_have_any_names_and_samples_need_no_target(datasets, processor, workers):
    rows = datasets["findings"].remove_columns("labels")
    samples = TrainingSamples(rows, FINDINGS, None, processor, two_crops, 0, 0)
    raw = list(iterate(samples, [np.array([0, 3]), np.array([~1])], workers))
    assert all(batch.keys() == {"wide", "near", "weight"} for batch in raw)
    assert [batch["weight"].tolist() for batch in raw] == [[1, 1], [0]]
    for number, picture in ((0, 0), (1, 3)):
        generator = sample_generator(0, 0, "findings", picture)
        plane = torch.from_numpy(grey_pictures()[picture])[None]
        for name, size in (("wide", SIZE), ("near", SIZE // 2)):
            _, expected = student_view(plane, draw_view(28, 0.3, generator), 28, size)
            assert torch.equal(raw[0][name][number], expected)
    normalised = samples.normalise(raw[0], "cpu")
    assert normalised.keys() == raw[0].keys() and torch.equal(normalised["weight"], raw[0]["weight"])
    for name in ("wide", "near"):
        expected = processor(list(raw[0][name]), do_resize=False, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(normalised[name], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}, {"do_normalize": False}])
def test_views_are_normalised_as_the_image_processor_does(datasets, settings):
    processor = ArkImageProcessor(size={"height": SIZE, "width": SIZE}, **settings)
    samples = TrainingSamples(
        datasets["findings"], FINDINGS, "ignore", processor, ViewSettings(28, SIZE, 0.3, "resize"), 0, 0
    )
    for rows in (np.array([0, 1, 3]), np.array([2, 3])):
        (batch,) = load(samples, [rows])
        views = [samples[row]["views"]["pixel_values"] for row in rows]
        expected = processor(views, do_resize=False, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(batch["pixel_values"], expected, rtol=0, atol=1e-6)


# Inference samples ---------------------------------------------------------------------------------------------------


def test_inference_gives_the_processor_s_pictures_and_ignores_uncertain_labels(datasets, processor):
    samples = InferenceSamples(datasets["findings"], FINDINGS, processor)
    assert len(samples) == 4
    batches = list(iterate(samples, [np.array([1, 0]), np.array([2, 3])], 0))
    own = processor([row["image"] for row in datasets["findings"]], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(torch.cat([batch["pixel_values"] for batch in batches]), own[[1, 0, 2, 3]])
    labels = torch.cat([batch["labels"] for batch in batches])
    np.testing.assert_equal(labels.numpy(), [[np.nan, np.nan], [0, 1], [1, np.nan], [np.nan, 0]])


def test_cells_that_datasets_cannot_decode_or_would_cut_are_read(processor, tmp_path):
    """As in somebody else's dataset, which is trained on as it is."""
    grey = chest().astype(np.uint16) * 16 + 3
    save(make_dicom(grey, 12, WindowCenter=2048, WindowWidth=4096), tmp_path / "x.dcm")
    PIL.Image.fromarray(grey).save(tmp_path / "grey.png")
    contents = [(tmp_path / "x.dcm").read_bytes(), png(layers(grey, "RGB"), 2), (tmp_path / "grey.png").read_bytes()]
    cells = [{"bytes": content, "path": None} for content in contents]
    table = {"image": cells, "labels": [0, 1, 0]}
    rows = Dataset.from_dict(table, features=Features({"image": Image(), "labels": Value("int64")}))
    dicom, colour, plain = (each["image"] for each in InferenceSamples(rows, KINDS, processor).__getitems__([0, 1, 2]))
    torch.testing.assert_close(colour, plain, rtol=0, atol=0)
    torch.testing.assert_close(dicom, plain, rtol=0, atol=2e-3)
    np.testing.assert_array_equal(*_compute(rows, "")[1:])
    for opened in open_rows(rows, [2, 1]):
        np.testing.assert_array_equal(grey_values(opened), grey)
    assert [grey_values(opened).shape for opened in open_rows(rows, [0])] == [grey.shape]


def test_inference_marks_unknown_classes(datasets, processor):
    (batch,) = iterate(InferenceSamples(datasets["kinds"], KINDS, processor), [np.arange(4)], 2)
    assert batch["labels"].tolist() == [0, 1, -100, 1]


# Pictures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_picture_of_any_mode_becomes_one_grey_plane(processor, mode):
    grey = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
    if mode == "I;16":
        picture, expected = PIL.Image.fromarray(grey.astype(np.uint16) * 257), grey / np.float32(255)
    elif mode == "F":
        picture, expected = PIL.Image.fromarray(grey / np.float32(255)), grey / np.float32(255)
    else:
        picture = PIL.Image.fromarray(grey).convert(mode)
        expected = np.asarray(picture) * np.uint8(255) if mode == "1" else grey
    assert picture.mode == mode
    plane = stored_picture(picture, processor, in_colour=False)
    assert plane.shape == (1, 4, 6) and plane.dtype == (torch.float32 if mode in ("I;16", "F") else torch.uint8)
    torch.testing.assert_close(plane[0], torch.from_numpy(expected), rtol=0, atol=1 if mode == "CMYK" else 1e-6)

"""The built-in phantom sites: determinism, disjoint patients, labels, places of findings, and no easy shortcut."""

import math
from itertools import islice

import numpy as np
import pytest
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ark_hf.data.sources import phantom
from ark_hf.data.sources.phantom import FINDINGS, SITES, draw_phantom_images

SIZE = 64


@pytest.fixture(params=SITES.values(), ids=SITES)
def site(request):
    return request.param


@pytest.fixture(scope="module")
def rows():
    """60 images of the train and the test split of every site."""
    return {
        (name, split): list(draw_phantom_images(site, split, 60, SIZE))
        for name, site in SITES.items()
        for split in ("train", "test")
    }


def label_vector(site, row) -> list[float]:
    labels = row["labels"]
    return labels if isinstance(labels, list) else [float(labels == index) for index in range(len(site.labels))]


def assert_same_but_for_pixels(row, other):
    assert row.keys() == other.keys() and row["masks"].keys() == other["masks"].keys()
    for key in row.keys() - {"image", "masks", "landmarks"}:
        assert np.array_equal(row[key], other[key], equal_nan=key == "labels"), key
    assert row["landmarks"].keys() == other["landmarks"].keys()
    for name, place in row["landmarks"].items():  # the sides of small pictures are rounded
        assert other["landmarks"][name] == pytest.approx(place, abs=1 / min(row["image"].size)), name


def assert_same(row, other):
    assert_same_but_for_pixels(row, other)
    assert row["image"].size == other["image"].size and row["image"].tobytes() == other["image"].tobytes()
    assert all(np.array_equal(mask, other["masks"][name]) for name, mask in row["masks"].items())
    assert row["landmarks"] == other["landmarks"]


def test_row_depends_on_nothing_but_its_index(site, rows):
    for row, other in zip(rows[site.name, "test"], draw_phantom_images(site, "test", 5, SIZE), strict=False):
        assert_same(row, other)
    alone = next(islice(draw_phantom_images(site, "test", 10**9, SIZE), 7, None))
    assert_same(rows[site.name, "test"][7], alone)


def test_rows_are_the_same_in_every_process(rows):
    # Written down, because a seed from Python's hash() of a string would differ from process to process.
    first = rows["phantom_coast", "test"][:6]
    assert [row["labels"] for row in first] == [2, 0, 1, 2, 1, 0]
    assert [row["age"] for row in first] == [11, 11, 4, 9, 9, 16]


def test_size_changes_only_the_resolution(site, rows):
    for small, large in zip(rows[site.name, "train"], draw_phantom_images(site, "train", 6, 2 * SIZE), strict=False):
        assert_same_but_for_pixels(small, large)
        shrunk = large["image"].resize(small["image"].size)
        assert np.corrcoef(np.ravel(shrunk), np.ravel(small["image"]))[0, 1] > 0.95


def test_seed_and_split_change_the_picture(site):
    first = next(draw_phantom_images(site, "train", 1, SIZE))
    for other in (draw_phantom_images(site, "train", 1, SIZE, seed=1), draw_phantom_images(site, "test", 1, SIZE)):
        assert first["image"].tobytes() != next(other)["image"].tobytes()


def test_patients_have_one_or_two_images_and_live_in_one_split(rows):
    owners: dict[str, tuple] = {}
    for key, split_rows in rows.items():
        patients = [row["patient_id"] for row in split_rows]
        assert {patients.count(patient) for patient in patients} == {1, 2}
        assert len({row["sample_id"] for row in split_rows}) == len(split_rows)
        for row in split_rows:
            # One owner each: a patient belongs to one split of one site and keeps sex and age.
            owner = (*key, row["sex"], row["age"])
            assert owners.setdefault(row["patient_id"], owner) == owner


def test_labels_keep_their_contract(site, rows):
    values = {
        split: {v for row in rows[site.name, split] for v in label_vector(site, row)} for split in ("train", "test")
    }
    known = {split: {value for value in values[split] if not math.isnan(value)} for split in values}
    assert known["test"] == {0.0, 1.0}
    assert known["train"] == ({-1.0, 0.0, 1.0} if site.uncertain else {0.0, 1.0})
    assert (len(values["train"]) > len(known["train"])) == (site.unknown > 0)
    for row in rows[site.name, "train"]:
        assert type(row["labels"]) is (int if site.problem_type == "single_label_classification" else list)
        assert row["sex"] in ("F", "M") and row["view"] in ("PA", "AP")
        assert site.ages[0] <= row["age"] <= site.ages[1]


def test_some_site_exercises_every_kind_of_label():
    assert any(site.uncertain for site in SITES.values()) and any(site.unknown for site in SITES.values())
    assert {site.problem_type for site in SITES.values()} == {
        "multi_label_classification",
        "single_label_classification",
    }
    assert any(len(site.labels) == 1 for site in SITES.values())
    assert {label for site in SITES.values() for label in site.labels} - FINDINGS.keys() == {"normal", "No Finding"}


def test_small_sets_hold_every_class(site):
    labels = np.array([label_vector(site, row) for row in draw_phantom_images(site, "validation", 30, 32)])
    positives = (labels == 1).sum(axis=0)
    assert (positives >= 3).all() and ((labels == 0).sum(axis=0) >= 10).all()
    if site.problem_type == "single_label_classification":
        assert (positives == 10).all()


def test_no_finding_means_the_absence_of_the_others(rows):
    for row in rows["phantom_city", "test"]:
        if not math.isnan(row["labels"][3]):
            assert row["labels"][3] == float(not row["masks"].keys() & FINDINGS.keys())


def test_masks_fit_the_picture_and_the_labels(site, rows):
    for row in rows[site.name, "test"]:
        image = row["image"]
        assert image.mode == "L" and max(image.size) == SIZE and np.std(image) > 15
        for name, mask in row["masks"].items():
            assert mask.dtype == bool and mask.shape == (image.height, image.width), name
            assert 0.001 < mask.mean() < 0.5, name
        for label, value in zip(site.labels, label_vector(site, row), strict=True):
            if label in FINDINGS and not math.isnan(value):
                assert (label in row["masks"]) == (value == 1)


def test_lungs_are_darker_than_the_heart_between_them(site, rows):
    for row in rows[site.name, "test"]:
        image, lungs, heart = np.asarray(row["image"]), row["masks"]["lungs"], row["masks"]["heart"]
        assert image[lungs].mean() < image[heart].mean()
        assert not (lungs & heart).any()
        assert np.nonzero(lungs)[1].min() < np.nonzero(heart)[1].mean() < np.nonzero(lungs)[1].max()


@pytest.mark.parametrize(
    ("name", "label"), [(site.name, label) for site in SITES.values() for label in site.labels if label in FINDINGS]
)
def test_a_finding_changes_the_picture_where_its_mask_says(name, label, rows, monkeypatch):
    assert sum(label in row["masks"] for row in rows[name, "test"][:40]) >= 5
    present = phantom._draw_present
    # "normal" draws nothing, and the single-label site needs some label to report.
    monkeypatch.setattr(
        phantom, "_draw_present", lambda *key: [other for other in present(*key) if other != label] or ["normal"]
    )
    for row, without in zip(rows[name, "test"], draw_phantom_images(SITES[name], "test", 40, SIZE), strict=False):
        if label in row["masks"]:
            change = np.abs(np.asarray(row["image"], dtype=float) - np.asarray(without["image"], dtype=float))
            # Automatic exposure moves the rest of the picture too, but by less.
            assert change[row["masks"][label]].mean() > 2 * change[~row["masks"][label]].mean()
        else:
            assert row["image"] == without["image"]


# Bones and landmarks -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large():
    """Images of all sites, large enough to see where landmarks lie, with the lung of each side of the patient."""
    drawn = [row for site in SITES.values() for row in draw_phantom_images(site, "test", 4, 256)]
    for row in drawn:
        middle = np.mean([row["landmarks"][f"{side}_hilum"][0] for side in ("right", "left")]) * row["image"].width
        columns = np.arange(row["image"].width)
        row["right"], row["left"] = (row["masks"]["lungs"] & half for half in (columns < middle, columns > middle))
    return drawn


def pixel(row, name) -> tuple[int, int]:
    """(row, column) of a landmark."""
    x, y = row["landmarks"][name]
    return int(y * row["image"].height), int(x * row["image"].width)


def crossings(row, side) -> dict[tuple[int, int], str]:
    """Names of the landmarks where ribs cross, by the numbers of the posterior and the anterior rib."""
    start = f"{side}_rib_crossing_"
    names = [name for name in row["landmarks"] if name.startswith(start)]
    return {tuple(map(int, name.removeprefix(start).split("_"))): name for name in names}


@pytest.mark.parametrize("name", ["posterior_ribs", "anterior_ribs", "clavicles"])
def test_bones_are_brighter_than_what_lies_beside_them(large, name):
    for row in large:
        bones = np.any([row["masks"][bone] for bone in ("posterior_ribs", "anterior_ribs", "clavicles")], axis=0)
        image, mask = np.asarray(row["image"]), row["masks"][name]
        beside = ndimage.binary_dilation(mask, iterations=4) & ~bones
        if name != "clavicles":  # the others reach over the heart and the abdomen
            mask, beside = mask & row["masks"]["lungs"], beside & row["masks"]["lungs"]
        assert image[mask].mean() > image[beside].mean() + 2


@pytest.mark.parametrize("side", ["right", "left"])
def test_corners_of_the_lungs_are_landmarks(large, side):
    for row in large:
        lung = np.argwhere(row[side])
        apex, angle = pixel(row, f"{side}_apex"), pixel(row, f"{side}_costophrenic_angle")
        assert row[side][apex] and row[side][angle]
        assert apex[0] - lung[:, 0].min() <= 2
        lateral = lung[:, 1].min() if side == "right" else lung[:, 1].max()
        assert lung[:, 0].max() - angle[0] <= 3 and abs(angle[1] - lateral) <= 8


@pytest.mark.parametrize("side, outwards", [("right", -1), ("left", 1)])
def test_hila_lie_on_the_medial_border_of_the_lungs(large, side, outwards):
    for row in large:
        y, x = pixel(row, f"{side}_hilum")
        assert row[side][y, x + 3 * outwards] or row["masks"]["heart"][y, x + 3 * outwards]
        assert not row["masks"]["lungs"][y, x - 3 * outwards]


@pytest.mark.parametrize("side", ["right", "left"])
def test_rib_crossings_are_the_middles_of_where_ribs_lie_behind_ribs_in_the_lungs(large, side):
    distances = []
    for row in large:
        found = {numbers: pixel(row, name) for numbers, name in crossings(row, side).items()}
        places, _ = ndimage.label(row["masks"]["posterior_ribs"] & row["masks"]["anterior_ribs"])
        assert len(found) >= 3 and all(row[side][place] and places[place] for place in found.values())
        assert len({places[place] for place in found.values()}) == len(found)
        heights = [found[numbers][0] for numbers in sorted(found) if (numbers[0] - 1, numbers[1] - 1) in found]
        assert heights == sorted(heights)  # counted downwards
        for place in found.values():
            distances.append(np.hypot(*(np.argwhere(places == places[place]).mean(axis=0) - place)))
    assert np.median(distances) < 2  # some are cut off where the anterior rib begins, or at the cage


def test_landmarks_of_a_patient_keep_their_names_and_lie_as_the_body_does(site):
    first, second = draw_phantom_images(site, "train", 2, 256)
    assert first["patient_id"] == second["patient_id"]
    names = [name for name in first["landmarks"] if name in second["landmarks"] and not name.endswith(("x", "angle"))]
    assert len(names) > 6  # of what does not move with the breath
    places = [np.array([row["landmarks"][name] for name in names]) * row["image"].size for row in (first, second)]
    one, other = places[0] @ [1, 1j], places[1] @ [1, 1j]
    turn, *_ = np.linalg.lstsq(np.stack([one, np.ones_like(one)], axis=1), other, rcond=None)  # scale, angle and shift
    assert np.abs(turn[0] * one + turn[1] - other).max() < 0.1 and abs(turn[0] - 1) > 0.001


def test_large_hearts_are_large(rows):
    def ratio(row):
        heart, lungs = (np.nonzero(row["masks"][name].any(axis=0))[0] for name in ("heart", "lungs"))
        return np.ptp(heart) / np.ptp(lungs)

    everyone = rows["phantom_city", "test"] + rows["phantom_lake", "test"]
    large = [bool({"Cardiomegaly", "Enlarged Heart"} & row["masks"].keys()) for row in everyone]
    assert roc_auc_score(large, [ratio(row) for row in everyone]) > 0.98


def test_ten_global_statistics_do_not_solve_a_site(site, rows):
    def table(split):
        pixels = [np.ravel(row["image"]) for row in rows[site.name, split]]
        statistics = [[p.mean(), p.std(), *np.percentile(p, [1, 5, 10, 25, 50, 75, 90, 99])] for p in pixels]
        return np.array(statistics), np.array([label_vector(site, row) for row in rows[site.name, split]])

    (train, train_labels), (test, test_labels) = table("train"), table("test")
    for column, label in enumerate(site.labels):
        fit, score = train_labels[:, column] >= 0, test_labels[:, column] >= 0
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(train[fit], train_labels[fit, column])
        auroc = roc_auc_score(test_labels[score, column], model.decision_function(test[score]))
        assert auroc < 0.8, label


def test_too_small_a_size_is_refused():
    with pytest.raises(ValueError, match="at least 32"):
        draw_phantom_images(SITES["phantom_city"], "train", 1, size=16)


def test_a_patient_is_as_stout_in_every_image(site, rows):
    found: dict[str, set] = {}
    for row in rows[site.name, "test"]:
        assert 0 <= row["fat"] <= 1
        found.setdefault(row["patient_id"], set()).add(row["fat"])
    assert all(len(each) == 1 for each in found.values())
    stoutness = [fat for (fat,) in found.values()]
    assert min(stoutness) < 0.2 and max(stoutness) > 0.8

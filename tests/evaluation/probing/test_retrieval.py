"""Neighbours: a twin is found first, a patient's own pictures are left out, and precision is as counted by hand."""

import numpy as np
import pytest

from ark_hf.evaluation.probing.retrieval import nearest_neighbours, retrieval_precision


@pytest.fixture(scope="module")
def index() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)


def test_the_neighbour_of_a_duplicate_is_its_twin(index):
    rows, similarities = nearest_neighbours(index, 3 * index[[7, 31]], 5)
    assert rows[:, 0].tolist() == [7, 31]
    np.testing.assert_allclose(similarities[:, 0], 1, atol=1e-6)
    assert (np.diff(similarities, axis=1) <= 0).all()


def test_similarities_are_cosines(index):
    query = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    unit, unit_query = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (index, query))
    cosines = unit_query @ unit.T
    rows, similarities = nearest_neighbours(index, query, 40)
    np.testing.assert_array_equal(rows, np.argsort(-cosines, axis=1))
    np.testing.assert_allclose(similarities, -np.sort(-cosines, axis=1), atol=1e-6)


def test_pictures_of_the_same_patient_are_left_out(index):
    patients = [f"p{number // 4}" for number in range(40)]
    patients[8:12] = [None, None, "", ""]  # nobody's: each may find the others, and itself
    rows, similarities = nearest_neighbours(index, index, 36, patients, patients)
    everyone, _ = nearest_neighbours(index, index, 40)
    for query, found in enumerate(rows):
        mine = [] if 8 <= query < 12 else [row for row in range(40) if row // 4 == query // 4]
        assert found.tolist() == [row for row in everyone[query] if row not in mine][:36]
    assert not np.isnan(similarities).any()


def test_too_few_other_patients_leave_gaps(index):
    rows, similarities = nearest_neighbours(index[:3], index[:1], 3, ["a", "a", "b"], ["a"])
    assert rows.tolist() == [[2, -1, -1]]
    assert np.isnan(similarities[0, 1:]).all() and not np.isnan(similarities[0, 0])


def test_precision_by_hand():
    index_labels = np.array([[1, 0], [1, np.nan], [0, 1], [0, 0]])
    query_labels = np.array([[1, 0], [1, 1], [0, np.nan], [np.nan, 0]])
    rows = np.array([[0, 1], [2, 1], [0, 0], [0, 0]])
    first, second = retrieval_precision(rows, index_labels, query_labels, ["a", "b"])
    assert (first.precision, first.chance, first.num_queries) == (0.75, 0.5, 2)
    assert (second.precision, second.chance, second.num_queries) == (1.0, pytest.approx(1 / 3), 1)
    assert index_labels[1, 0] == 1  # left as it was


def test_a_label_without_queries_is_undefined():
    (result,) = retrieval_precision(np.array([[0]]), np.array([[1.0]]), np.array([[0.0]]), ["a"])
    assert np.isnan(result.precision) and result.num_queries == 0 and result.chance == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "between 1 and 40"),
        ({"k": 41}, "between 1 and 40"),
        ({"queries": np.ones((2, 3))}, "of one width, not 8 and 3"),
        ({"index_patients": ["a"] * 40}, "both index and queries"),
        ({"queries": np.full((1, 8), np.inf)}, "finite"),
    ],
)
def test_wrong_input_is_explained(index, change, message):
    with pytest.raises(ValueError, match=message):
        nearest_neighbours(**{"index": index, "queries": index, "k": 3, **change})

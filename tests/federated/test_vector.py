"""Weights as one vector: nothing is lost, nothing else is taken."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ark_hf.federated.vector import Vector, average, fault, load, pack, shared_tensors, unpack

shapes = st.lists(st.integers(0, 4), max_size=3)
tables = st.dictionaries(st.text("abc._", min_size=1, max_size=8), shapes, max_size=5)


@given(tables, st.integers(0, 9))
def test_tensors_come_back_as_they_were(table, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in table.items()}
    vector = pack(tensors)
    back = unpack(vector)
    assert list(back) == list(tensors) and all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert vector.values.dtype == np.float32 and fault(vector, vector.table) is None


def test_what_is_unpacked_is_not_the_vector_itself():
    vector = pack({"a": torch.zeros(3)})
    unpack(vector)["a"].fill_(1)
    assert not vector.values.any()


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_batch_statistics_are_part_unless_they_are_kept():
    all_of_it, kept = shared_tensors(model()), shared_tensors(model(), keep_batch_norm=True)
    assert set(all_of_it) - set(kept) == {"1.running_mean", "1.running_var"}
    assert "1.num_batches_tracked" not in all_of_it and {"0.weight", "1.weight"} <= set(kept)


@pytest.mark.parametrize("keep", [False, True])
def test_a_model_is_filled(keep):
    ours, theirs = model(), model()
    with torch.no_grad():
        for value in shared_tensors(theirs).values():
            value.uniform_()
    load(ours, pack(shared_tensors(theirs, keep)), keep)
    assert torch.equal(ours[0].weight, theirs[0].weight)
    assert torch.equal(ours[1].running_var, torch.ones(3) if keep else theirs[1].running_var)


def test_weights_of_another_model_are_refused():
    with pytest.raises(ValueError, match="not of this model"):
        load(model(), pack(shared_tensors(nn.Linear(2, 3))))
    with pytest.raises(ValueError, match="not of this model"):
        load(model(), pack(shared_tensors(model(), keep_batch_norm=True)))


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=6), st.integers(1, 5))
def test_the_mean_of_equal_vectors_is_the_vector(values, count):
    vector = Vector(np.array(values, dtype=np.float32), json.dumps([["a", [len(values)]]]))
    mean = average([vector] * count, [1.0] * count)
    np.testing.assert_allclose(mean.values, vector.values, rtol=1e-6)


def test_the_mean_is_weighted_and_summed_in_float64():
    table = '[["a", [1]]]'
    vectors = [Vector(np.array([value], dtype=np.float32), table) for value in (1e8, 1.0, -1e8)]
    assert average(vectors, [1, 1, 1]).values[0] == np.float32(1 / 3)
    assert average(vectors[1:2] + [Vector(np.array([4.0], np.float32), table)], [300, 100]).values[0] == 1.75


@pytest.mark.parametrize(
    "vector, complaint",
    [
        (Vector(np.zeros(3, np.float32), '[["b", [3]]]'), "other names or shapes"),
        (Vector(np.zeros(3, np.float32), '[["a", [1, 3]]]'), "other names or shapes"),
        (Vector(np.zeros(4, np.float32), '[["a", [3]]]'), "not the float32 numbers"),
        (Vector(np.zeros(3, np.float64), '[["a", [3]]]'), "not the float32 numbers"),
        (Vector(np.zeros((3, 1), np.float32), '[["a", [3]]]'), "not the float32 numbers"),
        (Vector(np.array([0, np.nan, 0], np.float32), '[["a", [3]]]'), "not all finite"),
        (Vector(np.array([0, np.inf, 0], np.float32), '[["a", [3]]]'), "not all finite"),
    ],
)
def test_what_is_wrong_with_a_vector_is_said(vector, complaint):
    assert complaint in fault(vector, '[["a", [3]]]')


@pytest.mark.parametrize(
    "table",
    ["", "{}", '""', "null", '[["a"]]', '[["a", 3]]', '[["a", [-1]]]', '[["a", [1.5]]]', '[["a", [true]]]',
     '[[3, [1]]]', '[["a", [1]], ["a", [1]]]', '[["a", "b"]]', '{"ab": 1}', "[" * 99_999],
)  # fmt: skip
def test_a_table_that_is_none_is_refused(table):
    for size in (0, 1, 2):
        with pytest.raises(ValueError, match="not a list of names and shapes"):
            unpack(Vector(np.zeros(size, np.float32), table))

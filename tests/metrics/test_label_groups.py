import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ark_hf.metrics.auroc import bootstrap_aurocs, label_results, mean_auroc
from ark_hf.metrics.label_groups import group_labels, group_results


def test_borders_are_those_of_the_challenge():
    num_positive = {"often": 101, "at 10 %": 100, "at 1 %": 10, "rare": 9, "never": 0, "unknown": 0, "few known": 6}
    num_known = dict.fromkeys(num_positive, 1000) | {"unknown": 0, "few known": 50}
    assert group_labels(num_positive, num_known) == {
        "head": ["often", "few known"],
        "medium": ["at 10 %", "at 1 %"],
        "tail": ["rare", "never", "unknown"],
    }
    assert group_labels(num_positive, num_known, head_share=0.1, tail_share=0.1)["medium"] == ["at 10 %"]
    assert group_labels({}, {}) == {"head": [], "medium": [], "tail": []}


@given(st.lists(st.integers(0, 1000), max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_groups_part_the_labels_by_frequency(counts, one, other):
    num_positive = {f"l{number}": count for number, count in enumerate(counts)}
    groups = group_labels(num_positive, dict.fromkeys(num_positive, 1000), max(one, other), min(one, other))
    assert sorted(label for labels in groups.values() for label in labels) == sorted(num_positive)
    shares = [[num_positive[label] / 1000 for label in groups[name]] for name in ("tail", "medium", "head")]
    assert all(share < min(one, other) for share in shares[0])
    assert all(share > max(one, other) for share in shares[2])
    assert max(shares[0], default=0) <= min(shares[1], default=1) and max(shares[1], default=0) <= min(
        shares[2], default=1
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"a": 1}, {"a": 9}, 0.01, 0.1), "tail_share <= head_share"),
        (({"a": 1}, {"b": 9}), r"known images are of \['b'\], of positive \['a'\]"),
        (({"a": 10}, {"a": 9}), "'a' cannot be positive on 10 of 9 images"),
        (({"a": -1}, {"a": 9}), "'a' cannot be positive on -1"),
    ],
)
def test_impossible_groups(arguments, message):
    with pytest.raises(ValueError, match=message):
        group_labels(*arguments)


def test_results_are_the_means_of_the_groups_alone():
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 4)) < [0.5, 0.3, 0.1, 0]).astype(float)
    scores, patients = labels + rng.normal(size=labels.shape), np.repeat(np.arange(100), 2).tolist()
    names = ["a", "b", "c", "none positive"]
    replicates = bootstrap_aurocs(labels, scores, patients, 60, seed=3)
    table = label_results(labels, scores, names, replicates, patients, 0.9)
    groups = {"head": ["b", "a"], "medium": [], "tail": ["none positive", "c"]}
    results = group_results(groups, table, replicates, 0.9)
    assert list(results) == ["head", "medium", "tail"]
    for name, columns in (("head", [0, 1]), ("tail", [2, 3])):
        expected = mean_auroc(labels[:, columns], scores[:, columns], patients, 60, 0.9, 3)
        result = results[name]
        assert (result.auroc, result.ci_low, result.ci_high) == pytest.approx(
            (expected.auroc, expected.ci_low, expected.ci_high)
        )
        assert (result.num_defined, result.num_labels) == (expected.num_defined, expected.num_labels)
    assert results["tail"].average_precision == table[2].average_precision
    assert results["tail"].num_defined == 1 and math.isnan(results["medium"].auroc)
    with pytest.raises(ValueError, match=r"no result of the labels \['d'\]; there are those of \['a', 'b'"):
        group_results({"head": ["d"]}, table, replicates)

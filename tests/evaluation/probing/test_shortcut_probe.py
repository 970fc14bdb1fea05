"""Probes for the source: chance for two draws of one source, near certainty for two that differ."""

import numpy as np
import pytest

from ark_hf.evaluation.probing.shortcut_probe import AttributedImages, predict_attribute


def draw(names: list[str], shift: float, seed: int, num_rows: int = 150) -> AttributedImages:
    random = np.random.default_rng(seed)
    parts = [random.standard_normal((num_rows, 10)) + number * shift for number in range(len(names))]
    values = [name for name in names for _ in range(num_rows)]
    patients = [f"{name}/{row // 3}" for name in names for row in range(num_rows)]
    return AttributedImages(np.concatenate(parts).astype(np.float32), values, patients)


def test_two_draws_of_one_source_cannot_be_told_apart():
    results = [
        predict_attribute("dataset", draw(["a", "b"], 0, seed), draw(["a", "b"], 0, seed + 50), num_bootstrap=200)
        for seed in range(4)
    ]
    assert abs(np.mean([each.mean.auroc for each in results]) - 0.5) < 0.06
    assert sum(each.mean.ci_low <= 0.5 <= each.mean.ci_high for each in results) >= 3


def test_different_sources_are_told_apart():
    result = predict_attribute("dataset", draw(["a", "b", "c"], 2, 0), draw(["a", "b", "c"], 2, 1), num_bootstrap=100)
    assert [each.label for each in result.classes] == ["a", "b", "c"]
    assert result.mean.ci_low > 0.95 and result.note is None
    assert all((each.num_positive, each.num_known, each.num_clusters) == (150, 450, 150) for each in result.classes)


def test_unknown_values_count_nowhere():
    train, test = draw(["F", "M"], 1, 2), draw(["F", "M"], 1, 3)
    values = [None if row % 5 == 0 else "" if row % 5 == 1 else value for row, value in enumerate(test.values)]
    result = predict_attribute("sex", train, AttributedImages(test.embeddings, values, test.patients), 0)
    assert [each.num_known for each in result.classes] == [180, 180]
    elsewhere = ["X" if value is None else value for value in values]  # a value that train lacks
    other = predict_attribute("sex", train, AttributedImages(test.embeddings, elsewhere, test.patients), 0)
    assert other.mean.auroc == result.mean.auroc > 0.8


def test_one_value_is_undefined_and_said():
    train, test = draw(["PA", "AP"], 1, 4), draw(["PA"], 1, 5)
    result = predict_attribute("view", train, test)
    assert np.isnan(result.mean.auroc) and result.classes == []
    assert result.note == "1 of its values occur in both train and test"


def test_embeddings_must_be_finite():
    train = draw(["a", "b"], 0, 6)
    train.embeddings[3, 4] = np.nan
    with pytest.raises(ValueError, match="first is row 3"):
        predict_attribute("dataset", train, train)

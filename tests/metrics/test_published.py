"""The papers' intervals, against the released notebook's numbers and the digits that were printed."""

import csv
import json
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ark_hf.metrics.auroc import auroc, label_table, mean_auroc
from tests.metrics.published import published_bootstrap, published_interval

NAN = float("nan")
VARIANTS = {"percentile": "ci_percentile", "sorted_index": "ci_sorted_index"}


def assert_published(labels, scores, expected) -> dict[str, tuple[float, float]]:
    """Compares everything that the goldens hold of one bootstrap; returns the intervals."""
    assert auroc(labels, scores) == pytest.approx(expected["auroc"], abs=1e-12)
    replicates = published_bootstrap(labels, scores)
    assert replicates.shape == (1000,) and replicates.dtype == np.float64
    np.testing.assert_allclose(replicates[:5], expected["boot_first5"], rtol=0, atol=1e-12)
    assert replicates.mean() == pytest.approx(expected["boot_mean"], abs=1e-12)
    assert replicates.std() == pytest.approx(expected["boot_std"], abs=1e-12)
    intervals = {variant: published_interval(replicates, variant) for variant in VARIANTS}
    for variant, name in VARIANTS.items():
        np.testing.assert_allclose(intervals[variant], expected[name], rtol=0, atol=1e-12)
    return intervals


def test_golden_statistics(shared):
    cases = json.loads((shared / "golden/eval/synthetic.json").read_text())
    arrays = np.load(shared / "golden/eval/synthetic.npz")
    for case in cases["cases"]:
        assert_published(arrays[f"y{case['case']}"], arrays[f"s{case['case']}"], case)


def test_golden_list_of_classes_leaves_out_those_without_positives(shared):
    expected = json.loads((shared / "golden/eval/synthetic.json").read_text())["metric_AUROC"]
    arrays = np.load(shared / "golden/eval/synthetic.npz")
    table = label_table(arrays["multi_y"], arrays["multi_p"], [str(i) for i in range(14)], num_bootstrap=0)
    assert [i for i, row in enumerate(table) if math.isnan(row.auroc)] == expected["skipped_columns"]
    defined = [row.auroc for row in table if not math.isnan(row.auroc)]
    np.testing.assert_allclose(defined, expected["result"], rtol=0, atol=1e-12)
    mean = mean_auroc(arrays["multi_y"], arrays["multi_p"], num_bootstrap=0)
    assert mean.auroc == pytest.approx(expected["mean"], abs=1e-12) and mean.num_defined == 12


def test_published_predictions_to_the_printed_digit(shared):
    results = json.loads((shared / "golden/eval/zeroshot_results.json").read_text())["results"]
    published = {f"{r['dataset']}_{r['model'].replace('+', 'plus')}".lower(): r for r in results}
    files = sorted((shared / "golden/eval/predictions").glob("*.csv"))
    assert len(files) == 7
    for file in files:
        with file.open() as stream:
            rows = list(csv.DictReader(stream))
        labels = np.array([float(row["y_true"]) for row in rows])
        scores = np.array([float(row["y_score"]) for row in rows])
        expected = published[file.stem]
        intervals = assert_published(labels, scores, expected)
        assert [round(bound, 3) for bound in intervals["sorted_index"]] == expected["notebook_printed_ci"]
        legend = [auroc(labels, scores), *intervals["percentile"]]
        assert [round(100 * value, 2) for value in legend] == expected["plot_legend_percent_auc_lo_hi"]


def test_bootstrap_equals_direct_resampling_without_the_unknown():
    rng = np.random.default_rng(0)
    labels, scores = (rng.random(12) < 0.2).astype(float), np.round(rng.normal(size=12), 1)
    labels[0] = 1
    padded = np.insert(labels, [0, 5, 12], NAN), np.insert(scores, [0, 5, 12], 9.0)
    replicates = published_bootstrap(*padded, num_bootstrap=70, seed=4)
    legacy = np.random.RandomState(4)
    for replicate in replicates:
        draw = legacy.randint(0, 12, 12)
        one_class = len(np.unique(labels[draw])) == 1
        direct = NAN if one_class else roc_auc_score(labels[draw], scores[draw])
        assert replicate == pytest.approx(direct, abs=1e-12, nan_ok=True)
    assert 0 < np.isnan(replicates).sum() < 70
    np.testing.assert_array_equal(published_bootstrap(*padded, num_bootstrap=7, seed=4), replicates[:7])


@pytest.mark.parametrize("labels", [[], [NAN, NAN], [1, 1, NAN]])
def test_one_class_has_no_replicates(labels):
    replicates = published_bootstrap(labels, np.arange(len(labels)), num_bootstrap=5)
    assert replicates.shape == (5,) and np.isnan(replicates).all()


@pytest.mark.parametrize(("number", "indices"), [(1000, (25, 975)), (200, (5, 195)), (100, (2, 97)), (1, (0, 0))])
def test_sorted_values_are_counted_from_zero(number, indices):
    replicates = np.random.default_rng(1).permutation(number).astype(float)
    assert published_interval(replicates, "sorted_index") == indices
    expected = np.percentile(np.arange(number), [2.5, 97.5])
    assert published_interval(replicates, "percentile") == pytest.approx(tuple(expected))


def test_invalid_arguments():
    for variant in VARIANTS:
        assert np.isnan(published_interval([0.5, NAN, 0.6], variant)).all()
        for replicates in ([], [[0.5]]):
            with pytest.raises(ValueError, match=r"replicates must be \(m,\)"):
                published_interval(replicates, variant)
    with pytest.raises(ValueError, match="'percentile' or 'sorted_index', not 'basic'"):
        published_interval([0.5], "basic")
    with pytest.raises(ValueError, match="0 or more, not -1"):
        published_bootstrap([0, 1], [0, 1], num_bootstrap=-1)
    with pytest.raises(ValueError, match="must be finite"):
        published_bootstrap([0, 1], [0, NAN])

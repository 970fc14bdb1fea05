"""Few-shot curves: more images help, subsets are what they are called, and what cannot be drawn is said."""

import numpy as np

from ark_hf.evaluation.probing.few_shot import draw_curve, few_shot_curve
from ark_hf.evaluation.probing.probe import fit_probe
from ark_hf.metrics.auroc import auroc, one_vs_rest


def draw(num_rows: int, seed: int, width: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and two labels, each of which shifts one direction."""
    random = np.random.default_rng(seed)
    labels = (random.random((num_rows, 2)) < 0.4).astype(float)
    embeddings = random.standard_normal((num_rows, width))
    embeddings[:, :2] += 2.5 * labels
    return embeddings.astype(np.float32), labels


def test_auroc_rises_with_the_number_of_images():
    train, test = draw(400, 0), draw(600, 1)
    full = fit_probe(*train).predict(test[0])
    best = float(np.mean([auroc(test[1][:, column], full[:, column]) for column in range(2)]))
    curve = few_shot_curve(*train, *test, ["a", "b"], best)
    assert [shot.name for shot in curve] == [*(f"{k} a class" for k in (1, 5, 10, 20, 50)), "all"]
    means = [shot.mean for shot in curve]
    assert means[0] < 0.75 < 0.9 < means[4] <= means[5] + 0.01 and means[0] < means[2] < means[4]
    assert all(len(shot.aurocs) == 5 and len(set(shot.aurocs)) > 1 for shot in curve[:-1])
    # at least k of a, of b and of neither, and no more than if no image had both
    assert all(2 * k <= shot.num_rows <= 3 * k for k, shot in zip((1, 5, 10, 20, 50), curve, strict=False))
    assert (curve[-1].num_rows, curve[-1].mean, curve[-1].aurocs) == (400, best, [best])
    assert all(shot.ci_low < shot.mean < shot.ci_high for shot in curve[:-1]) and np.isnan(curve[-1].ci_low)


def test_single_label_tasks_draw_k_of_each_class():
    random = np.random.default_rng(0)
    classes = random.integers(0, 3, 90)
    classes[:10] = -100
    embeddings = random.standard_normal((90, 5)).astype(np.float32)
    embeddings[np.arange(90), np.maximum(classes, 0)] += 3
    columns = one_vs_rest(classes, 3)
    curve = few_shot_curve(embeddings, classes, embeddings, columns, ["x", "y", "z"], 0.9, shots=(1, 4), repeats=2)
    assert [shot.num_rows for shot in curve] == [3, 12, 90]
    assert all(shot.mean > 0.75 for shot in curve)


def test_more_than_a_class_has_is_left_out_and_said():
    embeddings, labels = draw(60, 2)
    labels = np.concatenate([labels, np.zeros((60, 1)), np.zeros((60, 1))], axis=1)
    labels[:7, 2] = 1
    curve = few_shot_curve(embeddings, labels, embeddings, labels, ["a", "b", "rare", "never"], 0.8, repeats=1)
    five, ten = curve[1], curve[2]
    assert five.aurocs and five.note is None
    assert ten.aurocs == [] and np.isnan(ten.mean) and "rare 7" in ten.note and "never" not in ten.note


def test_percentages_are_for_large_sets():
    embeddings, labels = draw(10_000, 3, width=4)
    arguments = (embeddings[:500], labels[:500], ["a", "b"], 0.9)
    large = few_shot_curve(embeddings, labels, *arguments, shots=(), repeats=2)
    assert [(shot.name, shot.num_rows) for shot in large] == [("1 %", 100), ("10 %", 1000), ("all", 10_000)]
    assert large[0].aurocs[0] != large[0].aurocs[1]
    small = few_shot_curve(embeddings[:9999], labels[:9999], *arguments, shots=(), repeats=2)
    assert [shot.name for shot in small] == ["all"]


def test_a_curve_is_a_function_of_its_seed():
    train, test = draw(80, 4), draw(80, 5)
    one, other, third = (
        few_shot_curve(*train, *test, ["a", "b"], 0.9, shots=(3,), repeats=2, seed=seed) for seed in (1, 1, 2)
    )
    assert [shot.aurocs for shot in one] == [shot.aurocs for shot in other]
    assert one[0].aurocs[1] == third[0].aurocs[0]  # draw i is of seed + i


def test_the_figure_is_drawn(tmp_path):
    train, test = draw(60, 6), draw(60, 7)
    curve = few_shot_curve(*train, *test, ["a", "b"], 0.9, shots=(1, 5, 50), repeats=2)
    path = tmp_path / "curve.png"
    draw_curve({"toy": curve}, path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000

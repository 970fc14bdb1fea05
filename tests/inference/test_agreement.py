"""Second opinions: which labels stand for one finding, who disagrees, and the file that is written as results pass."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ark_hf.inference.agreement import (
    COLUMNS,
    compare_heads,
    labels_by_finding,
    second_opinion_text,
    writing_second_opinions,
)
from ark_hf.labels import read_synonyms
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask

TASKS = [
    ArkTask(
        "north", ["Edema", "Pleural Effusion", "Rib fracture"], thresholds={"Edema": 0.2, "Pleural Effusion": 0.9}
    ),
    ArkTask("south", ["normal", "Oedema", "TB"], "single_label_classification", thresholds={"Oedema": 0.6}),
    ArkTask("east", ["Effusion", "No Finding", "Edema"]),
]
SYNONYMS = read_synonyms()


@pytest.fixture(scope="module")
def findings():
    return labels_by_finding(TASKS, SYNONYMS)


def test_labels_are_grouped_by_what_they_mean(findings):
    shared, alone = findings
    names = {finding: [source.name for source in sources] for finding, sources in shared.items()}
    assert names == {
        SYNONYMS.finding("Edema"): ["north/Edema", "south/Oedema", "east/Edema"],
        SYNONYMS.finding("Effusion"): ["north/Pleural Effusion", "east/Effusion"],
        SYNONYMS.finding("Normal"): ["south/normal", "east/No Finding"],
    }
    assert [source.name for sources in alone.values() for source in sources] == ["north/Rib fracture", "south/TB"]
    outputs = ArkConfig(tasks=TASKS).id2label
    for sources in [*shared.values(), *alone.values()]:
        assert all(outputs[source.column] == source.name for source in sources)


def test_two_labels_of_one_head_are_no_second_opinion():
    tasks = [ArkTask("one", ["Edema", "Oedema", "Mass"]), ArkTask("two", ["Mass"])]
    shared, alone = labels_by_finding(tasks, SYNONYMS)
    assert list(shared) == [SYNONYMS.finding("Mass")]
    assert [source.name for source in alone[SYNONYMS.finding("Edema")]] == ["one/Edema", "one/Oedema"]


def test_disagreements_come_first_and_saved_thresholds_decide(findings):
    north, south, east = [0.25, 0.8, 0.9], [0.55, 0.5, 0.1], [0.4, 0.9, 0.6]
    edema, effusion, healthy = compare_heads([*north, *south, *east], findings[0])
    assert edema.finding == SYNONYMS.finding("Edema") and not edema.agree
    opinions = [(opinion.source.name, opinion.probability, opinion.called) for opinion in edema.opinions]
    assert opinions == [("north/Edema", 0.25, True), ("south/Oedema", 0.5, False), ("east/Edema", 0.6, True)]
    assert edema.mean == pytest.approx(0.45) and edema.spread == pytest.approx(0.35)
    assert [opinion.source.has_saved_threshold for opinion in edema.opinions] == [True, True, False]
    # 0.8 is far from 0.4, and yet both call it negative: it comes first of those that agree
    assert effusion.agree and effusion.finding == SYNONYMS.finding("Effusion")
    assert healthy.agree and healthy.finding == SYNONYMS.finding("Normal")
    assert effusion.spread == pytest.approx(0.4) and healthy.spread == pytest.approx(0.35)


@given(st.lists(st.floats(0, 1), min_size=9, max_size=9))
def test_opinions_of_any_image(probabilities):
    shared, _ = labels_by_finding(TASKS, SYNONYMS)
    agreements = compare_heads(probabilities, shared)
    assert sorted(each.finding for each in agreements) == sorted(shared)
    assert [each.agree for each in agreements] == sorted(each.agree for each in agreements)
    for each in agreements:
        values = {source.name: probabilities[source.column] for source in shared[each.finding]}
        assert {opinion.source.name: opinion.probability for opinion in each.opinions} == values
        assert each.spread == max(values.values()) - min(values.values())
        calls = [probabilities[source.column] >= source.threshold for source in shared[each.finding]]
        assert each.agree == (all(calls) or not any(calls))


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (None, "this one has no named heads"),
        (TASKS[:1], "this one has one head, 'north'"),
        ([TASKS[0], ArkTask("west", ["Mass"])], r"No finding is known to two of the heads \['north', 'west'\]"),
    ],
)
def test_models_without_a_second_opinion(tasks, message):
    with pytest.raises(ValueError, match=message):
        labels_by_finding(tasks, SYNONYMS)


def results_of(folder, number):
    """Alternates images and files that cannot be read, and says which one was asked for last."""
    generator = np.random.default_rng(0)
    for index in range(number):
        results_of.last = index
        yield folder / f"{index}.png", "is text" if index % 2 else generator.random(9)


def test_rows_are_written_while_results_pass(findings, tmp_path):
    path = tmp_path / "new" / "out.second_opinion.csv"
    expected = list(results_of(tmp_path, 6))
    passing = writing_second_opinions(path, findings[0], results_of(tmp_path, 6))
    passed = [next(passing)]
    assert results_of.last == 0  # nothing is read ahead, so that memory stays what it is for one image
    assert not path.exists()
    passed += passing
    for (image, result), (expected_image, expected_result) in zip(passed, expected, strict=True):
        assert image == expected_image and np.array_equal(result, expected_result)
    assert [each.name for each in path.parent.iterdir()] == [path.name]

    rows = list(csv.DictReader(path.open()))
    assert list(rows[0]) == COLUMNS
    assert [row["image"] for row in rows] == [str(tmp_path / f"{i}.png") for i in (0, 2, 4) for _ in range(3)]
    for start, (_, probabilities) in zip((0, 3, 6), expected[::2], strict=True):
        for row, agreement in zip(rows[start : start + 3], compare_heads(probabilities, findings[0]), strict=True):
            assert (row["finding"], row["agree"]) == (agreement.finding, "yes" if agreement.agree else "no")
            values = [agreement.mean, agreement.opinions[0].probability, agreement.opinions[-1].probability]
            assert [float(row[name]) for name in ("mean", "lowest", "highest")] == pytest.approx(values, abs=1e-6)
            calls = row["calls"].split("; ")
            assert [call.split(" (")[0] for call in calls] == [
                f"{opinion.source.name} {'yes' if opinion.called else 'no'}" for opinion in agreement.opinions
            ]
            assert ["by default" in call for call in calls] == [
                not opinion.source.has_saved_threshold for opinion in agreement.opinions
            ]
            assert (row["lowest_label"], row["highest_label"]) == tuple(
                agreement.opinions[end].source.name for end in (0, -1)
            )


def test_what_is_there_stays_unless_the_whole_is_written(findings, tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("before")
    broken_off = writing_second_opinions(path, findings[0], results_of(tmp_path, 6))
    next(broken_off)
    broken_off.close()
    unreadable = (each for each in results_of(tmp_path, 6) if isinstance(each[1], str))
    assert len(list(writing_second_opinions(path, findings[0], unreadable))) == 3
    assert path.read_text() == "before" and [each.name for each in tmp_path.iterdir()] == ["out.csv"]


def test_the_text_shows_disagreements_of_the_first_images(findings, tmp_path):
    path = tmp_path / "out.csv"
    agreeing = np.array([0.9, 0.95, 0.5, 0.1, 0.9, 0.0, 0.95, 0.2, 0.9])
    differing = np.array([0.1, 0.95, 0.5, 0.1, 0.9, 0.0, 0.95, 0.2, 0.9])
    images = [("a.png", agreeing), ("b.png", differing), ("c.png", differing)]
    list(writing_second_opinions(path, findings[0], ((tmp_path / name, values) for name, values in images)))
    text = second_opinion_text(path, *findings, num_images=2)
    assert "disagree, the first 2 images:" in text
    edema = SYNONYMS.finding("Edema")
    assert [line for line in text.splitlines() if line.startswith("| ")][1:] == [
        f"| b.png | {edema} | north/Edema no (0.100, from 0.200); south/Oedema yes (0.900, from 0.600); "
        "east/Edema yes (0.900, from 0.500 by default) |"
    ]
    unsaved = "south/normal, east/No Finding"
    assert "east/Edema" in text and unsaved in text and "north/Pleural Effusion" not in text
    assert "called positive from 0.5" in text
    assert f"known to one head only: {', '.join(findings[1])}." in text
    assert "agree on every shared finding of the first image" in second_opinion_text(path, *findings, num_images=1)

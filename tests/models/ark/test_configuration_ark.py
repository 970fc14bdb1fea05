"""ArkTask and ArkConfig: validation, derived labels, the JSON form, and the rule that the caller's labels win."""

import copy
import json
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask, SegmentationTask
from ark_hf.models.ark.tasks_ark import MODALITIES, PROBLEM_TYPES

FINDINGS = {"name": "vindr", "labels": ["Tuberculosis", "Mass/Nodule"]}
OPACITY = {
    "name": "rsna",
    "labels": ["Normal", "Other", "Opacity"],
    "problem_type": "single_label_classification",
}
TWO_TASKS = [FINDINGS, OPACITY]
TWO_TASKS_ID2LABEL = {
    0: "vindr/Tuberculosis",
    1: "vindr/Mass/Nodule",
    2: "rsna/Normal",
    3: "rsna/Other",
    4: "rsna/Opacity",
}
OWN_ID2LABEL = {0: "cat", 1: "dog"}
OWN_LABEL2ID = {"cat": 0, "dog": 1}
GENERIC_5 = {i: f"LABEL_{i}" for i in range(5)}


def task_names(config: ArkConfig) -> list[str] | None:
    return None if config.tasks is None else [task.name for task in config.tasks]


def assert_ordinary_classifier(config: ArkConfig, id2label: dict[int, str], problem_type: str | None = None) -> None:
    assert config.tasks is None
    assert config.id2label == id2label
    assert config.label2id == {label: i for i, label in id2label.items()}
    assert config.num_labels == len(id2label)
    assert config.problem_type == problem_type


def assert_two_tasks(config: ArkConfig) -> None:
    assert task_names(config) == ["vindr", "rsna"]
    assert config.id2label == TWO_TASKS_ID2LABEL
    assert config.label2id == {label: i for i, label in TWO_TASKS_ID2LABEL.items()}
    assert config.problem_type == "multi_label_classification"


@pytest.fixture
def two_tasks_folder(tmp_path):
    ArkConfig(tasks=TWO_TASKS).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def one_task_folder(tmp_path):
    ArkConfig(tasks=[OPACITY]).save_pretrained(tmp_path)
    return tmp_path


# --- ArkTask ------------------------------------------------------------------------------------------------------


@st.composite
def tasks(draw):
    name = draw(st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True))
    assume(not hasattr(nn.ModuleDict(), name))
    problem_type = draw(st.sampled_from(PROBLEM_TYPES))
    fewest = 2 if problem_type == "single_label_classification" else 1
    alphabet = st.characters(codec="utf-8")
    labels = draw(st.lists(st.text(alphabet, min_size=1, max_size=8), min_size=fewest, max_size=5, unique=True))
    some = st.none() | st.lists(st.sampled_from(labels), unique=True)
    thresholds = st.none() | st.dictionaries(st.sampled_from(labels), st.floats(0, 1))
    modality = draw(st.sampled_from(MODALITIES))
    return ArkTask(name, labels, problem_type, draw(some), draw(thresholds), modality)


@settings(max_examples=50)
@given(tasks())
def test_a_task_survives_json(task):
    assert ArkTask.from_dict(json.loads(json.dumps(task.to_dict()))) == task


def test_a_modality_is_written_unless_it_is_that_of_radiographs(tmp_path):
    assert "modality" not in ArkTask("lungs", ["Mass"]).to_dict() and ArkTask("lungs", ["Mass"]).modality == "CR"
    fundus = FINDINGS | {"modality": "OP"}
    assert ArkTask.from_dict(fundus).to_dict()["modality"] == "OP"
    ArkConfig(tasks=[OPACITY, fundus]).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())["tasks"]
    assert written == [OPACITY, fundus | {"problem_type": "multi_label_classification"}]
    assert [task.modality for task in ArkConfig.from_pretrained(tmp_path).tasks] == ["CR", "OP"]


@pytest.mark.parametrize("modality", ["op", "DX", "CXR", "fundus", "", None, 3, ["CR"]])
def test_an_unknown_modality_is_refused_with_those_there_are(modality):
    with pytest.raises(ValueError, match=r"Task 'lungs': modality .* is unknown; use DICOM's code, one of \('CR', "):
        ArkTask("lungs", ["Mass"], modality=modality)


@settings(max_examples=50)
@given(tasks(), tasks())
def test_a_key_of_id2label_splits_into_task_and_label_at_the_first_slash(first, second):
    assume(first.name != second.name)
    config = ArkConfig(tasks=[first, second])
    expected = [(task.name, label) for task in (first, second) for label in task.labels]
    assert [tuple(key.split("/", 1)) for _, key in sorted(config.id2label.items())] == expected


@settings(max_examples=50)
@given(st.text(max_size=6))
def test_a_name_is_accepted_exactly_if_the_contract_allows_it(name):
    allowed = re.fullmatch("[a-z][a-z0-9_]*", name, re.ASCII) and not hasattr(nn.ModuleDict(), name)
    if allowed:
        assert ArkTask(name, ["x"]).name == name
    else:
        with pytest.raises(ValueError, match="name"):
            ArkTask(name, ["x"])


@pytest.mark.parametrize(
    "name", ["", "Rsna", "1rsna", "_rsna", "rs na", "rs-na", "rs.na", "rsna/x", "rsna\n", "é", None, 3]
)
def test_a_name_of_other_characters_is_refused(name):
    with pytest.raises(ValueError, match="lower-case letters"):
        ArkTask(name, ["x"])


@pytest.mark.parametrize("name", ["type", "train", "eval", "to", "keys", "update", "forward", "training"])
def test_a_name_that_module_dict_uses_is_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' is reserved"):
        ArkTask(name, ["x"])


@pytest.mark.parametrize("labels", [[], [""], ["x", 1], [None], "Effusion", None, 3, {"x": 1}])
def test_labels_must_be_a_list_of_strings(labels):
    with pytest.raises(ValueError, match="'a': labels must be a non-empty list of strings"):
        ArkTask("a", labels)


def test_repeated_labels_are_refused_and_named():
    with pytest.raises(ValueError, match=r"more than once: \['x'\]"):
        ArkTask("a", ["x", "y", "x"])


@pytest.mark.parametrize("problem_type", ["regression", "binary", None])
def test_other_problem_types_are_refused(problem_type):
    with pytest.raises(ValueError, match="use one of .*multi_label.*single_label"):
        ArkTask("a", ["x", "y"], problem_type)


def test_single_label_needs_two_labels():
    with pytest.raises(ValueError, match="at least two labels"):
        ArkTask("a", ["x"], "single_label_classification")


@pytest.mark.parametrize("fields", [{"eval_labels": ["x", "z"]}, {"thresholds": {"z": 0.5}}])
def test_eval_labels_and_thresholds_must_name_labels(fields):
    with pytest.raises(ValueError, match=r"name \['z'\]"):
        ArkTask("a", ["x", "y"], **fields)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), float("inf"), "0.5", None])
def test_a_threshold_outside_the_unit_interval_is_refused(threshold):
    with pytest.raises(ValueError, match=r"'x' must be a number in \[0, 1\]"):
        ArkTask("a", ["x"], thresholds={"x": threshold})


@pytest.mark.parametrize("values", [{"name": "a"}, {"labels": ["x"]}, {"name": "a", "labels": ["x"], "lables": ["y"]}])
def test_a_task_dictionary_with_missing_or_unknown_fields_is_refused(values):
    with pytest.raises(ValueError, match="'name' and 'labels' required"):
        ArkTask.from_dict(values)


def test_unset_fields_stay_out_of_the_json_form():
    assert ArkTask("a", ["x"]).to_dict() == {
        "name": "a",
        "labels": ["x"],
        "problem_type": "multi_label_classification",
    }


# --- derived labels -----------------------------------------------------------------------------------------------


def test_labels_of_several_tasks_carry_the_name_of_their_task():
    assert_two_tasks(ArkConfig(tasks=TWO_TASKS))


def test_labels_of_a_single_task_stay_plain():
    config = ArkConfig(tasks=[OPACITY])
    assert config.id2label == {0: "Normal", 1: "Other", 2: "Opacity"}
    assert config.problem_type == "single_label_classification"


def test_without_tasks_it_is_an_ordinary_config_of_two_labels():
    assert_ordinary_classifier(ArkConfig(), {0: "LABEL_0", 1: "LABEL_1"})


def test_tasks_may_be_given_as_objects_or_dictionaries():
    objects = [ArkTask(**task) for task in TWO_TASKS]
    assert ArkConfig(tasks=objects).tasks == ArkConfig(tasks=TWO_TASKS).tasks == objects


def test_setting_tasks_later_derives_the_labels_again():
    config = ArkConfig(tasks=TWO_TASKS)
    config.tasks = [OPACITY]
    assert config.id2label == {0: "Normal", 1: "Other", 2: "Opacity"}
    assert config.label2id == {"Normal": 0, "Other": 1, "Opacity": 2}
    assert config.problem_type == "single_label_classification"


@pytest.mark.parametrize(
    "tasks, message",
    [
        ([FINDINGS, FINDINGS], r"same name: \['vindr'\]"),
        ([], "at least one task"),
        ([{**FINDINGS, "lables": ["x"]}], "'name' and 'labels' required"),
        (["vindr"], "ArkTask or its dictionary, got 'vindr'"),
        ([{**FINDINGS, "eval_labels": 5}], "eval_labels must name labels, got 5"),
        ([{**FINDINGS, "eval_labels": [["x"]]}], "eval_labels must name labels"),
        ([{**FINDINGS, "thresholds": 10**30}], "thresholds must map labels to numbers"),
        ([{**FINDINGS, "thresholds": ["x"]}], "thresholds must map labels to numbers"),
        ([{**FINDINGS, 1: "x"}], "'name' and 'labels' required"),
        ([{"name": "Vindr", "labels": ["x"]}], "lower-case letters"),
    ],
)
def test_invalid_tasks_are_refused(tasks, message):
    with pytest.raises(ValueError, match=message):
        ArkConfig(tasks=tasks)
    config = ArkConfig(tasks=TWO_TASKS)
    with pytest.raises(ValueError, match=message):
        config.tasks = tasks
    assert_two_tasks(config)


@pytest.mark.parametrize("field", ["image_size", "num_channels", "projector_dim"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_size_that_is_not_positive_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} must be positive, got {value}"):
        ArkConfig(**{field: value})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone_kwargs": {"depths": [10**9, 1, 1, 1]}}, "1,000 blocks at most"),
        ({"backbone_kwargs": {"depth": 10**30}}, "1,000 blocks at most"),
        ({"num_labels": 10**9}, "num_labels must be at most 65,536"),
        ({"num_labels": 10**400}, "num_labels must be at most 65,536"),
    ],
)
def test_a_config_of_a_few_bytes_does_not_make_millions_of_parts(fields, message):
    with pytest.raises(ValueError, match=message):
        ArkConfig(**fields)
    with pytest.raises(ValueError, match=message):
        ArkConfig.from_dict(ArkConfig().to_dict() | fields)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_drop_path_rate_outside_the_unit_interval_is_refused(rate):
    with pytest.raises(ValueError, match="drop_path_rate"):
        ArkConfig(drop_path_rate=rate)


def test_an_unknown_projector_type_is_refused_with_the_known_ones():
    with pytest.raises(Exception, match=r"projector_type.*'linear', 'mlp'"):
        ArkConfig(projector_type="conv")


# --- JSON ---------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.lists(tasks(), min_size=1, max_size=3, unique_by=lambda task: task.name))
def test_a_config_survives_json(task_list):
    config = ArkConfig(tasks=task_list, backbone_kwargs={"depths": [1, 1]}, projector_dim=None)
    again = ArkConfig.from_dict(json.loads(config.to_json_string()))
    assert again.tasks == config.tasks == task_list
    assert again.to_dict() == config.to_dict()


def test_a_saved_config_keeps_every_field(tmp_path):
    task = {**OPACITY, "eval_labels": ["Opacity"], "thresholds": {"Opacity": 0.3}}
    fields = {
        "backbone": "convnext_tiny",
        "backbone_kwargs": {"dims": [8, 16, 24, 32]},
        "image_size": 64,
        "num_channels": 1,
        "projector_dim": None,
        "projector_type": "mlp",
        "drop_path_rate": 0.0,
        "tasks": [FINDINGS, task],
    }
    ArkConfig(**fields).save_pretrained(tmp_path)
    loaded = ArkConfig.from_pretrained(tmp_path)
    loaded_fields = {name: getattr(loaded, name) for name in fields}
    assert loaded_fields == {**fields, "tasks": [ArkTask(**FINDINGS), ArkTask(**task)]}


def test_an_ordinary_classifier_survives_saving(tmp_path):
    ArkConfig(id2label=OWN_ID2LABEL, label2id=OWN_LABEL2ID, problem_type="regression").save_pretrained(tmp_path)
    assert_ordinary_classifier(ArkConfig.from_pretrained(tmp_path), OWN_ID2LABEL, "regression")


def test_a_saved_config_names_the_classes_of_the_remote_code(two_tasks_folder):
    assert json.loads((two_tasks_folder / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_ark.ArkConfig",
        "AutoModel": "modeling_ark.ArkModel",
        "AutoModelForImageClassification": "modeling_ark.ArkForImageClassification",
        "AutoModelForSemanticSegmentation": "modeling_ark_segmentation.ArkForSemanticSegmentation",
    }


def test_a_deep_copy_is_independent():
    config = ArkConfig(tasks=TWO_TASKS)
    duplicate = copy.deepcopy(config)
    assert_two_tasks(duplicate)
    duplicate.tasks[0].labels.append("x")
    duplicate.id2label = OWN_ID2LABEL
    assert_ordinary_classifier(duplicate, OWN_ID2LABEL)
    assert_two_tasks(config)
    assert config.tasks[0].labels == FINDINGS["labels"]


# --- the caller wins: at construction -----------------------------------------------------------------------------


def test_at_construction_another_number_of_labels_wins():
    assert_ordinary_classifier(ArkConfig(tasks=TWO_TASKS, num_labels=2), {0: "LABEL_0", 1: "LABEL_1"})


def test_at_construction_other_labels_win():
    assert_ordinary_classifier(ArkConfig(tasks=TWO_TASKS, id2label=OWN_ID2LABEL), OWN_ID2LABEL)


@pytest.mark.parametrize("problem_type", [*PROBLEM_TYPES, "regression"])
def test_at_construction_a_problem_type_beside_other_labels_is_kept(problem_type):
    config = ArkConfig(tasks=TWO_TASKS, id2label=OWN_ID2LABEL, problem_type=problem_type)
    assert_ordinary_classifier(config, OWN_ID2LABEL, problem_type)


@pytest.mark.parametrize(
    "labels",
    [{"num_labels": 5}, {"id2label": TWO_TASKS_ID2LABEL}, {"id2label": TWO_TASKS_ID2LABEL, "num_labels": 5}],
    ids=lambda labels: " ".join(labels),
)
def test_at_construction_labels_that_agree_keep_the_tasks(labels):
    assert_two_tasks(ArkConfig(tasks=TWO_TASKS, **labels))


# --- the caller wins: in from_pretrained --------------------------------------------------------------------------


@pytest.mark.parametrize("num_labels", [1, 2, 3, 7])
def test_on_loading_another_number_of_labels_wins(two_tasks_folder, num_labels):
    config = ArkConfig.from_pretrained(two_tasks_folder, num_labels=num_labels)
    assert_ordinary_classifier(config, {i: f"LABEL_{i}" for i in range(num_labels)})


def test_on_loading_the_old_total_alone_asks_for_a_fresh_head(two_tasks_folder):
    assert_ordinary_classifier(ArkConfig.from_pretrained(two_tasks_folder, num_labels=5), GENERIC_5)


def test_on_loading_the_number_of_a_single_task_keeps_its_head(one_task_folder):
    config = ArkConfig.from_pretrained(one_task_folder, num_labels=3)
    assert task_names(config) == ["rsna"]
    assert config.id2label == {0: "Normal", 1: "Other", 2: "Opacity"}


def test_on_loading_another_number_drops_a_single_task_and_its_problem_type(one_task_folder):
    assert_ordinary_classifier(ArkConfig.from_pretrained(one_task_folder, num_labels=5), GENERIC_5)


@pytest.mark.parametrize("keys", [int, str])
@pytest.mark.parametrize(
    "extra", [{}, {"num_labels": 2}, {"label2id": OWN_LABEL2ID}], ids=lambda extra: " ".join(extra)
)
@pytest.mark.parametrize("labels_first", [True, False])
def test_on_loading_other_labels_win(two_tasks_folder, keys, extra, labels_first):
    id2label = {"id2label": {keys(i): label for i, label in OWN_ID2LABEL.items()}}
    kwargs = {**id2label, **extra} if labels_first else {**extra, **id2label}
    assert_ordinary_classifier(ArkConfig.from_pretrained(two_tasks_folder, **kwargs), OWN_ID2LABEL)


def test_on_loading_the_three_label_arguments_of_stock_scripts_win(two_tasks_folder):
    strings = {"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": "0", "dog": "1"}, "num_labels": 2}
    for order in (list(strings), list(reversed(strings))):
        config = ArkConfig.from_pretrained(two_tasks_folder, **{name: strings[name] for name in order})
        assert config.tasks is None
        assert config.id2label == OWN_ID2LABEL
        assert {label: int(i) for label, i in config.label2id.items()} == OWN_LABEL2ID


def test_on_loading_as_many_other_labels_as_the_old_total_win(two_tasks_folder):
    own = {i: f"finding {i}" for i in range(5)}
    assert_ordinary_classifier(ArkConfig.from_pretrained(two_tasks_folder, id2label=own, num_labels=5), own)


@pytest.mark.parametrize("keys", [int, str])
def test_on_loading_the_same_labels_keep_the_tasks(two_tasks_folder, keys):
    same = {keys(i): label for i, label in TWO_TASKS_ID2LABEL.items()}
    assert_two_tasks(ArkConfig.from_pretrained(two_tasks_folder, id2label=same))
    assert_two_tasks(ArkConfig.from_pretrained(two_tasks_folder, id2label=same, num_labels=5))


@pytest.mark.parametrize("problem_type", [*PROBLEM_TYPES, "regression"])
@pytest.mark.parametrize("labels", [{"id2label": OWN_ID2LABEL}, {"num_labels": 2}], ids=["id2label", "num_labels"])
@pytest.mark.parametrize("labels_first", [True, False])
def test_on_loading_a_problem_type_beside_other_labels_is_kept(two_tasks_folder, problem_type, labels, labels_first):
    given_type = {"problem_type": problem_type}
    kwargs = {**labels, **given_type} if labels_first else {**given_type, **labels}
    config = ArkConfig.from_pretrained(two_tasks_folder, **kwargs)
    assert config.tasks is None
    assert config.num_labels == 2
    assert config.problem_type == problem_type


def test_on_loading_new_tasks_replace_the_stored_ones(two_tasks_folder):
    for extra in ({}, {"num_labels": 3}):
        config = ArkConfig.from_pretrained(two_tasks_folder, tasks=[OPACITY], **extra)
        assert task_names(config) == ["rsna"]
        assert config.id2label == {0: "Normal", 1: "Other", 2: "Opacity"}
        assert config.problem_type == "single_label_classification"


def test_unused_arguments_are_returned_and_used_ones_are_not(two_tasks_folder):
    kwargs = {"num_labels": 5, "problem_type": "regression", "foo": 1, "return_unused_kwargs": True}
    config, unused = ArkConfig.from_pretrained(two_tasks_folder, **kwargs)
    assert_ordinary_classifier(config, GENERIC_5, "regression")
    assert unused == {"foo": 1}


def test_loading_from_a_dictionary_leaves_it_as_it_was():
    values = ArkConfig(tasks=TWO_TASKS).to_dict()
    before = copy.deepcopy(values)
    ArkConfig.from_dict(values, num_labels=2)
    assert values == before


# --- the caller wins: set later -----------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [int, str])
def test_other_labels_set_later_win(keys):
    config = ArkConfig(tasks=TWO_TASKS)
    config.id2label = {keys(i): label for i, label in OWN_ID2LABEL.items()}
    assert_ordinary_classifier(config, OWN_ID2LABEL)


@pytest.mark.parametrize("keys", [int, str])
def test_as_many_other_labels_set_later_win(keys):
    own = {i: f"finding {i}" for i in range(5)}
    config = ArkConfig(tasks=TWO_TASKS)
    config.id2label = {keys(i): label for i, label in own.items()}
    assert_ordinary_classifier(config, own)


@pytest.mark.parametrize("keys", [int, str])
def test_the_same_labels_set_later_keep_the_tasks(keys):
    config = ArkConfig(tasks=TWO_TASKS)
    config.id2label = {keys(i): label for i, label in TWO_TASKS_ID2LABEL.items()}
    assert_two_tasks(config)


def test_another_number_of_labels_set_later_wins():
    config = ArkConfig(tasks=[OPACITY])
    config.num_labels = 5
    assert_ordinary_classifier(config, GENERIC_5)


def test_a_problem_type_set_later_is_kept_when_the_labels_win():
    config = ArkConfig(tasks=TWO_TASKS)
    config.problem_type = "single_label_classification"
    config.id2label = OWN_ID2LABEL
    assert_ordinary_classifier(config, OWN_ID2LABEL, "single_label_classification")


def test_labels_of_an_ordinary_classifier_set_later_get_integer_keys():
    config = ArkConfig()
    config.id2label = {"0": "cat", "1": "dog"}
    assert config.id2label == OWN_ID2LABEL


def test_an_ordinary_classifier_made_from_tasks_survives_saving(two_tasks_folder):
    ArkConfig.from_pretrained(two_tasks_folder, id2label=OWN_ID2LABEL).save_pretrained(two_tasks_folder)
    assert_ordinary_classifier(ArkConfig.from_pretrained(two_tasks_folder), OWN_ID2LABEL)


ORGANS = {"name": "organs", "labels": ["lungs", "heart"], "overlapping": False}
RIBS = {"name": "ribs", "labels": ["R1", "R2"], "overlapping": True, "thresholds": {"R1": 0.3}, "modality": "CT"}


@pytest.mark.parametrize("values", [ORGANS, RIBS, {**ORGANS, "pixel_spacing": [0.2, 0.14]}], ids=str)
def test_a_segmentation_survives_json_and_names_the_values_of_a_label_map(values):
    config = ArkConfig(segmentation=values)
    assert config.segmentation == SegmentationTask(**values) and config.segmentation.to_dict() == values
    again = ArkConfig.from_dict(json.loads(config.to_json_string()))
    for each in (config, again, copy.deepcopy(again)):
        assert (each.segmentation, each.tasks, each.problem_type) == (SegmentationTask(**values), None, None)
        assert each.id2label == {0: "background", 1: values["labels"][0], 2: values["labels"][1]}
        assert each.label2id == {label: value for value, label in each.id2label.items()}


def test_channels_of_logits_are_the_labels_and_the_background_only_where_they_exclude_each_other():
    assert SegmentationTask(**ORGANS).classes == ["background", "lungs", "heart"]
    assert SegmentationTask(**RIBS).classes == ["R1", "R2"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"labels": ["lungs", "background"]}, "it is what is left"),
        ({"labels": "lungs"}, "non-empty list"),
        ({"labels": ["a", "a"]}, "more than once"),
        ({"name": "Organs"}, "lower-case"),
        ({"overlapping": 1}, "true or false"),
        ({"thresholds": {"lungs": 0.5}}, "a softmax has none"),
        ({"overlapping": True, "thresholds": {"liver": 0.5}}, "not among its labels"),
        ({"overlapping": True, "thresholds": {"lungs": 2}}, r"number in \[0, 1\]"),
        ({"pixel_spacing": [0.1]}, "two positive numbers"),
        ({"pixel_spacing": [0.1, float("inf")]}, "two positive numbers"),
        ({"modality": "DX"}, "is CR"),
        ({"kind": "x"}, "has the fields"),
    ],
)
def test_invalid_segmentations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ArkConfig(segmentation={**ORGANS, **changes})


def test_tasks_and_a_segmentation_are_never_together():
    with pytest.raises(ValueError, match="never both"):
        ArkConfig(tasks=TWO_TASKS, segmentation=ORGANS)
    config = ArkConfig(tasks=TWO_TASKS)
    config.segmentation = RIBS
    assert (config.tasks, config.problem_type, config.num_labels) == (None, None, 3)
    with pytest.raises(ValueError, match="two positive"):
        config.segmentation = {**RIBS, "pixel_spacing": 1}
    assert config.segmentation == SegmentationTask(**RIBS)
    config.tasks = TWO_TASKS
    assert config.segmentation is None and config.id2label == TWO_TASKS_ID2LABEL
    stored = json.loads(ArkConfig(tasks=TWO_TASKS).to_json_string())
    assert not {"segmentation", "decoder_type", "decoder_channels"} & set(stored)
    assert ArkConfig.from_dict(stored, segmentation=ORGANS).tasks is None
    stored = json.loads(ArkConfig(segmentation=ORGANS).to_json_string())
    assert task_names(ArkConfig.from_dict(stored, tasks=TWO_TASKS)) == ["vindr", "rsna"]


@pytest.mark.parametrize("arguments", [{"num_labels": 5}, {"id2label": {i: f"LABEL_{i}" for i in range(5)}}])
def test_the_callers_classes_win_over_a_stored_segmentation(arguments):
    stored = json.loads(ArkConfig(segmentation=ORGANS).to_json_string())
    for config in (ArkConfig.from_dict(stored, **arguments), ArkConfig(segmentation=ORGANS, **arguments)):
        assert config.segmentation is None and config.id2label == GENERIC_5
    config = ArkConfig(segmentation=ORGANS)
    config.num_labels = 5
    assert config.segmentation is None and config.id2label == GENERIC_5

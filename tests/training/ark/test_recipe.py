"""Recipes: what they may say, and that every slip is named before any training time is spent."""

import json
import math
import re
import typing
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ark_hf.training.ark.recipe import QUIRKS, PretrainingArguments, TaskSpec, parse_tasks
from ark_hf.training.recipe import read_recipe
from ark_hf.training.settings import Uncertain

CHOICES = {
    name: typing.get_args(annotation)
    for name, annotation in typing.get_type_hints(PretrainingArguments).items()
    if typing.get_origin(annotation) is typing.Literal
}
UNCERTAIN_POLICIES = typing.get_args(Uncertain)

RECIPE = """
output_dir: runs/ark6
cycles: 3
learning_rate: 1e-3   # a string to YAML 1.1
projector_dim: null
backbone_kwargs: {window_size: 12}
tasks:
  - {dataset: me/chexpert, uncertain: lsr_ones}
  - {dataset: other/cxr, name: tb, columns: {image: img, labels: [TB]}}
"""


def arguments(**settings) -> PretrainingArguments:
    return PretrainingArguments(**{"output_dir": "run"} | settings)


def written(folder: Path, content: str | bytes, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# Files


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_recipe_is_read_from_yaml_and_json(tmp_path, kind):
    text = RECIPE if kind == "yaml" else json.dumps(yaml.safe_load(RECIPE))
    values = read_recipe(written(tmp_path, text, f"recipe.{kind}"))
    specs = parse_tasks(values.pop("tasks"), "recipe")
    args = PretrainingArguments(**values)
    assert (args.output_dir, args.cycles, args.learning_rate, args.projector_dim) == ("runs/ark6", 3, 1e-3, None)
    assert args.backbone_kwargs == {"window_size": 12}
    assert specs == [
        TaskSpec("me/chexpert", uncertain="lsr_ones"),
        TaskSpec("other/cxr", name="tb", columns={"image": "img", "labels": ["TB"]}),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tasks: [", "is not valid YAML"),
        ("a: b: c", "is not valid YAML"),
        ("output_dir: \x00", "is not valid YAML"),
        ("{[1]: 2}", "is not valid YAML"),
        ("output_dir: !!python/object/apply:os.system [ls]", "is not valid YAML"),
        ("cycles: 2\noutput_dir: x\ncycles: 3", "line 3, column 1: 'cycles' stands twice"),
        ('{"cycles": 2, "cycles": 3}', "'cycles' stands twice"),
        ("a: &a [x]\ntasks: [*a, *a]", "anchors and aliases"),
        ("", "must map settings to values"),
        ("- cycles", "must map settings to values"),
        ("cycles", "must map settings to values"),
    ],
)
def test_file_that_is_no_mapping_is_refused_by_name(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=message) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"output_dir: \xff", "output_dir: 2020-13-45", "[" * 1500])
def test_file_that_the_parser_itself_stumbles_over_is_refused_by_name(tmp_path, content):
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match="is not valid YAML") as caught:
        read_recipe(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_missing_file_is_refused_by_name(tmp_path, name):
    with pytest.raises(ValueError, match="Cannot read the recipe") as caught:
        read_recipe(tmp_path / name)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("learnin_rate", "learning_rate"),
        ("batchsize", "batch_size"),
        ("Cycles", "cycles"),
        ("outputdir", "output_dir"),
        ("task", "tasks"),
        ("back-bone", "backbone"),
        ("ema", "ema_mode"),
    ],
)
def test_misspelled_setting_names_the_nearest_right_one(tmp_path, wrong, right):
    path = written(tmp_path, f"seed: 1\n{wrong}: 1\n")
    with pytest.raises(ValueError) as caught:
        read_recipe(path)
    assert str(caught.value) == f"{path}: unknown key `{wrong}`; did you mean `{right}`?"


@pytest.mark.parametrize("key", ["zzzzzz", 5, 0.5])
def test_setting_like_no_other_lists_what_is_allowed(tmp_path, key):
    with pytest.raises(ValueError, match=f"unknown key `{key}`; allowed are .*'output_dir', .*'tasks'"):
        read_recipe(written(tmp_path, yaml.safe_dump({key: 1})))


# Tasks


@pytest.mark.parametrize("entries", [None, [], {}, "data/rsna", {"dataset": "data/rsna"}])
def test_recipe_without_a_list_of_tasks_is_refused(entries):
    with pytest.raises(ValueError, match="my.yaml: `tasks` must list at least one dataset"):
        parse_tasks(entries, "my.yaml")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("data/rsna", "my.yaml: task 2 must be a mapping with the key `dataset`, got 'data/rsna'"),
        ({"name": "tb"}, "my.yaml: task 2 must be a mapping with the key `dataset`, got {'name': 'tb'}"),
        ({"dataset": "a", "uncertan": "ones"}, "my.yaml, task 2: unknown key `uncertan`; did you mean `uncertain`?"),
        ({"dataset": "a", "column": {}}, "my.yaml, task 2: unknown key `column`; did you mean `columns`?"),
        ({"dataset": "a", 3: {}}, "my.yaml, task 2: unknown key `3`; allowed are ['dataset', 'name',"),
        ({"dataset": "a", "uncertain": "maybe"}, f"task 'a': uncertain is 'maybe'; use one of {UNCERTAIN_POLICIES}"),
        ({"dataset": "a", "columns": {"image": "i", "labels": ["l"]}}, "task 'a': a dataset read through `columns`"),
    ],
)
def test_wrong_task_is_named_with_what_is_allowed(entry, message):
    with pytest.raises(ValueError) as caught:
        parse_tasks([{"dataset": "fine"}, entry], "my.yaml")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dataset": 5}, "dataset must be str, got 5"),
        ({"dataset": None}, "dataset must be str, got None"),
        ({"dataset": ["a"]}, r"dataset must be str, got \['a'\]"),
        ({"dataset": " "}, "dataset is blank"),
        ({"dataset": "a", "name": 5}, "task 'a': name must be str, got 5"),
        ({"dataset": "a", "name": "tb", "columns": ["TB"]}, r"task 'a': columns must be dict, got \['TB'\]"),
        ({"dataset": "a", "name": "tb", "columns": "TB"}, "task 'a': columns must be a JSON object, got 'TB'"),
    ],
)
def test_task_field_of_a_wrong_type_is_named(entry, message):
    with pytest.raises(ValueError, match=message):
        parse_tasks([entry], "my.yaml")


def test_dataset_is_a_folder_under_data_root_or_else_a_hub_id(tmp_path):
    (tmp_path / "data" / "rsna").mkdir(parents=True)
    assert TaskSpec("data/rsna").location(str(tmp_path)) == str(tmp_path / "data" / "rsna")
    assert TaskSpec("me/chexpert").location(str(tmp_path)) == "me/chexpert"
    absolute = str(tmp_path / "data" / "rsna")
    assert TaskSpec(absolute).location("elsewhere") == absolute


# Settings


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("learning_rate", "1e-3", 1e-3),
        ("learning_rate", 1, 1.0),
        ("max_grad_norm", "5", 5.0),
        ("warmup_steps", 100, 100.0),
        ("backbone_kwargs", '{"depths": [1, 2]}', {"depths": [1, 2]}),
        ("backbone_kwargs", None, None),
        ("projector_dim", None, None),
        ("max_grad_norm", None, None),
        ("eval_batch_size", None, None),
        ("min_crop_scale", 1, 1.0),
        ("ema_momentum", 0, 0.0),
        ("reproduce", ["bce_everywhere"], ["bce_everywhere"]),
        ("reproduce", [*QUIRKS][2:], [*QUIRKS][2:]),
        ("reproduce", ("bce_everywhere",), ["bce_everywhere"]),
        ("mixed_precision", False, "no"),  # what YAML reads in a bare `no`
        ("output_dir", Path("runs/mine"), "runs/mine"),
    ],
)
def test_value_becomes_the_type_of_its_setting(name, value, expected):
    result = getattr(arguments(**{name: value}), name)
    assert result == expected and type(result) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "kinds"),
    [
        ("cycles", "three", "int"),
        ("cycles", 2.5, "int"),
        ("cycles", True, "int"),
        ("cycles", None, "int"),
        ("learning_rate", "fast", "float"),
        ("learning_rate", False, "float"),
        ("learning_rate", [0.1], "float"),
        ("learning_rate", None, "float"),
        ("max_grad_norm", "none", "float"),
        ("projector_dim", 13.5, "int"),
        ("backbone", 5, "str"),
        ("backbone", None, "str"),
        ("gradient_checkpointing", "yes", "bool"),
        ("gradient_checkpointing", 1, "bool"),
        ("backbone_kwargs", [1], "dict"),
        ("reproduce", {"bce_everywhere": True}, "list"),
    ],
)
def test_value_of_a_wrong_type_is_named_with_the_right_one(name, value, kinds):
    with pytest.raises(ValueError) as caught:
        arguments(**{name: value})
    assert str(caught.value) == f"{name} must be {kinds}, got {value!r}."


@pytest.mark.parametrize("name", CHOICES)
def test_choice_lists_what_there_is(name):
    for allowed in CHOICES[name]:
        assert getattr(arguments(**{name: allowed}), name) == allowed
    with pytest.raises(ValueError) as caught:
        arguments(**{name: "other"})
    assert str(caught.value) == f"{name} is 'other'; use one of {CHOICES[name]}."


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        (name, value, "be positive")
        for name in ("cycles", "batch_size", "image_size", "save_steps")
        for value in (0, -1)
    ]
    + [(name, 0, "be positive") for name in ("learning_rate", "resize_size", "projector_dim", "eval_batch_size")]
    + [(name, -1, "not be negative") for name in ("weight_decay", "warmup_steps", "dataloader_num_workers", "seed")]
    + [(name, 1, "lie in [0, 1)") for name in ("ema_momentum", "consistency", "drop_path_rate")]
    + [(name, -0.1, "lie in [0, 1)") for name in ("ema_momentum", "consistency", "drop_path_rate")]
    + [("min_crop_scale", value, "lie in (0, 1]") for value in (0, 1.5)],
)
def test_value_out_of_range_is_named_with_the_range(name, value, allowed):
    with pytest.raises(ValueError) as caught:
        arguments(**{name: value})
    assert str(caught.value).startswith(f"{name} must {allowed}, got ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", math.nan),
        ("learning_rate", "inf"),
        pytest.param("learning_rate", 10**400, id="learning_rate-huge"),
        ("warmup_steps", math.nan),
        ("weight_decay", math.inf),
        ("max_grad_norm", math.nan),
        ("max_grad_norm", -1.0),
        ("backbone_kwargs", "{"),
        ("backbone_kwargs", '"abc"'),
        ("reproduce", [["bce_everywhere"]]),
        ("reproduce", [1, "other"]),
    ],
)
def test_value_that_would_fail_later_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} "):
        arguments(**{name: value})


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("all", None), ("", None), ("bce_everywere", "bce_everywhere"), ("lr_by_loss", "lr_by_val_loss")],
)
def test_unknown_quirk_is_named_with_the_nearest_or_those_there_are(wrong, nearest):
    with pytest.raises(ValueError) as caught:
        arguments(reproduce=["zero_idle_grads", wrong])
    hint = f"allowed are {[*QUIRKS]}." if nearest is None else f"did you mean `{nearest}`?"
    assert str(caught.value) == f"reproduce names {wrong!r}; {hint}"


def test_one_quirk_is_a_list_too_and_none_stands_twice():
    with pytest.raises(ValueError, match=re.escape("must be a list: write `reproduce: [lr_by_val_loss]`.")):
        arguments(reproduce="lr_by_val_loss")
    with pytest.raises(ValueError, match="reproduce names 'bce_everywhere' twice"):
        arguments(reproduce=["bce_everywhere", "zero_idle_grads", "bce_everywhere"])


def test_quirk_that_the_ema_mode_leaves_without_effect_is_refused():
    with pytest.raises(ValueError, match="ema_index_by_pass needs ema_mode: iteration"):
        arguments(reproduce=["ema_index_by_pass"])
    assert arguments(reproduce=[*QUIRKS], ema_mode="iteration").reproduce == [*QUIRKS]


def test_settings_survive_their_own_dictionary():
    args = arguments(learning_rate="2e-3", backbone_kwargs='{"depths": [1]}', max_grad_norm=1)
    assert PretrainingArguments(**args.to_dict()) == args
    assert PretrainingArguments(**json.loads(json.dumps(args.to_dict()))) == args


def test_two_arguments_never_share_a_list():
    assert arguments().reproduce is not arguments().reproduce


# Anything

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 300), st.just(10**400), st.floats(), st.text(max_size=5),
    st.sampled_from(["1e-3", "nan", "{}", "[", '"a"', "sgd", "student", "lsr_ones", "bce_everywhere", "../x"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3), max_leaves=5
)
SETTINGS = [each.name for each in fields(PretrainingArguments)]
TASK_FIELDS = [each.name for each in fields(TaskSpec)]


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(SETTINGS), SCALARS | VALUES, max_size=2))
def test_any_settings_give_arguments_or_a_refusal(values):
    try:
        args = PretrainingArguments(**{"output_dir": "run", **values})
    except ValueError:
        return
    assert args.image_size is None or args.image_size > 0
    assert isinstance(args.backbone_kwargs, dict | None)
    assert all(math.isfinite(value) for value in args.to_dict().values() if isinstance(value, float))


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.lists(st.dictionaries(st.sampled_from([*TASK_FIELDS, "data"]), VALUES, max_size=3) | VALUES, max_size=3))
def test_any_tasks_give_specs_or_a_refusal(entries):
    try:
        specs = parse_tasks(entries, "recipe")
    except ValueError:
        return
    assert len(specs) == len(entries) > 0
    for spec in specs:
        assert isinstance(spec.dataset, str) and isinstance(spec.columns, dict | None)
        assert isinstance(spec.name, str | None) and spec.uncertain in UNCERTAIN_POLICIES


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("recipe") / "recipe.yaml"


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.one_of(st.binary(max_size=40), st.text(max_size=40).map(str.encode), VALUES.map(lambda v: repr(v).encode())))
def test_any_file_gives_settings_or_a_refusal(recipe_file, content):
    recipe_file.write_bytes(content)
    try:
        values = read_recipe(recipe_file)
    except ValueError as error:
        assert str(recipe_file) in str(error)
        return
    assert set(values) <= {*SETTINGS, "tasks"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"projector_dim": None, "projector_type": "mlp"}, "projector_type mlp has no effect"),
        ({"reproduce": ["lr_by_val_loss"], "lr_scheduler_type": "constant"}, "leave out lr_scheduler_type"),
    ],
)
def test_a_setting_that_would_have_no_effect_is_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        arguments(**settings)

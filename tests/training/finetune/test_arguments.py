"""The options of fine-tuning: read as a recipe's are, and every slip named before any training time is spent."""

from dataclasses import fields

import pytest

from ark_hf.cli.finetune import FinetuneCommand
from ark_hf.training.finetune.arguments import FinetuningArguments
from ark_hf.training.finetune.data import check_mask_options
from ark_hf.training.settings import read_settings
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("learning_rate", "1e-4", 1e-4),  # a string to YAML 1.1
        ("epochs", 3, 3.0),
        ("projector_dim", None, None),
        ("backbone_kwargs", '{"depths": [1]}', {"depths": [1]}),
        ("freeze", 2, "2"),
        ("mixed_precision", False, "no"),  # what YAML reads in a bare `no`
        ("seeds", (0, 1), [0, 1]),
    ],
)
def test_value_becomes_the_type_of_its_setting(name, value, expected):
    result = getattr(FinetuningArguments("run", **{name: value}), name)
    assert result == expected and type(result) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seeds", 3, "seeds must be a list: write `seeds: [3]`."),
        ("seeds", [0, "one"], "seeds must be int, got 'one'."),
        ("label_columns", "label", "label_columns must be a list: write `label_columns: [label]`."),
        ("test", "no", "test must be bool, got 'no'."),
        ("batch_size", "32", "batch_size must be int, got '32'."),
        ("backbone_kwargs", "[1]", "backbone_kwargs must be a JSON object, got '[1]'."),
        ("loss", "focl", "loss is 'focl'; use one of ('cross_entropy', 'focal', 'dice')."),
        ("learning_rate", "fast", "learning_rate must be float, got 'fast'."),
        ("learning_rate", float("nan"), "learning_rate must be a finite number, got nan."),
        ("freeze", True, "freeze must be str, got True."),
    ],
)
def test_value_of_a_wrong_type_is_named_with_the_right_one(name, value, message):
    with pytest.raises(ValueError) as caught:
        FinetuningArguments("run", **{name: value})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"focal_gamma": 3.0}, "--loss focal"),
        ({"effective_beta": 0.9}, "--class_weighting effective"),
        ({"effective_beta": 0.9, "class_weighting": "balanced"}, "--class_weighting effective"),
        ({"image_column": "img"}, "--label_columns"),
        ({"projector_dim": None, "projector_type": "mlp"}, "projector_type"),
        ({"freeze": "encoder", "layer_decay": 0.5}, "layer_decay"),
        ({"freeze": "encoder", "drop_path_rate": 0.5}, "drop_path_rate"),
    ],
)
def test_a_setting_that_would_have_no_effect_is_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        FinetuningArguments("run", **settings)


def test_what_goes_together_is_taken():
    FinetuningArguments("run", loss="focal", focal_gamma=3.0, class_weighting="effective", effective_beta=0.9)
    FinetuningArguments("run", name="tb", label_columns=["TB"], image_column="img")
    FinetuningArguments("run", freeze="2", layer_decay=0.5, drop_path_rate=0.5)


def test_the_lab_s_protocol_is_a_recipe():
    path = REPOSITORY / "examples" / "segment_protocol.yaml"
    values = read_settings(str(path), [each.name for each in fields(FinetuneCommand)])
    args = FinetuneCommand(**values)
    assert (args.loss, args.image_size, args.patience) == ("dice", 448, 50)
    check_mask_options(args)

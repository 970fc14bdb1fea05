"""GenesisConfig: what is checked, what follows from what, the JSON form; labels are derived as those of Ark."""

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from hypothesis import given, settings
from hypothesis import strategies as st

from ark_hf.models.ark.configuration_ark import ArkTask, SegmentationTask
from ark_hf.models.genesis.configuration_genesis import GenesisConfig

NODULE = ArkTask("luna16", ["Nodule"], modality="CT")
KIND = ArkTask("kind", ["Solid", "Part-solid", "Ground glass"], "single_label_classification", modality="CT")
ORGANS = SegmentationTask("organs", ["lungs", "trachea"], modality="CT")


def test_new_models_are_those_of_the_paper_but_for_axes_and_batch_norm():
    config = GenesisConfig()
    assert (config.width, config.depth, config.num_channels, config.activation) == (32, 4, 1, "relu")
    assert (config.axes, config.cube_size, config.batch_statistics) == ("zyx", [32, 64, 64], False)
    assert (config.spacing, config.hu_window) == (None, [-1000.0, 1000.0])
    assert GenesisConfig(axes="xyz").cube_size == [64, 64, 32]


@settings(max_examples=25)
@given(
    depth=st.integers(2, 5),
    multiples=st.lists(st.integers(1, 4), min_size=3, max_size=3),
    axes=st.sampled_from(["zyx", "xyz"]),
    spacing=st.none() | st.lists(st.floats(0.1, 10), min_size=3, max_size=3),
    window=st.none() | st.tuples(st.integers(-2000, -1), st.integers(0, 3000)),
    batch_statistics=st.booleans(),
)
def test_every_field_survives_json(depth, multiples, axes, spacing, window, batch_statistics):
    config = GenesisConfig(
        depth=depth,
        cube_size=tuple(each * 2 ** (depth - 1) for each in multiples),
        axes=axes,
        spacing=spacing,
        hu_window=window,
        batch_statistics=batch_statistics,
        tasks=[NODULE, KIND],
    )
    again = GenesisConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert again.tasks == [NODULE, KIND] and again.spacing == spacing
    assert again.hu_window == (None if window is None else [float(each) for each in window])


def test_a_config_without_a_window_is_saved_as_such(tmp_path):
    GenesisConfig(hu_window=None, cube_size=[8, 16, 16]).save_pretrained(tmp_path)
    config = GenesisConfig.from_pretrained(tmp_path)
    assert (config.hu_window, config.cube_size) == (None, [8, 16, 16])
    assert GenesisConfig.from_pretrained(tmp_path, hu_window=[-160, 240]).hu_window == [-160.0, 240.0]


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"depth": 1}, "depth must be at least 2, got 1"),
        ({"num_channels": 0}, "num_channels must be at least 1"),
        ({"cube_size": [32, 64]}, "cube_size must be three positive integers, one an axis"),
        ({"cube_size": [32.0, 64.0, 64.0]}, "cube_size must be three positive integers"),
        ({"cube_size": 64}, "cube_size must be three positive integers"),
        ({"cube_size": [32, 64, 60]}, "multiples of 8 for a network of 4 levels, got .32, 64, 60."),
        ({"depth": 10**30}, "depth must be at most 10"),
        ({"num_labels": 10**9}, "num_labels must be at most 65,536"),
        ({"depth": 7}, "multiples of 64 for a network of 7 levels, got .32, 64, 64."),
        ({"spacing": [1, 1, 0]}, "spacing must be three positive numbers"),
        ({"spacing": [1, 1, float("nan")]}, "spacing must be three positive numbers"),
        ({"spacing": "1 1 1"}, "spacing must be three positive numbers"),
        ({"hu_window": [1000, -1000]}, "hu_window must be two numbers of Hounsfield units, the lower one first"),
        ({"hu_window": [-1000]}, "hu_window must be two numbers"),
        ({"hu_window": [float("-inf"), 0]}, "hu_window must be two numbers"),
        ({"axes": "yxz"}, "yxz"),
        ({"activation": "gelu"}, "gelu"),
        ({"batch_statistics": "yes"}, "batch_statistics"),
        ({"tasks": []}, "at least one task"),
        ({"tasks": [NODULE], "segmentation": ORGANS}, "never both"),
    ],
)
def test_what_makes_no_sense_is_an_error(wrong, message):
    with pytest.raises((ValueError, StrictDataclassFieldValidationError), match=message):
        GenesisConfig(**wrong)


def test_labels_follow_from_tasks_and_the_caller_wins():
    config = GenesisConfig(tasks=[NODULE.to_dict(), KIND])
    assert config.tasks == [NODULE, KIND] and config.problem_type == "multi_label_classification"
    assert config.id2label == {0: "luna16/Nodule", 1: "kind/Solid", 2: "kind/Part-solid", 3: "kind/Ground glass"}
    config.segmentation = ORGANS.to_dict()
    assert config.tasks is None and config.segmentation == ORGANS
    assert config.id2label == {0: "background", 1: "lungs", 2: "trachea"}
    own = GenesisConfig.from_dict(config.to_dict(), num_labels=5)
    assert own.segmentation is None and own.num_labels == 5


def test_operating_points_are_bound_to_what_the_model_sees():
    views = [
        GenesisConfig(**each).view
        for each in ({}, {"spacing": [1, 1, 1]}, {"hu_window": [-160, 240]}, {"axes": "xyz"}, {"activation": "elu"},
                     {"batch_statistics": True}, {"cube_size": [64, 64, 64]})
    ]  # fmt: skip
    assert len(set(views)) == len(views)

"""Folders that are no whole model are refused in one line, whatever their files make the libraries do."""

import json

import pytest

from ark_hf import ArkConfig, ArkForImageClassification, ArkImageProcessor, ArkTask
from ark_hf.hub.families import family_of
from ark_hf.inference.load import load_model
from tests.training.conftest import TINY


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    settings = {name: TINY[name] for name in ("backbone", "backbone_kwargs", "projector_dim", "image_size")}
    ArkForImageClassification(ArkConfig(**settings, tasks=[ArkTask("tb", ["TB"])])).save_pretrained(folder)
    ArkImageProcessor(size=32).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("where", ["ark-cxr", "seed-0/ark-cxr", "seed-3/genesis"])
def test_of_a_run_the_model_in_it_is_named(tmp_path, where):
    run = tmp_path / "run"
    (run / where).mkdir(parents=True)
    (run / where / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"it has no config.json. Did you mean {run / where}\\?"):
        load_model(str(run))


@pytest.mark.parametrize(
    "change",
    [
        {"backbone_kwargs": {"depths": [1, 1, 1, 1], "dims": [8, 16]}},  # timm: IndexError
        {"backbone_kwargs": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32], "patch_size": 0}},
        {"backbone_kwargs": {"depths": "", "dims": [8, 16, 24, 32]}},
        {"backbone_kwargs": {"no_such": 1}},
        {"projector_dim": 10**9},
        {"num_labels": 10**9, "tasks": None},
        {"tasks": [[]]},
        {"id2label": {"x": "a"}, "tasks": None},
    ],
)
def test_a_config_that_does_not_fit_is_named(model, tmp_path, change):
    for path in model.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "config.json").unlink()
    values = json.loads((model / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="Cannot load an Ark model from") as caught:
        load_model(str(tmp_path))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[]", '{"model_type": "bert"}', None])
def test_a_damaged_config_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    for read in (lambda: load_model(str(tmp_path)), lambda: family_of(tmp_path)):
        with pytest.raises(ValueError, match="config.json"):
            read()

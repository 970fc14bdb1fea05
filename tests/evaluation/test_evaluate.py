"""What reports call the models that they are about."""

import pytest

from ark_hf.evaluation.evaluate import _distinct_names


@pytest.mark.parametrize(
    ("model", "other", "names"),
    [
        ("someone/ark-cxr", None, ("someone/ark-cxr", "")),
        ("/home/me/runs/a/ark-cxr", None, ("ark-cxr", "")),
        ("someone/ark-cxr", "else/ark-cxr", ("someone/ark-cxr", "else/ark-cxr")),
        ("/home/me/runs/a/ark-cxr", "/home/me/runs/b/ark-cxr", ("a/ark-cxr", "b/ark-cxr")),
        ("/one/a/ark-cxr", "/two/a/ark-cxr", ("ark-cxr", "ark-cxr (other)")),
    ],
)
def test_models_are_told_apart_with_as_little_of_their_paths_as_will_do(model, other, names):
    assert _distinct_names(model, other) == names

"""What transformers' tests find in their own repository: their marks, and the names of models with labels."""

import pytest
from transformers.models.auto import modeling_auto

MARKS = (
    "accelerate_tests",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "flash_attn_test",
    "torch_compile_test",
)


def pytest_configure(config):
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: set by transformers' tests")


@pytest.fixture(autouse=True, scope="module")
def names_of_classes():
    """They look up by name which classes take labels; a registered class has no entry there."""
    with pytest.MonkeyPatch.context() as patch:
        for model_type, name in (("ark", "Ark"), ("genesis", "Genesis")):
            patch.setitem(modeling_auto.MODEL_MAPPING_NAMES, model_type, f"{name}Model")
            classifiers = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
            patch.setitem(classifiers, model_type, f"{name}ForImageClassification")
        yield

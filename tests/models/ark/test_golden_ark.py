"""Forward parity with the original models: features, embeddings and every head's logits within 5e-6."""

import numpy as np
import pytest
import torch

from ark_hf.models.ark.modeling_ark import ArkForImageClassification

from .golden import golden_config, load_original, normalise, read_case, rule_state_dict


def check_outputs(model: ArkForImageClassification, arrays: dict, prefix: str = "") -> None:
    model.eval()
    pixel_values = normalise(arrays["image_u8"])
    with torch.no_grad():
        outputs = model.ark(pixel_values)
        logits = [model(pixel_values, task=task.name).logits for task in model.config.tasks]
    np.testing.assert_allclose(outputs.pooler_output, arrays[prefix + "forward_features"], rtol=0, atol=5e-6)
    np.testing.assert_allclose(outputs.embeddings, arrays[prefix + "embedding"], rtol=0, atol=5e-6)
    for number, head in enumerate(logits):
        np.testing.assert_allclose(head, arrays[f"{prefix}logits_{number}"], rtol=0, atol=5e-6)
    if prefix + "last_tokens_norm_token0" in arrays:
        expected = arrays[prefix + "last_tokens_norm_token0"]
        np.testing.assert_allclose(outputs.last_hidden_state[:, 0], expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", ["swin_small224", "swin_noproj", "swin_shiftlast192", "convnext_small"])
def test_outputs_equal_the_originals(shared, name):
    case, arrays = read_case(shared / "golden" / "ark", name)
    model = ArkForImageClassification(golden_config(case))
    shapes = {key: shape for key, shape, *_ in case["state_dict"] if key in case["parameter_order"]}
    load_original(model, rule_state_dict(shapes, case["weight_seed"]))
    check_outputs(model, arrays)


def test_flat_teacher_checkpoint_gives_the_originals_outputs(shared):
    folder = shared / "golden" / "ark"
    case, arrays = read_case(folder, "ckpt_swin_tiny")
    model = ArkForImageClassification(golden_config(case))
    load_original(model, torch.load(folder / "ckpt_swin_tiny_flat_teacher.pth.tar", weights_only=True))
    check_outputs(model, arrays, "teacher/")

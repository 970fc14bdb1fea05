"""A trained model at another image size: masks rebuilt, tables kept or interpolated, outputs as if built for it."""

import pytest
import torch

from ark_hf.models.ark.configuration_ark import ArkConfig
from ark_hf.models.ark.modeling_ark import ArkForImageClassification, ArkModel

from .golden import golden_config, load_original, read_case, weight_by_rule
from .test_golden_ark import check_outputs

SWIN = {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
VIT = {"patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 3}
TASKS = [{"name": "one", "labels": ["a", "b"]}, {"name": "two", "labels": ["c"]}]


def build(image_size=64, backbone="swin_tiny_patch4_window7_224", **kwargs):
    torch.manual_seed(0)
    config = ArkConfig(
        backbone=backbone, backbone_kwargs=kwargs or SWIN, image_size=image_size, projector_dim=6, tasks=TASKS
    )
    return ArkForImageClassification(config).eval()


def outputs(model, image_size):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return model(torch.randn(2, 3, image_size, image_size, generator=generator)).logits


def test_scaled_up_equals_the_original_of_that_size(shared):
    """The golden case at 192 pixels: its last stage fits the window at 96, but shifts at 192, as 768 / 12 does."""
    case, arrays = read_case(shared / "golden" / "ark", "swin_shiftlast192")
    shapes = {key: shape for key, shape, *_ in case["state_dict"] if key in case["parameter_order"]}
    config = golden_config(case)
    assert config.image_size == 192
    config.image_size = 96
    model = ArkForImageClassification(config)
    load_original(model, {key: weight_by_rule(key, shape, case["weight_seed"]) for key, shape in shapes.items()})
    model.eval()
    small = outputs(model, 96)
    with pytest.raises(AssertionError):
        outputs(model, 192)
    model.set_image_size(192)
    check_outputs(model, arrays)
    model.set_image_size(96)
    torch.testing.assert_close(outputs(model, 96), small, rtol=0, atol=0)


def test_there_and_back_is_the_same_model():
    model = build(32)
    before, state = outputs(model, 32), {key: value.clone() for key, value in model.state_dict().items()}
    model.set_image_size(64)
    assert model.config.image_size == 64
    larger = build(64)
    larger.load_state_dict(state)
    torch.testing.assert_close(outputs(model, 64), outputs(larger, 64), rtol=0, atol=0)
    model.set_image_size(32)
    torch.testing.assert_close(outputs(model, 32), before, rtol=0, atol=0)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_changed_windows_interpolate_their_tables():
    model = build(64)
    table = model.ark.encoder.layers[0].blocks[0].attn.relative_position_bias_table
    with torch.no_grad():  # a bias that falls with distance must still do so after interpolation
        offsets = torch.cartesian_prod(torch.arange(-3, 4), torch.arange(-3, 4)).float()
        table.copy_(-offsets.norm(dim=1, keepdim=True).expand(-1, 2))
    model.set_image_size(64, window_size=8)
    assert model.config.backbone_kwargs["window_size"] == 8
    resized = model.ark.encoder.layers[0].blocks[0].attn.relative_position_bias_table
    assert resized.shape == (225, 2)
    grid = resized[:, 0].reshape(15, 15)
    steps = grid.diff(dim=1)
    assert grid.argmax() == 15 * 7 + 7 and bool((steps[:, :7] > -1e-5).all() and (steps[:, 7:] < 1e-5).all())
    assert outputs(model, 64).shape == (2, 3)


def test_a_stage_smaller_than_the_window_takes_a_smaller_one():
    model = build(32)
    model.set_image_size(16)
    assert model.ark.encoder.layers[1].blocks[0].window_size == (2, 2)
    assert outputs(model, 16).shape == (2, 3)


def test_saved_after_a_change_and_loaded_at_another_size(tmp_path):
    model = build(32)
    model.set_image_size(64)
    model.save_pretrained(tmp_path)
    loaded = ArkForImageClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(outputs(loaded, 64), outputs(model, 64), rtol=0, atol=0)
    at_32 = ArkForImageClassification.from_pretrained(tmp_path, image_size=32).eval()
    torch.testing.assert_close(outputs(at_32, 32), outputs(build(32), 32), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("backbone", "kwargs", "sizes"),
    [
        ("vit_tiny_patch16_224", VIT, (32, 48)),
        ("convnext_tiny", {"dims": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}, (64, 96)),
        ("test_efficientnet", {"act_layer": "relu"}, (64, 96)),
    ],
)
def test_other_encoders(backbone, kwargs, sizes):
    model = build(sizes[0], backbone, **kwargs)
    model.set_image_size(sizes[1])
    assert outputs(model, sizes[1]).shape == (2, 3) and model.config.image_size == sizes[1]


def test_mode_precision_frozen_layers_and_checkpointing_stay():
    model = build(32).train().to(torch.bfloat16)
    model.ark.encoder.patch_embed.requires_grad_(False)
    model.gradient_checkpointing_enable()
    model.set_image_size(64)
    encoder = model.ark.encoder
    assert encoder.training and encoder.patch_embed.proj.weight.dtype == torch.bfloat16
    assert not encoder.patch_embed.proj.weight.requires_grad and encoder.norm.weight.requires_grad
    assert encoder.layers[0].grad_checkpointing


def test_an_impossible_size_changes_nothing():
    model = build(32)
    before = outputs(model, 32)
    with pytest.raises(ValueError, match="such as 32 or 64"):
        model.set_image_size(40)
    assert model.config.image_size == 32
    torch.testing.assert_close(outputs(model, 32), before, rtol=0, atol=0)


def test_the_base_model_alone():
    model = ArkModel(ArkConfig(backbone="swin_tiny_patch4_window7_224", backbone_kwargs=SWIN, image_size=32))
    model.set_image_size(64)
    assert model(torch.zeros(1, 3, 64, 64)).last_hidden_state.shape == (1, 64, 16)

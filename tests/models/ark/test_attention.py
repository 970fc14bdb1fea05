"""`attn_implementation`: what is asked for reaches timm's blocks, and what is not asked for changes nothing."""

import copy
import json

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ark_hf.inference.load import load_ark, move_model
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification, ArkModel, create_encoder

from .golden import golden_config, load_original, read_case, rule_state_dict
from .test_golden_ark import check_outputs
from .test_modeling_ark import CONVNEXT, EFFICIENTNET, FAMILIES, FINDINGS, SWIN, VIT, build, images

SHIFTED = {**SWIN, "backbone_kwargs": {**SWIN["backbone_kwargs"], "depths": [2, 2]}}  # with masks between windows
OWN_CHOICE = {"swin": False, "vit": True}


def flags(model) -> list[bool]:
    return [module.fused_attn for module in model.base_model.encoder.modules() if hasattr(module, "fused_attn")]


@pytest.fixture
def fused_calls(monkeypatch):
    calls = []
    fused = F.scaled_dot_product_attention

    def count(*args, **kwargs):
        calls.append(None)
        return fused(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", count)
    return calls


@pytest.mark.parametrize("name", FAMILIES)
def test_unset_leaves_timms_own_choice(name):
    model = build(ArkModel, FAMILIES[name])
    own = [m.fused_attn for m in create_encoder(model.config).modules() if hasattr(m, "fused_attn")]
    assert flags(model) == own and set(own) == ({OWN_CHOICE[name]} if name in OWN_CHOICE else set())
    assert model.config._attn_implementation is None


@pytest.mark.parametrize("family", [SHIFTED, VIT], ids=["swin", "vit"])
def test_what_is_asked_for_reaches_every_block(tmp_path, family, fused_calls):
    build(family=family, tasks=[FINDINGS]).save_pretrained(tmp_path)
    for asked in ("sdpa", "eager"):
        for model in (
            ArkForImageClassification.from_pretrained(tmp_path, attn_implementation=asked),
            ArkModel.from_pretrained(tmp_path, attn_implementation=asked),
            build(family=family, attn_implementation=asked),
        ):
            other = {"sdpa": "eager", "eager": "sdpa"}[asked]
            for implementation in (asked, other, asked):
                if implementation != model.config._attn_implementation:
                    model.set_attn_implementation(implementation)
                blocks = flags(model)
                assert len(blocks) > 1 and set(blocks) == {implementation == "sdpa"}
                fused_calls.clear()
                with torch.no_grad():
                    model(images(model))
                assert len(fused_calls) == (len(blocks) if implementation == "sdpa" else 0)


@pytest.mark.parametrize("family", [SHIFTED, VIT], ids=["swin", "vit"])
def test_both_give_the_same_outputs_and_gradients(family):
    model = build(family=family, tasks=[FINDINGS]).train()
    labels, gradients, losses = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), {}, {}
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        torch.manual_seed(0)  # stochastic depth is active
        with torch.enable_grad():
            losses[implementation] = model(images(model), labels=labels).loss
            losses[implementation].backward()
        gradients[implementation] = torch.cat([each.grad.flatten() for each in model.parameters()])
    assert losses["eager"].item() == pytest.approx(losses["sdpa"].item(), abs=5e-6)
    assert (gradients["eager"] - gradients["sdpa"]).norm() < 1e-5 * gradients["eager"].norm()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("depths", [[1, 3], [2, 2], [3, 1]], ids=str)
def test_a_swin_that_moves_its_tokens_once_is_the_same_swin(tmp_path, depths, checkpointing):
    family = {**SWIN, "backbone_kwargs": {**SWIN["backbone_kwargs"], "depths": depths}}
    build(family=family, tasks=[FINDINGS]).save_pretrained(tmp_path)
    plain = ArkForImageClassification.from_pretrained(tmp_path)
    moved = ArkForImageClassification.from_pretrained(tmp_path, attn_implementation="sdpa")
    assert list(plain.state_dict()) == list(moved.state_dict())
    if checkpointing:
        moved.gradient_checkpointing_enable()
    gradients = []
    for model in (plain, copy.deepcopy(moved)):
        torch.manual_seed(0)
        pictures = images(model).requires_grad_()
        with torch.enable_grad():
            outputs = model.train()(pictures, output_hidden_states=True)
            sum((each**2).sum() for each in (outputs.logits, *outputs.hidden_states)).backward()
        gradients.append([pictures.grad, *(each.grad for each in model.parameters()), *outputs.hidden_states])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_block_moves_its_tokens_once():
    moves = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in (torch.ops.aten.index_select.default, torch.ops.aten.roll.default):
                moves.append(func)
            return func(*args, **(kwargs or {}))

    model = build(family=SHIFTED, tasks=[FINDINGS], attn_implementation="sdpa")
    with torch.no_grad(), Count():
        model(images(model))
    # In the first stage into windows, into shifted ones and back into rows; the second's map is one window
    assert moves == [torch.ops.aten.index_select.default] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_inference_on_a_cpu_goes_through_onednn_with_the_same_outputs(dtype):
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16 that oneDNN takes")
    model = build(family=SHIFTED, tasks=[FINDINGS]).to(dtype)
    products = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.name().startswith("mkldnn::_linear_pointwise"):
                products.append(func)
            return func(*args, **(kwargs or {}))

    pictures = images(model).to(dtype)
    with torch.no_grad():
        expected = model(pictures, output_hidden_states=True)
        model.set_attn_implementation("sdpa")
        with Count():
            found = model(pictures, output_hidden_states=True)
    assert len(products) == 16  # four products in each of four blocks
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert torch.allclose(one, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("part", ["mlp", "mlp.act", "mlp.fc1", "mlp.fc2", "attn.qkv", "attn.proj"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
@torch.no_grad()
def test_hooks_within_a_block_are_called(part, kind):
    model = build(family=SHIFTED, tasks=[FINDINGS], attn_implementation="sdpa")
    calls = []
    getattr(model.ark.encoder.layers[0].blocks[0].get_submodule(part), kind)(lambda *_: calls.append(part))
    model(images(model))
    assert calls == [part]


@torch.no_grad()
def test_tensors_without_values_go_through_a_fused_model():
    """Memory is counted and programs are exported with them."""
    model = build(family=SHIFTED, tasks=[FINDINGS], attn_implementation="sdpa")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert model(mode.from_tensor(images(model))).logits.shape == (2, 2)


def test_blocks_are_known_by_name_in_both():
    """accelerate shards and places a model by the names of classes that may not be taken apart."""
    model = build(family=SHIFTED, tasks=[FINDINGS])
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        blocks = [block for stage in model.ark.encoder.layers for block in stage.blocks]
        assert {type(block).__name__ for block in blocks} <= set(model._no_split_modules)


@pytest.mark.parametrize("name", ["swin", "convnext"])
def test_a_model_loaded_in_bfloat16_fuses_what_was_left_open(tmp_path, name):
    model = build(family=FAMILIES[name], tasks=[FINDINGS])
    model.save_pretrained(tmp_path)
    ArkImageProcessor(size={"height": model.config.image_size, "width": model.config.image_size}).save_pretrained(
        tmp_path
    )
    expected = {"float32": False, "bfloat16": True}
    for dtype, fused in expected.items():
        loaded, _ = load_ark(str(tmp_path), dtype=dtype)
        assert set(flags(loaded)) == ({fused} if name == "swin" else set())
    asked = ArkForImageClassification.from_pretrained(tmp_path, attn_implementation="eager")
    if name == "swin":
        assert set(flags(move_model(asked, dtype="bfloat16"))) == {False}


def test_pictures_of_any_size_keep_timms_blocks():
    family = {**SWIN, "backbone_kwargs": {**SWIN["backbone_kwargs"], "dynamic_img_size": True}}
    model = build(family=family, tasks=[FINDINGS])
    with torch.no_grad():
        expected = model(images(model)).logits
        model.set_attn_implementation("sdpa")
        assert torch.allclose(model(images(model)).logits, expected, atol=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["swin_small224", "swin_shiftlast192"])
def test_golden_outputs_in_both(shared, name, implementation):
    case, arrays = read_case(shared / "golden" / "ark", name)
    model = ArkForImageClassification(golden_config(case))
    shapes = {key: shape for key, shape, *_ in case["state_dict"] if key in case["parameter_order"]}
    load_original(model, rule_state_dict(shapes, case["weight_seed"]))
    model.set_attn_implementation(implementation)
    assert set(flags(model)) == {implementation == "sdpa"}
    check_outputs(model, arrays)


@torch.no_grad()
def test_fused_attention_runs_in_mixed_precision():
    model = build(family=SHIFTED, tasks=[FINDINGS], attn_implementation="sdpa")
    expected = model(images(model)).logits
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(model(images(model)).logits, expected, atol=0.05)


def test_it_is_the_run_s_and_not_the_model_s(tmp_path):
    model = build(family=SWIN, tasks=[FINDINGS], attn_implementation="sdpa")
    model.save_pretrained(tmp_path)
    assert "sdpa" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    assert set(flags(ArkForImageClassification.from_pretrained(tmp_path))) == {False}
    assert set(flags(copy.deepcopy(model))) == {True}
    model.set_image_size(64)
    assert set(flags(model)) == {True}


def test_what_an_encoder_cannot_do_is_refused():
    with pytest.raises(ValueError, match="flash_attention_2|Flash Attention"):
        build(family=SWIN, attn_implementation="flash_attention_2")
    with pytest.raises(ValueError, match='attn_implementation="paged|eager" does nothing here; use "eager" or "sdpa"'):
        build(family=SWIN, attn_implementation="paged|eager")
    for family in (CONVNEXT, EFFICIENTNET):
        with pytest.raises(ValueError, match="has no attention that timm can fuse; leave attn_implementation unset"):
            build(family=family, attn_implementation="sdpa")
        build(family=family, attn_implementation="eager")

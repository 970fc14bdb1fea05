"""Compiled blocks: few codes, none broken, for any batch size; and nothing else of a model changes."""

import copy
import io
import threading

import pytest
import torch
from torch._dynamo.utils import counters
from torch.fx.experimental import _config as shapes

import ark_hf.models.compile_blocks as module
from ark_hf import (
    ArkConfig,
    ArkForImageClassification,
    ArkTask,
    GenesisConfig,
    GenesisForImageClassification,
)
from ark_hf.inference.heatmaps import ExplainedPass
from ark_hf.models.compile_blocks import compile_blocks, is_compiled

pytestmark = pytest.mark.slow_ci  # dynamo takes a quarter of a second for a block, whatever its size

SWIN = {
    "backbone": "swin_tiny_patch4_window7_224",
    "backbone_kwargs": {"embed_dim": 8, "depths": [4, 2], "num_heads": [1, 1], "window_size": 4},
    "image_size": 32,
}
VIT = {"backbone": "vit_tiny_patch16_224", "backbone_kwargs": {"depth": 3, "embed_dim": 24}, "image_size": 32}
CONVNEXT = {
    "backbone": "convnext_atto",
    "backbone_kwargs": {"depths": [1, 2, 1, 1], "dims": [8] * 4},
    "image_size": 32,
}
# Of each its kinds of block: a Swin's are plain or shifted, but the last stage's map is a single window; the first of
# a Swin or ViT has no stochastic depth
KINDS = {"swin": (SWIN, 4), "vit": (VIT, 2), "convnext": (CONVNEXT, 4)}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Dynamo alone, which is what is counted; each test from an empty cache."""
    monkeypatch.setattr(module, "BACKEND", "eager")
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def make(settings, **others) -> ArkForImageClassification:
    torch.manual_seed(0)
    config = ArkConfig(**settings, projector_dim=8, tasks=[ArkTask("a", ["x", "y"])], **others)
    return ArkForImageClassification(config).eval()


def pictures(model, count: int) -> torch.Tensor:
    side = model.config.image_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(count))


@torch.no_grad()
def logits(model, count: int) -> torch.Tensor:
    return model(pictures(model, count)).logits


def codes() -> int:
    assert not counters["graph_break"]
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(("name", "first"), [("swin", 3), ("vit", 1), ("vit", 3), ("convnext", 3)])
def test_equal_blocks_share_one_code_for_every_batch_size(name, first):
    settings, kinds = KINDS[name]
    model = make(settings, drop_path_rate=0.1 if name != "convnext" else 0.0)
    plain = copy.deepcopy(model)
    compile_blocks(model)
    assert torch.equal(logits(model, first), logits(plain, first))
    found = codes()
    assert kinds <= found <= kinds + 1  # a number that first looked constant, the rate of stochastic depth
    for count in (2, 5, 4) if name == "convnext" else (2, 1, 4):  # whose strides tell a single picture
        assert torch.equal(logits(model, count), logits(plain, count))
    assert codes() == found


def test_each_of_dynamos_settings_is_set_where_it_alone_is_not():
    model = make(VIT)
    compile_blocks(model)
    with torch._dynamo.config.patch(recompile_limit=module.MOST_KINDS), shapes.patch(backed_size_oblivious=False):
        logits(model, 3)
        assert shapes.backed_size_oblivious
    with torch._dynamo.config.patch(recompile_limit=8), shapes.patch(backed_size_oblivious=True):
        logits(model, 3)
        assert torch._dynamo.config.recompile_limit == module.MOST_KINDS


def test_gradients_are_those_of_the_plain_model_and_draws_too():
    model = make(SWIN, drop_path_rate=0.3).train()
    plain = copy.deepcopy(model)
    compile_blocks(model)
    for each in (model, plain):
        torch.manual_seed(7)
        each(pictures(each, 3), task="a", labels=torch.tensor([[1.0, 0.0]] * 3)).loss.backward()
    assert codes() <= 6  # in training each of the six blocks has its own rate
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_more_kinds_than_dynamo_allows_unless_told_are_compiled_in_any_thread():
    model = make(
        {**CONVNEXT, "backbone_kwargs": {"depths": [9, 1, 1, 1], "dims": [8] * 4}}, drop_path_rate=0.3
    ).train()
    compile_blocks(model)
    failed = []

    def run():
        try:
            model(pictures(model, 2))
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failed and codes() > 8


def test_what_is_saved_copied_and_pickled_is_the_plain_model(tmp_path):
    model = make(SWIN)
    model.save_pretrained(tmp_path / "plain")
    names, classes = list(model.state_dict()), [type(each) for each in model.modules()]
    compile_blocks(model)
    logits(model, 2)
    model.save_pretrained(tmp_path / "compiled")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "compiled" / file).read_bytes()
    assert list(model.state_dict()) == names and [type(each) for each in model.modules()] == classes
    assert is_compiled(model) and not is_compiled(copy.deepcopy(model))
    buffer = io.BytesIO()
    torch.save(model, buffer)
    assert not is_compiled(torch.load(io.BytesIO(buffer.getvalue()), weights_only=False))


@pytest.mark.parametrize(
    "settings", [SWIN, CONVNEXT, VIT, {**VIT, "backbone_kwargs": {"depth": 2, "global_pool": "avg"}}]
)
def test_heat_maps_are_those_of_the_plain_model(settings):
    model = make(settings)
    plain = copy.deepcopy(model)
    compile_blocks(model)
    logits(model, 2)  # compiled before there are hooks
    ours, theirs = (ExplainedPass(each, pictures(each, 2)) for each in (model, plain))
    assert torch.equal(ours.logits, theirs.logits)
    for one, other in zip(ours.heat_maps([[0, 1], [1]]), theirs.heat_maps([[0, 1], [1]]), strict=True):
        assert (one == other).all()
    assert is_compiled(model)


def test_a_block_s_subclass_is_a_block():
    model = make(VIT)
    block = model.ark.encoder.blocks[1]
    block.__class__ = type("ArkBlock", (type(block),), {})
    compile_blocks(model)
    assert is_compiled(block)


def test_a_genesis_is_compiled_by_its_units():
    model = GenesisForImageClassification(GenesisConfig(width=2, depth=2, cube_size=[16] * 3, num_labels=2)).eval()
    plain = copy.deepcopy(model)
    compile_blocks(model)
    cubes = torch.rand(2, 1, 16, 16, 16)
    with torch.no_grad():
        for count in (2, 1):
            assert torch.equal(model(cubes[:count]).logits, plain(cubes[:count]).logits)
    assert codes() == sum(module._compiled_call_impl is not None for module in model.modules()) == 4


def test_an_encoder_without_known_blocks_is_refused_by_name():
    with pytest.raises(ValueError, match="'resnet10t' has no blocks that are compiled"):
        compile_blocks(make({"backbone": "resnet10t", "image_size": 32}))


def test_without_a_compiler_there_is_a_sentence(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nand a long trace")

    monkeypatch.setattr(module, "BACKEND", "inductor")
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: broken)
    with pytest.raises(ValueError, match=r"No working C\+\+ compiler found. It needs .*apt install g\+\+ python3-dev"):
        compile_blocks(make(VIT))


def test_inductor_s_code_gives_the_same_but_for_rounding(monkeypatch):
    monkeypatch.setattr(module, "BACKEND", "inductor")
    model = make({**VIT, "backbone_kwargs": {"depth": 1, "embed_dim": 24}}, drop_path_rate=0.0)
    plain = copy.deepcopy(model)
    compile_blocks(model)
    torch.testing.assert_close(logits(model, 2), logits(plain, 2), rtol=0, atol=5e-6)
    for each in (model, plain):
        each.train()(pictures(each, 3), task="a", labels=torch.tensor([[1.0, 0.0]] * 3)).loss.backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=5e-6)

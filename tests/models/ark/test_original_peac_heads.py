"""Conversion of PEAC's files: the encoder as a plain model, the heads beside it, and nothing that does not fit."""

import json

import pytest
import torch
from transformers import AutoImageProcessor, AutoModel

from ark_hf.cli.main import main
from ark_hf.hub.save import convert, save_conversion
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.convert_ark_checkpoint import check_fit, convert_checkpoint
from ark_hf.models.ark.modeling_ark import ArkModel
from ark_hf.models.ark.original_architecture import infer_architecture
from ark_hf.models.ark.original_peac_heads import OUR_NAMES, convert_peac_heads, describe_heads, image_size_of
from ark_hf.provenance import read_provenance
from ark_hf.training.peac.heads import HEADS_FILE, PeacHeads, load_heads

from .original_files import peac_state_dict, with_prefix


def saved(tmp_path, value):
    torch.save(value, tmp_path / "peac.pth")
    return tmp_path / "peac.pth"


def checkpoint(student, teacher=None):
    """As the originals' scripts write it."""
    return {"student": student, "teacher": teacher or student, "optimizer": {"state": {}}, "epoch": 7}


def fresh_heads():
    torch.manual_seed(0)
    return PeacHeads(16, 16, 8, global_dims=(12, 10, 6), local_dims=(9, 7, 5))


# What is kept ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped, key", [("both", None), ("student", "student"), ("student", "teacher")])
def test_encoder_and_heads_whatever_is_wrapped(tmp_path, wrapped, key):
    student, teacher = peac_state_dict(seed=1), peac_state_dict(seed=2)
    file = checkpoint(
        with_prefix(student, "module."),
        with_prefix(teacher, "module.") if wrapped == "both" else teacher,
    )
    conversion = convert_checkpoint(saved(tmp_path, file), key)
    expected = student if key == "student" else teacher
    assert conversion.section == f"{key or 'teacher'} of epoch 7"
    encoder = conversion.model.encoder
    assert torch.equal(encoder.norm.bias, expected["swin_model.norm.bias"])
    assert torch.equal(encoder.layers[1].downsample.norm.bias, expected["swin_model.layers.0.downsample.norm.bias"])
    assert all(torch.equal(conversion.heads[ours], expected[theirs]) for theirs, ours in OUR_NAMES.items())
    fresh_heads().load_state_dict(conversion.heads)
    parameters = [value for value in expected.values() if value.is_floating_point() and value.ndim != 3]
    assert conversion.num_used == len(parameters) - 1  # a bias has two names


def test_the_folder_is_a_plain_encoder_with_the_heads_beside_it(tmp_path, capsys):
    original = peac_state_dict()
    assert main(["convert", str(saved(tmp_path, checkpoint(original))), "--out", str(tmp_path / "out")]) == 0
    model, report = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert isinstance(model, ArkModel) and not report["missing_keys"] and not report["unexpected_keys"]
    assert model.config.projector_dim is None and model.config.image_size == 32
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert (processor.size["height"], processor.image_mean, processor.image_std) == (32, (0.5056,) * 3, (0.252,) * 3)
    heads = fresh_heads()
    assert load_heads(heads, tmp_path / "out") == []
    assert torch.equal(heads.local_projector[3].weight, original["mlp_local.3.weight"])
    told = capsys.readouterr().out
    assert "order (16 places), restoration (cells of 8 pixels), global_projector (12, 10, 6), local_proj" in told
    assert f"{HEADS_FILE} beside it serves `method: peac`" in told and "begins afresh" not in told
    assert read_provenance(tmp_path / "out")["method"] == "peac"


def test_the_bias_of_two_names(tmp_path):
    original = peac_state_dict()
    del original["head.bias"]
    alone = convert_checkpoint(saved(tmp_path, checkpoint(original))).heads["order.bias"]
    bias = torch.nn.Parameter(original.pop("bias"))
    tied = convert_checkpoint(saved(tmp_path, checkpoint(original | {"bias": bias, "head.bias": bias}))).heads
    assert torch.equal(alone, bias) and torch.equal(tied["order.bias"], bias)


def test_two_biases_are_refused(tmp_path):
    file = checkpoint(peac_state_dict() | {"head.bias": torch.zeros(16)})
    with pytest.raises(ValueError, match="`bias` and `head.bias` are one tensor .* but they differ"):
        convert_checkpoint(saved(tmp_path, file))


def test_the_version_without_local_loss_keeps_the_heads_that_it_has(tmp_path):
    conversion = convert(saved(tmp_path, checkpoint(peac_state_dict(local=False))), tmp_path / "out")
    assert "global_projector (12, 10, 6); training begins afresh with local_projector" in conversion.summary()
    heads = fresh_heads()
    assert load_heads(heads, tmp_path / "out") == ["local_projector"]
    assert torch.equal(heads.order.bias, conversion.heads["order.bias"])


def test_an_encoder_alone_has_no_heads(tmp_path):
    encoder = {key: value for key, value in peac_state_dict().items() if key.startswith("swin_model.")}
    save_conversion(convert_checkpoint(saved(tmp_path, encoder)), tmp_path / "out")
    assert not (tmp_path / "out" / HEADS_FILE).exists()
    assert AutoImageProcessor.from_pretrained(tmp_path / "out").image_std == (0.252,) * 3


def test_at_another_image_size_the_order_head_is_left_out(tmp_path):
    path = saved(tmp_path, checkpoint(peac_state_dict()))
    conversion = convert_checkpoint(path, image_size=48)
    assert set(convert_checkpoint(path).heads) - set(conversion.heads) == {"order.weight", "order.bias"}
    assert conversion.model.config.image_size == 48 and "afresh with order" in conversion.summary()


@pytest.mark.parametrize(
    "swin, heads",
    [
        ({"image_size": 64, "window": 4, "embed_dim": 12, "num_heads": (3, 6)}, {"places": 64, "width": 24}),
        ({"image_size": 32, "window": 4, "depths": (1, 1, 1), "num_heads": (1, 2, 4)},
         {"cell": 16, "places": 4, "width": 32}),
    ],
)  # fmt: skip
def test_any_swin_whose_shapes_fit_with_masks_or_without(tmp_path, swin, heads):
    original = peac_state_dict(**swin, **heads)
    without_masks = {key: value for key, value in original.items() if not key.endswith("attn_mask")}
    for weights in (original, without_masks):
        conversion = convert_checkpoint(saved(tmp_path, checkpoint(weights)))
        assert conversion.model.config.image_size == swin["image_size"]
        tokens = conversion.model.eval()(torch.zeros(1, 3, *[swin["image_size"]] * 2)).last_hidden_state
        assert tokens.shape[1:] == (heads.get("places", 16), heads["width"])


def test_full_size_fits_exactly(shared):
    case = json.loads((shared / "golden" / "peac" / "keys_full.json").read_text())
    original = {key: torch.empty(shape, device="meta") for key, shape, _ in case["state_dict"]}
    encoder = {key.removeprefix("swin_model."): value for key, value in original.items() if key.startswith("swin")}
    original.pop("head.bias", None)  # what has no values cannot be compared
    heads = convert_peac_heads({key: value for key, value in original.items() if key in OUR_NAMES})
    assert image_size_of(heads) == 448
    architecture = infer_architecture(encoder, 448)
    assert (architecture.backbone, architecture.image_size) == ("swin_base_patch4_window7_224", 448)
    config = ArkConfig(backbone=architecture.backbone, image_size=448, projector_dim=None)
    used = [*check_fit(ArkModel, config, encoder).values(), *heads.values()]
    assert sum(value.numel() for value in used) == case["n_parameters"]
    with torch.device("meta"):
        PeacHeads(1024, 196, 32).load_state_dict(heads)
    assert describe_heads(heads).startswith(
        "order (196 places), restoration (cells of 32 pixels), global_projector (8192"
    )


# What does not fit -------------------------------------------------------------------------------------------------


def changed(**values):
    return lambda weights: weights | {key.replace("__", "."): value for key, value in values.items()}


def without(*keys):
    return lambda weights: {key: value for key, value in weights.items() if not key.startswith(keys)}


@pytest.mark.parametrize(
    "change, message",
    [
        (without("head.weight"), "not whole: tensors are missing .1., such as .'head.weight'"),
        (without("bias", "head.bias"), "not whole.*missing .1.*'head.bias'"),
        (without("decoder.0"), "not whole.*missing .2.*'decoder.0.weight', 'decoder.0.bias'"),
        (without("mlp."), "not whole.*missing .9.*'mlp.0.weight'"),
        (without("mlp_local.6"), "not whole.*missing .1.*'mlp_local.6.weight'"),
        (changed(mlp__6__bias=torch.ones(6)), "left over .*: 1, such as .'mlp.6.bias'"),
        (changed(mlp__2__weight=torch.ones(6)), "left over .*'mlp.2.weight'"),
        (changed(mlp__1__weight=torch.ones(9)), r"fit each other: mlp.1.weight \(9,\) instead of \(12,\)"),
        (changed(mlp_local__3__weight=torch.ones(7, 8)), r"mlp_local.3.weight \(7, 8\) instead of \(7, 9\)"),
        (changed(decoder__0__weight=torch.ones(192, 16)), r"decoder.0.weight .* instead of \(192, 16, 1, 1\)"),
        (changed(head__weight=torch.ones(25, 16)), r"head.bias \(16,\) instead of \(25,\)"),
        (changed(mlp__0__bias=torch.tensor(1.0)), "mlp.0.bias, of PEAC's heads, is a torch.float32 of shape"),
        (changed(mlp__0__bias=torch.ones(12, dtype=torch.int64)), "mlp.0.bias, of PEAC's heads, is a torch.int64"),
        (changed(mlp__0__bias=torch.full((12,), torch.inf)), "'mlp.0.bias' holds"),
        (lambda weights: peac_state_dict(places=15), "head.weight, of PEAC's heads, has 15 rows, not one for each"),
        (lambda weights: peac_state_dict(places=25), r"masks, windows and heads of different image sizes: \[32, 40\]"),
        (lambda weights: peac_state_dict(cell=4, places=64), "16 features for a cell of 4 pixels, .* a cell of 8"),
        (lambda weights: peac_state_dict(width=8), "8 features for a cell of 8 pixels, .* gives 16"),
        (
            changed(decoder__0__weight=torch.ones(190, 16, 1, 1), decoder__0__bias=torch.ones(190)),
            "has 190 rows, not 3 for each pixel of a square",
        ),
    ],
)  # fmt: skip
def test_heads_that_are_not_whole_or_contradict_are_refused_by_name(tmp_path, change, message):
    path = saved(tmp_path, checkpoint(change(peac_state_dict())))
    with pytest.raises(ValueError, match=message) as raised:
        convert_checkpoint(path)
    assert f"{path}, teacher of epoch 7" in str(raised.value)


def test_peac_has_no_classes_to_name(tmp_path):
    with pytest.raises(ValueError, match="its heads have .. outputs, the given tasks have .2. labels"):
        convert_checkpoint(saved(tmp_path, checkpoint(peac_state_dict())), tasks=[ArkTask("mine", ["a", "b"])])

"""Conversion of the originals' files: every layout, exact outputs, named heads, nothing silently left out."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

import ark_hf  # noqa: F401  (registers the classes)
from ark_hf.hub.save import save_conversion
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.convert_ark_checkpoint import RELEASED_TASKS, check_fit, convert_checkpoint, read_tasks
from ark_hf.models.ark.modeling_ark import ArkForImageClassification, ArkModel
from ark_hf.models.ark.original_architecture import infer_architecture

from .golden import golden_tasks, original_buffers, read_case, weight_by_rule
from .original_files import linear, swin_state_dict, training_checkpoint, with_prefix
from .test_golden_ark import check_outputs

CASES = ["swin_small224", "swin_noproj", "swin_shiftlast192", "convnext_small"]
RELEASED_NAMES = ["mimic_cxr", "chexpert", "chestxray14", "rsna", "vindr_cxr", "shenzhen"]


def saved(tmp_path, value, name="ark.pth.tar", **kwargs):
    torch.save(value, tmp_path / name, **kwargs)
    return tmp_path / name


# The originals' outputs, from files in their layouts ---------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_outputs_after_conversion_equal_the_originals_whatever_the_layout(shared, tmp_path, name):
    case, arrays = read_case(shared / "golden" / "ark", name)
    shapes = {key: shape for key, shape, *_ in case["state_dict"] if key in case["parameter_order"]}
    teacher = {key: weight_by_rule(key, shape, case["weight_seed"]) for key, shape in shapes.items()}
    teacher |= original_buffers(case)
    assert list(teacher.keys() ^ {key for key, *_ in case["state_dict"]}) == []
    other = {key: value + 1 for key, value in teacher.items()}
    conversions = []
    for file in (
        training_checkpoint(other, teacher),
        training_checkpoint(with_prefix(other, "module."), with_prefix(teacher, "module.")),
        teacher,
    ):
        path = saved(tmp_path, file)
        conversions.append(convert_checkpoint(path, tasks=golden_tasks(case), image_size=case.get("image_size")))
        assert conversions[-1].num_used == len(shapes) - 2  # all but the unused head
    check_outputs(conversions[0].model, arrays)
    configs, weights = zip(
        *((each.model.config.to_dict(), each.model.state_dict()) for each in conversions), strict=True
    )
    assert configs[0] == configs[1] == configs[2] and weights[0].keys() == weights[1].keys() == weights[2].keys()
    assert all(torch.equal(each[key], value) for each in weights[1:] for key, value in weights[0].items())


@pytest.mark.parametrize("layout", ["plain", "module", "flat_teacher"])
@pytest.mark.parametrize("key", ["teacher", "student"])
def test_files_of_the_official_engine(shared, layout, key):
    path = shared / "golden" / "ark" / f"ckpt_swin_tiny_{layout}.pth.tar"
    _, arrays = read_case(shared / "golden" / "ark", "ckpt_swin_tiny")
    if layout == "flat_teacher" and key == "student":
        with pytest.raises(ValueError, match="flat file of one model"):
            convert_checkpoint(path, key)
        return
    conversion = convert_checkpoint(path, key)
    check_outputs(conversion.model, arrays, "teacher/" if key == "teacher" else "state_dict/")
    assert [task.name for task in conversion.model.config.tasks] == RELEASED_NAMES


@pytest.mark.parametrize("name", ["swin_base", "swin_large_768"])
def test_full_size_key_lists_fit_exactly(shared, name):
    case = json.loads((shared / "golden" / "ark" / "keys" / f"{name}.json").read_text())
    original = {
        key: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        for key, shape, dtype, _ in case["state_dict"]
    }
    architecture = infer_architecture(original)
    expected = {
        "swin_base": ("swin_base_patch4_window7_224", 224),
        "swin_large_768": ("swin_large_patch4_window12_384", 768),
    }
    assert (architecture.backbone, architecture.image_size) == expected[name]
    config = ArkConfig(
        backbone=architecture.backbone, image_size=architecture.image_size, tasks=list(RELEASED_TASKS[:6])
    )
    converted = check_fit(ArkForImageClassification, config, original)
    num_parameters = sum(value.numel() for value in converted.values())
    assert num_parameters == case["n_parameters_without_unused_head"]
    assert config.num_labels == 52


@pytest.mark.slow
def test_full_size_swin_large_768_loads_with_the_true_names(tmp_path):
    large = {"image_size": 768, "window": 12, "embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)}
    weights = swin_state_dict(**large, projector_dim=1376)
    path = saved(tmp_path, training_checkpoint(with_prefix(weights, "module."), with_prefix(weights, "module.")))
    conversion = convert_checkpoint(path)
    save_conversion(conversion, tmp_path / "ark-cxr")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "ark-cxr")
    assert model.config.num_labels == 52 and model.config.image_size == 768
    assert list(model.config.id2label.values()) == [
        f"{t.name}/{label}" for t in RELEASED_TASKS[:6] for label in t.labels
    ]
    assert sum(parameter.numel() for parameter in model.parameters()) == 197_385_032
    torch.testing.assert_close(model.heads["vindr_cxr"].weight, weights["omni_heads.4.weight"], rtol=0, atol=0)
    with torch.no_grad():
        logits = model.eval()(torch.zeros(1, 3, 768, 768)).logits
    assert logits.shape == (1, 52) and bool(logits.isfinite().all())


# Layouts and names -------------------------------------------------------------------------------------------------


def test_released_heads_have_their_true_names():
    names = {task.name: task.labels for task in RELEASED_TASKS}
    assert names["mimic_cxr"] == sorted(names["chexpert"]) and names["mimic_cxr"] != names["chexpert"]
    assert names["rsna"] == ["Normal", "No Lung Opacity/Not Normal", "Lung Opacity"]
    assert [len(task.labels) for task in RELEASED_TASKS] == [14, 14, 14, 3, 6, 1, 3]
    kinds = {task.name: task.problem_type.split("_")[0] for task in RELEASED_TASKS}
    assert [name for name, kind in kinds.items() if kind == "single"] == ["rsna", "covidx"]


@pytest.mark.parametrize("projector", [None, "linear", "mlp"])
@pytest.mark.parametrize("heads", [[14, 14, 14, 3, 6, 1], [14, 14, 14, 3, 6, 1, 3]])
def test_projectors_and_released_heads(tmp_path, projector, heads):
    weights = swin_state_dict(projector=projector, heads=heads)
    model = convert_checkpoint(saved(tmp_path, weights)).model
    assert [task.name for task in model.config.tasks] == [*RELEASED_NAMES, "covidx"][: len(heads)]
    assert model.config.projector_dim == (None if projector is None else 12)
    assert model.config.projector_type == (projector or "linear")
    last = list(model.heads.values())[-1]
    torch.testing.assert_close(last.weight, weights[f"omni_heads.{len(heads) - 1}.weight"], rtol=0, atol=0)


def test_saved_model_loads_through_the_auto_classes(tmp_path):
    conversion = convert_checkpoint(saved(tmp_path, swin_state_dict(projector="mlp")))
    save_conversion(conversion, tmp_path / "ark-cxr")
    image = np.random.default_rng(0).integers(0, 256, (50, 40), dtype=np.uint8)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "ark-cxr")
    pixel_values = processor(image, return_tensors="pt")["pixel_values"]
    assert pixel_values.shape == (1, 3, 32, 32)
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "ark-cxr").eval()
    with torch.no_grad():
        expected, actual = (each(pixel_values).logits for each in (conversion.model, model))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
    weights = conversion.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    files = {path.name for path in (tmp_path / "ark-cxr").iterdir()}
    assert files >= {"config.json", "model.safetensors", "README.md", "modeling_ark.py"}
    card = (tmp_path / "ark-cxr" / "README.md").read_text()
    assert "Research use only" in card and "ark.pth.tar" in card and "| `vindr_cxr` |" in card
    assert str(tmp_path) not in card


def test_files_saved_before_torch_1_6_and_safetensors(tmp_path):
    weights = swin_state_dict()
    expected = convert_checkpoint(saved(tmp_path, weights)).model.state_dict()
    save_file(weights, tmp_path / "new.safetensors")
    actual = convert_checkpoint(tmp_path / "new.safetensors").model.state_dict()
    assert all(torch.equal(actual[key], expected[key]) for key in expected | actual)
    legacy = saved(tmp_path, training_checkpoint(weights, weights), "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="saved by torch before 1.6.*save it again"):
        convert_checkpoint(legacy)


def test_student_and_teacher_are_told_apart(tmp_path):
    student, teacher = swin_state_dict(seed=1), swin_state_dict(seed=2)
    path = saved(tmp_path, training_checkpoint(student, teacher))
    for key, weights in ((None, teacher), ("teacher", teacher), ("student", student)):
        conversion = convert_checkpoint(path, key)
        torch.testing.assert_close(conversion.model.heads["rsna"].bias, weights["omni_heads.3.bias"], rtol=0, atol=0)
        assert conversion.section == f"{key or 'teacher'} of epoch 3"
    with pytest.raises(ValueError, match="holds no teacher; it has student"):
        convert_checkpoint(saved(tmp_path, {"state_dict": student}), "teacher")


def test_other_heads_need_names(tmp_path):
    path = saved(tmp_path, swin_state_dict(heads=[3, 2]))
    with pytest.raises(ValueError, match=r"heads have \[3, 2\] outputs.*--tasks FILE"):
        convert_checkpoint(path)
    (tmp_path / "tasks.yaml").write_text(
        "- {name: lung, labels: [a, b, c], problem_type: single_label_classification}\n"
        "- {name: bone, labels: [d, e]}\n"
    )
    model = convert_checkpoint(path, tasks=read_tasks(tmp_path / "tasks.yaml")).model
    assert list(model.config.id2label.values()) == ["lung/a", "lung/b", "lung/c", "bone/d", "bone/e"]
    with pytest.raises(ValueError, match=r"heads have \[3, 2\] outputs, the given tasks have \[3\] labels"):
        convert_checkpoint(path, tasks=read_tasks(tmp_path / "tasks.yaml")[:1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must list"),
        ("{name: a}", "must list"),
        ("- {name: a, labels: [x]}\n- {name: A b, labels: [x]}", "task 2: Task name 'A b'"),
        ("- {name: a, labels: [x], kind: y}", "task 1: A task has the fields"),
        ("- 3", "task 1: A task is"),
        ("- [", "is not valid YAML"),
        ("\x00", "is not valid YAML"),
        ("- &a {name: a, labels: [x]}\n- *a", "aliases"),
        ("- {name: a, labels: [x], name: b}", "'name' stands twice"),
    ],
)
def test_wrong_task_files(tmp_path, text, message):
    (tmp_path / "tasks.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_tasks(tmp_path / "tasks.yaml")
    with pytest.raises(ValueError, match="Cannot read"):
        read_tasks(tmp_path / "absent.yaml")


def test_a_released_file_is_known_by_its_name_and_its_heads(tmp_path):
    weights = swin_state_dict(heads=[14, 14, 14, 3, 6, 1])
    path = saved(tmp_path, {"teacher": weights, "epoch": 50}).rename(tmp_path / "Ark6_swinLarge768_ep50.pth.tar")
    conversion = convert_checkpoint(path)
    assert [task.name for task in conversion.model.config.tasks] == [task.name for task in RELEASED_TASKS[:6]]
    assert "by its name Ark+, Swin-L at 768 pixels" in conversion.summary()
    path = saved(tmp_path, swin_state_dict(heads=[14, 14, 3, 6, 1]))
    with pytest.raises(ValueError, match=r"as Ark-5 has, .* not the order of the heads. Name them with --tasks FILE"):
        convert_checkpoint(path)


def test_fine_tuned_swin_becomes_an_encoder_or_a_named_classifier(tmp_path):
    weights = swin_state_dict(projector=None, heads=[])
    weights |= {"head.weight": weights["head.weight"][:5], "head.bias": weights["head.bias"][:5]}
    path = saved(tmp_path, {"epoch": 9, "state_dict": weights})
    conversion = convert_checkpoint(path)
    assert isinstance(conversion.model, ArkModel) and conversion.model.projector is None
    assert conversion.ignored["the encoder's own classifier"] == 2 and "none left over" in conversion.summary()
    save_conversion(conversion, tmp_path / "encoder")
    assert torch.equal(AutoModel.from_pretrained(tmp_path / "encoder").encoder.norm.bias, weights["norm.bias"])
    named = convert_checkpoint(path, tasks=[ArkTask("mine", list("abcde"))])
    assert (
        torch.equal(named.model.heads["mine"].weight, weights["head.weight"])
        and "own classifier" not in named.summary()
    )


def test_simmim_encoders(tmp_path):
    encoder = swin_state_dict(projector=None, heads=[])
    classifier = {key: encoder.pop(key) for key in ("head.weight", "head.bias")}
    simmim = with_prefix(encoder, "encoder.") | {"encoder.mask_token": torch.zeros(1, 1, 8)}
    simmim |= {key: weight_by_rule(key, shape, 0) for key, shape in linear("decoder.0", 16, 48).items()}
    model = convert_checkpoint(saved(tmp_path, {"model": simmim})).model
    assert isinstance(model, ArkModel) and model.config.image_size == 32 and model.config.projector_dim is None
    assert torch.equal(model.encoder.norm.bias, encoder["norm.bias"])
    assert torch.equal(model.encoder.layers[1].downsample.norm.bias, encoder["layers.0.downsample.norm.bias"])
    with pytest.raises(ValueError, match="left over .*: 2, such as .*head.weight"):
        convert_checkpoint(saved(tmp_path, {"model": simmim | classifier}))


# What is read from the tensors, and what does not fit --------------------------------------------------------------


@pytest.mark.parametrize("image_size", [32, 96])
def test_image_size_comes_from_the_masks(tmp_path, image_size):
    weights = swin_state_dict(image_size=image_size)
    conversion = convert_checkpoint(saved(tmp_path, weights))
    assert conversion.model.config.image_size == conversion.processor.size["height"] == image_size
    without = {key: value for key, value in weights.items() if not key.endswith("attn_mask")}
    assumed = convert_checkpoint(saved(tmp_path, without))
    assert assumed.architecture.image_size == 16 and "no attention masks" in assumed.summary()
    chosen = convert_checkpoint(saved(tmp_path, without), image_size=image_size)
    pixel_values = torch.randn(1, 3, image_size, image_size)
    with torch.no_grad():
        expected, actual = (each.model(pixel_values).logits for each in (conversion, chosen))
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    assert f"changed to {image_size}" in chosen.summary()


def test_image_size_from_a_window_that_fills_its_stage(tmp_path):
    weights = swin_state_dict(image_size=32, window=4, depths=(2, 2, 2), num_heads=(2, 4, 8))
    without = {key: value for key, value in weights.items() if not key.endswith("attn_mask")}
    architecture = convert_checkpoint(saved(tmp_path, without)).architecture
    assert architecture.image_size == 32 and architecture.backbone_kwargs["window_size"] == 4


def changed(weights, key, value):
    return {**weights, key: value}


def without(weights, *keys):
    return {key: value for key, value in weights.items() if key not in keys}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: changed(w, "extra.weight", torch.ones(2)), "left over .*: 1, such as .'extra.weight'"),
        (lambda w: changed(w, "omni_heads.06.weight", torch.ones(2, 12)), "left over .*omni_heads.06"),
        (lambda w: changed(w, "norm.weight", torch.ones(3)), r"norm.weight \(3,\) instead of \(16,\)"),
        (lambda w: without(w, "norm.bias"), r"missing \(1\)"),
        (lambda w: without(w, "layers.0.blocks.0.attn.qkv.weight"), r"missing \(1\)"),
        (lambda w: {k: v for k, v in w.items() if "blocks.0" not in k}, "blocks of the encoder are missing"),
        (lambda w: {k: v for k, v in w.items() if "layers" not in k}, "blocks of the encoder are missing"),
        (lambda w: without(w, "layers.1.blocks.1.attn.relative_position_bias_table"), "table is missing"),
        (
            lambda w: changed(w, "layers.0.blocks.0.attn.relative_position_bias_table", torch.ones(8, 2)),
            "differ in shape",
        ),
        (lambda w: without(w, "omni_heads.2.weight", "omni_heads.2.bias"), "some are missing"),
        (lambda w: without(w, "omni_heads.5.bias"), r"missing \(1\)"),
        (lambda w: changed(w, "omni_heads.5.weight", torch.tensor(1.0)), "not that of a linear layer"),
        (lambda w: changed(w, "patch_embed.proj.weight", torch.ones(8, 1, 4, 4)), "1 channels"),
        (lambda w: changed(w, "patch_embed.proj.weight", torch.ones(8)), "must have 4 dimensions"),
        (lambda w: changed(w, "patch_embed.proj.weight", torch.ones(900, 3, 4, 4)), "of another shape"),
        (lambda w: with_prefix(w, "a.") | with_prefix(w, "b."), "2 encoders found"),
        (lambda w: {"fc.weight": torch.ones(2, 2)}, "0 encoders found"),
        (lambda w: changed(w, "norm.weight", torch.full((16,), torch.nan)), "'norm.weight' holds NaN"),
        (lambda w: w | with_prefix(w, "module."), "twice, with and without the prefix"),
        (lambda w: changed(w, "norm.weight", "text"), "'norm.weight' is a str, no tensor"),
        (
            lambda w: changed(w, "norm.weight", torch.ones(1).expand(16)),
            "a tensor of shape .16,. is not stored whole",
        ),
        (lambda w: changed(w, "norm.weight", torch.ones(16).to_sparse()), "_rebuild_sparse_tensor"),
        (
            lambda w: changed(w, "layers.0.blocks.1.attn_mask", w["layers.0.blocks.1.attn_mask"].flip(0)),
            "attn_mask is not that of a Swin v1 at",
        ),
        (
            lambda w: changed(w, "layers.0.blocks.1.attn_mask", torch.zeros(64, 4, 4)),
            "different image sizes",
        ),
        (lambda w: changed(w, "layers.0.blocks.1.attn_mask", torch.zeros(10**9, 1, 0)), "none empty"),
        (lambda w: changed(w, "layers.0.blocks.1.attn_mask", torch.zeros(16, 1, 1)), "not a mask of windows of 2"),
        (lambda w: changed(w, "norm.weight", torch.ones(16, dtype=torch.int8)), "no floating-point numbers"),
        (lambda w: changed(w, "norm.weight", torch.ones(16, dtype=torch.complex64)), "ComplexFloatStorage"),
        (lambda w: changed(w, "omni_heads.5.weight", torch.ones(0, 12)), "not that of a linear layer"),
        (lambda w: changed(w, "x" * 5000, torch.ones(2)), "names up to 300 characters"),
        (lambda w: w | {f"layers.0.blocks.{n}.norm1.bias": torch.ones(8) for n in range(2, 300)}, "no known Swin"),
        (
            lambda w: changed(w, "layers.0.blocks.0.attn.relative_position_index", torch.zeros(4, 4).long()),
            "relative_position_index is not that of",
        ),
    ],
)
def test_what_does_not_fit_is_an_error(tmp_path, change, message):
    path = saved(tmp_path, training_checkpoint({}, change(swin_state_dict())))
    with pytest.raises(ValueError, match=message) as raised:
        convert_checkpoint(path)
    assert str(path) in str(raised.value)


def test_wrong_image_size_names_sizes_that_fit(tmp_path):
    path = saved(tmp_path, swin_state_dict())
    with pytest.raises(ValueError, match="such as 32 or 48"):
        convert_checkpoint(path, image_size=40)

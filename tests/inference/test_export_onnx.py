"""`ark-hf export`: the ONNX file computes what the model does, for every kind of head, and needs nothing else."""

import csv
import hashlib
import importlib.util
import io
import json
import runpy
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from onnxscript import ir
from PIL import Image
from transformers import AutoImageProcessor

from ark_hf.cli.export import export
from ark_hf.data.build.build import encode_png
from ark_hf.evaluation.calibrate import fold_temperature
from ark_hf.inference.export_onnx import export_onnx
from ark_hf.inference.load import load_ark
from ark_hf.inference.predict import predict_files
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor, ArkImageProcessorPil
from ark_hf.models.ark.modeling_ark import ArkForImageClassification, ArkModel
from tests.models.ark.several_modalities import CHEST, EYE, OF_CHESTS, OF_EYES, save_both

pytestmark = pytest.mark.slow_ci  # an export takes seconds, whatever the model

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "predict_onnx.py"
SIZE = 32
SINGLE = "single_label_classification"
TASKS = [
    ArkTask("north", ["Edema", "Mass"], thresholds={"Mass": 0.3, "Edema": 0.5}),
    ArkTask("south", ["normal", "bacterial", "viral"], SINGLE, thresholds={"viral": 0.4}),
    ArkTask("east", ["TB"], thresholds={"TB": 0.5}),
]
RESNET = {"backbone": "test_resnet"}
EFFICIENTNET = {"backbone": "test_efficientnet"}
CONVNEXT = {
    "backbone": "convnext_atto",
    "backbone_kwargs": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
}
VIT = {"backbone": "vit_tiny_patch16_224", "backbone_kwargs": {"depth": 1, "patch_size": 8, "embed_dim": 24}}
SWIN = {
    "backbone": "swin_tiny_patch4_window7_224",
    "backbone_kwargs": {"embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": 4},
}
CROPPED = {"intermediate_size": 45, "size": 39, "do_center_crop": True, "crop_size": SIZE, "image_mean": [0.4] * 3}
CASES = {
    "vit, several heads": (VIT | {"tasks": TASKS}, {}),
    "efficientnet, ordinary classifier, bfloat16": (EFFICIENTNET | {"id2label": {0: "cat", 1: "dog"}}, {}),
    "convnext, one head of classes, cropped": (CONVNEXT | {"tasks": TASKS[1:2]}, CROPPED),
    "resnet, one label, no projector": (RESNET | {"tasks": TASKS[2:], "projector_dim": None}, {}),
    "swin, several heads, calibrated": (SWIN | {"tasks": TASKS}, {}),
}
each_case = pytest.mark.parametrize("name", CASES)


class Exported(NamedTuple):
    name: str
    model: Path
    folder: Path
    out: str
    err: str


def save_model(folder: Path, name: str) -> None:
    config, view = CASES[name]
    torch.manual_seed(0)
    model = ArkForImageClassification(ArkConfig(**{"image_size": SIZE, "projector_dim": 12, **config})).eval()
    with torch.no_grad():  # as of a trained model: embeddings that tell pictures apart, and probabilities off 0.5
        for key, parameter in model.named_parameters():
            if key.startswith(("heads.", "classifier.", "ark.projector.")):
                parameter.normal_(std=1 if "projector" in key else 0.3)
    if "calibrated" in name:
        fold_temperature(model, "north", 0.4)
        fold_temperature(model, "south", 2.5)
    if "bfloat16" in name:
        model.to(torch.bfloat16)
    model.save_pretrained(folder)
    if model.config.tasks is None:  # JSON has no order
        values = json.loads((folder / "config.json").read_text())
        values["id2label"] = dict(reversed(values["id2label"].items()))
        (folder / "config.json").write_text(json.dumps(values))
    ArkImageProcessor(**{"size": SIZE, **view}).save_pretrained(folder)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Exports each model once, when it is first asked for."""
    done = {}

    def exported(name: str) -> Exported:
        if name not in done:
            folder = tmp_path_factory.mktemp("export")
            save_model(folder / "ark-cxr", name)
            out, err = io.StringIO(), io.StringIO()
            with redirect_stdout(out), redirect_stderr(err):
                assert export([str(folder / "ark-cxr"), "--out", str(folder / "onnx")]) == 0
            done[name] = Exported(name, folder / "ark-cxr", folder / "onnx", out.getvalue(), err.getvalue())
        return done[name]

    return exported


@pytest.fixture
def vit(exports) -> Exported:
    return exports("vit, several heads")


@pytest.fixture
def loaded_again(vit, monkeypatch):
    """The exporter returns what it made of the ViT before, whatever model it is given: it takes seconds."""
    program = torch.onnx.ONNXProgram(ir.load(vit.folder / "model.onnx"), None)
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **kwargs: program)


def session_of(folder: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


def by_hand(model: ArkForImageClassification, pixel_values: torch.Tensor) -> torch.Tensor:
    """Probabilities head by head, from raw logits."""
    if model.config.tasks is None:
        return model(pixel_values).logits.softmax(dim=-1)
    raw = [(task, model(pixel_values, task=task.name).logits) for task in model.config.tasks]
    return torch.cat([part.softmax(-1) if task.problem_type == SINGLE else part.sigmoid() for task, part in raw], 1)


@torch.no_grad()
@each_case
def test_the_file_computes_what_the_model_does(exports, name):
    exported = exports(name)
    session = session_of(exported.folder)
    model, _ = load_ark(str(exported.model))
    encoder, _ = load_ark(str(exported.model), ArkModel)
    assert [(put.name, put.type) for put in session.get_inputs()] == [("pixel_values", "tensor(float)")]
    assert session.get_inputs()[0].shape == ["batch", 3, SIZE, SIZE]
    for batch_size in (1, 3, 5):
        generator = torch.Generator().manual_seed(batch_size)
        pixel_values = torch.randn(batch_size, 3, SIZE, SIZE, generator=generator)
        found = session.run(["logits", "probabilities", "embeddings"], {"pixel_values": pixel_values.numpy()})
        expected = [model(pixel_values).logits, by_hand(model, pixel_values), encoder(pixel_values).embeddings]
        for theirs, ours in zip(found, expected, strict=True):
            assert theirs.dtype == np.float32
            np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5)
    assert np.ptp(found[0], axis=0).max() > 1e-2  # or mixed up pictures would go unseen


@each_case
def test_the_file_explains_itself(exports, name):
    exported = exports(name)
    config = ArkConfig.from_pretrained(exported.model)
    metadata = session_of(exported.folder).get_modelmeta().custom_metadata_map
    assert metadata["backbone"] == config.backbone and metadata["notice"].startswith("Research use only")
    weights = (exported.model / "model.safetensors").read_bytes()
    assert metadata["source"] == "ark-cxr" and metadata["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    tasks = [ArkTask.from_dict(task) for task in json.loads(metadata["tasks"])]
    assert tasks == (config.tasks or [ArkTask("classifier", ["cat", "dog"], SINGLE)])
    assert sum(len(task.labels) for task in tasks) == config.num_labels
    saved = json.loads((exported.folder / "preprocessor_config.json").read_text())
    preprocessing = json.loads(metadata["preprocessing"])
    assert {"size", "resample", "image_mean", "image_std"} <= set(preprocessing)
    assert all(value == saved.get(setting) for setting, value in preprocessing.items())


def test_the_folder_is_as_optimum_has_it(vit):
    files = {"model.onnx", "config.json", "preprocessor_config.json"}
    code = {"configuration_ark.py", "image_processing_ark.py", "masks_ark.py", "tasks_ark.py"}
    assert {path.name for path in vit.folder.iterdir()} == files | code
    config = ArkConfig.from_pretrained(vit.folder)
    assert config.tasks == ArkConfig.from_pretrained(vit.model).tasks and config.tasks[0].thresholds["Mass"] == 0.3
    assert AutoImageProcessor.from_pretrained(vit.folder).size["height"] == SIZE


def test_nothing_in_the_folder_tells_of_this_machine(vit):
    for path in vit.folder.iterdir():
        content = path.read_bytes()
        for trace in (
            b'File "',
            str(vit.model.parent).encode(),
            str(EXAMPLE.parents[1]).encode(),
            sys.prefix.encode(),
        ):
            assert trace not in content, f"{path.name} holds {trace}"


def test_the_verb_prints_the_differences_and_nothing_of_the_exporter(vit):
    assert vit.err == f"Exporting {vit.model}; this takes up to some minutes.\n"
    first, second = vit.out.splitlines()
    listed = first.removeprefix("Largest difference from the model on random pictures: ").removesuffix(".")
    differences = {name: float(value) for name, value in (each.split() for each in listed.split(", "))}
    assert list(differences) == ["logits", "probabilities", "embeddings"]
    assert all(0 <= value < 1e-5 for value in differences.values()) and any(differences.values())
    megabytes = (vit.folder / "model.onnx").stat().st_size / 1e6
    assert second == f"The ONNX model is in {vit.folder / 'model.onnx'} ({megabytes:.1f} MB)."


# --- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.1, float("nan")])
def test_a_file_that_computes_something_else_is_not_kept(vit, loaded_again, tmp_path, shift):
    model, processor = load_ark(str(vit.model))
    export_onnx(model, processor, tmp_path / "same")
    with torch.no_grad():
        model.heads["east"].bias += shift
    with pytest.raises(ValueError, match="does not compute what the model does: its logits differ by"):
        export_onnx(model, processor, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["same"]


def test_large_weights_go_to_a_second_file(vit, loaded_again, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 0)
    model, processor = load_ark(str(vit.model))
    export_onnx(model, processor, tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx.data").stat().st_size > (tmp_path / "out" / "model.onnx").stat().st_size
    pixel_values = np.zeros((2, 3, SIZE, SIZE), np.float32)
    runs = [session_of(folder).run(None, {"pixel_values": pixel_values}) for folder in (tmp_path / "out", vit.folder)]
    for split, whole in zip(*runs, strict=True):
        np.testing.assert_array_equal(split, whole)


def test_the_model_that_is_exported_does_not_change(vit, loaded_again, tmp_path):
    model = ArkForImageClassification.from_pretrained(vit.model, dtype=torch.bfloat16).train()
    with pytest.raises(ValueError, match="does not compute"):  # its weights were rounded, those of the file were not
        export_onnx(model, ArkImageProcessor(size=SIZE), tmp_path / "out")
    assert model.training and model.dtype == torch.bfloat16


def test_why_a_model_cannot_be_exported_is_one_line(vit, tmp_path, monkeypatch, capfd):
    def fail(*args, **kwargs):
        print("graph(")
        raise torch.onnx.OnnxExporterError("how to report this:\n...") from RuntimeError("no such operator\ngraph(")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(
        ValueError, match="^PyTorch cannot export a model of the backbone 'vit_tiny_patch16_224': no such op[a-z]+$"
    ):
        export([str(vit.model), "--out", str(tmp_path / "out")])
    assert "graph(" not in "".join(capfd.readouterr()) and not list(tmp_path.iterdir())


def test_an_opset_that_the_exporter_does_not_reach_is_refused(vit, loaded_again, tmp_path):
    with pytest.raises(ValueError, match="cannot write this model in opset 22; it can in 20"):
        export([str(vit.model), "--out", str(tmp_path / "out"), "--opset", "22"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("opset", ["17", "99"])
def test_unknown_opsets_are_refused_before_the_model_is_loaded(tmp_path, opset):
    with pytest.raises(ValueError, match=f"opset {opset} cannot be written; choose one from 18 to 23"):
        export(["someone/nowhere", "--out", str(tmp_path / "out"), "--opset", opset])


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match="^Exporting needs onnxscript: pip install onnx onnxscript onnxruntime$"):
        export(["someone/nowhere", "--out", str(tmp_path / "out")])


def test_folders_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    for out, message in [
        ("full", "exists and is not empty"),
        ("full/thesis.txt", "exists and is not empty"),
        ("model.onnx", "name one without .onnx; the file in it is model.onnx"),
    ]:
        with pytest.raises(ValueError, match=message):
            export(["someone/nowhere", "--out", str(tmp_path / out)])
    assert (tmp_path / "full" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("tasks", [None, TASKS])
def test_models_without_heads_and_folders_without_a_model_are_refused(tmp_path, tasks):
    config = ArkConfig(**RESNET, image_size=SIZE, projector_dim=12, tasks=tasks)
    ArkModel(config).save_pretrained(tmp_path / "encoder")
    ArkImageProcessor(size=SIZE).save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="encoder without heads"):
        export([str(tmp_path / "encoder"), "--out", str(tmp_path / "out")])
    with pytest.raises(ValueError, match="Cannot load an Ark model from 'someone/nowhere'"):
        export(["someone/nowhere", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "view", "message"),
    [
        ({}, {"do_ten_crop": True, "crop_size": SIZE}, "has do_ten_crop=True; to export the model it must be False"),
        ({}, {"do_normalize": False}, "has do_normalize=False"),
        ({}, {"size": 40}, r"gives pictures of \(3, 40, 40\), and the model takes \(3, 32, 32\)"),
        ({"tasks": None, "num_labels": 1, "problem_type": "regression"}, {}, "is a regression"),
    ],
)
def test_what_the_file_could_not_describe_is_refused(tmp_path, changes, view, message):
    config = ArkConfig(**{**RESNET, "image_size": SIZE, "projector_dim": None, "tasks": TASKS, **changes})
    with pytest.raises(ValueError, match=message):
        export_onnx(ArkForImageClassification(config), ArkImageProcessor(**{"size": SIZE, **view}), tmp_path / "out")
    assert not list(tmp_path.iterdir())


# --- the example, which has only the file ---------------------------------------------------------------------------

BLOCKED = """
import runpy, sys
for name in ("torch", "torchvision", "transformers", "timm", "ark_hf"):
    sys.modules[name] = None  # importing it raises ImportError
script, *sys.argv[1:] = sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)

    def smooth(height: int, width: int, white: int) -> np.ndarray:
        coarse = Image.fromarray(generator.random((5, 6)).astype(np.float32))
        return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1) * white

    grey = smooth(60, 71, 255).astype(np.uint8)
    colour = np.stack([smooth(50, 44, 255) for _ in range(3)], axis=-1).astype(np.uint8)
    rotated = Image.Exif()
    rotated[274] = 6
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray(smooth(20, 31, 255).astype(np.uint8)).save(folder / "small.png")
    Image.fromarray(grey > 100).save(folder / "black_and_white.png")
    Image.fromarray(colour).save(folder / "colour.png")
    Image.fromarray(colour).quantize(16).save(folder / "palette.png")
    Image.fromarray(colour).save(folder / "colour.jpg", quality=95)
    Image.fromarray(grey).save(folder / "rotated.jpg", exif=rotated)
    Image.fromarray(np.dstack([colour, grey[:50, :44]])).save(folder / "transparent.png")
    for name, white in {"16_bit": 65535, "12_bit": 4095, "8_bit_in_16": 255}.items():
        Image.fromarray(smooth(64, 50, white).astype(np.uint16)).save(folder / f"{name}.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "widened.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("name", ["swin, several heads, calibrated", "convnext, one head of classes, cropped"])
def test_the_example_predicts_as_we_do_without_our_libraries(exports, pictures, name):
    exported = exports(name)
    command = [sys.executable, "-c", BLOCKED, str(EXAMPLE), str(exported.folder / "model.onnx"), *map(str, pictures)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and not result.stderr, result.stderr
    rows = list(csv.DictReader(io.StringIO(result.stdout)))

    model, _ = load_ark(str(exported.model))
    ours = dict(predict_files(model, ArkImageProcessorPil.from_pretrained(exported.model), pictures))
    labels = [(task, label) for task in model.config.tasks for label in task.labels]
    expected = [
        (str(path), task, label, probability)
        for path in pictures
        for (task, label), probability in zip(labels, ours[path], strict=True)
    ]
    assert len(rows) == len(pictures) * model.config.num_labels
    for row, (path, task, label, probability) in zip(rows, expected, strict=True):
        assert (row["image"], row["task"], row["label"]) == (path, task.name, label)
        assert float(row["probability"]) == pytest.approx(probability, abs=1e-4)
        threshold = (task.thresholds or {}).get(label)
        called = "" if threshold is None else "yes" if probability >= threshold else "no"
        assert row["threshold"] == ("" if threshold is None else str(threshold)) and row["positive"] == called
    assert {row["positive"] for row in rows} >= {"yes", "no"}
    assert np.ptp(np.stack(list(ours.values())), axis=0).max() > 0.1


@pytest.mark.parametrize(("name", "modality", "own"), [("chest.png", None, OF_CHESTS), ("eye.png", "OP", OF_EYES)])
def test_the_example_asks_the_heads_of_the_picture_s_modality(both, monkeypatch, capsys, name, modality, own):
    path = both.parent / name
    arguments = [] if modality is None else ["--modality", modality]
    monkeypatch.setattr(sys, "argv", ["predict_onnx.py", str(both / "model.onnx"), str(path), *arguments])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    model, _ = load_ark(str(both.parent / "ark-cxr"))
    processor = ArkImageProcessorPil.from_pretrained(both.parent / "ark-cxr")
    ((_, expected),) = predict_files(model, processor, [path], modality=modality)
    assert [float(row["probability"]) for row in found] == pytest.approx(expected[own].tolist(), abs=1e-4)


def test_the_example_refuses_a_modality_that_the_model_lacks(both, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["predict_onnx.py", str(both / "model.onnx"), "x.png", "--modality", "MG"])
    with pytest.raises(SystemExit, match="--modality MG: this model is for images of CR and OP"):
        runpy.run_path(str(EXAMPLE), run_name="__main__")


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    """The exported model of two modalities, and beside its folder a picture of each."""
    folder = tmp_path_factory.mktemp("both")
    save_both(folder / "ark-cxr")
    (folder / "chest.png").write_bytes(encode_png(CHEST)["bytes"])
    (folder / "eye.png").write_bytes(encode_png(EYE)["bytes"])
    assert export([str(folder / "ark-cxr"), "--out", str(folder / "onnx")]) == 0
    return folder / "onnx"


@pytest.mark.parametrize("arguments", [[], ["model.onnx"]])
def test_the_example_says_how_it_is_used(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["predict_onnx.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert stop.value.code == 2 and "usage: " in capsys.readouterr().err


def test_the_example_explains_wrong_input_in_one_line(vit, pictures, tmp_path, monkeypatch):
    model, other = str(vit.folder / "model.onnx"), ir.load(vit.folder / "model.onnx")
    other.metadata_props.clear()
    ir.save(other, tmp_path / "other.onnx")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes(pictures[0].read_bytes()[:200])
    for arguments, message in [
        ([model, tmp_path / "none.png"], "none.png: cannot be read as PNG or JPEG (FileNotFoundError)."),
        ([model, tmp_path / "text.png"], "text.png: cannot be read as PNG or JPEG (UnidentifiedImageError)."),
        ([model, tmp_path / "cut.png"], "cut.png: cannot be read as PNG or JPEG"),
        ([tmp_path / "none.onnx", pictures[0]], "none.onnx: cannot be loaded as an ONNX model (NoSuchFile)."),
        ([pictures[0], pictures[0]], "cannot be loaded as an ONNX model"),
        ([tmp_path / "other.onnx", pictures[0]], "other.onnx: was not written by `ark-hf export`"),
    ]:
        monkeypatch.setattr(sys, "argv", ["predict_onnx.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(EXAMPLE), run_name="__main__")
        assert message in stop.value.code and "\n" not in stop.value.code


# --- the benchmark --------------------------------------------------------------------------------------------------


def test_the_benchmark_measures_both_in_turns(vit, monkeypatch, tmp_path, capsys):
    """On a tiny model whose file is at hand; what it measures is not asserted."""
    path = EXAMPLE.parents[1] / "benchmarks" / "onnx_inference.py"
    spec = importlib.util.spec_from_file_location("onnx_inference", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)

    def export_before(model, processor, output_dir):
        shutil.copytree(vit.folder, output_dir)
        return {"logits": 2e-7, "probabilities": 1e-7}

    monkeypatch.setattr("ark_hf.inference.export_onnx.export_onnx", export_before)
    monkeypatch.setattr(benchmark, "MODELS", {"tiny": {**RESNET, "image_size": SIZE}})
    arguments = ["--batch_sizes", "1", "2", "--turns", "1", "--out", str(tmp_path / "results.json")]
    monkeypatch.setattr(sys, "argv", ["onnx_inference.py", *arguments])
    threads = torch.get_num_threads()
    benchmark.main()
    torch.set_num_threads(threads)
    table = json.loads((tmp_path / "results.json").read_text())["table"]
    both = ["PyTorch", "onnxruntime"]
    assert [(row["batch_size"], row["way"]) for row in table] == [(size, way) for size in (1, 2) for way in both]
    assert all(row["ms_per_image"] > 0 and row["ratio"] > 0 for row in table)
    assert "2.0e-07" in capsys.readouterr().out

"""A model as an ONNX file, which says by itself what its numbers mean: for programs without PyTorch or Python."""

import copy
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..files import check_new_folder, replace_folder
from ..models.ark.configuration_ark import ArkConfig
from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.modeling_ark import ArkForImageClassification
from ..models.ark.modeling_ark_segmentation import ArkForSemanticSegmentation
from ..models.ark.tasks_ark import DEFAULT_MODALITY, is_in_colour
from ..provenance import shown_name
from .masks import check_segments
from .overlays import check_whole_picture
from .task_labels import UNNAMED_TASK, label_names

PACKAGES = "onnx", "onnxscript", "onnxruntime"
MODEL_FILE = "model.onnx"
INPUT, OUTPUTS = "pixel_values", ("logits", "probabilities", "embeddings")
SEGMENTER_OUTPUTS = ("logits",)
OPSETS = range(18, 24)
TESTED_BATCH_SIZES = (1, 3)  # the export sees two pictures: only others show that the batch size stayed free
# Kernels of float32 that sum in another order differ by some 1e-6; one that computes something else, by far more
TOLERANCE = 1e-4
# The one way of preparing a picture that a reader of the file has to know
PREPARATION = {
    "do_convert_rgb": True,
    "do_resize": True,
    "do_ten_crop": False,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
}
PREPARATION_SETTINGS = (
    "intermediate_size", "size", "resample", "do_center_crop", "crop_size", "image_mean", "image_std",
)  # fmt: skip


def export_onnx(
    model: ArkForImageClassification | ArkForSemanticSegmentation,
    processor: ArkImageProcessor,
    output_dir: Path,
    opset: int = 20,
    weights_sha256: str | None = None,
) -> dict[str, float]:
    """
    Writes `model.onnx` with `config.json` and `preprocessor_config.json` beside it, the layout of optimum, the folder
    whole or not at all. Before it is put in place, the file is checked and run by onnxruntime on random pictures.

    The file takes `pixel_values`, float32 (batch, 3, image_size, image_size) as the image processor gives them, for
    any batch size, and gives float32, of a classifier

    - `logits`, (batch, num_labels), as the model gives them without a task: of several heads per-label log-odds;
    - `probabilities`, (batch, num_labels) in [0, 1]: those of the stock pipeline, so that no reader of the file needs
      to know which labels share a softmax;
    - `embeddings`, (batch, projector_dim), for search and probes.

    and of a segmenter `logits` alone, (batch, classes, height, width), at their own resolution, which is below that of
    the input: whoever reads them enlarges them to the picture (bilinear), and then takes the largest class, or of
    overlapping labels those whose sigmoid reaches the threshold.

    Its `metadata_props` hold, as JSON, `tasks` (the heads in the order of the outputs, as in `config.json`: labels,
    problem type, thresholds; an ordinary classifier is one task `classifier`), or of a segmenter `segmentation` (its
    task) and `classes` (names of the logits), and `preprocessing` (the settings of the image processor by their names
    in transformers); and as plain text `source`, `weights_sha256`, `backbone` and
    `notice`. Weights beyond what one ONNX file can hold (2 GB) go to `model.onnx.data` beside it.

    Args:
        model: It is copied, not changed, but that it loses operating points of other weights; the file's weights are
            float32 whatever the model's are.
        processor: It must resize to the model's size, alone or with a centre crop.
        output_dir: New folder.
        opset: Version of ONNX's operators, 18 to 23.
        weights_sha256: Of the files that hold the model's weights as they are, see `provenance.weights_sha256`, by
            which reports know them too; a model that was changed since it was loaded has none.

    Returns:
        The largest difference between the file and the model, for each output; of logits and embeddings relative to
        their largest number if that is above 1.

    Raises:
        ValueError: One of `PACKAGES` is not installed, the opset is none of those, `output_dir` exists and is not
            empty, the model is a regression or a segmenter without a named task, the image processor does something
            else, PyTorch cannot export the model, or the file does not compute what the model does.
    """
    check_can_export(output_dir, opset)
    config = model.config
    if config.problem_type == "regression":
        raise ValueError("The model is a regression, which has no probabilities; only classifiers can be exported.")
    if isinstance(model, ArkForSemanticSegmentation):
        check_segments(config, model.name_or_path or type(model).__name__)
        check_whole_picture(processor, "Masks")
    else:
        model.drop_stale_thresholds()
    metadata = _metadata(model, processor)
    if weights_sha256 is not None:
        metadata["weights_sha256"] = weights_sha256
    pictures = _random_pictures(processor, config, max(TESTED_BATCH_SIZES))
    kind = _ExportedSegmenter if isinstance(model, ArkForSemanticSegmentation) else _ExportedModel
    module = kind(copy.deepcopy(model).to("cpu", torch.float32)).eval()
    program = _export(module, pictures, opset)
    program.model.metadata_props.update(metadata)
    differences = {}

    def write(folder: Path) -> None:
        program.save(folder / MODEL_FILE)
        config.save_pretrained(folder)
        processor.save_pretrained(folder)
        differences.update(_differences(folder / MODEL_FILE, module, pictures))

    replace_folder(output_dir, write)
    return differences


def check_can_export(output_dir: Path, opset: int) -> None:
    """What can be known before a model is loaded; see [`export_onnx`] for the errors."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"Exporting needs {' and '.join(missing)}: pip install {' '.join(PACKAGES)}")
    if opset not in OPSETS:
        raise ValueError(f"opset {opset} cannot be written; choose one from {OPSETS[0]} to {OPSETS[-1]}.")
    if output_dir.suffix == ".onnx":
        raise ValueError(f"{output_dir} would be a folder: name one without .onnx; the file in it is {MODEL_FILE}.")
    check_new_folder(output_dir)


class _ExportedSegmenter(nn.Module):
    """The output of a segmenter's file."""

    outputs = SEGMENTER_OUTPUTS

    def __init__(self, model: ArkForSemanticSegmentation):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.model(pixel_values).logits,)


class _ExportedModel(nn.Module):
    """The outputs of a classifier's file, from one pass."""

    outputs = OUTPUTS

    def __init__(self, model: ArkForImageClassification):
        super().__init__()
        self.model = model
        self.activation = nn.Sigmoid() if _is_multi_label(model.config) else nn.Softmax(dim=-1)

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.model(pixel_values)
        return outputs.logits, self.activation(outputs.logits), outputs.embeddings


def _is_multi_label(config: ArkConfig) -> bool:
    # A lone output is a probability by itself, as transformers' pipeline has it
    return config.problem_type == "multi_label_classification" or config.num_labels == 1


def _metadata(model: Any, processor: ArkImageProcessor) -> dict[str, str]:
    for name, needed in PREPARATION.items():
        value = getattr(processor, name)
        if value != needed:
            raise ValueError(f"The image processor has {name}={value!r}; to export the model it must be {needed!r}.")
    config, settings = model.config, processor.to_dict()
    return {
        **_described_outputs(config),
        "preprocessing": json.dumps(
            {name: settings.get(name) for name in PREPARATION_SETTINGS} | _modalities(processor)
        ),
        "source": shown_name(model.name_or_path) if model.name_or_path else "",
        "backbone": config.backbone,
        "notice": "Research use only. Not a medical device. The weights are under the licence of the source.",
    }


def _modalities(processor: ArkImageProcessor) -> dict[str, Any]:
    """Which modalities a model is for, what they set otherwise, and which are read in colour; nothing of CR alone."""
    if processor.all_modalities == [DEFAULT_MODALITY]:
        return {}
    return {
        "modalities": {processor.modality: {}} | (processor.modalities or {}),
        "in_colour": [each for each in processor.all_modalities if is_in_colour(each)],
    }


def _described_outputs(config: ArkConfig) -> dict[str, str]:
    if config.segmentation is not None:
        task = config.segmentation
        return {"segmentation": json.dumps(task.to_dict()), "classes": json.dumps(task.classes)}
    kind = "multi_label_classification" if _is_multi_label(config) else "single_label_classification"
    ordinary = {"name": UNNAMED_TASK, "labels": label_names(config), "problem_type": kind}
    return {"tasks": json.dumps([ordinary] if config.tasks is None else [task.to_dict() for task in config.tasks])}


def _random_pictures(processor: ArkImageProcessor, config: ArkConfig, count: int) -> torch.Tensor:
    """float32 (count, num_channels, image_size, image_size), of 8-bit noise, each darker than the one before."""
    side = config.image_size
    noise = np.random.default_rng(0).integers(0, 256, (count, side, side), dtype=np.uint8)
    darker = [picture // np.uint8(number) for number, picture in enumerate(noise, start=1)]
    pictures = processor(darker, return_tensors="pt")["pixel_values"]
    given, taken = tuple(pictures.shape[1:]), (config.num_channels, side, side)
    if given != taken:
        raise ValueError(
            f"The image processor gives pictures of {given}, and the model takes {taken} (channels, height, width); "
            "set `size` or `crop_size` in preprocessor_config.json."
        )
    return pictures


def _export(module: "_ExportedModel | _ExportedSegmenter", pictures: torch.Tensor, opset: int) -> Any:
    """PyTorch's `ONNXProgram`."""
    from onnxscript.ir.passes.common import ClearMetadataAndDocStringPass

    try:
        with torch.no_grad(), _silence():
            program: Any = torch.onnx.export(
                module,
                (pictures[:2],),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=[INPUT],
                output_names=module.outputs,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    except torch.onnx.OnnxExporterError as error:
        backbone, reason = module.model.config.backbone, _first_line(error.__cause__ or error)
        raise ValueError(f"PyTorch cannot export a model of the backbone {backbone!r}: {reason}") from None
    written = program.model.opset_imports[""]
    if written != opset:  # the exporter only logs it
        raise ValueError(f"PyTorch cannot write this model in opset {opset}; it can in {written}.")
    ClearMetadataAndDocStringPass()(program.model)  # stack traces, with paths of this machine
    return program


@contextmanager
def _silence() -> Iterator[None]:
    """Of the exporter, which prints, warns and logs as it goes, whole graphs if it fails."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _differences(
    path: Path, module: "_ExportedModel | _ExportedSegmenter", pictures: torch.Tensor
) -> dict[str, float]:
    """See [`export_onnx`]; raises `ValueError` if they are too large, or the file cannot be run."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    largest = dict.fromkeys(module.outputs, 0.0)
    try:
        onnx.checker.check_model(str(path))
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for count in TESTED_BATCH_SIZES:
            found: Sequence[Any] = session.run(module.outputs, {INPUT: pictures[:count].numpy()})
            with torch.no_grad():
                expected = module(pictures[:count])
            for name, theirs, ours in zip(module.outputs, found, expected, strict=True):
                scale = max(1.0, float(ours.abs().max()))
                difference = float(np.abs(theirs - ours.numpy()).max()) / scale
                largest[name] = float(np.maximum(largest[name], difference))  # NaN stays
    except Exception as error:  # neither library's own errors share a class
        raise ValueError(f"The exported file cannot be run: {_first_line(error)}") from None
    for name, difference in largest.items():
        if not difference <= TOLERANCE:
            raise ValueError(
                f"The exported file does not compute what the model does: its {name} differ by {difference:.2g}, and "
                f"{TOLERANCE:g} is allowed. Nothing is written."
            )
    return largest


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

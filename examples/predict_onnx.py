"""
Predict with an exported model; numpy, pillow and onnxruntime are all it needs, and all it knows stands in the file.

    ark-hf export ark-cxr --out ark-cxr-onnx
    python examples/predict_onnx.py ark-cxr-onnx/model.onnx chest.png other.jpg > predictions.csv
    python examples/predict_onnx.py ark-onnx/model.onnx --modality OP eye.jpg > predictions.csv  # of several

On what `ark-hf demo` left:

    ark-hf export ark-cxr --out ark-cxr-onnx
    python examples/predict_onnx.py ark-cxr-onnx/model.onnx runs/demo/pictures/phantom_city_0.png

Of a segmenter the table has the area of each label, and its mask is written to the folder `masks`. It reads PNG and
JPEG files of 8 or 16 bits as `ark-hf predict` does; for DICOM use that one.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

BIT_DEPTHS = (8, 10, 12, 14, 15, 16)


def read_picture(path: str, in_colour: bool) -> np.ndarray:
    """(H, W), or with colours (H, W, 3): uint8, or float32 in [0, 1] if the file is deeper."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as opened:
            if not opened.mode.startswith("I") and any(";16" in str(tile[3]) for tile in opened.tile):
                sys.exit(f"{path}: has colours of 16 bits, of which Pillow keeps 8; save it in grey.")
            picture = ImageOps.exif_transpose(opened)
            if not picture.mode.startswith("I"):
                return np.array(picture.convert("RGB" if in_colour else "L"))
            values = np.array(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        sys.exit(f"{path}: cannot be read as PNG or JPEG ({type(error).__name__}).")
    if not (values % 257).any():  # 8 bits that were widened to 16
        return (values // 257).astype(np.uint8)
    white = next(2**depth - 1 for depth in BIT_DEPTHS if values.max() < 2**depth)
    return values.astype(np.uint8) if white == 255 else values.astype(np.float32) / np.float32(white)


def prepare(pixels: np.ndarray, settings: dict) -> np.ndarray:
    """What the model takes: float32 (1, 3, height, width)."""
    picture = Image.fromarray(pixels)
    for size in (settings["intermediate_size"], settings["size"]):
        if size is not None:
            picture = picture.resize((size["width"], size["height"]), settings["resample"])
            if picture.mode == "F":  # a bicubic filter overshoots; in 8 bits the values saturate
                picture = Image.fromarray(np.asarray(picture).clip(0, 1))
    values = np.asarray(picture) / (1 if picture.mode == "F" else 255)
    if settings["do_center_crop"]:
        height, width = settings["crop_size"]["height"], settings["crop_size"]["width"]
        top, left = (values.shape[0] - height) // 2, (values.shape[1] - width) // 2
        values = values[top : top + height, left : left + width]
    planes = np.moveaxis(np.atleast_3d(values), -1, 0)
    mean, std = (np.array(settings[name])[:, None, None] for name in ("image_mean", "image_std"))
    return ((planes - mean) / std).astype(np.float32)[None]


def settings_of(preprocessing: dict, modality: str | None) -> tuple[str, dict]:
    """The modality, the model's first unless it is told, and how its pictures are prepared."""
    known = preprocessing.pop("modalities", {"CR": {}})
    modality = modality or next(iter(known))
    if modality not in known:
        sys.exit(f"--modality {modality}: this model is for images of {' and '.join(known)}.")
    in_colour = modality in preprocessing.pop("in_colour", [])
    return modality, {**preprocessing, **known[modality], "in_colour": in_colour}


def load(path: str) -> tuple[onnxruntime.InferenceSession, dict[str, str]]:
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no class
        sys.exit(f"{path}: cannot be loaded as an ONNX model ({type(error).__name__}).")
    metadata = session.get_modelmeta().custom_metadata_map
    if "preprocessing" not in metadata or not {"tasks", "segmentation"} & set(metadata):
        sys.exit(f"{path}: was not written by `ark-hf export`; it does not say how to use it.")
    return session, metadata


def enlarge(planes: np.ndarray, height: int, width: int) -> np.ndarray:
    """(n, h, w) to (n, height, width), bilinear, pixels seen as squares."""
    for axis, length in ((1, height), (2, width)):
        old = planes.shape[axis]
        place = ((np.arange(length) + 0.5) * old / length - 0.5).clip(0, old - 1)
        low = place.astype(int)
        high = np.minimum(low + 1, old - 1)
        part = (place - low).astype(np.float32).reshape([-1 if each == axis else 1 for each in range(3)])
        planes = planes.take(low, axis) * (1 - part) + planes.take(high, axis) * part
    return planes


def masks_of(logits: np.ndarray, task: dict) -> np.ndarray:
    """bool (labels, height, width) of the enlarged logits."""
    if not task.get("overlapping"):
        return logits.argmax(axis=0) == np.arange(1, len(logits))[:, None, None]  # class 0 is the background
    thresholds = np.array([task.get("thresholds", {}).get(label, 0.5) for label in task["labels"]])
    with np.errstate(divide="ignore"):
        return logits >= np.log(thresholds / (1 - thresholds))[:, None, None]


def write_masks(session: onnxruntime.InferenceSession, task: dict, settings: dict, paths: list[str]) -> None:
    table = csv.writer(sys.stdout)
    table.writerow(["image", "task", "label", "pixels", "mask"])
    folder = Path("masks")
    folder.mkdir(exist_ok=True)
    for row, path in enumerate(paths, start=1):
        pixels = read_picture(path, settings["in_colour"])
        (logits,) = session.run(["logits"], {"pixel_values": prepare(pixels, settings)})
        masks = masks_of(enlarge(logits[0], *pixels.shape[:2]), task)
        for number, (label, mask) in enumerate(zip(task["labels"], masks, strict=True)):
            file = folder / f"{row:05d}_{number:03d}.png"
            Image.fromarray(mask).save(file)
            table.writerow([path, task["name"], label, mask.sum(), file])


def write_probabilities(
    session: onnxruntime.InferenceSession, tasks: list[dict], settings: dict, paths: list[str], modality: str
) -> None:
    table = csv.writer(sys.stdout)
    table.writerow(["image", "task", "label", "probability", "threshold", "positive"])
    for path in paths:
        pixels = read_picture(path, settings["in_colour"])
        (probabilities,) = session.run(["probabilities"], {"pixel_values": prepare(pixels, settings)})
        names = [(task, label) for task in tasks for label in task["labels"]]
        for (task, label), probability in zip(names, probabilities[0].tolist(), strict=True):
            if task.get("modality", "CR") != modality:  # a head for other images, which is not asked
                continue
            threshold = task.get("thresholds", {}).get(label)
            called = "" if threshold is None else "yes" if probability >= threshold else "no"
            table.writerow([path, task["name"], label, f"{probability:.6f}", threshold, called])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Predicts with an exported model; writes a table of CSV.")
    parser.add_argument("model", metavar="MODEL.onnx")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE")
    parser.add_argument("--modality", help="DICOM's code of what the pictures were taken with; the model's first.")
    args = parser.parse_args()
    session, metadata = load(args.model)
    modality, settings = settings_of(json.loads(metadata["preprocessing"]), args.modality)
    if "segmentation" in metadata:
        write_masks(session, json.loads(metadata["segmentation"]), settings, args.pictures)
    else:
        write_probabilities(session, json.loads(metadata["tasks"]), settings, args.pictures, modality)

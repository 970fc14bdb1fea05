"""
Predict with an exported model; numpy, pillow and onnxruntime are all it needs, and all it knows stands in the file.

    ark-hf export ark-cxr --out ark-cxr-onnx
    python examples/predict_onnx.py ark-cxr-onnx/model.onnx chest.png other.jpg > predictions.csv

It reads PNG and JPEG files of 8 or 16 bits as `ark-hf predict` does; for DICOM use that one.
"""

import csv
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

BIT_DEPTHS = (8, 10, 12, 14, 15, 16)


def read_grey(path: str) -> np.ndarray:
    """(H, W): uint8, or float32 in [0, 1] if the file is deeper."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as opened:
            if not opened.mode.startswith("I") and any(";16" in str(tile[3]) for tile in opened.tile):
                sys.exit(f"{path}: has colours of 16 bits, of which Pillow keeps 8; save it in grey.")
            picture = ImageOps.exif_transpose(opened)
            if not picture.mode.startswith("I"):
                return np.array(picture.convert("L"))
            values = np.array(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        sys.exit(f"{path}: cannot be read as PNG or JPEG ({type(error).__name__}).")
    if not (values % 257).any():  # 8 bits that were widened to 16
        return (values // 257).astype(np.uint8)
    white = next(2**depth - 1 for depth in BIT_DEPTHS if values.max() < 2**depth)
    return values.astype(np.uint8) if white == 255 else values.astype(np.float32) / np.float32(white)


def prepare(grey: np.ndarray, settings: dict) -> np.ndarray:
    """What the model takes: float32 (1, 3, height, width)."""
    picture = Image.fromarray(grey)
    for size in (settings["intermediate_size"], settings["size"]):
        if size is not None:
            picture = picture.resize((size["width"], size["height"]), settings["resample"])
            if picture.mode == "F":  # a bicubic filter overshoots; in 8 bits the values saturate
                picture = Image.fromarray(np.asarray(picture).clip(0, 1))
    values = np.asarray(picture) / (255 if picture.mode == "L" else 1)
    if settings["do_center_crop"]:
        height, width = settings["crop_size"]["height"], settings["crop_size"]["width"]
        top, left = (values.shape[0] - height) // 2, (values.shape[1] - width) // 2
        values = values[top : top + height, left : left + width]
    mean, std = (np.array(settings[name])[:, None, None] for name in ("image_mean", "image_std"))
    return ((values - mean) / std).astype(np.float32)[None]


def load(path: str) -> tuple[onnxruntime.InferenceSession, dict[str, str]]:
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no class
        sys.exit(f"{path}: cannot be loaded as an ONNX model ({type(error).__name__}).")
    metadata = session.get_modelmeta().custom_metadata_map
    if not {"tasks", "preprocessing"} <= set(metadata):
        sys.exit(f"{path}: was not written by `ark-hf export`; it does not say how to use it.")
    return session, metadata


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python predict_onnx.py MODEL.onnx PICTURE [PICTURE ...]")
    session, metadata = load(sys.argv[1])
    tasks, settings = json.loads(metadata["tasks"]), json.loads(metadata["preprocessing"])
    table = csv.writer(sys.stdout)
    table.writerow(["image", "task", "label", "probability", "threshold", "positive"])
    for path in sys.argv[2:]:
        (probabilities,) = session.run(["probabilities"], {"pixel_values": prepare(read_grey(path), settings)})
        names = [(task, label) for task in tasks for label in task["labels"]]
        for (task, label), probability in zip(names, probabilities[0].tolist(), strict=True):
            threshold = task.get("thresholds", {}).get(label)
            called = "" if threshold is None else "yes" if probability >= threshold else "no"
            table.writerow([path, task["name"], label, f"{probability:.6f}", threshold, called])

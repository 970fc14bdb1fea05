"""
The most memory that `predict`, `embed` and `serve` take with a Swin-L of 768 pixels, and their time.

Each verb runs in a process of its own, with the batch size that it has by default, on drawn pictures of 1024 pixels;
the page is asked for one of them, whose answer has the heat maps of the labels too. Weights are random. Memory is the
system's count of the most that the process had resident, libraries (about 0.8 GB) and weights (0.8 GB in float32)
included; time includes the start. With `--backbone` and `--image_size` it is another model.
"""

import argparse
import base64
import http.client
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from PIL import Image

SIDE = 1024
VERBS = ("predict", "embed", "serve")
DTYPES = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="swin_large_patch4_window12_384", help="of the model (Swin-L)")
    parser.add_argument("--image_size", type=int, default=768, help="its input's side in pixels (768)")
    parser.add_argument("--images", type=int, default=16, help="for predict and embed (16)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "inference_memory.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, pictures = Path(folder) / "ark-cxr", Path(folder) / "pictures"
        write_model(model, args.backbone, args.image_size)
        draw(pictures, args.images)
        rows = []
        for dtype in DTYPES:
            for verb in VERBS:
                rows.append({"verb": verb, "dtype": dtype, **measure(verb, dtype, model, pictures)})
                print_row(rows[-1])
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    machine = {"cores": os.cpu_count(), "cpu": platform.processor() or platform.machine()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"rows": rows, "settings": settings, "machine": machine}, indent=1) + "\n")
    print(f"Written to {args.out}.")


def write_model(folder: Path, backbone: str, image_size: int) -> None:
    from ark_hf import ArkConfig, ArkForImageClassification, ArkImageProcessor, ArkTask

    task = ArkTask("site", [f"finding {number}" for number in range(14)])
    config = ArkConfig(backbone=backbone, image_size=image_size, projector_dim=1376, tasks=[task])
    ArkForImageClassification(config).save_pretrained(folder)
    ArkImageProcessor(size=image_size).save_pretrained(folder)


def draw(folder: Path, count: int) -> None:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(generator.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(folder / f"{number}.png")


def measure(verb: str, dtype: str, model: Path, pictures: Path) -> dict[str, float]:
    """Gigabytes and seconds of `ark-hf VERB` in a process of its own."""
    out = tempfile.mkdtemp(dir=model.parent)
    port = free_port()
    words = {
        "predict": [str(model), str(pictures), "--out", f"{out}/found.csv"],
        "embed": [str(model), str(pictures), "--store", f"{out}/store"],
        "serve": [str(model), "--port", str(port)],
    }[verb]
    started = time.monotonic()
    command = [sys.executable, "-m", "ark_hf", verb, *words, "--dtype", dtype]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if verb == "serve":
        try:
            ask(process, port, sorted(pictures.iterdir())[0])
        finally:
            process.terminate()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode and verb != "serve":
        sys.exit(f"{verb} failed.")
    kilobytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return {"peak_gb": round(kilobytes * 1024 / 1e9, 2), "seconds": round(time.monotonic() - started, 1)}


def ask(process: subprocess.Popen, port: int, picture: Path) -> None:
    """Waits for the page, and has it read a picture as its script does."""
    assert process.stdout is not None
    if "The page is at" not in process.stdout.readline():
        sys.exit("serve failed.")
    config = json.loads(request(port, "GET", "/config"))
    component = next(each["id"] for each in config["components"] if each["type"] == "html")
    upload = {"name": picture.name, "data": base64.b64encode(picture.read_bytes()).decode()}
    message = {"data": upload, "component_id": component, "fn_name": "read", "session_hash": "benchmark"}
    answer = request(port, "POST", "/gradio_api/component_server/", json.dumps(message))
    if "finding 0" not in answer:
        sys.exit("The page gave no answer.")


def request(port: int, method: str, path: str, body: str | None = None) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1800)
    connection.request(method, path, body, {"Content-Type": "application/json"})
    return connection.getresponse().read().decode()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def print_row(row: dict) -> None:
    print(f"{row['verb']:10}{row['dtype']:10}{row['peak_gb']:7.2f} GB{row['seconds']:9.0f} s", flush=True)


if __name__ == "__main__":
    main()

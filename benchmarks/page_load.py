"""
Many clients at once on the page of `ark-hf serve`: what they get, and how much memory the server takes over time.

A server of a tiny model is started as a process of its own, and each client, a thread, sends it right and wrong files
and requests until the time is up: small and large pictures of 8 and 16 bits, DICOM, text, damaged and boundless files,
cut connections, requests of other sites. Every answer is compared with the one that is due. Then SIGTERM ends the
server, and its folder for temporary files is looked into. Exits with 1 if an answer was another, memory has grown by
more than the bound, or anything is left.

    python benchmarks/page_load.py [--clients 50] [--minutes 5]
"""

import argparse
import base64
import http.client
import io
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import psutil
from constant_memory import growth, private_megabytes
from PIL import Image

BOUND = 100  # MB that the server may grow by, from the second fifth of the time to the last
READ = "/gradio_api/component_server/"
PATIENCE = 600  # seconds that a client waits for an answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "page_load.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = load(Path(folder), args.clients, args.minutes * 60)
    print_table(result)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    if result["wrong"] or result["left"] or result["growth_mb"] > BOUND:
        sys.exit("The page did not hold.")


def load(folder: Path, clients: int, seconds: float) -> dict:
    """Starts the server, loads it, samples its memory, and ends it."""
    (folder / "tmp").mkdir()
    process, page = start(save_model(folder / "ark-cxr"), folder / "tmp")
    requests, answers, wrong, samples = make_requests(), Counter[str](), Counter[str](), []
    end = time.monotonic() + seconds
    threads = [
        threading.Thread(target=client, args=(each, page, requests, end, answers, wrong)) for each in range(clients)
    ]
    try:
        before = private_megabytes(psutil.Process(process.pid))
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            samples.append(private_megabytes(psutil.Process(process.pid)))
            time.sleep(0.25)
        alive = process.poll() is None
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    if not alive:
        wrong["the server has ended"] += 1
    return {
        "clients": clients,
        "seconds": seconds,
        "answers": dict(sorted(answers.items())),
        "wrong": dict(wrong),
        "before_mb": round(before),
        "peak_mb": round(max(samples)),
        "growth_mb": growth(samples),
        "samples_mb": [round(each) for each in samples[:: max(len(samples) // 100, 1)]],
        "left": [str(each.relative_to(folder)) for each in (folder / "tmp").rglob("*") if each.is_file()],
    }


def save_model(folder: Path) -> Path:
    from ark_hf import ArkConfig, ArkForImageClassification, ArkImageProcessor, ArkTask

    tasks = [ArkTask("findings", ["effusion", "nodule", "edema"]), ArkTask("view", ["frontal", "lateral"])]
    config = ArkConfig(backbone="test_resnet", image_size=64, projector_dim=8, tasks=tasks)
    ArkForImageClassification(config).save_pretrained(folder)
    ArkImageProcessor(size=64).save_pretrained(folder)
    return folder


def start(model: Path, temporary: Path) -> tuple[subprocess.Popen, int]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "ark_hf", "serve", str(model), "--port", str(port)]
    environment = os.environ | {"TMPDIR": str(temporary)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if not any("The page is at" in line for line in process.stdout):
        sys.exit("The server does not start.")
    return process, port


def make_requests() -> dict[str, tuple[bytes, str]]:
    """By name what is sent, and a part of the answer that is due."""
    noise = np.random.default_rng(0).integers(0, 256, (2500, 2000), np.uint8)
    small, deep = noise[:300, :250], noise[:600, :500].astype(np.uint16) * 16
    read, refused = "ark-columns", "This file cannot be read"
    files = {
        "small picture": (png(small), read),
        "large picture": (png(noise), read),
        "16-bit picture": (png(deep), read),
        "DICOM": (dicom(small), read),
        "text": (b"Dear colleague, " * 99, refused),
        "cut picture": (png(small)[:-5000], refused),
        "picture that claims 20,000 x 20,000": (claiming(png(small), 20_000), refused),
        "20 MB of nothing": (bytes(20 * 2**20), refused),
        "empty file": (b"", refused),
    }
    return {name: (post(message(name, data)), due) for name, (data, due) in files.items()} | {
        "no JSON": (post(b"{" * 5000), "400"),
        "JSON without end": (post(b"[" * 10**6), "400"),
        "another site's": (post(message("a.png", png(small)), "Origin: https://evil.example"), "403"),
        "600 MB claimed": (post(b"", length=600 * 2**20), "413"),
        "another file of the server": (b"GET /gradio_api/file=/etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "404"),
        "headers without end": (b"GET / HTTP/1.1\r\nX: " + b"x" * 2**20, ""),
        "the page": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "ark-drop"),
        "a connection that is cut": (post(message("a.png", png(noise)))[: 2**20], ""),
    }


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def claiming(picture: bytes, side: int) -> bytes:
    header = picture[12:16] + struct.pack(">II", side, side) + picture[24:29]
    return picture[:12] + header + struct.pack(">I", zlib.crc32(header)) + picture[33:]


def dicom(pixels: np.ndarray) -> bytes:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

    dataset, file = Dataset(), io.BytesIO()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = ComputedRadiographyImageStorage, generate_uid()
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelData = 7, pixels.tobytes()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def message(name: str, data: bytes) -> bytes:
    """What the page's script sends; the component is the page's only one."""
    upload = {"name": name, "data": base64.b64encode(data).decode()}
    return json.dumps({"data": upload, "component_id": 1, "fn_name": "read", "session_hash": name}).encode()


def post(body: bytes, *headers: str, length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    lines = [f"POST {READ} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode() + body


def client(number: int, port: int, requests: dict, end: float, answers: Counter, wrong: Counter) -> None:
    choice, names = random.Random(number), sorted(requests)
    while time.monotonic() < end:
        name = choice.choice(names)
        sent, due = requests[name]
        answers[name] += 1
        answer = ask(port, sent, wait=bool(due))
        if due and due not in answer:
            wrong[f"{name}: {' '.join(answer.split())[:80]!r}"] += 1


def ask(port: int, sent: bytes, wait: bool) -> str:
    """The status and text that the server gives, or what went wrong."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            connection.sendall(sent)
            if not wait:
                return ""
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return f"{answer.status} {answer.read().decode()}"
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__


def print_table(result: dict) -> None:
    print(
        f"{result['clients']} clients for {result['seconds']:.0f} seconds: {sum(result['answers'].values())} requests."
    )
    for name, count in result["answers"].items():
        print(f"  {count:6} {name}")
    print("Answers that were not due:", result["wrong"] or "none")
    samples = result["samples_mb"]
    course = " ".join(f"{samples[i * (len(samples) - 1) // 9]}" for i in range(10))
    print(
        f"Memory of the server in MB: {result['before_mb']} before, {result['peak_mb']} at most; over time {course}."
    )
    print(f"Growth {result['growth_mb']} MB. Files left: {result['left'] or 'none'}.")


if __name__ == "__main__":
    main()

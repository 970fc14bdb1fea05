"""Hostile models: folders whose configs, image processor or weights are not as they should be; and pipelines."""

import functools
import io
import json
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image

from ark_hf.cli.main import main
from ark_hf.hub.families import family_of
from ark_hf.inference.load import load_model
from ark_hf.inference.pipeline import ChestXrayClassificationPipeline
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification
from tests.inference.genesis_models import genesis_segmenter, save_genesis
from tests.wrong_inputs import REFUSED, WARNED, chest

from . import MARKER, dicoms, pictures
from .files import ODD, STEM
from .judging import CONTROL, Case
from .mutations import VALUES, as_json, changed, damaged, damaged_text

TASKS = [ArkTask("findings", ["Edema", "Mass"], thresholds={"Edema": 0.2}), ArkTask("tb", ["TB"])]
KWARGS = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}
SIZES: list[Any] = [
    2**40,
    10**9,
    65_536,
    [10**6] * 4,
    [10**9, 1, 1, 1],
    "swin_base_patch4_window7_224",
    "resnet18",
    "../x",
    "hf_hub:someone/x",
    "os.system",
]
CONFIGS = ("config.json", "preprocessor_config.json")


class Exited(Exception):
    """The command ended otherwise than by 0, 1 or 2."""


@functools.cache
def _model(kind: str) -> dict[str, bytes]:
    """The files of a tiny model."""
    with tempfile.TemporaryDirectory() as folder:
        if kind == "ark":
            torch.manual_seed(0)
            config = ArkConfig(
                backbone="convnext_atto", backbone_kwargs=KWARGS, image_size=32, projector_dim=16, tasks=TASKS
            )
            ArkForImageClassification(config).save_pretrained(folder)
            ArkImageProcessor(size=32).save_pretrained(folder)
        else:
            save_genesis(Path(folder), genesis_segmenter())
        return {
            path.name: path.read_bytes() for path in Path(folder).iterdir() if path.suffix in (".json", ".safetensors")
        }


def _write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def make_model(rng: Random, folder: Path) -> Case:
    """A model's folder: one of its files is damaged."""
    files = dict(_model(rng.choice(("ark", "ark", "genesis"))))
    name = rng.choice(("config.json", "config.json", "preprocessor_config.json", "model.safetensors"))
    chance = rng.random()
    if name.endswith(".safetensors"):
        kind, files[name] = damaged(rng, files[name])
        kind = f"weights {kind}"
    elif chance < 0.15:
        kind, files[name] = damaged_text(rng, files[name].decode())
    elif chance < 0.2:
        kind, files[name] = (
            "deep",
            rng.choice((b"[" * 100_000, b'{"a":' * 50_000, b'{"size": ' + b"9" * 5000 + b"}", b"", b"\xff\xfe")),
        )
    else:
        kind, value = changed(rng, json.loads(files[name]), [*VALUES, *SIZES])
        files[name] = as_json(value)
    if rng.random() < 0.05:
        files[f"{name[:-5]}.index.json"] = as_json({"weight_map": {"a": "../secret/x.safetensors"}})
    if rng.random() < 0.03:
        kind, _ = "absent", files.pop(name)
    place = _write(folder / STEM, files)
    read = rng.choice((load_model, load_model, load_model, family_of))
    if read is family_of:
        return Case(kind, lambda: family_of(place), private=False, plain=False)
    return Case(kind, lambda: load_model(str(place)), STEM, private=False, plain=False)


@functools.cache
def _pipe() -> ChestXrayClassificationPipeline:
    folder = tempfile.mkdtemp(prefix="ark_hf_fuzz_model_")
    try:
        model = ArkForImageClassification.from_pretrained(_write(Path(folder), _model("ark")))
        return ChestXrayClassificationPipeline(
            model=model.eval(), image_processor=ArkImageProcessor.from_pretrained(folder)
        )
    finally:
        shutil.rmtree(folder)


def _array(rng: Random) -> Any:
    shape = rng.choice(
        (
            (64, 64),
            (1, 64, 64),
            (64, 64, 1),
            (3, 64, 64),
            (64, 64, 3),
            (4, 64, 64),
            (2, 64, 64),
            (64,),
            (),
            (0, 64),
            (64, 0),
            (1, 1),
            (2, 3, 64, 64),
            (5, 64, 64),
            (1, 100_000),
            (3, 3, 3),
        )
    )
    kind = rng.choice(
        ("u1", "i1", "u2", "i2", "i4", "u4", "i8", "f2", "f4", "f8", "c8", "?", "O", "U4", "M8[D]", ">u2", ">f4")
    )
    values = np.random.default_rng(rng.randrange(99)).random(shape)
    scale = rng.choice((1, 1, 255, 65_535, -1, 1e9))
    with np.errstate(all="ignore"):
        array = (
            np.asarray(values * scale).astype(kind)
            if kind not in ("O", "U4", "M8[D]")
            else np.full(shape, None if kind == "O" else 1, dtype=kind)
        )
    if kind in ("f4", "f8") and array.size and rng.random() < 0.4:
        array.flat[0] = rng.choice((np.nan, np.inf, -np.inf, -1e-9, 1.00001, 2.0))
    if kind in ("u1", "f4", "i8", "f2") and rng.random() < 0.3:
        return torch.from_numpy(array)
    if rng.random() < 0.1:
        return np.ma.masked_array(array) if array.ndim else array
    return array[..., ::-1] if array.ndim and rng.random() < 0.2 else array


def make_pipeline(rng: Random, folder: Path) -> Case:
    """What a pipeline is given: arrays of any shape and type, dictionaries, texts, and what is no picture at all."""
    kind = rng.choice(("array", "array", "array", "text", "bytes", "picture", "dictionary", "object", "list", "dicom"))
    source: Any
    if kind == "array":
        source = _array(rng)
    elif kind == "text":
        source = rng.choice(
            (
                "",
                " ",
                "\0",
                "x" * 100_000,
                "nothing.png",
                str(folder),
                "http://",
                "file:///etc/passwd",
                "data:image/png;base64,AAAA",
                "\udcff",
                "\x1b[2J",
                "https://[::1",
                "/dev/zero",
                "~",
            )
        )
    elif kind == "bytes":
        source = rng.choice((bytes, bytearray))(damaged(rng, rng.choice(pictures.valid("PNG")))[1])
    elif kind == "dicom":
        source = damaged(rng, rng.choice(dicoms.valid()))[1]
    elif kind == "picture":
        mode = rng.choice(("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16", "LAB"))
        source = Image.new(mode, rng.choice(((64, 64), (1, 1), (64, 1), (0, 0), (0, 5))))
    elif kind == "dictionary":
        source = changed(
            rng, {"bytes": None, "path": rng.choice(("x.png", "/etc/passwd", "x" * 5000, "http://127.0.0.1:9/a"))}
        )[1]
        source["bytes"] = rng.choice((None, b"", b"x", pictures.valid("PNG")[0], 5, "x"))
    elif kind == "list":
        source = [_array(rng) for _ in range(rng.choice((1, 2, 4)))] + rng.choice(([], [None], [[]], ["nothing.png"]))
    else:
        source = rng.choice(
            (None, 5, 1.5, True, {}, (), object(), {1, 2}, lambda: 1, Path("nothing.png"), io.BytesIO(b"x"), range(3))
        )

    def read() -> None:
        with torch.no_grad():
            results = _pipe()(source)
        for each in results if isinstance(results, list) else [results]:
            scores = each["tasks"] if isinstance(each, dict) and "tasks" in each else None
            if scores is not None and "nan" in str(scores):
                raise Exited(f"a probability is no number: {str(scores)[:100]}")

    return Case(kind, read)


def make_command(rng: Random, folder: Path) -> Case:
    """`ark-hf predict` with files of all kinds under odd names; what it prints is looked at, too."""
    import contextlib

    model = _write(folder / "model", _model("ark"))
    inside = folder / "in"
    inside.mkdir()
    for number in range(rng.randint(1, 3)):
        name = f"{rng.choice(ODD)}{number}{rng.choice(('.png', '.dcm', '.tif', '', '.jpg'))}"
        content = rng.choice(
            (
                pictures.valid("PNG")[0],
                dicoms.valid()[0],
                damaged(rng, rng.choice(dicoms.valid()))[1],
                b"",
                b"x" * 300,
                None,
            )
        )
        if content is None:
            make = rng.choice(list({**REFUSED, **WARNED}.values()))[2]
            content = make(inside / name)
        if content is not None:
            (inside / name).write_bytes(content)
    Image.fromarray(chest()).save(inside / "good.png")
    out = folder / rng.choice(("out.csv", "é.csv"))
    words = ["predict", str(model), str(inside), "--out", str(out), "--device", "cpu"]
    if rng.random() < 0.3:
        words[2:3] = [str(path) for path in inside.iterdir()]

    def read() -> None:
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            status = main(words)
        texts = [
            told.getvalue(),
            *(path.read_text(encoding="utf-8", errors="replace") for path in folder.glob("*.csv")),
        ]
        lines = [line for line in texts[0].replace("\r", "\n").splitlines() if "%|" not in line]
        if status not in (0, 1, 2):
            raise Exited(f"exit status {status}")
        if MARKER in "".join(texts):
            raise Exited("it quotes a file")
        if CONTROL.search("".join(lines)):
            raise Exited(
                f"control characters are printed: {next(line for line in lines if CONTROL.search(line))!r:.200}"
            )

    return Case(words[0], read)

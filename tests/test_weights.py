"""Weights files of strangers: 200 damaged or hostile ones are refused in one line, and nothing of them runs."""

import io
import os
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch

from ark_hf.cli.main import main
from ark_hf.weights import UnreadableWeightsError, check_tensors, read_weights_file
from tests.models.ark.original_files import swin_state_dict, training_checkpoint, with_prefix


class Calls:
    """Pickles to the call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def torch_file(value, **kwargs) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **kwargs)
    return buffer.getvalue()


def good_file() -> bytes:
    weights = swin_state_dict(depths=(2,), num_heads=(2,))
    return torch_file(training_checkpoint(weights, with_prefix(weights, "module.")))


def repacked(file: bytes, change=None, compression=zipfile.ZIP_STORED, **replaced: bytes) -> bytes:
    """The zip file with some parts replaced (`data_pkl=...` is data.pkl), or all changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(file)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            content = replaced.get(name.split("/")[-1].replace(".", "_"), old.read(name))
            new.writestr(name, content if change is None else change(content))
    return buffer.getvalue()


def pickled(instructions: bytes) -> bytes:
    """A torch file whose table of tensors is the given pickle program."""
    return repacked(torch_file({"a": torch.ones(4)}), data_pkl=b"\x80\x02" + instructions + b".")


def truncated() -> dict[str, bytes]:
    file = good_file()
    return {f"truncated to {share:.3f}": file[: int(len(file) * share)] for share in np.linspace(0, 0.999, 40)}


def flipped() -> dict[str, bytes]:
    """One bit turned over in the content of each of many parts."""
    file, cases = good_file(), {}
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        parts = [entry for entry in archive.infolist() if entry.file_size]
    rng = np.random.default_rng(0)
    for number in range(40):
        entry = parts[number % len(parts)]
        name_length, extra_length = struct.unpack("<HH", file[entry.header_offset + 26 : entry.header_offset + 30])
        start = entry.header_offset + 30 + name_length + extra_length
        damaged = bytearray(file)
        damaged[start + rng.integers(entry.file_size)] ^= 1 << rng.integers(8)
        cases[f"flip {number} in {entry.filename}"] = bytes(damaged)
    return cases


def wrong_tensors() -> dict[str, bytes]:
    weights = swin_state_dict(depths=(2,), num_heads=(2,))
    keys = [key for key in weights if not key.startswith("head.")]
    cases = {}
    for key in keys[::2]:
        cases[f"without {key}"] = torch_file(
            {k: v for k, v in weights.items() if k != key or "index" in k or "mask" in k}
        )
        cases[f"shape of {key}"] = torch_file(weights | {key: torch.ones(7, 5)})
    cases = {
        name: file for name, file in cases.items() if "without" not in name or not name.endswith(("index", "mask"))
    }
    for number, key in enumerate(
        ["extra", "norm", "omni_heads.6.weight", "layers.0.blocks.2.norm1.bias", "model.x.y"]
    ):
        cases[f"foreign key {number}"] = torch_file(weights | {key: torch.ones(3)})
    cases["NaN"] = torch_file(weights | {"norm.bias": torch.full((8,), torch.nan)})
    cases["infinite"] = torch_file(weights | {"norm.bias": torch.full((8,), torch.inf)})
    cases["expanded"] = torch_file(weights | {"norm.bias": torch.ones(1).expand(10**12)})
    cases["overlapping"] = torch_file(weights | {"norm.weight": torch.ones(9).as_strided((10**5, 8), (0, 1))})
    cases["sparse"] = torch_file(weights | {"norm.bias": torch.ones(8).to_sparse()})
    cases["complex"] = torch_file(weights | {"norm.bias": torch.ones(8, dtype=torch.complex64)})
    cases["two encoders"] = torch_file(weights | with_prefix(weights, "encoder."))
    cases["no tensors"] = torch_file({"state_dict": {"a": 1}})
    cases["empty dictionary"] = torch_file({})
    cases["a list"] = torch_file([torch.ones(3)])
    cases["a tensor"] = torch_file(torch.ones(3))
    cases["a module"] = torch_file(torch.nn.Linear(2, 2))
    cases["keys that are numbers"] = torch_file({1: torch.ones(3)})
    cases["wrong class of heads"] = torch_file({"teacher": weights | {"omni_heads.0.weight": torch.ones(3, 12)}})
    return cases


def code(sentinel) -> dict[str, bytes]:
    """Files that try to make the file `sentinel` when they are opened."""
    command = f"touch {sentinel}"
    calls = {
        "system": Calls(os.system, command),
        "eval": Calls(eval, f"open({str(sentinel)!r}, 'w')"),
        "exec": Calls(exec, f"open({str(sentinel)!r}, 'w')"),
        "open": Calls(open, str(sentinel), "w"),
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "import": Calls(__import__, "antigravity"),
        "torch.load": Calls(torch.load, str(sentinel)),
        "torch.ops": Calls(torch.hub.load, str(sentinel), "x"),
        "bytes": Calls(bytearray, 10**11),
        "numpy array": np.ones(3),
        "numpy float32": np.float32(1),
        "numpy object": np.array([None], dtype=object),
    }
    cases = {}
    for name, call in calls.items():
        cases[f"{name} beside tensors"] = torch_file({"teacher": {}, "epoch": call})
        cases[f"{name} as the table"] = repacked(
            torch_file({"a": torch.ones(4)}), data_pkl=pickle.dumps(call, protocol=2)
        )
        cases[f"{name} in an old file"] = torch_file({"x": call}, _use_new_zipfile_serialization=False)
        cases[f"{name} as a bare pickle"] = pickle.dumps({"state_dict": call})
    return cases


def text(value: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value


def nested_tuples(levels: int = 60) -> bytes:
    """A program for a tuple that holds the tuple below twice, and so on: 2**levels parts when walked through."""
    doubled = b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(levels))
    return b"K\x01\x85q\x00" + doubled


def storage(key: bytes = text(b"0"), numel: bytes = b"K\x04") -> bytes:
    return b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + key + text(b"cpu") + numel + b"tQ"


def tensor(stored: bytes, size: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85", rest: bytes = b"") -> bytes:
    empty = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored + b"K\x00" + size + stride + b"\x89" + empty + rest + b"tR"


def bombs() -> dict[str, bytes]:
    small = torch_file({"a": torch.ones(4)})
    weights = swin_state_dict(depths=(2,), num_heads=(2,))
    blocks = {f"layers.0.blocks.{n}.attn.relative_position_bias_table": torch.ones(1, 1) for n in range(4000)}
    mask = "layers.0.blocks.1.attn_mask"
    zeros, endless = bytes(2**26), nested_tuples()
    huge, ones = b"\x8a\x06\xff\xff\xff\xff\xff\x0f", text(b"1" * 10**5)
    codecs = b"c_codecs\nencode\n"
    get = b"h\x3c"  # the uppermost of the nested tuples
    return {
        "zeros packed as the table": repacked(small, compression=zipfile.ZIP_DEFLATED, data_pkl=zeros),
        "zeros packed as a tensor": repacked(small, compression=zipfile.ZIP_DEFLATED, **{"0": zeros}),
        "lzma": repacked(small, compression=zipfile.ZIP_LZMA, **{"0": zeros}),
        "nested zip": repacked(small, compression=zipfile.ZIP_DEFLATED, data_pkl=repacked(small)),
        "a table of 3 MB": repacked(small, data_pkl=b"\x80\x02" + b"]0" * (3 * 2**19) + b"N."),
        "memo number 2**31": pickled(b"Nr\xff\xff\xff\x7f"),
        "text of 4 GB": pickled(b"X\xff\xff\xff\xff"),
        "keys that hash for ever": pickled(b"}" + endless + get + b"Ns"),
        "ordered dictionary of such": pickled(b"ccollections\nOrderedDict\n" + endless + b"(" + get + b"N\x86lR"),
        "storage with such a key": pickled(endless + tensor(storage(get))),
        "storage with such a length": pickled(endless + tensor(storage(numel=get))),
        "tensor of such a size": pickled(endless + tensor(storage(), size=get)),
        "state that is no dictionary": pickled(endless + b"ccollections\nOrderedDict\n)R" + get + b"b"),
        "state that hides a method": pickled(b"ccollections\nOrderedDict\n)R}" + text(b"items") + b"K\x01sb"),
        "punycode": pickled(codecs + ones + text(b"punycode") + b"\x86R"),
        "utf-32": pickled(b"](" + codecs + ones + text(b"utf-32") + b"\x86Re"),
        "storage of 16 TB": pickled(tensor(storage(numel=huge))),
        "tensor larger than its storage": pickled(tensor(storage(), size=huge + b"\x85")),
        "tensor beyond its storage": pickled(tensor(storage(), stride=b"K\x09\x85")),
        "tensor with a seventh argument": pickled(tensor(storage(), rest=b"}")),
        "one storage under many names": torch_file({f"k{n}": weights["head.weight"] for n in range(2000)}),
        "names in two cases": renamed({"archive/DATA.PKL": b"\x80\x02}."}),
        "a name with a zero byte": renamed({"archive/data.pkl\0x": b"\x80\x02}."}),
        "empty masks of many windows": torch_file(weights | {mask: torch.ones(6 * 10**7, 0, 0)}),
        "thousands of blocks": torch_file(weights | blocks),
        "no heads": torch_file(weights | {mask.replace("_mask", ".relative_position_bias_table"): torch.ones(9, 0)}),
        "a safetensors header of 2 GB": struct.pack("<Q", 2**31) + b"{" + zeros,
        "a name of 1 MB": torch_file(weights | {"x" * 2**20: torch.ones(1)}),
        "endless list": pickled(b"]" * 10**5),
        "gzip": zlib.compress(zeros),
    }


def renamed(parts: dict[str, bytes]) -> bytes:
    """A torch file with further parts under odd names."""
    buffer = io.BytesIO(torch_file({"a": torch.ones(4)}))
    with zipfile.ZipFile(buffer, "a") as file:
        for name, content in parts.items():
            entry = zipfile.ZipInfo("archive/other")
            entry.filename = name  # which the constructor would have cut at a zero byte
            file.writestr(entry, content)
    return buffer.getvalue()


def foreign() -> dict[str, bytes]:
    image = b"\x89PNG\r\n\x1a\n" + bytes(100)
    archive = io.BytesIO()
    np.savez(archive, a=np.ones(3))
    empty_zip = io.BytesIO()
    zipfile.ZipFile(empty_zip, "w").close()
    twice = io.BytesIO()
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(twice, "w") as file:
        for _ in range(2):
            file.writestr("a/data.pkl", b"\x80\x02}.")
    return {
        "0 bytes": b"",
        "one byte": b"\x80",
        "text": b"not a checkpoint",
        "json": b'{"a": 1}',
        "html": b"<html>404</html>",
        "png": image,
        "zeros": bytes(5000),
        "npz": archive.getvalue(),
        "empty zip": empty_zip.getvalue(),
        "two tables": twice.getvalue(),
        "safetensors without header": struct.pack("<Q", 10**9) + b"{",
        "safetensors with a false header": struct.pack("<Q", 20) + b'{"a": {"dtype": 3}} ' + bytes(8),
        "git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
        "torchscript": torch_script(),
        "random": np.random.default_rng(0).bytes(5000),
        "half a pickle": b"\x80\x02}q\x00(X\x01\x00",
    }


def torch_script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def hostile_files(tmp_path_factory) -> tuple[dict[str, bytes], os.PathLike]:
    sentinel = tmp_path_factory.mktemp("sentinel") / "executed"
    return truncated() | flipped() | wrong_tensors() | code(sentinel) | bombs() | foreign(), sentinel


@pytest.mark.slow_ci
def test_two_hundred_hostile_checkpoints(hostile_files, tmp_path, capsys):
    files, sentinel = hostile_files
    assert len(files) >= 200
    path = tmp_path / "ark.pth.tar"
    for name, content in files.items():
        path.write_bytes(content)
        status = main(["convert", str(path), "--out", str(tmp_path / "ark-cxr")])
        message = capsys.readouterr().err
        assert status == 2 and "ark-hf convert: error: " in message, name
        error = message[message.index("ark-hf convert: error: ") :].strip()
        assert str(path) in error and "\n" not in error and len(error) < 1500 and "Traceback" not in message, (
            name,
            error,
        )
        assert [each.name for each in tmp_path.iterdir()] == ["ark.pth.tar"], name
        assert path.read_bytes() == content and not sentinel.exists(), name


def test_the_hostile_calls_would_run(hostile_files, tmp_path):
    """The files are what they claim: read without protection, the first of them does make its file."""
    files, sentinel = hostile_files
    pickle.loads(pickle.dumps(Calls(os.system, f"touch {sentinel}")))
    assert sentinel.exists()
    sentinel.unlink()
    (tmp_path / "x").write_bytes(files["system beside tensors"])
    torch.load(tmp_path / "x", weights_only=False)
    assert sentinel.exists()
    sentinel.unlink()


def test_the_undamaged_file_is_read(tmp_path):
    (tmp_path / "ark.pth.tar").write_bytes(good_file())
    assert main(["convert", str(tmp_path / "ark.pth.tar"), "--out", str(tmp_path / "ark-cxr")]) == 0
    assert (tmp_path / "ark-cxr" / "model.safetensors").is_file()


def test_numpy_scalars_of_the_originals_are_read(tmp_path):
    checkpoint = training_checkpoint({"a": torch.arange(4.0)}, {"b": torch.nn.Parameter(torch.ones(2))})
    torch.save(checkpoint, tmp_path / "x.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.pth", weights_only=True)
    loaded = read_weights_file(tmp_path / "x.pth")
    assert loaded["optimizer"] == checkpoint["optimizer"] and loaded["lossMIN"] == [0.5, 0.25]
    assert torch.equal(loaded["state_dict"]["a"], torch.arange(4.0)) and loaded["epoch"] == 3
    assert isinstance(loaded["optimizer"]["param_groups"][0]["lr"], np.float64)


def test_the_name_that_numpy_1_gave_its_scalars(tmp_path):
    file = torch_file({"lr": np.float64(0.25)})
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        table = archive.read("archive/data.pkl")
    renamed = table.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert renamed != table
    (tmp_path / "x.pth").write_bytes(repacked(file, data_pkl=renamed))
    assert read_weights_file(tmp_path / "x.pth")["lr"] == 0.25


@pytest.mark.parametrize("path", ["absent.pth", "."])
def test_what_is_not_a_file(tmp_path, path):
    with pytest.raises(UnreadableWeightsError, match="is not a file"):
        read_weights_file(tmp_path / path)


def test_reading_leaves_the_allow_list_as_it_was(tmp_path):
    before = set(map(str, torch.serialization.get_safe_globals()))
    torch.save({"lr": np.float64(1)}, tmp_path / "x.pth")
    read_weights_file(tmp_path / "x.pth")
    assert set(map(str, torch.serialization.get_safe_globals())) == before


def test_check_tensors_accepts_what_is_stored_whole():
    base = torch.randn(6, 4)
    check_tensors({"a": base, "view": base[2:], "turned": base.t(), "index": torch.arange(3), "none": base[:0]}, "x")

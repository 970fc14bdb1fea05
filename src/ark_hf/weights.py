"""Reading the weights files of strangers: tensors, numbers and text come in, code never runs."""

import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors.torch import load_file

MAX_PICKLE_BYTES = 2**21  # the table of a training checkpoint of Swin-L with its optimiser takes a tenth of that
MAX_HEADER_BYTES = 2**23  # likewise of a safetensors file
MAX_NAME = 300  # characters of a tensor's name
DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip

STORAGES = {
    f"torch {kind}Storage"
    for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
}
# What a file may name: tensors, ordered dictionaries, and the float64 scalars of numpy that the originals' learning
# rate is (numpy 2 and 1 call their constructor differently), whose eight bytes come through _codecs
CALLABLES = {
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "collections OrderedDict",
    "_codecs encode",
    "numpy dtype",
    "numpy._core.multiarray scalar",
    "numpy.core.multiarray scalar",
}
FLOAT64_ARGUMENTS, FLOAT64_STATE = ("f8", False, True), (3, "<", None, None, None, -1, -1, 0)
OPCODES = set(  # of pickle protocol 2, the only one that torch reads without running code
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE LONG1 BININT BININT1 BININT2 BINFLOAT BINUNICODE EMPTY_TUPLE TUPLE TUPLE1 "
    "TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS GLOBAL REDUCE BUILD BINPERSID BINPUT "
    "LONG_BINPUT BINGET LONG_BINGET SHORT_BINBYTES BINBYTES".split()
)


class UnreadableWeightsError(ValueError):
    """A weights file that is missing, damaged, of an unknown kind, or that asks to run code."""


def read_weights_file(path: str | Path) -> dict[str, Any]:
    """
    Reads a file that `torch.save` or safetensors wrote; every checksum is verified, and no code of the file runs.

    Args:
        path: A file of torch 1.6 or newer, or a safetensors file, whatever its suffix.

    Returns:
        The dictionary that the file holds. Tensors of zip files are mapped from the file, not yet read.

    Raises:
        UnreadableWeightsError: There is no such file, it is damaged or of another kind, it holds no dictionary, or it
            names anything but tensors, numbers, text and containers; the message says which and what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise UnreadableWeightsError(f"{path} is not a file.")
    try:
        loaded = _read(path)
    except UnreadableWeightsError:
        raise
    except Exception as error:  # a foreign file fails in as many ways as there are files
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        if isinstance(error, pickle.UnpicklingError):  # torch's text advises to read the file without protection
            reason = "its table of tensors is not one of torch's"
        raise UnreadableWeightsError(
            f"{path} cannot be read as weights; it is damaged or of another kind ({type(error).__name__}: {reason})."
        ) from None
    if not isinstance(loaded, dict):
        raise UnreadableWeightsError(f"{path} holds a {type(loaded).__name__}, not a dictionary of tensors.")
    return loaded


def check_tensors(weights: dict[str, Any], where: str) -> None:
    """
    Checks that a state dict holds nothing but ordinary tensors with finite values.

    Raises:
        UnreadableWeightsError: It holds something else, or a tensor that is larger than what the file stores of it
            (a few bytes can claim to be terabytes).
    """
    for key, value in weights.items():
        if not isinstance(key, str) or len(key) > MAX_NAME or not isinstance(value, torch.Tensor):
            raise UnreadableWeightsError(f"{where}: entry {str(key)[:80]!r} is a {type(value).__name__}, no tensor.")
        if value.dtype not in DTYPES:
            raise UnreadableWeightsError(f"{where}: tensor {key!r} has the unusual type {value.dtype}.")
        if value.layout != torch.strided or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UnreadableWeightsError(f"{where}: tensor {key!r} of shape {tuple(value.shape)} is not stored whole.")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise UnreadableWeightsError(
                f"{where}: tensor {key!r} holds NaN or infinite values; the training that wrote it had diverged."
            )


def without_module_prefix(weights: dict[str, torch.Tensor], path: str | Path) -> dict[str, torch.Tensor]:
    """The state dict without the `module.` of a model that was trained in parallel."""
    stripped = {key.removeprefix("module."): value for key, value in weights.items()}
    if len(stripped) < len(weights):
        raise UnreadableWeightsError(f"{path} holds tensors twice, with and without the prefix `module.`.")
    return stripped


def check_filled(
    weights: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], shown: Callable[[str], str] = str
) -> None:
    """
    Checks that a state dict fills a model's.

    Args:
        weights: With the model's keys alone.
        expected: The model's state dict, on any device.
        shown: What a message calls a key.

    Raises:
        ValueError: Tensors are missing, of another shape, or no floating-point numbers where the model has such.
    """
    exact = [
        shown(key)
        for key, value in weights.items()
        if expected[key].is_floating_point() and not value.is_floating_point()
    ]
    if exact:
        raise ValueError(f"tensors hold no floating-point numbers: {len(exact)}, such as {exact[:3]}.")
    missing = [shown(key) for key in expected if key not in weights]
    misshapen = [
        f"{shown(key)} {tuple(value.shape)} instead of {tuple(expected[key].shape)}"
        for key, value in weights.items()
        if value.shape != expected[key].shape
    ]
    if missing or misshapen:
        raise ValueError(
            f"tensors are missing ({len(missing)}) or of another shape ({len(misshapen)}), such as "
            f"{(missing + misshapen)[:3]}; the file is not whole, or not of this architecture."
        )


def _read(path: Path) -> Any:
    with open(path, "rb") as file:
        start = file.read(16)
    if not start:
        raise UnreadableWeightsError(f"{path} is empty (0 bytes).")
    if start[8:9] == b"{":  # after eight bytes of length, a safetensors file begins with its JSON header
        if int.from_bytes(start[:8], "little") > MAX_HEADER_BYTES:
            raise UnreadableWeightsError(f"{path}: its table of tensors is larger than any checkpoint's.")
        return load_file(path)
    if start[:1] == b"\x80":
        raise UnreadableWeightsError(
            f"{path} is a bare pickle, or was saved by torch before 1.6. If you trust it, load it where it was made "
            "and save it again with torch.save."
        )
    if not start.startswith(b"PK"):
        raise UnreadableWeightsError(f"{path} is not a weights file of torch or safetensors.")
    _check_zip(path)
    with torch.serialization.safe_globals(_numpy_scalars()):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _numpy_scalars() -> list[Any]:
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")
    return [*((scalar, name) for name in names), (np.dtype, "numpy.dtype"), np.dtypes.Float64DType]


def _check_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        size = path.stat().st_size
        # torch stores without compression; what is compressed or overlaps can unpack to more than memory holds
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > size or not _is_as_torch_sees(archive, path):
            raise UnreadableWeightsError(f"{path} is a zip file that torch did not write (packed or repeated parts).")
        tables = [entry for entry in entries if entry.filename.partition("/")[2] == "data.pkl"]
        if len(tables) != 1:
            raise UnreadableWeightsError(f"{path} is a zip file without torch's table of tensors, data.pkl.")
        if tables[0].file_size > MAX_PICKLE_BYTES:
            raise UnreadableWeightsError(f"{path}: its table of tensors is larger than any checkpoint's.")
        damaged = archive.testzip()
        if damaged is not None:
            raise UnreadableWeightsError(f"{path} is damaged: the checksum of {damaged[:80]} is wrong. Copy it again.")
        with archive.open(tables[0]) as file:
            _check_pickle(file, path, size)


def _is_as_torch_sees(archive: zipfile.ZipFile, path: Path) -> bool:
    """Whether torch's own zip reader, which differs in odd files, finds the same parts at the same places."""
    entries = archive.infolist()
    if not any(entry.filename.endswith("/data.pkl") for entry in entries):
        return True  # refused for that; torch would only say that it failed
    places = {}
    with open(path, "rb") as file:
        for entry in entries:
            file.seek(entry.header_offset + 26)
            start = entry.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
            places[entry.filename.partition("/")[2]] = (start, entry.file_size)
    reader = torch._C.PyTorchFileReader(str(path))
    names = reader.get_all_records()
    found = {name: (reader.get_record_offset(name), reader.get_record_size(name)) for name in names}
    return len(entries) == len(names) and places == found


class _Global(str):
    """A name that a pickle refers to: module and attribute."""


class _Object:
    """What calling `made_by` gave: known by its origin, a storage also by its length, a dictionary by its keys."""

    def __init__(self, made_by: str, numel: int = 0):
        self.made_by, self.numel = made_by, numel
        self.keys: set[str | int] = set()


def _check_pickle(file: IO[bytes], path: Path, file_size: int) -> Any:
    """
    Follows a pickle's instructions without executing any, and refuses all that a checkpoint does not need.

    `torch.load(weights_only=True)`, which reads the file afterwards, runs no foreign code either; but it can be made
    to fill memory (byte arrays, storages or memo entries of any size) or to hash without end.
    """
    start = file.tell()
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    total = 0
    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name not in OPCODES:
            raise UnreadableWeightsError(
                f"{path} uses the pickle instruction {name}, which torch.save does not write unless told to. If you "
                "trust the file, load it where it was made and save it again with torch.save."
            )
        if file.tell() - start > MAX_PICKLE_BYTES:
            raise UnreadableWeightsError(f"{path}: its table of tensors is larger than any checkpoint's.")
        if name == "PROTO":
            continue
        elif name == "STOP":
            return stack.pop()
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            if argument > file_size:
                raise UnreadableWeightsError(f"{path} numbers its parts up to {argument}, more than it can hold.")
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_admitted(argument, path))
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            count = len(stack) - marks.pop() if name == "TUPLE" else int(name[-1])
            stack.append(tuple(_pop(stack, count)))
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append(_Object(name))
        elif name in ("APPEND", "APPENDS"):
            _pop(stack, 1 if name == "APPEND" else len(stack) - marks.pop())
        elif name in ("SETITEM", "SETITEMS"):
            keys = _pop(stack, 2 if name == "SETITEM" else len(stack) - marks.pop())[::2]
            if not all(type(key) is int or type(key) is str and len(key) <= MAX_NAME for key in keys):
                raise UnreadableWeightsError(
                    f"{path} holds a dictionary whose keys are neither numbers nor names up to {MAX_NAME} characters."
                )
            if isinstance(stack[-1], _Object):
                stack[-1].keys.update(keys)
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop(), path, file_size))
        elif name == "REDUCE":
            function, arguments = _pop(stack, 2)
            stack.append(_call(function, arguments, path))
            total += stack[-1].numel
            if total > file_size:
                raise UnreadableWeightsError(f"{path} claims more tensors than it stores.")
        elif name == "BUILD":
            target, state = _pop(stack, 2)
            made_by = getattr(target, "made_by", None)
            metadata = isinstance(state, _Object) and state.made_by == "EMPTY_DICT" and state.keys <= {"_metadata"}
            if (made_by, metadata) != ("collections OrderedDict", True) and (made_by, state) != (
                "numpy dtype",
                FLOAT64_STATE,
            ):
                raise UnreadableWeightsError(f"{path} sets the state of an object; only float64 scalars are read.")
            stack.append(target)
        else:
            stack.append(argument if opcode.arg else {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
    raise UnreadableWeightsError(f"{path} ends in the middle of its table of tensors.")


def _pop(stack: list[Any], count: int) -> list[Any]:
    if count > len(stack):
        raise IndexError("the pickle takes more from its stack than it holds")
    taken = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return taken


def _admitted(name: str, path: Path) -> _Global:
    if name not in STORAGES and name not in CALLABLES:
        raise UnreadableWeightsError(
            f"{path} asks for {name.replace(' ', '.')[:100]} when it is opened. Only tensors, numbers and text are "
            "read, because anything else could run code. If you trust the file, load it where it was made and save "
            "its state dict alone: torch.save(model.state_dict(), file)."
        )
    return _Global(name)


def _storage(description: Any, path: Path, file_size: int) -> _Object:
    kinds = [type(part) for part in description] if isinstance(description, tuple) else []
    if kinds != [str, _Global, str, str, int] or description[0] != "storage" or description[1] not in STORAGES:
        raise UnreadableWeightsError(f"{path} describes a storage in a way that torch does not.")
    if not 0 <= description[4] <= file_size:
        raise UnreadableWeightsError(f"{path} claims a storage of {description[4]} numbers, more than it holds.")
    return _Object("storage", description[4])


def _call(function: Any, arguments: Any, path: Path) -> _Object:
    if not isinstance(function, _Global) or function not in CALLABLES or not isinstance(arguments, tuple):
        raise UnreadableWeightsError(f"{path} calls something that is not a function of torch or numpy.")
    made_by = [getattr(part, "made_by", None) for part in arguments]
    kinds = [type(part) for part in arguments]
    if function == "torch._utils _rebuild_tensor_v2":
        return _Object(function, _stored_numel(arguments, path))
    fits = {
        "torch._utils _rebuild_parameter": kinds == [_Object, bool, _Object],
        "collections OrderedDict": arguments == (),
        "numpy dtype": arguments == FLOAT64_ARGUMENTS,
        "_codecs encode": kinds == [str, str] and arguments[1] == "latin1" and len(arguments[0]) <= 8,
    }
    if not fits.get(function, made_by == ["numpy dtype", "_codecs encode"]):
        raise UnreadableWeightsError(
            f"{path} holds a {function.split()[-1]} other than what a tensor or a float64 number is made of."
        )
    return _Object(function)


def _stored_numel(arguments: tuple, path: Path) -> int:
    """Elements of the tensor that `_rebuild_tensor_v2` makes of these; all must lie in its storage, each once."""
    storage, offset, size, stride = (*arguments, None, None, None, None)[:4]
    if (
        [type(part) for part in arguments] != [_Object, int, tuple, tuple, bool, _Object]
        or storage.made_by != "storage"
        or len(size) != len(stride)
        or not all(type(number) is int and number >= 0 for number in (offset, *size, *stride))
    ):
        raise UnreadableWeightsError(f"{path} describes a tensor in a way that torch does not.")
    numel = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if numel else 0
    if numel > storage.numel or last >= max(storage.numel, 1):
        raise UnreadableWeightsError(f"{path}: a tensor of shape {size[:8]} is not stored whole.")
    return numel

"""What is installed of what the package rests on, and what this machine has to compute with: for `ark-hf doctor`."""

import importlib
import os
import platform
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

MODULES = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn"}  # where the name is another


@dataclass(frozen=True)
class Part:
    """
    A package that is required, by an extra or, without one, by the core.

    Attributes:
        version: What is installed, None if nothing is.
        fault: What is wrong with it, None if nothing is.
    """

    requirement: Requirement
    extra: str | None
    version: str | None
    fault: str | None


def parts() -> list[Part]:
    """
    Of the core, each loaded to see whether it can be, and of the extras, which are only looked up.

    Raises:
        PackageNotFoundError: ark-hf itself is not installed, so that nobody knows what it requires.
    """
    found = []
    for text in requires("ark-hf") or []:
        requirement = Requirement(text)
        if requirement.name == "ark-hf":  # an extra that is made of others
            continue
        extra = next((each for each in _extras(requirement) if each != "dev"), None)
        if extra is not None or not _extras(requirement):
            found.append(_look_at(requirement, extra))
    return found


def _extras(requirement: Requirement) -> list[str]:
    """Those that ask for it."""
    return [] if requirement.marker is None else _quoted(str(requirement.marker))


def _quoted(marker: str) -> list[str]:
    return [part.strip().strip("\"'") for part in marker.replace(")", " ").split("extra ==")[1:]]


def _look_at(requirement: Requirement, extra: str | None) -> Part:
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return Part(requirement, extra, None, "missing")
    fault = None
    if not requirement.specifier.contains(installed, prereleases=True):
        fault = f"{requirement.specifier} is needed"
    elif extra is None:
        fault = _fault_of_loading(MODULES.get(requirement.name, requirement.name.replace("-", "_")))
    return Part(requirement, extra, installed, fault)


def _fault_of_loading(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except Exception as error:  # a library that is broken raises what it likes
        return f"cannot be loaded: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def to_install(faulty: Iterable[Part]) -> str | None:
    """The command that brings what is missing or of another version; None if nothing is."""
    extras, others = set(), []
    for part in faulty:
        if part.extra is not None:
            extras.add(part.extra)
        else:
            again = "--force-reinstall " if part.version is not None else ""
            others.append(f'{again}"{part.requirement.name}{part.requirement.specifier}"')
    wanted = others + ([f'"ark-hf[{",".join(sorted(extras))}]"'] if extras else [])
    return f"pip install {' '.join(wanted)}" if wanted else None


def machine() -> dict[str, str]:
    """Lines about this machine, by what they are of; torch is loaded, and may be broken."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {"system": f"{platform.system()} {platform.machine()}", "cores": f"{cores} for this process"}
    facts["compiler"] = next(
        (name for name in ("c++", "g++", "clang++", "cl") if shutil.which(name)), "none: `torch_compile` needs one"
    )
    try:
        import torch
    except Exception:  # told of among the parts
        return facts
    able = {
        "AVX-512 BF16": torch.cpu._is_avx512_bf16_supported(),
        "AMX": torch.cpu._is_amx_tile_supported(),
    }
    facts["bfloat16 on the CPU"] = " and ".join(name for name, there in able.items() if there) or "not in hardware"
    facts["threads of torch"] = str(torch.get_num_threads())
    facts["accelerators"] = "; ".join(_accelerators()) or "none"
    return facts


def _accelerators() -> list[str]:
    import torch

    found = []
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        bf16 = "" if torch.cuda.is_bf16_supported(including_emulation=False) else ", no bfloat16"
        found.append(f"cuda:{number} {about.name}, {about.total_memory / 2**30:.0f} GiB{bf16}")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found

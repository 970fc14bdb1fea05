"""The verb `doctor`: what is installed, what this machine has, and what is missing."""

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError

from .arguments import parse


@dataclass
class DoctorArguments:
    """There are none."""


def doctor(argv: list[str]) -> int:
    """Say what is installed, what this machine has, and what is missing."""
    parse(
        DoctorArguments,
        "doctor",
        argv,
        "Says which versions are installed, what this machine computes with, which extras are there and how to get "
        "the others. Ends with 1 if something that the core needs is missing, of a wrong version or cannot be loaded.",
    )
    from ..provenance import package_version

    print(f"ark-hf {package_version()}, Python {platform.python_version()}")
    try:
        from ..installation import machine, parts, to_install
    except ModuleNotFoundError as error:
        print(f"{error.name} is missing, without which the rest cannot be looked at: pip install --upgrade ark-hf")
        return 1
    try:
        found = parts()
    except PackageNotFoundError:
        print("ark-hf is not installed, only its source is there: pip install . in its folder")
        return 1
    core = [part for part in found if part.extra is None]
    print("\nCore")
    for part in sorted(core, key=lambda part: part.requirement.name.lower()):
        print(_line(part.requirement.name, " ".join(filter(None, (part.version, part.fault)))))
    print("\nExtras")
    for extra in sorted({part.extra for part in found if part.extra is not None}):
        of_it = [part for part in found if part.extra == extra]
        told = [
            f"{part.requirement.name} {part.fault.removeprefix('missing')}".strip() for part in of_it if part.fault
        ]
        versions = ", ".join(f"{part.requirement.name} {part.version}" for part in of_it)
        print(_line(extra, f"not there ({', '.join(told)})" if told else versions))
    print("\nMachine")
    for name, text in machine().items():
        print(_line(name, text))
    faults = [part for part in core if part.fault]
    extras = to_install(part for part in found if part.extra and part.fault)
    if extras:
        print(f"\nFor all extras: {extras}")
    if faults:
        print(f"\n{len(faults)} of the core wrong. Try: {to_install(faults)}")
        return 1
    print("\nNothing is wrong.")
    return 0


def _line(name: str, text: str) -> str:
    return f"  {name:20} {text}"

"""The table of a run: how many cases each reader had, and what became of them."""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "pillow", "pydicom", "nibabel", "openpyxl", "pyyaml", "pyarrow", "safetensors")


def write_report(folder: Path, outcomes: list[dict[str, Any]], seed: int) -> None:
    """`results.json` and `RESULTS.md` in a folder."""
    readers: dict[str, dict[str, Any]] = {}
    for each in outcomes:
        row = readers.setdefault(
            each["reader"],
            {"cases": 0, "read": 0, "refused": 0, "wrong": 0, "kinds": set(), "seconds": 0.0, "bytes": 0},
        )
        row["cases"] += 1
        row[each["answer"]] += 1
        row["kinds"].add(each["kind"])
        row["seconds"] = max(row["seconds"], each["seconds"])
        row["bytes"] = max(row["bytes"], each["bytes"])
    for row in readers.values():
        row["kinds"] = len(row["kinds"])
    whole = {name: sum(row[name] for row in readers.values()) for name in ("cases", "read", "refused", "wrong")}
    versions = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    values = {"seed": seed, "all": whole, "readers": readers, "versions": versions}
    (folder / "results.json").write_text(json.dumps(values, indent=1) + "\n")
    lines = [
        "# Hostile input",
        "",
        f"`python -m tests.fuzz --cases 10000 --seed {seed} --out tests/fuzz` wrote this: {whole['cases']:,} cases, "
        f"{whole['read']:,} read, {whole['refused']:,} refused in our words, {whole['wrong']:,} wrong. What counts as "
        "wrong stands in `judging.py`. Seconds are of computing, of the slowest case; memory is by how much the "
        "process grew in the case that took most.",
        "",
        "| reader | cases | kinds | read | refused | wrong | slowest, s | most memory, MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in readers.items():
        counts = " | ".join(f"{row[column]:,}" for column in ("cases", "kinds", "read", "refused", "wrong"))
        lines.append(f"| {name} | {counts} | {row['seconds']:.1f} | {row['bytes'] / 1e6:,.0f} |")
    lines.append(f"| all | {whole['cases']:,} | | {whole['read']:,} | {whole['refused']:,} | {whole['wrong']} | | |")
    lines += ["", "Versions: " + ", ".join(f"{name} {number}" for name, number in versions.items()) + ".", ""]
    (folder / "RESULTS.md").write_text("\n".join(lines))

"""Hostile settings: recipes, sites' files, cards, synonyms, lists of tasks, and what was noted beside models."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

from ark_hf.cli.finetune import FinetuneCommand
from ark_hf.data.task_dataset import read_any_task, read_build_facts
from ark_hf.evaluation.report.stored import MASK_KIND, read_report
from ark_hf.federated.credentials import SIGNATURE, check_public_key, check_site_key, check_trusted, read_signature
from ark_hf.federated.recipe import FederatedArguments, parse_sites, read_federated_recipe, read_site
from ark_hf.labels import read_synonyms
from ark_hf.models.ark.convert_ark_checkpoint import read_tasks
from ark_hf.provenance import read_calibrations, read_provenance, weights_sha256
from ark_hf.training.ark.recipe import parse_tasks
from ark_hf.training.recipe import METHODS, arguments_of, read_recipe
from ark_hf.training.settings import read_settings

from .files import STEM, no_file, written
from .judging import Case
from .mutations import as_json, changed, damaged_text

TASKS = [
    {"dataset": "data/rsna", "uncertain": "lsr_ones"},
    {"dataset": "other/cxr", "name": "tb", "columns": {"image": "img", "labels": ["TB"]}},
]
RECIPES: dict[str, dict[str, Any]] = {
    "ark": {
        "output_dir": "runs/a",
        "init": "none",
        "backbone": "swin_tiny",
        "backbone_kwargs": {"window_size": 7},
        "cycles": 3,
        "batch_size": 8,
        "learning_rate": 0.3,
        "reproduce": ["bce_everywhere"],
        "seed": 1,
        "tasks": TASKS,
    },
    "peac": {
        "method": "peac",
        "output_dir": "runs/p",
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 0.1,
        "tasks": TASKS[:1],
    },
    "genesis": {"method": "genesis", "output_dir": "runs/g", "epochs": 2, "batch_size": 2, "tasks": TASKS[:1]},
}
FEDERATION = {
    "output_dir": "runs/f",
    "rounds": 2,
    "cycles_per_round": 1,
    "batch_size": 8,
    "sites": [{"name": "north", "tasks": TASKS[:1]}, {"name": "south", "tasks": TASKS[:1]}],
}
SITE = {
    "name": "north",
    "output_dir": "north",
    "data_root": ".",
    "publish_heads": True,
    "link": "127.0.0.1:9092",
    "tasks": TASKS[:1],
}
FINETUNING = {"output_dir": "runs/t", "learning_rate": 1e-3, "batch_size": 8, "epochs": 2}
CARD = {
    "license": "cc0-1.0",
    "tags": ["x"],
    "ark_task": {
        "name": "rsna",
        "labels": ["Normal", "Other"],
        "problem_type": "single_label_classification",
        "thresholds": {"Normal": 0.3},
    },
    "ark_modality": "CT",
}
SEGMENTS = {
    "ark_kind": "segmentation",
    "ark_task": {"name": "organs", "labels": ["lungs"], "overlapping": True, "pixel_spacing": [0.2, 0.2]},
}
UNLABELLED = {"ark_kind": "unlabelled", "ark_name": "cxr"}
SYNONYMS = {
    "findings": {"Edema": ["Oedema", "pulmonary edema"], "Mass": []},
    "tasks": {"nih": {"Mass": "Edema"}},
    "related": {"Mass": ["Edema"]},
}


def _bomb(levels: int = 30) -> str:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join([*lines, f"tasks: *a{levels - 1}\nark_task: *a{levels - 1}\nfindings: *a{levels - 1}\n"])


@functools.cache
def _constructed() -> dict[str, str]:
    return {
        "alias bomb": _bomb(),
        "alias of itself": "tasks: &a [*a]\nark_task: *a\nfindings: *a\n",
        "merged aliases": "a: &a {x: 1}\n<<: *a\ntasks: *a\n",
        "key twice": "seed: 1\nseed: 2\nname: a\nname: b\nfindings: {}\nfindings: {a: []}\n",
        "deep list": "tasks: " + "[" * 100_000,
        "deep mapping": "tasks: " + "{a: " * 20_000,
        "deep indents": "".join("  " * n + "a:\n" for n in range(700)),
        "code": "tasks: !!python/object/apply:os.system ['touch canary']\n",
        "name of code": "seed: !!python/name:os.system\n",
        "large": "tasks:\n" + "- x\n" * 2_000_000,
        "long key": "? " + "x" * 2_000_000 + "\n: 1\n",
        "long value": "output_dir: " + "x" * 2_000_000 + "\n",
        "long number": "seed: " + "9" * 100_000 + "\n",
        "sexagesimal": "seed: " + ":59" * 2000 + "\n",
        "dates": "seed: 2001-01-01\ninit: 2001-99-99\n",
        "binary": "seed: !!binary '//8='\n",
        "documents": "a: 1\n---\nb: 2\n",
        "tag": "%TAG ! tag:x,2000:\n---\nseed: !x 1\n",
        "complex keys": "? [a, b]\n: 1\n? {c: d}\n: 2\n",
        "set": "tasks: !!set {a, b}\nark_task: !!omap [a: 1]\n",
        "long tag": "seed: !" + "x" * 500_000 + " 1\n",
        "long alias": "seed: *" + "x" * 500_000 + "\n",
        "comments": "#" * 4_000_000 + "\nseed: 1\n",
        "colours": 'seed: "\\e[2J"\noutput_dir: "\\u202e"\n',
    }


def _yaml_or_json(rng: Random, values: Any) -> tuple[str, bytes]:
    chance = rng.random()
    if chance < 0.08:
        kind, text = rng.choice(list(_constructed().items()))
        return kind, text.encode()
    text = yaml.safe_dump(values, sort_keys=False)
    if chance < 0.5:
        return damaged_text(rng, text if rng.random() < 0.7 else json.dumps(values))
    kind, value = changed(rng, values)
    return kind, as_json(value) if rng.random() < 0.5 else yaml.safe_dump(value, allow_unicode=True).encode(
        "utf-8", "surrogatepass"
    )


def read_any_recipe(path: Path) -> None:
    values = read_recipe(path)
    parse_tasks(values.pop("tasks", None), str(path))
    arguments_of(values.get("method", "ark"), str(path))
    METHODS[values.get("method", "ark")](**{"output_dir": "x", **values})


def _read_federation(path: Path) -> None:
    values = read_federated_recipe(path)
    parse_sites(values.pop("sites", None), str(path))
    FederatedArguments(**{"output_dir": "x", **values})


def _read_finetuning(path: Path) -> None:
    FinetuneCommand(
        **{
            "output_dir": "x",
            "model": "m",
            "dataset": "d",
            **read_settings(path, list(FinetuneCommand.__dataclass_fields__)),
        }
    )


def make_recipe(rng: Random, folder: Path) -> Case:
    """A recipe of any method, of a federation, a site's own file, or settings of fine-tuning."""
    some: list[tuple[Any, Callable]] = [
        (RECIPES[name], read_any_recipe) for name in ("ark", "ark", "ark", "peac", "genesis")
    ]
    values, read = rng.choice(
        [*some, (FEDERATION, _read_federation), (SITE, read_site), (FINETUNING, _read_finetuning)]
    )
    if rng.random() < 0.02:
        return no_file(rng, folder, ".yaml", read, plain=False)
    kind, content = _yaml_or_json(rng, values)
    path = written(rng, folder, rng.choice((".yaml", ".json")), content)
    return Case(kind, lambda: read(path), private=False, plain=False)


def make_card(rng: Random, folder: Path) -> Case:
    """The card of a dataset."""
    place = folder / STEM
    place.mkdir()
    if rng.random() < 0.02:
        case = no_file(rng, place, ".md", lambda path: read_any_task(place), plain=False)
        next(place.iterdir(), place / "x").rename(place / "README.md") if any(place.iterdir()) else None
        return case
    kind, content = _yaml_or_json(rng, rng.choice((CARD, CARD, SEGMENTS, UNLABELLED)))
    head, foot = (b"---\n", b"\n---\n# Card\n") if rng.random() < 0.9 else (b"", b"")
    (place / "README.md").write_bytes(head + content + foot)
    return Case(kind, lambda: read_any_task(place), private=False, plain=False)


def make_labels(rng: Random, folder: Path) -> Case:
    """A table of synonyms, a list of tasks, or the keys that a site trusts."""
    values, read = rng.choice(
        (
            (SYNONYMS, read_synonyms),
            ([CARD["ark_task"], {"name": "b", "labels": ["x"]}], read_tasks),
            ({"ark-1": "ssh-ed25519 AAAA"}, check_trusted),
        )
    )
    if rng.random() < 0.02:
        return no_file(rng, folder, ".yaml", read, plain=False)
    kind, content = _yaml_or_json(rng, values)
    path = written(rng, folder, ".yaml", content)
    return Case(kind, lambda: read(path), STEM, private=False, plain=False)


PROVENANCE = {"kind": "conversion", "source": "x.pth", "summary": "s", "versions": {"ark-hf": "0"}}
REPORT: dict[str, Any] = {
    "kind": "evaluation",
    "version": 1,
    "model": "m",
    "weights_sha256": "0",
    "tasks": [{"task": "tb", "labels": ["TB"], "images": 3}],
}
INDEX = {"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "../secret/x"}}


def _json(rng: Random, values: Any) -> tuple[str, bytes]:
    chance = rng.random()
    if chance < 0.1:
        odd = {
            "deep": b"[" * 100_000,
            "deep closed": b"[" * 50_000 + b"]" * 50_000,
            "deep objects": b'{"a":' * 50_000,
            "number": b'{"kind": ' + b"9" * 5000 + b"}",
            "large": b"[" + b"0," * 2_000_000 + b"0]",
            "infinity": b'{"kind": Infinity, "version": NaN, "tasks": -Infinity}',
            "surrogate": b'{"kind": "\\ud800"}',
            "twice": b'{"kind": 1, "kind": "evaluation"}',
        }
        return rng.choice(list(odd.items()))
    if chance < 0.5:
        return damaged_text(rng, json.dumps(values))
    kind, value = changed(rng, values)
    return kind, as_json(value)


def make_notes(rng: Random, folder: Path) -> Case:
    """JSON beside models, datasets and reports: provenance, calibrations, lists of weights, reports, a signature."""
    place = folder / STEM
    place.mkdir()
    name, values, read = rng.choice(
        (
            ("provenance.json", PROVENANCE, lambda: read_provenance(place)),
            ("calibration.json", [{"task": "tb", "thresholds": {"TB": 0.3}}], lambda: read_calibrations(place)),
            ("model.safetensors.index.json", INDEX, lambda: weights_sha256(place)),
            ("report.json", REPORT, lambda: read_report(place)),
            ("report.json", {**REPORT, "kind": MASK_KIND}, lambda: read_report(place, MASK_KIND)),
            ("build_report.json", {"facts": {"title": "x", "license": "y"}}, lambda: read_build_facts(place)),
            (SIGNATURE, {"sha256": "0", "signature": "x"}, lambda: read_signature(b"", place)),
        )
    )
    kind, content = _json(rng, values)
    (place / name).write_bytes(content)
    return Case(kind, read, private=False, plain=False)


def make_key(rng: Random, folder: Path) -> Case:
    """A key of a federation's site."""
    key = "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBA== north\n"
    read = rng.choice((lambda path: check_public_key(path, "north"), check_site_key))
    if rng.random() < 0.1:
        return no_file(rng, folder, ".pub", read, plain=False)
    kind, content = damaged_text(rng, key)
    path = written(rng, folder, ".pub", content)
    return Case(kind, lambda: read(path), STEM, plain=False)

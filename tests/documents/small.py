"""The documents' settings in a size that runs in a second: fewer steps, smaller networks and pictures."""

import json
from pathlib import Path
from typing import Any

import yaml

NETWORK = {
    "backbone": "convnext_atto",
    "backbone_kwargs": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "image_size": 64,
}
SHAPE = {**NETWORK, "projector_dim": 16, "drop_path_rate": 0.0}
PEAC = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_kwargs": {"depth": 2, "embed_dim": 24, "num_heads": 3, "patch_size": 8},
    "image_size": 32,
    "global_projector_dims": [16, 16, 16],
    "local_projector_dims": [12, 12, 12],
    "learning_rate": 0.01,  # as the page says of small ones
    "global_weight": 100.0,
}
GENESIS = {"width": 2, "depth": 2, "cube_size": [16, 16, 16], "cubes_per_volume": 2}
LENGTHS = {"cycles": 1, "epochs": 1, "rounds": 1, "cycles_per_round": 1, "max_steps": 2, "batch_size": 8}
OF_METHOD: dict[str, dict[str, Any]] = {"ark": SHAPE, "peac": PEAC, "genesis": GENESIS}
# Options that a verb gets at the end, where they win
OPTIONS = {
    "finetune": "--max_steps 2 --eval_steps 1 --bootstrap 9 --batch_size 4",
    "evaluate": "--bootstrap 9",
    "probe": "--bootstrap 9",
    "predict": "--num_workers 0",
    "data build": "--num_workers 1",
    "data build phantom_masks": "--train 8 --validation 4 --test 4 --size 64",
    "data build phantom_volumes": "--train 4 --validation 2 --test 2 --size 32",
}


def recipe(text: str) -> str:
    """A recipe's text; files of other kinds are left as they are."""
    values = yaml.safe_load(text)
    if not isinstance(values, dict) or not {"tasks", "sites", "model"} & values.keys() or "link" in values:
        return text
    lengths = {name: value for name, value in LENGTHS.items() if name in values}
    if "sites" in values:  # in one process, which need not be started
        lengths["sites_at_once"] = 1
    if "model" in values:
        return yaml.safe_dump(values | lengths)
    method = values.get("method", "ark")
    if method == "ark" and values.get("init") == "imagenet":
        values["init"] = "none"  # the weights would have to be fetched
    if "init" not in values or values["init"] == "none":
        values |= OF_METHOD[method]
    if values.get("axes") == "xyz":
        values |= {"border": [1, 1, 1], "most_tissue": None}
    return yaml.safe_dump(values | lengths)


def command(words: tuple[str, ...]) -> list[str]:
    """The words after `ark-hf`."""
    verbs = [" ".join(words[:count]) for count in (3, 2, 1)]
    more = next((OPTIONS[verb] for verb in verbs if verb in OPTIONS), "").split()
    verb = words[0]
    if verb == "finetune" and words[1] in ("none", "imagenet"):
        genesis = "--width" in words
        more += ["--width", "2"] if genesis else network()
        words = ("finetune", "none", *words[2:])
    if verb == "finetune" and Path(words[1]).suffix == ".yaml":
        more = more[: more.index("--batch_size")]
    if "--per_class" in words:
        more += ["--per_class", "2"]
    if "--seeds" in words:
        more += ["--seeds", "0", "1"]
    return [*words, *more]


def network() -> list[str]:
    return [
        "--backbone", NETWORK["backbone"], "--image_size", "64",
        "--backbone_kwargs", json.dumps(NETWORK["backbone_kwargs"]),
    ]  # fmt: skip

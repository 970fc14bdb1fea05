"""Drawn chests with landmarks, and the groups of their patients, for the scripts beside this file."""

from typing import Any

import torch

import ark_hf

ORGANS = {"lungs", "heart", "posterior_ribs", "anterior_ribs", "clavicles"}
FAT = {"slender": 1 / 3, "medium": 2 / 3, "stout": 1.0}


def draw(images: int, size: int = 512) -> list[dict[str, Any]]:
    """As many test images of each of the built-in sites."""
    sites = ark_hf.PHANTOM_SITES.values()
    return [ark_hf.draw_phantom_image(site, "test", index, size) for site in sites for index in range(images)]


def groups(pictures: list[dict[str, Any]]) -> dict[str, list[str]]:
    """By attribute the group of each picture."""
    bands = {"0-17": 18, "18-39": 40, "40-59": 60, "60-79": 80, "80+": 130}
    return {
        "sex": [each["sex"] for each in pictures],
        "age": [next(band for band, end in bands.items() if each["age"] < end) for each in pictures],
        "body": [next(name for name, most in FAT.items() if each["fat"] <= most) for each in pictures],
        "health": ["abnormal" if each["masks"].keys() - ORGANS else "normal" for each in pictures],
    }


def untrained(model: ark_hf.ArkModel) -> ark_hf.ArkModel:
    """The same architecture with random weights."""
    torch.manual_seed(0)
    return ark_hf.ArkModel(model.config).eval().to(model.device)

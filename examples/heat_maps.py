"""
Show where a trained Ark model sees its findings: the picture with a heat map over it, for the most probable labels.

    python examples/heat_maps.py ark-cxr chest.png heat_maps
"""

import re
import sys
from pathlib import Path

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

import ark_hf
from ark_hf.evaluation.heatmaps import heat_maps, overlay

MOST_PROBABLE = 5

if __name__ == "__main__":
    name, picture, folder = sys.argv[1:4]
    model = AutoModelForImageClassification.from_pretrained(name)
    processor = AutoImageProcessor.from_pretrained(name)
    pixels = ark_hf.read_radiograph(picture)
    inputs = processor(pixels, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    multi_label = model.config.problem_type == "multi_label_classification"  # so is a model of several heads
    probabilities = logits.sigmoid() if multi_label else logits.softmax(dim=-1)
    labels = probabilities.argsort(descending=True)[:MOST_PROBABLE].tolist()

    Path(folder).mkdir(parents=True, exist_ok=True)
    for label, heat_map in zip(labels, heat_maps(model, inputs["pixel_values"], labels)[0], strict=True):
        file = Path(folder) / f"{re.sub(r'[^A-Za-z0-9]+', '_', model.config.id2label[label])}.png"
        overlay(pixels, heat_map).save(file)
        print(f"{model.config.id2label[label]:40} {probabilities[label]:.3f}  {file}")

"""
What a trained Ark model finds and where: the most probable label of each task, with its heat map over the picture.

    python examples/heat_maps.py ark-cxr chest.dcm heat_maps.png

On what `ark-hf demo` left:

    python examples/heat_maps.py ark-cxr runs/demo/pictures/phantom_city_0.png heat_maps.png

`ark-hf predict ark-cxr scans/ --heatmaps folder` writes a file for each picture and label that is called positive.
"""

import sys

import numpy as np
from PIL import Image
from transformers import pipeline

import ark_hf

if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python examples/heat_maps.py MODEL PICTURE OUT.png")
    model, path, out = sys.argv[1:]
    tasks = pipeline("chest-xray-classification", model=model)(path, heatmaps=True, top_k=1)["tasks"]
    pixels = ark_hf.read_input(path).pixels
    shown = []
    for task, (label,) in tasks.items():
        shown.append(np.asarray(ark_hf.overlay(pixels, label["heatmap"])))
        name = f"{task}/{label['label']}"
        print(f"{name:40} {label['score']:.3f}")
    Image.fromarray(np.hstack(shown)).save(out)  # in the order in which they are printed

"""
Predict with a trained Ark model in ten lines.

    python examples/predict.py ark-cxr chest.png

On what `ark-hf demo` left:

    python examples/predict.py ark-cxr runs/demo/pictures/phantom_city_0.png
"""

import sys

from transformers import pipeline

import ark_hf

if len(sys.argv) != 3:
    sys.exit("usage: python examples/predict.py MODEL PICTURE")
model, path = sys.argv[1:]
classify = pipeline("image-classification", model=model)
for result in classify(ark_hf.read_radiograph(path), top_k=10):  # an array: transformers would clip 16-bit files
    print(f"{result['label']:40} {result['score']:.3f}")

"""
An original checkpoint as a model of this package: what `ark-hf convert` does.

    python examples/convert.py Ark6_swinLarge768_ep50.pth.tar ark-cxr
"""

import sys

import ark_hf

if __name__ == "__main__":
    checkpoint, output_dir = sys.argv[1:3]
    print(ark_hf.convert(checkpoint, output_dir).summary())

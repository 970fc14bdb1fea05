"""
An original checkpoint as a model of this package: what `ark-hf convert` does.

    python examples/convert.py Ark6_swinLarge768_ep50.pth.tar ark-released

No GPU is needed, whatever the checkpoint's size.
"""

import sys

import ark_hf

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/convert.py CHECKPOINT FOLDER")
    checkpoint, output_dir = sys.argv[1:]
    print(ark_hf.convert(checkpoint, output_dir).summary())

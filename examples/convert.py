"""
An original checkpoint as a model of this package: what `ark-hf convert` does.

    python examples/convert.py Ark6_swinLarge768_ep50.pth.tar ark-cxr
"""

import sys
from pathlib import Path

from ark_hf.hub.save import save_conversion
from ark_hf.models.ark.convert_ark_checkpoint import convert_checkpoint

if __name__ == "__main__":
    checkpoint, output_dir = sys.argv[1:3]
    conversion = convert_checkpoint(checkpoint)
    print(conversion.summary())
    save_conversion(conversion, Path(output_dir))

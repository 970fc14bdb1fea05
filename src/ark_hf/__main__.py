"""`python -m ark_hf`: the command `ark-hf`."""

import sys

from .cli.main import main

sys.exit(main())

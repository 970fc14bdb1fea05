"""`python -m ark_hf.cli`, which `accelerate launch -m` runs."""

import sys

from .main import main

sys.exit(main())

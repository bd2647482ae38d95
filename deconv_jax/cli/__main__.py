"""`python -m deconv_jax.cli` runs `deconv-jax`."""

import sys

from deconv_jax.cli import main

sys.exit(main())

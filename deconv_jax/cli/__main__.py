"""`python -m deconv_jax.cli`, which is `deconv-jax`."""

import sys

from deconv_jax.cli import main

sys.exit(main())

"""Fit the parameters of NIQE to photographs, and write them into the package.

  python experiments/zoo/fit_niqe.py $DECONV_JAX_DATA/bsd432

The 432 images of BSDS500 that are not in the test set take about two minutes on one CPU core.
"""

import argparse
from pathlib import Path

import numpy as np

from deconv_jax.data.images import list_images, read_pixels
from deconv_jax.metrics.niqe import PARAMETERS, fit_niqe, save_parameters


def main() -> None:
    """Fit, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the photographs")
    folder = parser.parse_args().folder
    paths = list_images(folder)
    parameters = fit_niqe(read_pixels(p, "rgb").astype(np.float32) / 255 for p in paths)
    origin = {"data": folder.name, "images": str(len(paths))}
    save_parameters(parameters, PARAMETERS, origin)
    print(f"written: {PARAMETERS}")


if __name__ == "__main__":
    main()

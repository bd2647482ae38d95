"""NIQE, the natural image quality evaluator: a measure of image quality without a reference.

Mittal, Soundararajan & Bovik, "Making a 'completely blind' image quality analyzer", IEEE Signal Processing
Letters 20(3), 2013. An image is cut into blocks. Each is described by the shapes of the distributions of its
normalized pixels and of products of neighbors, at two scales. NIQE is the distance between the Gaussian
distribution of the image's descriptions and that of natural photographs; lower is better. The definition,
its constants and the treatment of borders are those of the authors' MATLAB code (niqe_release).

Note: The photographs here are 432 images of BSDS500, stored as JPEG, in place of the authors' 125 images. Values
are comparable only with values of the same parameters, and not with published ones.

Note: Like PSNR, NIQE says little alone. It rewards noise that resembles texture.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import Float
from scipy import linalg, ndimage, special

from deconv_jax import ops
from deconv_jax.errors import InputError
from deconv_jax.metrics.checks import check_finite
from deconv_jax.ops.color import rgb_to_gray_uint8

BLOCK = 96
"""Side of a block in pixels, at the first scale."""
FEATURES = 36
"""Number of features of a block: 18 at each of two scales."""
PARAMETERS = Path(__file__).parent / "niqe_bsd432.safetensors"
"""File of the parameters that `niqe` uses by default."""
SHARPNESS_THRESHOLD = 0.75
"""Least sharpness of a block of a photograph, relative to its sharpest one, to be used in `fit_niqe`."""

_TAPS = np.exp(-np.square(np.arange(-3, 4)) / (2 * (7 / 6) ** 2))
_WINDOW = _TAPS / np.sum(_TAPS)
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
_SHAPES = np.arange(200, 10001) / 1000
_RATIOS = np.exp(
    2 * special.gammaln(2 / _SHAPES) - special.gammaln(1 / _SHAPES) - special.gammaln(3 / _SHAPES)
)
"""Squared mean magnitude over mean square of a generalized Gaussian, for each of `_SHAPES`."""

Image = Float[np.ndarray, "height width channels"]
Blocks = Float[np.ndarray, "count height width"]


@dataclasses.dataclass(frozen=True, eq=False)
class NiqeParameters:
    """The distribution of the features of natural photographs.

    Attributes:
      mean: Mean of the features.
      covariance: Covariance of the features.
    """

    mean: Float[np.ndarray, " features"]
    covariance: Float[np.ndarray, "features features"]


def niqe(image: Image, parameters: NiqeParameters | None = None) -> float:
    """Return NIQE of an image; lower is better.

    Rows and columns at the bottom and right that do not fill a block of 96 x 96 pixels are ignored.

    Args:
      image: Image in [0, 1] with 1 or 3 channels; clipped, rounded to 8 bits and converted to gray.
      parameters: Distribution to compare with; None for that of BSDS500.

    Raises:
      InputError: The image has other channels, infinity or NaN, fewer than two blocks, or so little texture
        that its features are not defined.
    """
    parameters = load_parameters() if parameters is None else parameters
    features = block_features(image)[0]
    complete = features[np.isfinite(features).all(axis=1)]
    if len(complete) < 2:
        raise InputError(
            "NIQE requires an image with texture: fewer than two of its "
            f"{len(features)} blocks of {BLOCK} x {BLOCK} pixels are not flat"
        )
    # As `nanmean` and `nancov` of the authors' code: a block may lack single features.
    difference = np.nanmean(features, axis=0) - parameters.mean
    pooled = (parameters.covariance + np.cov(complete, rowvar=False)) / 2
    return float(math.sqrt(difference @ linalg.pinvh(pooled) @ difference))


def fit_niqe(images: Iterable[Image]) -> NiqeParameters:
    """Return the distribution of the features of the sharp blocks of photographs.

    Blocks whose mean local deviation exceeds 0.75 times that of the sharpest block of the same image are used.

    Args:
      images: Photographs without visible distortions, as for `niqe`.

    Raises:
      InputError: There are fewer than two sharp blocks, or see `niqe`.
    """
    chosen = []
    for image in images:
        features, sharpness = block_features(image)
        chosen.append(features[sharpness > SHARPNESS_THRESHOLD * np.max(sharpness)])
    rows = np.concatenate([*chosen, np.zeros((0, FEATURES))])
    rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows) < 2:
        raise InputError(f"NIQE is fitted to at least two sharp blocks; got {len(rows)}")
    return NiqeParameters(np.mean(rows, axis=0), np.cov(rows, rowvar=False))


@functools.cache
def load_parameters(path: Path = PARAMETERS) -> NiqeParameters:
    """Return parameters that `save_parameters` has written; the result is cached."""
    return NiqeParameters(**safetensors.numpy.load(path.read_bytes()))


def save_parameters(parameters: NiqeParameters, path: Path, origin: dict[str, str]) -> None:
    """Write parameters to a safetensors file.

    Args:
      parameters: Parameters to write.
      path: File to write.
      origin: Metadata of the file, such as the name of the data set.
    """
    tensors = {"mean": parameters.mean, "covariance": parameters.covariance}
    path.write_bytes(safetensors.numpy.save(tensors, metadata=origin))


def block_features(
    image: Image,
) -> tuple[Float[np.ndarray, "blocks features"], Float[np.ndarray, " blocks"]]:
    """Return the 36 features and the sharpness of each block, row by row of blocks.

    Features of blocks without variation are NaN.

    Args:
      image: Image in [0, 1] with 1 or 3 channels.

    Raises:
      InputError: The image has other channels, infinity or NaN, or fewer than two blocks.
    """
    levels = _gray_levels(image)
    rows, columns = (n // BLOCK for n in levels.shape)
    if rows * columns < 2:
        raise InputError(
            f"NIQE requires an image of at least two blocks of {BLOCK} x {BLOCK} pixels; got "
            f"{levels.shape[0]} x {levels.shape[1]} pixels"
        )
    levels = levels[: rows * BLOCK, : columns * BLOCK]
    normalized, deviation = _normalized(levels)
    sharpness = _blocks(deviation, BLOCK).mean(axis=(1, 2))
    half = ops.imresize(jnp.asarray(levels[..., None] / 255, jnp.float32), 0.5)[..., 0]
    normalized_half, _ = _normalized(255 * np.asarray(half, np.float64))
    parts = (
        _features_of(_blocks(normalized, BLOCK)),
        _features_of(_blocks(normalized_half, BLOCK // 2)),
    )
    return np.concatenate(parts, axis=1), sharpness


def _gray_levels(image: Image) -> np.ndarray:
    """Return the gray levels of an image, from 0 to 255, in double precision."""
    if image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise InputError(
            f"NIQE requires an image (height, width, 1 or 3 channels); got shape {image.shape}"
        )
    check_finite("pixels of NIQE", image)
    levels = np.floor(255 * np.clip(image, 0, 1) + 0.5).astype(np.uint8)
    gray = rgb_to_gray_uint8(levels) if levels.shape[-1] == 3 else levels
    return np.asarray(gray, np.float64)[..., 0]


def _normalized(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean-subtracted, contrast-normalized pixels (equation 1), and their local deviations."""
    mean = _local_mean(levels)
    deviation = np.sqrt(np.abs(_local_mean(np.square(levels)) - np.square(mean)))
    return (levels - mean) / (deviation + 1.0), deviation


def _local_mean(x: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        x = ndimage.correlate1d(x, _WINDOW, axis, mode="nearest")
    return x


def _blocks(x: np.ndarray, side: int) -> Blocks:
    rows, columns = (n // side for n in x.shape)
    tiled = x.reshape(rows, side, columns, side).swapaxes(1, 2)
    return tiled.reshape(rows * columns, side, side)


def _features_of(blocks: Blocks) -> np.ndarray:
    """Return the 18 features of each block at one scale: of its pixels, and of products of neighbors."""
    shape, left, right = fit_generalized_gaussian(blocks)
    features = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        # The authors' `circshift` of a block: its first row and column neighbor its last.
        product = blocks * np.roll(blocks, shift, axis=(1, 2))
        shape, left, right = fit_generalized_gaussian(product)
        mean = (right - left) * np.exp(special.gammaln(2 / shape) - special.gammaln(1 / shape))
        features += [shape, mean, left, right]
    return np.stack(features, axis=1)


def fit_generalized_gaussian(blocks: Blocks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit an asymmetric generalized Gaussian (equation 5) to the values of each block, by moments.

    The shape is searched on a grid from 0.2 to 10 in steps of 0.001, as in the authors' code.

    Returns:
      Shape and left and right scale of each block; NaN if all values have the same sign or are zero.
    """
    x = blocks.reshape(len(blocks), -1)
    squares = np.square(x)
    with np.errstate(invalid="ignore", divide="ignore"):
        left, right = (
            np.sqrt(np.sum(squares * side, axis=1) / np.sum(side, axis=1))
            for side in (x < 0, x > 0)
        )
        ratio = left / right
        moment = np.square(np.mean(np.abs(x), axis=1)) / np.mean(squares, axis=1)
        corrected = moment * (ratio**3 + 1) * (ratio + 1) / np.square(np.square(ratio) + 1)
    defined = np.isfinite(corrected)
    nearest = np.argmin(np.abs(_RATIOS - np.where(defined, corrected, 0.0)[:, None]), axis=1)
    shape = np.where(defined, _SHAPES[nearest], np.nan)
    scale = np.exp(0.5 * (special.gammaln(1 / shape) - special.gammaln(3 / shape)))
    return shape, left * scale, right * scale

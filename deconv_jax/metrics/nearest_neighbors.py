"""Metrics of generated samples by nearest neighbors in feature space.

Precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991) and density and coverage (Naeem et al. 2020,
arXiv:2002.09797) separate poor samples from missing ones; repetition detects duplicates. All computations are in
double precision.

Note: Values are only comparable for the same extractor, preprocessing and number of samples, because neighbors come
closer in larger sets.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from deconv_jax.errors import InputError, at_least
from deconv_jax.metrics.checks import feature_pair

_BLOCK = 2**22
"""Number of distances in memory at a time, 32 MB."""


def precision_recall(
    real: Float[np.ndarray, "real dims"], fake: Float[np.ndarray, "fake dims"], k: int = 3
) -> tuple[float, float]:
    """Return (precision, recall), both in [0, 1] (arXiv:1904.06991, equations 1 and 2).

    The manifold of a set is the union of closed balls around its samples, each with the distance to the k-th
    nearest other sample as its radius. Precision is the fraction of fake samples on the real manifold, recall
    that of real samples on the fake manifold. The ball of an outlier may be large; see `density_coverage`.

    Raises:
      InputError: k is below 1, a set has k samples or fewer, an array does not have two axes, a value is not
        finite, or the numbers of dimensions differ.
    """
    at_least("k", k, 1)
    real, fake = feature_pair(real, fake, k + 1)
    real_radii, fake_radii = _squared_radii(real, k), _squared_radii(fake, k)
    precise, recalled = np.zeros(len(fake), bool), np.zeros(len(real), bool)
    for block, squared in _squared_distances(real, fake):
        precise |= np.any(squared <= real_radii[block, None], axis=0)
        recalled[block] = np.any(squared <= fake_radii, axis=1)
    return float(np.mean(precise)), float(np.mean(recalled))


def density_coverage(
    real: Float[np.ndarray, "real dims"], fake: Float[np.ndarray, "fake dims"], k: int = 5
) -> tuple[float, float]:
    """Return (density, coverage) (arXiv:2002.09797, equations 3 and 4).

    Both use the balls of `precision_recall` around real samples. Density, at least 0, is the mean number of
    balls that contain a fake sample, divided by k, so that the ball of one outlier has little weight.
    Coverage, in [0, 1], is the fraction of balls that contain a fake sample. Two large samples of equal size
    from one distribution have expectations 1 and 1 - 2^-k (lemmas 1 and 2), 0.969 for k=5.

    Raises:
      InputError: k is below 1, there are k real samples or fewer, there is no fake sample, an array does not
        have two axes, a value is not finite, or the numbers of dimensions differ.
    """
    at_least("k", k, 1)
    real, fake = feature_pair(real, fake, k + 1, 1)
    radii = _squared_radii(real, k)
    inside = covered = 0
    for block, squared in _squared_distances(real, fake):
        within = squared <= radii[block, None]
        inside += int(np.sum(within))
        covered += int(np.sum(np.any(within, axis=1)))
    return inside / (k * len(fake)), covered / len(real)


def repetition(real: Float[np.ndarray, "real dims"], fake: Float[np.ndarray, "fake dims"]) -> float:
    """Return the fraction of fake samples that nearly repeat another fake sample, in [0, 1].

    A fake sample is a repetition if its nearest other fake sample is closer than a tenth of the median distance
    between a real sample and its nearest other real sample. This metric is not from a paper. The median is
    robust to duplicates in the real set. In many dimensions, distances below a tenth of it hardly occur by
    chance: a generator without repetitions has about 0, and one that always makes the same image has 1.
    Uniform points in two dimensions have 1 - 2^(-1/100) = 0.007. Both sets should have one size, because nearest
    neighbors are closer in larger sets.

    Raises:
      InputError: A set has fewer than two samples, an array does not have two axes, a value is not finite, the
        numbers of dimensions differ, or more than half of the real samples are duplicates.
    """
    real, fake = feature_pair(real, fake, 2)
    scale = np.median(np.sqrt(_squared_radii(real, 1)))
    if not scale:
        raise InputError(
            "repetition requires a positive median distance between nearest real samples; got a real set "
            "more than half of which are duplicates"
        )
    return float(np.mean(np.sqrt(_squared_radii(fake, 1)) < scale / 10))


def _squared_distances(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield squared distances of rows to all columns, in blocks of rows that bound the memory.

    |x|^2 + |y|^2 - 2 x.y requires only a matrix product, but suffers from cancellation. Subtracting
    the mean of the columns first reduces it. Values below 10^-12 of the norms are rounding errors
    and are set to 0, so that equal rows have distance 0.
    """
    origin = np.mean(columns, axis=0)
    columns = columns - origin
    norms = np.einsum("nd,nd->n", columns, columns)
    step = max(1, _BLOCK // len(columns))
    for start in range(0, len(rows), step):
        block = rows[start : start + step] - origin
        scale = np.einsum("nd,nd->n", block, block)[:, None] + norms
        squared = scale - 2 * (block @ columns.T)
        squared[squared < 1e-12 * scale] = 0.0
        yield slice(start, start + len(block)), squared


def _squared_radii(features: np.ndarray, k: int) -> np.ndarray:
    """Return the squared distance of each row to its k-th nearest other row.

    It is increased by a factor of 1 + 1e-9, so that rounding does not exclude this neighbor from the ball.
    """
    radii = np.empty(len(features))
    for block, squared in _squared_distances(features, features):
        squared[np.arange(len(squared)), np.arange(block.start, block.stop)] = np.inf
        squared.partition(k - 1, axis=1)
        radii[block] = squared[:, k - 1]
    return radii * (1 + 1e-9)

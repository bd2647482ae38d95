"""Distances between two sets of features: the Fréchet distance and the kernel distance.

The Fréchet distance (Heusel et al. 2017, arXiv:1706.08500) and the kernel distance (Binkowski et al. 2018,
arXiv:1801.01401) are the FID and the KID if the features are those of InceptionV3. All computations are in double
precision.

Note: Values are only comparable for the same extractor, preprocessing and number of samples. The Fréchet distance
falls with more samples of the same generator. The kernel distance is unbiased, so that of a good generator may be
negative.
"""

import numpy as np
from jaxtyping import Float

from deconv_jax.errors import at_least
from deconv_jax.metrics.checks import check_same_dims, checked_rows, feature_pair


class FeatureStatistics:
    """Count, mean and covariance of features, accumulated over batches of any size by `update`.

    Means and scatter matrices of batches are merged as in Chan et al. 1983, "Algorithms for computing the
    sample variance". Unlike E[xx'] - E[x]E[x]', this keeps its precision for means far from 0.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = np.zeros(())
        self._scatter = np.zeros(())

    @classmethod
    def of(cls, features: Float[np.ndarray, "count dims"]) -> "FeatureStatistics":
        """Return the statistics of one array; raises InputError as `update` does."""
        statistics = cls()
        statistics.update(features)
        return statistics

    def update(self, features: Float[np.ndarray, "count dims"]) -> None:
        """Add rows of features, possibly none.

        Raises:
          InputError: The array does not have two axes, a value is not finite, or the number of dimensions
            differs from that of earlier rows.
        """
        features = checked_rows("features", features, 0)
        added = len(features)
        if not added:
            return
        if self._count:
            check_same_dims("new features", features, "earlier features", self.mean[None])
        mean = np.mean(features, axis=0)
        centered = features - mean
        step = mean - self._mean
        total = self._count + added
        between = np.outer(step, step) * (self._count * added / total)
        self._mean = self._mean + step * (added / total)
        self._scatter = self._scatter + centered.T @ centered + between
        self._count = total

    @property
    def count(self) -> int:
        """Number of rows so far."""
        return self._count

    @property
    def mean(self) -> Float[np.ndarray, " dims"]:
        """Mean of the rows.

        Raises:
          InputError: There is no row.
        """
        at_least("the number of features for a mean", self._count, 1)
        return self._mean

    @property
    def covariance(self) -> Float[np.ndarray, "dims dims"]:
        """Unbiased covariance, normalized by count - 1.

        Raises:
          InputError: There are fewer than two rows.
        """
        at_least("the number of features for a covariance", self._count, 2)
        return self._scatter / (self._count - 1)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Return the squared Fréchet distance of two Gaussians (arXiv:1706.08500, equation 6):

        |mean_a - mean_b|^2 + Tr(A + B - 2 (A B)^(1/2))

    Tr (A B)^(1/2) is the sum of the singular values of A^(1/2) B^(1/2). This avoids a general matrix square
    root, which becomes complex by rounding for fewer samples than dimensions, and it is more accurate near 0
    than the square roots of eigenvalues.

    Returns:
      At least 0, and 0 up to rounding for equal moments. For two samples of one distribution it has a
      positive bias, which falls as 1 / count.

    Raises:
      InputError: The features differ in their number of dimensions, or a set has fewer than two rows.
    """
    check_same_dims("a", a.mean[None], "b", b.mean[None])
    cross = np.linalg.norm(_factor(a.covariance).T @ _factor(b.covariance), "nuc")
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    return max(float(np.sum(np.square(a.mean - b.mean)) + traces - 2 * cross), 0.0)


def kernel_distance(
    real: Float[np.ndarray, "real dims"],
    fake: Float[np.ndarray, "fake dims"],
    *,
    block_size: int = 1000,
) -> tuple[float, float]:
    """Return the kernel distance and its standard error (arXiv:1801.01401).

    The distance is the squared maximum mean discrepancy with the paper's kernel (x.y / dims + 1)^3.
    Its unbiased estimate is averaged over consecutive blocks of rows. The authors' code draws
    overlapping subsets instead. Disjoint blocks give independent estimates, and thus the standard
    error of the mean, at a cost linear in the number of samples.

    Args:
      real: Features of real images, in random order.
      fake: Features of generated images, in random order.
      block_size: Number of rows of a block, at least 2. If a set has fewer rows, there is one block of the
        size of the smaller set. Rows that do not fill a block of both sets are left out.

    Returns:
      (distance, standard error). The distance is the mean over blocks, which has expectation 0 for sets of one
      distribution and may be negative. The standard error of this mean is NaN for a single block.

    Raises:
      InputError: The block size is below 2, a set has fewer than two rows, an array does not have two axes, a
        value is not finite, or the numbers of dimensions differ.
    """
    at_least("block_size", block_size, 2)
    real, fake = feature_pair(real, fake, 2)
    shorter = min(len(real), len(fake))
    size = min(block_size, shorter)
    blocks = [slice(start, start + size) for start in range(0, shorter - size + 1, size)]
    estimates = [_squared_discrepancy(real[block], fake[block]) for block in blocks]
    error = np.std(estimates, ddof=1) / np.sqrt(len(blocks)) if len(blocks) > 1 else np.nan
    return float(np.mean(estimates)), float(error)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Return F with covariance = F F'; it is the square root up to a rotation, which keeps singular values."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def _squared_discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    """Return the unbiased estimate for sets of equal size, without the kernel of a row with itself."""
    xx, yy, xy = ((a @ b.T / a.shape[1] + 1.0) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = np.sum(xx) - np.trace(xx) + np.sum(yy) - np.trace(yy)
    return within / (len(x) * (len(x) - 1)) - 2 * np.mean(xy)

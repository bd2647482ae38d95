"""Metrics of generative models, computed from extracted features, labels and class probabilities.

The Fréchet distance (Heusel et al. 2017, arXiv:1706.08500) and the kernel distance (Binkowski et al. 2018,
arXiv:1801.01401) compare two sets of features as a whole; for features of InceptionV3 they are the FID and
the KID. Precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et
al. 2020, arXiv:2002.09797) separate poor samples from missing ones. The classifier score (Salimans et al.
2016, arXiv:1606.03498), for InceptionV3 the Inception score, and the metrics of modes and classes use a
classifier. `mean_pairwise_ms_ssim` compares the images themselves.

All metrics but `mean_pairwise_ms_ssim` are computed in double precision.

Note: Values are only comparable for the same extractor, preprocessing and number of samples. The Fréchet
distance falls with more samples of the same generator, and neighbors come closer. Only the kernel distance
is unbiased, so that of a good generator may be negative.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Array, Float, Integer

from deconv_jax.compilation import jit
from deconv_jax.errors import InputError, at_least
from deconv_jax.metrics.finite import check_finite
from deconv_jax.metrics.image import max_ms_ssim_scales, ms_ssim

SCORE_SPLITS = 10
"""Number of splits of a classifier score, as in the authors' code of the Inception score."""

_BLOCK = 2**22
"""Number of distances in memory at a time, 32 MB."""

_PAIRS = 50
"""Number of image pairs compared at a time."""

_ms_ssim = jit(ms_ssim, static_argnames="scales")


class FeatureStatistics:
    """Count, mean and covariance of features, accumulated over batches of any size.

    Means and scatter matrices of batches are merged as in Chan et al. 1983, "Algorithms for computing the
    sample variance". Unlike E[xx'] - E[x]E[x]', this keeps its precision for means far from 0.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = np.zeros(())
        self._scatter = np.zeros(())

    @classmethod
    def of(cls, features: Float[np.ndarray, "count dims"]) -> "FeatureStatistics":
        """Return the statistics of one array; see `update` for errors."""
        statistics = cls()
        statistics.update(features)
        return statistics

    def update(self, features: Float[np.ndarray, "count dims"]) -> None:
        """Add rows of features, possibly none.

        Raises:
          InputError: The array does not have two axes, a value is not finite, or the number of dimensions
            differs from that of earlier rows.
        """
        features = _rows("features", features, 0)
        added = len(features)
        if not added:
            return
        if self._count:
            _same_dims("new features", features, "earlier features", self.mean[None])
        mean = np.mean(features, axis=0)
        centred = features - mean
        step = mean - self._mean
        total = self._count + added
        between = np.outer(step, step) * (self._count * added / total)
        self._mean = self._mean + step * (added / total)
        self._scatter = self._scatter + centred.T @ centred + between
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
    _same_dims("a", a.mean[None], "b", b.mean[None])
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

    The distance is the squared maximum mean discrepancy, the mean over consecutive blocks of rows of the unbiased estimate with the paper's kernel
    (x.y / dims + 1)^3. The authors' code draws overlapping subsets instead. Disjoint blocks give independent
    estimates, and thus the standard error of the mean, at a cost linear in the number of samples.

    Args:
      real: Features of real images, in random order.
      fake: Features of generated images, in random order.
      block_size: Number of rows of a block, at least 2. If a set has fewer rows, there is one block of the
        size of the smaller set. Rows that do not fill a block of both sets are left out.

    Returns:
      Mean over blocks, which has expectation 0 for sets of one distribution and may be negative; and its
      standard error, NaN for a single block.

    Raises:
      InputError: The block size or a set is below two, or the features cannot be compared.
    """
    at_least("block_size", block_size, 2)
    real, fake = _pair(real, fake, 2)
    shorter = min(len(real), len(fake))
    size = min(block_size, shorter)
    blocks = [slice(start, start + size) for start in range(0, shorter - size + 1, size)]
    estimates = [_squared_discrepancy(real[block], fake[block]) for block in blocks]
    error = np.std(estimates, ddof=1) / np.sqrt(len(blocks)) if len(blocks) > 1 else np.nan
    return float(np.mean(estimates)), float(error)


def precision_recall(
    real: Float[np.ndarray, "real dims"], fake: Float[np.ndarray, "fake dims"], k: int = 3
) -> tuple[float, float]:
    """Return precision and recall, in [0, 1] (arXiv:1904.06991, equations 1 and 2).

    The manifold of a set is the union of closed balls around its samples, each with the distance to the k-th
    nearest other sample as its radius. Precision is the fraction of fake samples on the real manifold, recall
    that of real samples on the fake manifold. The ball of an outlier may be large; see `density_coverage`.

    Raises:
      InputError: k is below 1, a set has k samples or fewer, or the features cannot be compared.
    """
    at_least("k", k, 1)
    real, fake = _pair(real, fake, k + 1)
    real_radii, fake_radii = _squared_radii(real, k), _squared_radii(fake, k)
    precise, recalled = np.zeros(len(fake), bool), np.zeros(len(real), bool)
    for block, squared in _squared_distances(real, fake):
        precise |= np.any(squared <= real_radii[block, None], axis=0)
        recalled[block] = np.any(squared <= fake_radii, axis=1)
    return float(np.mean(precise)), float(np.mean(recalled))


def density_coverage(
    real: Float[np.ndarray, "real dims"], fake: Float[np.ndarray, "fake dims"], k: int = 5
) -> tuple[float, float]:
    """Return density and coverage (arXiv:2002.09797, equations 3 and 4).

    Both use the balls of `precision_recall` around real samples. Density, at least 0, is the mean number of
    balls that contain a fake sample, divided by k, so that the ball of one outlier has little weight.
    Coverage, in [0, 1], is the fraction of balls that contain a fake sample. Two large samples of equal size
    from one distribution have expectations 1 and 1 - 2^-k (lemmas 1 and 2), 0.969 for k=5.

    Raises:
      InputError: k is below 1, there are k real samples or fewer, there is no fake sample, or the features
        cannot be compared.
    """
    at_least("k", k, 1)
    real, fake = _pair(real, fake, k + 1, 1)
    radii = _squared_radii(real, k)
    inside = covered = 0
    for block, squared in _squared_distances(real, fake):
        within = squared <= radii[block, None]
        inside += int(np.sum(within))
        covered += int(np.sum(np.any(within, axis=1)))
    return inside / (k * len(fake)), covered / len(real)


def repetition(real: Float[np.ndarray, "real dims"], fake: Float[np.ndarray, "fake dims"]) -> float:
    """Return the fraction of fake samples that nearly repeat another fake sample, in [0, 1].

    A sample is a repetition if its nearest other fake sample is closer than a tenth of the median distance
    between a real sample and its nearest other real sample. This metric is not from a paper. The median is
    robust to duplicates in the real set, and chance distances below a tenth of it are rare in many
    dimensions. A collapsed generator has 1 and a healthy one 0; uniform points in two dimensions have
    1 - 2^(-1/100) = 0.007. Both sets should have one size, because nearest neighbors are closer in larger
    sets.

    Raises:
      InputError: A set has fewer than two samples, the features cannot be compared, or more than half of the
        real samples are duplicates.
    """
    real, fake = _pair(real, fake, 2)
    scale = np.median(np.sqrt(_squared_radii(real, 1)))
    if not scale:
        raise InputError(
            "repetition requires a positive median distance between nearest real samples; got a real set "
            "more than half of which are duplicates"
        )
    return float(np.mean(np.sqrt(_squared_radii(fake, 1)) < scale / 10))


def classifier_score(
    probabilities: Float[np.ndarray, "count classes"], splits: int = SCORE_SPLITS
) -> tuple[float, float]:
    """Return the classifier score exp(E KL(p(y|x) || p(y))), from 1 to the number of classes.

    With InceptionV3 it is the Inception score of arXiv:1606.03498, section 4. As in the authors' code it is
    computed for each of `splits` consecutive splits, with the mean of the split as p(y). Small splits, or rows
    sorted by class, lower it.

    Args:
      probabilities: Class probabilities p(y|x) of each sample, which sum to 1 within 0.001.
      splits: Number of splits, at least 1. Their sizes differ by at most one row.

    Returns:
      Mean over splits, and population standard deviation over splits.

    Raises:
      InputError: A row is not a distribution, or there are fewer rows than splits.
    """
    at_least("splits", splits, 1)
    probabilities = _rows("probabilities", probabilities, splits)
    sums = np.sum(probabilities, axis=1)
    if np.min(probabilities) < 0 or np.max(np.abs(sums - 1)) > 1e-3:
        raise InputError(
            "probabilities must be at least 0 and sum to 1 in each row; got values from "
            f"{np.min(probabilities):.6g} and sums from {np.min(sums):.6g} to {np.max(sums):.6g}"
        )
    scores = [
        np.exp(np.mean(_relative_entropy(part, np.mean(part, axis=0))))
        for part in np.array_split(probabilities, splits)
    ]
    return float(np.mean(scores)), float(np.std(scores))


def mode_coverage(
    labels: Integer[np.ndarray, " fake"], reference: Integer[np.ndarray, " real"], num_modes: int
) -> tuple[int, float]:
    """Return the number of modes that a generator reaches, and the reverse KL divergence of their frequencies.

    The metrics are those of stacked MNIST in arXiv:1712.04086.

    Args:
      labels: Mode of each fake sample according to a classifier, 0 to num_modes - 1.
      reference: Modes of real samples, preferably according to the same classifier.
      num_modes: Number of modes, 1000 for stacked MNIST.

    Returns:
      Number of distinct modes in `labels`, and KL(fake || real) in nats. Counts of real samples are increased
      by one, so that the divergence stays finite for a mode without real samples. Its expectation for two
      sets of n real samples is about (num_modes - 1) / n.

    Raises:
      InputError: There is no label, or a label is out of range.
    """
    fake = _class_counts("labels", labels, num_modes)
    real = _class_counts("reference labels", reference, num_modes)
    real_frequencies = (real + 1) / np.sum(real + 1)
    divergence = _relative_entropy(fake / np.sum(fake), real_frequencies)
    return int(np.count_nonzero(fake)), float(divergence)


def class_imbalance(labels: Integer[np.ndarray, " count"], num_classes: int) -> float:
    """Return the ratio of the largest to the smallest class, at least 1; infinite if a class is missing.

    Raises:
      InputError: There is no label, or a label is out of range.
    """
    counts = _class_counts("labels", labels, num_classes)
    return float(np.max(counts) / np.min(counts)) if np.min(counts) else np.inf


def mean_pairwise_ms_ssim(
    images: Float[Array | np.ndarray, "count height width channels"],
    *,
    pairs: int = 1000,
    seed: int = 0,
) -> float:
    """Return the mean MS-SSIM of random pairs of distinct images, in [0, 1]; lower is more diverse.

    Odena et al. 2017 (arXiv:1610.09585, section 4.2) compute it within each class and compare it with that of
    real images of the class, because a mixture hides the collapse of a single class. Images too small for five
    scales are compared at the largest number of scales that fits.

    Args:
      images: Images in [0, 1].
      pairs: Number of pairs to draw, with replacement.
      seed: Seed of the draw.

    Raises:
      InputError: There are fewer than two images or no pairs, a side is below 11, or a value is not finite.
    """
    at_least("the number of images", len(images), 2)
    at_least("pairs", pairs, 1)
    check_finite("images", images)
    scales = max(max_ms_ssim_scales(*images.shape[1:3]), 1)
    generator = np.random.default_rng(seed)
    first = generator.integers(len(images), size=pairs)
    second = (first + generator.integers(1, len(images), size=pairs)) % len(images)
    parts = [slice(start, start + _PAIRS) for start in range(0, pairs, _PAIRS)]
    values = [_ms_ssim(images[first[part]], images[second[part]], scales) for part in parts]
    return float(np.mean(np.concatenate(values), dtype=np.float64))


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Return F with covariance = F F'; it is the square root up to a rotation, which keeps singular values."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def _squared_discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    """Return the unbiased estimate for sets of equal size, without the kernel of a row with itself."""
    xx, yy, xy = ((a @ b.T / a.shape[1] + 1.0) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = np.sum(xx) - np.trace(xx) + np.sum(yy) - np.trace(yy)
    return within / (len(x) * (len(x) - 1)) - 2 * np.mean(xy)


def _squared_distances(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield squared distances of rows to all columns, in blocks of rows that bound the memory.

    |x|^2 + |y|^2 - 2 x.y is a matrix product but cancels, least around the mean of the columns. Values below
    10^-12 of the norms are rounding errors and are set to 0, so that equal rows have distance 0.
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


def _relative_entropy(p: np.ndarray, q: np.ndarray) -> np.ndarray | np.float64:
    """Return KL(p || q) over the last axis in nats; 0 log 0 = 0, and infinity where only q is 0."""
    with np.errstate(divide="ignore"):
        ratio = np.divide(p, q, out=np.ones_like(p), where=p > 0)
    return np.sum(p * np.log(ratio), axis=-1)


def _class_counts(name: str, labels: np.ndarray, num_classes: int) -> np.ndarray:
    at_least(f"the number of {name}", labels.size, 1)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{name} must be integers on one axis; got {labels.dtype} {labels.shape}")
    least, most = np.min(labels), np.max(labels)
    if least < 0 or most >= num_classes:
        raise InputError(f"{name} must be from 0 to {num_classes - 1}; got {least} to {most}")
    return np.bincount(labels.astype(np.int64), minlength=num_classes)


def _rows(name: str, values: np.ndarray, least: int) -> np.ndarray:
    """Check that there are at least `least` finite rows, and convert them to double precision."""
    if values.ndim != 2:
        raise InputError(f"{name} must be an array of two axes; got shape {values.shape}")
    at_least(f"the number of {name}", len(values), least)
    check_finite(name, values)
    return np.asarray(values, np.float64)


def _pair(
    real: np.ndarray, fake: np.ndarray, least: int, least_fake: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Check two sets of features, and convert them to double precision."""
    real = _rows("real features", real, least)
    fake = _rows("fake features", fake, least if least_fake is None else least_fake)
    _same_dims("real features", real, "fake features", fake)
    return real, fake


def _same_dims(a_name: str, a: np.ndarray, b_name: str, b: np.ndarray) -> None:
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"{a_name} and {b_name} must have equal dimensions; got {a.shape[1]} and {b.shape[1]}"
        )

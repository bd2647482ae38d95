"""Measures of generative models: of features, labels and class probabilities that others extracted.

The Fréchet distance (Heusel et al. 2017, arXiv:1706.08500), known as FID, and the kernel distance
(Binkowski et al. 2018, arXiv:1801.01401), known as KID, compare two sets of features as wholes.
Precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et
al. 2020, arXiv:2002.09797) tell poor samples from missing ones. The inception score (Salimans et
al. 2016, arXiv:1606.03498) and the counts of modes and classes rest on a classifier, and
`mean_pairwise_ms_ssim` on the images themselves.

What a reader would get wrong: such a figure belongs to the extractor, the preparation of its images
and the number of samples, and compares only with figures that share all three. With more samples
of the same generator the Fréchet distance falls and neighbours come nearer; only the kernel
distance keeps its mean, which is why a good one may be negative. All but `mean_pairwise_ms_ssim` is in double
precision.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Array, Float, Integer

from deconv_jax.compilation import jit
from deconv_jax.errors import InputError, at_least
from deconv_jax.metrics.finite import check_finite
from deconv_jax.metrics.image import ms_ssim, ms_ssim_scales

SCORE_SPLITS = 10
"""Parts that an Inception Score is the mean of, as in the authors' code."""

_BLOCK = 2**22
"""Distances held at a time, 32 MB."""

_PAIRS = 50
"""Pairs of images compared at a time."""

_ms_ssim = jit(ms_ssim, static_argnames="scales")


class FeatureStatistics:
    """Number, mean and covariance of rows of features that arrive in batches of any size.

    A batch is merged by its own mean and scatter (Chan et al. 1983, "Algorithms for computing the
    sample variance"), so that a mean far from 0 costs no digits, as it does in E[xx'] - E[x]E[x]'.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = np.zeros(())
        self._scatter = np.zeros(())

    @classmethod
    def of(cls, features: Float[np.ndarray, "count dims"]) -> "FeatureStatistics":
        """The statistics of one array; raises what `update` does."""
        statistics = cls()
        statistics.update(features)
        return statistics

    def update(self, features: Float[np.ndarray, "count dims"]) -> None:
        """Adds rows, of which there may be none.

        Raises:
          InputError: for other than two axes, values that are not finite, or a number of dimensions
            that differs from that of the rows before.
        """
        features = _rows("features", features, 0)
        added = len(features)
        if not added:
            return
        if self._count:
            _same_dims("new features", features, "the features before", self.mean[None])
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
        """Rows so far."""
        return self._count

    @property
    def mean(self) -> Float[np.ndarray, " dims"]:
        """Mean row.

        Raises:
          InputError: there is no row.
        """
        at_least("the number of features for a mean", self._count, 1)
        return self._mean

    @property
    def covariance(self) -> Float[np.ndarray, "dims dims"]:
        """Unbiased covariance, the scatter over count - 1.

        Raises:
          InputError: there are fewer than two rows.
        """
        at_least("the number of features for a covariance", self._count, 2)
        return self._scatter / (self._count - 1)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Fréchet distance of two Gaussians, squared as is the custom; equation 6 of arXiv:1706.08500:

        |mean_a - mean_b|^2 + Tr(A + B - 2 (A B)^(1/2))

    A B has no symmetric root, and a general one turns complex in rounding where there are fewer
    samples than dimensions. The trace is the sum of the roots of the eigenvalues of the symmetric
    A^(1/2) B A^(1/2), and these roots are the singular values of A^(1/2) B^(1/2), which taken so
    keep the digits near 0 that their squares lose.

    Returns:
      At least 0, and 0 for equal moments, to rounding. Samples of one distribution are above 0, by
      what falls as the inverse of their number.

    Raises:
      InputError: for features of different numbers of dimensions, or fewer than two of either.
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
    """Kernel distance: the squared maximum mean discrepancy of blocks of samples, arXiv:1801.01401.

    The unbiased estimate with the paper's kernel (x.y / dims + 1)^3, for the first block_size rows
    of both sets, for the next, and so on. The authors' code draws subsets that overlap; blocks do
    not, so that their estimates are independent and the standard error is that of their mean. The
    cost is linear in the number of samples.

    Args:
      real: rows in random order, as sorted ones would make unlike blocks.
      fake: the same.
      block_size: rows of a block, at least 2; if either set has fewer, there is one block of as
        many rows as the smaller set has. Rows that fill no block of both sets are left out.

    Returns:
      Mean over blocks, about 0 and as often negative for sets of one distribution, and its standard
      error, NaN for one block.

    Raises:
      InputError: for a block size or a set below two, or features that cannot be compared.
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
    """Precision and recall of arXiv:1904.06991, equations 1 and 2, in [0, 1].

    A set's manifold is the union of balls about its samples, each of which reaches to the sample's
    k-th nearest other one. Precision is the share of fake samples on the real manifold, recall that
    of real samples on the fake one. Balls are closed, and a sample is no neighbour of its own. One
    outlier's ball may cover much; see `density_coverage`.

    Raises:
      InputError: for k below 1, sets of not more than k samples, or that cannot be compared.
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
    """Density and coverage of arXiv:2002.09797, equations 3 and 4.

    Both are of the balls of `precision_recall` about real samples. Density, at least 0, is the mean
    number of balls that a fake sample lies in, over k, so that an outlier's one ball weighs little.
    Coverage, in [0, 1], is the share of balls with a fake sample in them. Two large samples of one
    distribution and of one size have 1 and 1 - 2^-k on average, lemmas 1 and 2: 0.969 for k=5.

    Raises:
      InputError: for k below 1, not more than k real samples, no fake one, or sets that cannot be
        compared.
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
    """Share of fake samples, in [0, 1], that repeat another fake one.

    Those whose nearest other fake sample is nearer than a tenth of the median distance between a
    real sample and its nearest other real one. The measure is ours, not a paper's: the real set
    gives the scale, by a median so that its own duplicates do not, and a tenth is nearer than
    samples in many dimensions come by chance. A collapsed generator has 1, a healthy one 0; evenly
    spread points in two dimensions have 1 - 2^(-1/100) = 0.007. Neighbours come nearer in larger
    sets, so both should be of one size.

    Raises:
      InputError: for sets of fewer than two samples, or that cannot be compared; for a real set
        more than half of which are duplicates, as it gives no scale.
    """
    real, fake = _pair(real, fake, 2)
    scale = np.median(np.sqrt(_squared_radii(real, 1)))
    if not scale:
        raise InputError(
            "repetition measures by the median distance of a real sample to the next, which must "
            "not be 0; got a real set more than half of which are duplicates"
        )
    return float(np.mean(np.sqrt(_squared_radii(fake, 1)) < scale / 10))


def classifier_score(
    probabilities: Float[np.ndarray, "count classes"], splits: int = SCORE_SPLITS
) -> tuple[float, float]:
    """Inception score of arXiv:1606.03498, section 4: exp(E KL(p(y|x) || p(y))), 1 to `classes`.

    It is taken in each of `splits` consecutive parts, with the part's own mean as p(y), as in the
    authors' code; few samples a part, or rows in the order of their classes, lower it.

    Args:
      probabilities: p(y|x), a row a sample, which sums to 1 within 0.001; zeros may occur.
      splits: at least 1; the parts differ in size by at most one row.

    Returns:
      Mean over parts, and standard deviation over parts, that of the parts themselves (ddof 0).

    Raises:
      InputError: for rows that are no distribution, or fewer than `splits` of them.
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
    """Modes that a generator reaches, and how unevenly, as for stacked MNIST in arXiv:1712.04086.

    Args:
      labels: a classifier's mode of each fake sample, 0 to num_modes - 1.
      reference: modes of real samples, best by the same classifier.
      num_modes: how many there are, 1000 for stacked MNIST.

    Returns:
      The number of modes among `labels`, and the reverse divergence KL(fake || real) of the modes'
      shares, nats. A real one's count is taken to be one more than it is, so that a mode without
      real samples does not make it infinite. Other real samples, n beside as many, have about
      (num_modes - 1) / n.

    Raises:
      InputError: for no labels, or others than 0 to num_modes - 1.
    """
    fake = _class_counts("labels", labels, num_modes)
    real = _class_counts("reference labels", reference, num_modes)
    shares = (real + 1) / np.sum(real + 1)
    divergence = _relative_entropy(fake / np.sum(fake), shares)
    return int(np.count_nonzero(fake)), float(divergence)


def class_imbalance(labels: Integer[np.ndarray, " count"], num_classes: int) -> float:
    """The largest class's share over the smallest's, at least 1; infinite if a class is missing.

    Raises:
      InputError: for no labels, or others than 0 to num_classes - 1.
    """
    counts = _class_counts("labels", labels, num_classes)
    return float(np.max(counts) / np.min(counts)) if np.min(counts) else np.inf


def mean_pairwise_ms_ssim(
    images: Float[Array | np.ndarray, "count height width channels"],
    *,
    pairs: int = 1000,
    seed: int = 0,
) -> float:
    """Mean MS-SSIM of random pairs of different images, in [0, 1]; the lower, the more diverse.

    Section 4.2 of Odena et al. 2017, arXiv:1610.09585, which takes the images of one class at a
    time and compares with real ones of that class: in a mixture a class's collapse hides.
    Images that are too small for five scales are compared at as many as they have room for.

    Args:
      images: in [0, 1].
      pairs: how many to draw, each of two different images; one pair may be drawn twice.
      seed: of the draw.

    Raises:
      InputError: for fewer than two images, images of less than 11 pixels a side or with values
        that are not finite, or no pairs.
    """
    at_least("the number of images", len(images), 2)
    at_least("pairs", pairs, 1)
    check_finite("images", images)
    scales = max(ms_ssim_scales(*images.shape[1:3]), 1)
    generator = np.random.default_rng(seed)
    first = generator.integers(len(images), size=pairs)
    second = (first + generator.integers(1, len(images), size=pairs)) % len(images)
    parts = [slice(start, start + _PAIRS) for start in range(0, pairs, _PAIRS)]
    likenesses = [_ms_ssim(images[first[part]], images[second[part]], scales) for part in parts]
    return float(np.mean(np.concatenate(likenesses), dtype=np.float64))


def _factor(covariance: np.ndarray) -> np.ndarray:
    """F with covariance = F F', its root but for a rotation, which singular values do not see."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def _squared_discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased estimate from as many rows of each; a row's kernel with itself does not count."""
    xx, yy, xy = ((a @ b.T / a.shape[1] + 1.0) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = np.sum(xx) - np.trace(xx) + np.sum(yy) - np.trace(yy)
    return within / (len(x) * (len(x) - 1)) - 2 * np.mean(xy)


def _squared_distances(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances of rows to all columns, in blocks of rows that bound the memory.

    |x|^2 + |y|^2 - 2 x.y is a matrix product and loses digits, fewest about the columns' mean. What
    is left below 10^-12 of the norms is rounding, of float32 features too, and counts as 0: equal
    rows are at distance 0.
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
    """Squared distance of each row to the k-th nearest other one.

    A hair more, so that this neighbour is in the closed ball whatever the rounding.
    """
    radii = np.empty(len(features))
    for block, squared in _squared_distances(features, features):
        squared[np.arange(len(squared)), np.arange(block.start, block.stop)] = np.inf
        squared.partition(k - 1, axis=1)
        radii[block] = squared[:, k - 1]
    return radii * (1 + 1e-9)


def _relative_entropy(p: np.ndarray, q: np.ndarray) -> np.ndarray | np.float64:
    """KL(p || q) over the last axis, nats; 0 log 0 = 0, and infinite where only q is 0."""
    with np.errstate(divide="ignore"):
        ratio = np.divide(p, q, out=np.ones_like(p), where=p > 0)
    return np.sum(p * np.log(ratio), axis=-1)


def _class_counts(name: str, labels: np.ndarray, num_classes: int) -> np.ndarray:
    at_least(f"the number of {name}", labels.size, 1)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{name} are integers on one axis; got {labels.dtype} {labels.shape}")
    least, most = np.min(labels), np.max(labels)
    if least < 0 or most >= num_classes:
        raise InputError(f"{name} must be from 0 to {num_classes - 1}; got {least} to {most}")
    return np.bincount(labels.astype(np.int64), minlength=num_classes)


def _rows(name: str, values: np.ndarray, least: int) -> np.ndarray:
    """At least `least` finite rows, in double precision."""
    if values.ndim != 2:
        raise InputError(f"{name} are rows, an array of two axes; got shape {values.shape}")
    at_least(f"the number of {name}", len(values), least)
    check_finite(name, values)
    return np.asarray(values, np.float64)


def _pair(
    real: np.ndarray, fake: np.ndarray, least: int, least_fake: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of features of the same kind, each of at least `least` rows."""
    real = _rows("real features", real, least)
    fake = _rows("fake features", fake, least if least_fake is None else least_fake)
    _same_dims("real features", real, "fake features", fake)
    return real, fake


def _same_dims(a_name: str, a: np.ndarray, b_name: str, b: np.ndarray) -> None:
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"{a_name} and {b_name} must have as many dimensions; got {a.shape[1]} and {b.shape[1]}"
        )

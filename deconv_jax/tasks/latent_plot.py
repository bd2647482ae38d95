"""Codes of a split in two dimensions: a code's two numbers, or its first two principal components."""

from collections.abc import Callable, Iterable

import jax
import numpy as np
from jaxtyping import Float

from deconv_jax.data.batch import Batch
from deconv_jax.training.parallel import gather_to_host
from deconv_jax.viz.plots import COLORS, Plot, Series


def latent_scatter(
    batches: Iterable[Batch], encode: Callable[[Batch], jax.Array]
) -> dict[str, Plot]:
    """Under "codes": a point an example, coloured by label where there are up to ten of them.

    Args:
      batches: of a split; fillings are left out.
      encode: gives a batch's codes (batch, *code).

    Returns:
      {} for codes of one number, and for a single example.
    """
    found, kept_labels = [], []
    for batch in batches:
        codes, true = gather_to_host(encode(batch)), gather_to_host(batch["mask"]) > 0
        found.append(codes.reshape(len(codes), -1)[true])
        if "label" in batch:
            kept_labels.append(gather_to_host(batch["label"])[true])
    codes = np.concatenate(found).astype(np.float64)
    count, numbers = codes.shape
    if min(count, numbers) < 2:
        return {}
    if numbers == 2:
        points, x_name, y_name = codes, "first number", "second number"
    else:
        mean, basis = principal_components(codes, 2)
        points = (codes - mean) @ basis
        shares = points.var(axis=0) / max(codes.var(axis=0).sum(), np.finfo(np.float64).tiny)
        x_name, y_name = (
            f"component {place}, {share:.0%} of the variance"
            for place, share in enumerate(shares, 1)
        )
    labels = np.concatenate(kept_labels) if kept_labels else np.zeros(count, np.int32)
    classes = np.unique(labels)
    if not 1 < len(classes) <= len(COLORS):
        series = [Series(points[:, 0], points[:, 1])]
    else:
        of_class = {str(label): points[labels == label] for label in classes}
        series = [Series(own[:, 0], own[:, 1], name) for name, own in of_class.items()]
    title = f"codes of {count} images" + ("" if numbers == 2 else f", {numbers} numbers each")
    return {"codes": Plot(title, x_name, y_name, series, equal_units=True)}


def principal_components(
    rows: Float[np.ndarray, "count numbers"], components: int
) -> tuple[Float[np.ndarray, " numbers"], Float[np.ndarray, "numbers components"]]:
    """The mean of rows and the orthonormal directions along which they vary most, in double precision.

    Of fewer rows than numbers there are no more components than rows.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    if len(rows) < rows.shape[1]:
        basis = np.linalg.svd(centred, full_matrices=False)[2].T
    else:
        basis = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
    return mean, basis[:, :components]

"""Scatter plots of a split's codes in two dimensions."""

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
    """Return the plot "codes", with one point per example.

    Codes with more than two entries are projected on their first two principal components. Points are
    colored by label if there are at most ten labels.

    Args:
      batches: Batches of a split, at least one; examples with mask 0 are ignored.
      encode: Function that returns the codes (batch, *code) of a batch.

    Returns:
      The plot; {} for codes with one entry, and for a single example.
    """
    code_parts, label_parts = [], []
    for batch in batches:
        codes, valid = gather_to_host(encode(batch)), gather_to_host(batch["mask"]) > 0
        code_parts.append(codes.reshape(len(codes), -1)[valid])
        if "label" in batch:
            label_parts.append(gather_to_host(batch["label"])[valid])
    codes = np.concatenate(code_parts).astype(np.float64)
    count, dim = codes.shape
    if min(count, dim) < 2:
        return {}
    if dim == 2:
        points, x_name, y_name = codes, "first entry", "second entry"
    else:
        mean, basis = principal_components(codes, 2)
        points = (codes - mean) @ basis
        shares = points.var(axis=0) / max(codes.var(axis=0).sum(), np.finfo(np.float64).tiny)
        x_name, y_name = (
            f"component {number}, {share:.0%} of the variance"
            for number, share in enumerate(shares, 1)
        )
    labels = np.concatenate(label_parts) if label_parts else np.zeros(count, np.int32)
    classes = np.unique(labels)
    if not 1 < len(classes) <= len(COLORS):
        series = [Series(points[:, 0], points[:, 1])]
    else:
        by_label = {str(label): points[labels == label] for label in classes}
        series = [Series(own[:, 0], own[:, 1], name) for name, own in by_label.items()]
    title = f"codes of {count} images" + ("" if dim == 2 else f", {dim} entries each")
    return {"codes": Plot(title, x_name, y_name, series, equal_units=True)}


def principal_components(
    rows: Float[np.ndarray, "count dim"], components: int
) -> tuple[Float[np.ndarray, " dim"], Float[np.ndarray, "dim components"]]:
    """Compute principal components in double precision.

    Args:
      rows: One example per row.
      components: Number of components.

    Returns:
      The mean of the rows, and an orthonormal basis of the directions of largest variance, in
      descending order; it has `components` columns, and at most min(count, dim).
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    centered = rows - mean
    if len(rows) < rows.shape[1]:
        basis = np.linalg.svd(centered, full_matrices=False)[2].T
    else:
        basis = np.linalg.eigh(centered.T @ centered)[1][:, ::-1]
    return mean, basis[:, :components]

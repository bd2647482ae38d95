"""Five adversarial losses, each with its usual regularizer, for the same number of steps.

  deconv-jax tables gan_losses

There are three seeds for each loss on MNIST and Fashion-MNIST (about two hours on 2 CPU cores). The metrics use
the features of this project's small classifiers. Compare rows with each other and with the row of real images,
not with FID in papers. All networks are the same, except for spectral normalization where a row names it.
"""

from _gan import Records, parts, real_row, rows, training_and_protocol

from deconv_jax.tables import markdown

VERSION = 1
LOSSES = {
    "minimax": "minimax (saturating)",
    "non_saturating": "non-saturating",
    "least_squares": "least squares",
    "hinge": "hinge, spectral normalization",
    "wasserstein": "Wasserstein, gradient penalty",
}
DATA = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
METRIC_DECIMALS = {
    "frechet_distance": 3,
    "kernel_distance": 4,
    "precision": 3,
    "recall": 3,
    "density": 3,
    "coverage": 3,
}

PARTS = parts(
    {f"{data}_{loss}": f"{data}.py:loss={loss}" for data in DATA for loss in LOSSES}, seeds=range(3)
)


def render(records: Records) -> str:
    """Return, for each data set, a row for each loss and one for real images."""
    blocks = []
    for data, title in DATA.items():
        names = {f"{data}_{loss}": name for loss, name in LOSSES.items()}
        titles, lines, record = rows(records, names, METRIC_DECIMALS)
        if record is None:
            continue
        lines.append(real_row(record, METRIC_DECIMALS))
        blocks += [
            f"#### {title}",
            markdown(" | ".join(["loss", *titles]), lines),
            training_and_protocol(record),
        ]
    return "\n\n".join(blocks)

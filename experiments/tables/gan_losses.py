"""Losses by data: five adversarial losses, each with what usually goes with it, the same number of steps.

  deconv-jax tables gan_losses

Three seeds each on MNIST and Fashion-MNIST (about two hours on 2 CPU cores). The measures look at
samples with this project's own small classifiers, so they are no FID of a paper; what is comparable is
a row to a row, and to real images of the training set in place of samples. All networks are the
same but for spectral normalisation, in the row that says so.
"""

from _gan import Records, budget_and_protocol, parts, real_row, rows

from deconv_jax.tables import markdown

VERSION = 1
LOSSES = {
    "minimax": "minimax (saturating)",
    "non_saturating": "non-saturating",
    "least_squares": "least squares",
    "hinge": "hinge, spectral normalisation",
    "wasserstein": "Wasserstein, gradient penalty",
}
DATA = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
MEASURES = {"fid": 3, "kid": 4, "precision": 3, "recall": 3, "density": 3, "coverage": 3}

PARTS = parts(
    {f"{data}_{loss}": f"{data}.py:loss={loss}" for data in DATA for loss in LOSSES}, seeds=range(3)
)


def render(records: Records) -> str:
    """For each data set a row a loss, and one of real images."""
    blocks = []
    for data, title in DATA.items():
        names = {f"{data}_{loss}": name for loss, name in LOSSES.items()}
        titles, lines, record = rows(records, names, MEASURES)
        if record is None:
            continue
        lines.append(real_row(record, MEASURES))
        blocks += [
            f"#### {title}",
            markdown(" | ".join(["loss", *titles]), lines),
            budget_and_protocol(record),
        ]
    return "\n\n".join(blocks)

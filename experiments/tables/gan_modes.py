"""Mode coverage: the number of modes of stacked MNIST, of 1,000, that a generator covers.

  deconv-jax tables gan_modes

Three random digits are the channels of an image (Metz et al., arXiv:1611.02163, section 3.3.1). A classifier of
single digits tells which of the 1,000 numbers a sample shows. The runs take about half an hour on 2 CPU cores.
"""

from _gan import Records, parts, real_row, rows, training_and_protocol

from deconv_jax.tables import markdown

VERSION = 1
REMEDIES = {
    "none": "none",
    "minibatch_std": "minibatch standard deviation",
    "r1": "R1",
    "both": "both",
    "gradient_penalty": "Wasserstein, gradient penalty",
}
METRIC_DECIMALS = {"modes": 0, "reverse_kl": 3, "frechet_distance": 3, "recall": 3, "coverage": 3}

PARTS = parts({remedy: f"stacked_mnist.py:remedy={remedy}" for remedy in REMEDIES}, seeds=range(3))


def render(records: Records) -> str:
    """Return a row for each remedy."""
    titles, lines, record = rows(records, REMEDIES, METRIC_DECIMALS)
    if record is None:
        return ""
    lines.append(real_row(record, METRIC_DECIMALS))
    table = markdown(" | ".join(["remedy", *titles]), lines)
    return f"{table}\n\n{training_and_protocol(record)}"

"""Mode coverage: how many of the 1,000 modes of stacked MNIST a generator reaches, with remedies.

  deconv-jax tables gan_modes

After Metz et al., arXiv:1611.02163, section 3.3.1: three random digits are the channels of an image,
and a classifier of single digits says which of the 1,000 numbers a sample spells. About half an hour
on 2 CPU cores.
"""

from _gan import Records, budget_and_protocol, parts, real_row, rows

from deconv_jax.tables import markdown

VERSION = 1
REMEDIES = {
    "none": "none",
    "minibatch_std": "minibatch standard deviation",
    "r1": "R1",
    "both": "both",
    "gradient_penalty": "Wasserstein, gradient penalty",
}
MEASURES = {"modes": 0, "reverse_kl": 3, "fid": 3, "recall": 3, "coverage": 3}

PARTS = parts({remedy: f"stacked_mnist.py:remedy={remedy}" for remedy in REMEDIES}, seeds=range(3))


def render(records: Records) -> str:
    """A row a remedy."""
    titles, lines, record = rows(records, REMEDIES, MEASURES)
    if record is None:
        return ""
    lines.append(real_row(record, MEASURES))
    table = markdown(" | ".join(["remedy", *titles]), lines)
    return f"{table}\n\n{budget_and_protocol(record)}"

"""Upsampling by checkerboard: what a generator enlarges with, and the pattern that it leaves.

  deconv-jax tables gan_upsampling

The generator of Fashion-MNIST with transposed convolutions of three kernel sizes, with sub-pixel
convolutions initialised by ICNR, and with convolutions of the image enlarged to the nearest pixel. A
kernel that the stride does not divide sees its neighbours unevenly (Odena et al., "Deconvolution and
checkerboard artifacts", Distill 2016). Everything else is the same but what follows from it, numbers of
parameters and the time. About half an hour on 2 CPU cores.
"""

from _gan import Records, budget_and_protocol, parts, rows

from deconv_jax.tables import markdown

VERSION = 1
KINDS = {
    "transposed_k4": ("transposed,kernel=4", "transposed, 4x4"),
    "transposed_k5": ("transposed,kernel=5", "transposed, 5x5"),
    "transposed_k3": ("transposed,kernel=3", "transposed, 3x3"),
    "subpixel": ("subpixel", "sub-pixel 3x3, ICNR"),
    "resize": ("resize", "resize, 3x3"),
}
MEASURES = {"checkerboard_energy": 3, "fid": 3, "recall": 3, "coverage": 3}

PARTS = parts(
    {name: f"fashion_mnist.py:upsampling={kind}" for name, (kind, _) in KINDS.items()},
    seeds=range(3),
)


def render(records: Records) -> str:
    """A row a way to enlarge."""
    names = {name: label for name, (_, label) in KINDS.items()}
    titles, lines, record = rows(records, names, MEASURES)
    if record is None:
        return ""
    table = markdown(" | ".join(["generator enlarges with", *titles]), lines)
    real = record["metrics"]["real_checkerboard_energy"]
    return f"{table}\n\nReal images: {real:.3f}. {budget_and_protocol(record)}"

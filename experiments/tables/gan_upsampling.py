"""Upsampling methods of a generator, and the checkerboard patterns that they leave.

  deconv-jax tables gan_upsampling

The generator of Fashion-MNIST has transposed convolutions of three kernel sizes, sub-pixel convolutions with
ICNR initialization, or convolutions after nearest-neighbor resizing. A kernel whose size is not a multiple of
the stride overlaps unevenly (Odena et al., "Deconvolution and checkerboard artifacts", Distill 2016). The
number of parameters and the time follow from the method; all else is the same. The runs take about half an hour
on 2 CPU cores.
"""

from _gan import Records, parts, rows, training_and_protocol

from deconv_jax.tables import markdown

VERSION = 1
KINDS = {
    "transposed_k4": ("transposed,kernel=4", "transposed, 4x4"),
    "transposed_k5": ("transposed,kernel=5", "transposed, 5x5"),
    "transposed_k3": ("transposed,kernel=3", "transposed, 3x3"),
    "subpixel": ("subpixel", "sub-pixel 3x3, ICNR"),
    "resize": ("resize", "resize, 3x3"),
}
METRIC_DECIMALS = {"checkerboard_energy": 3, "frechet_distance": 3, "recall": 3, "coverage": 3}

PARTS = parts(
    {name: f"fashion_mnist.py:upsampling={kind}" for name, (kind, _) in KINDS.items()},
    seeds=range(3),
)


def render(records: Records) -> str:
    """Return a row for each upsampling method."""
    names = {name: label for name, (_, label) in KINDS.items()}
    titles, lines, record = rows(records, names, METRIC_DECIMALS)
    if record is None:
        return ""
    table = markdown(" | ".join(["upsampling", *titles]), lines)
    real = record["metrics"]["real_checkerboard_energy"]
    return f"{table}\n\nReal images: {real:.3f}. {training_and_protocol(record)}"

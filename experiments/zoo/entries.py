"""Entries of the model cards that are not in a run: use, limits, papers' figures and measurements."""

import dataclasses
from collections.abc import Mapping

from measurements import (
    Measure,
    codec,
    denoising,
    evaluated,
    jpeg,
    photographs,
    seams,
    super_resolution,
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """The part of a model card that is written by hand.

    Attributes:
      summary: The model in one line.
      measure: Function that measures the figures of the card.
      use: Intended use.
      limits: Limits of the model.
      family: Name of its family in `zoo.FAMILIES`, or None.
      reference: Paper that the figures are compared with, or None.
      source: Place that the paper's figures are quoted from.
      paper: The paper's figures, by data set and setting.
      extractor: Name of the feature extractor that has the same weights, or None.
    """

    summary: str
    measure: Measure
    use: str
    limits: str
    family: str | None = None
    reference: str | None = None
    source: str = ""
    paper: Mapping[tuple[str, str], float] = dataclasses.field(default_factory=dict)
    extractor: str | None = None


def _paper(data: str, setting: str, values: Mapping[int, float]) -> dict[tuple[str, str], float]:
    """Return figures of a paper by data set and setting, such as ("Set12", "sigma 25")."""
    return {(data, f"{setting} {number}"): value for number, value in values.items()}


_NO_LICENCE = "Published without a licence, so the data may not be redistributed; used for research"
DATA_SETS = {
    "bsd432": (
        "BSD432, the 432 images of BSDS500 that are not in BSD68",
        _NO_LICENCE,
        "Arbelaez et al., Contour detection and hierarchical image segmentation, TPAMI 2011",
    ),
    "t91": (
        "T91, 91 images",
        _NO_LICENCE,
        "Yang et al., Image super-resolution via sparse representation, TIP 2010",
    ),
    "train400": (
        "Train400, 400 gray images of BSDS500",
        _NO_LICENCE,
        "Zhang et al., arXiv:1608.03981",
    ),
    "digits": (
        "Optical recognition of handwritten digits, the images of scikit-learn",
        "CC BY 4.0",
        "Alpaydin and Kaynak, UCI, doi:10.24432/C50P49",
    ),
    "mnist": (
        "MNIST",
        "CC BY-SA 3.0",
        "LeCun, Cortes and Burges; derived from Special Databases 1 and 3 of NIST",
    ),
    "brick": (
        "Photograph of a brick wall, one of scikit-image's images",
        "CC0",
        "CC0Textures; distributed by scikit-image as skimage.data.brick",
    ),
    "fashion_mnist": ("Fashion-MNIST", "MIT", "Xiao, Rasul and Vollgraf, arXiv:1708.07747"),
}
"""Name, licence and source of the training sets, by the name in a config."""

_FFDNET = dict(
    family="denoise",
    reference="Zhang, Zuo and Zhang, FFDNet, arXiv:1710.04026",
    source="the authors' repository, github.com/cszn/FFDNet",
)
_FFDNET_LIMITS = (
    "The noise level is an input: estimate it, or the result keeps noise or loses detail. Noise that is "
    "not white and Gaussian, such as that of a compressed photograph, is not removed reliably."
)
_FSRCNN = dict(
    measure=super_resolution,
    use="Enlarge photographs without noise or compression artifacts; color is enlarged bicubically.",
    limits="Trained for MATLAB's bicubic downsampling. Noise and artifacts are enlarged, too, and other "
    "blurs are not undone.",
    family="sr",
    reference="Dong, Loy and Tang, FSRCNN, arXiv:1608.00367",
    source="networks trained on T91, quoted from later comparisons",
)
_JPEG = dict(
    measure=jpeg,
    use="Remove blocks and ringing from JPEG images of unknown quality.",
    limits="Trained for one compression whose blocks start at the upper left corner, with chroma at half the "
    "resolution. An image that was resized or cropped after the compression is not restored reliably.",
    family="jpeg",
)
_GAN = dict(
    measure=evaluated(
        ("frechet_distance", "kernel_distance", "precision", "recall"),
        {"frechet_distance": ("Fréchet distance", "", 1.0)},
    ),
    limits="Some samples are not readable digits. The Fréchet distance uses a small classifier of this project "
    "and is not the FID of papers.",
)
_EXTRACTOR = dict(
    measure=evaluated(("accuracy",), {}),
    limits="An image that shows none of the classes may get a high score. Light strokes on a dark ground are "
    "expected.",
)
_SCENES = dict(
    family="digit-scenes",
    limits="Trained on synthetic scenes of 96 x 96 pixels. Other images, such as photographs of numbers, give "
    "meaningless results.",
)

MODELS = {
    "denoise-color": Entry(
        "removes Gaussian noise of a known level, sigma 0 to 75, from color images",
        denoising,
        "Remove noise from photographs, and plug-and-play restoration at any noise level.",
        _FFDNET_LIMITS,
        paper=_paper("CBSD68", "sigma", {15: 33.87, 25: 31.21, 50: 27.96}),
        **_FFDNET,
    ),
    "denoise-gray": Entry(
        "removes Gaussian noise of a known level, sigma 0 to 75, from gray images",
        denoising,
        "Remove noise from gray images, and plug-and-play restoration at any noise level.",
        _FFDNET_LIMITS,
        paper=_paper("Set12", "sigma", {15: 32.75, 25: 30.43, 50: 27.32})
        | _paper("BSD68", "sigma", {15: 31.63, 25: 29.19, 50: 26.29}),
        **_FFDNET,
    ),
    "photo": Entry(
        "removes noise and JPEG artifacts from color photographs",
        photographs,
        "Clean up photographs of phones and of the web.",
        "Trained for Gaussian noise up to sigma 30 that was compressed once, at quality 20 to 100. The level of the "
        "noise is estimated, and fine texture may be taken for noise. Blur is not undone.",
    ),
    "jpeg-color": Entry(
        "removes JPEG artifacts from color images, at any quality",
        **_JPEG
        | {"limits": f"{_JPEG['limits']} Images without visible artifacts may lose detail."},
    ),
    "jpeg-gray": Entry(
        "removes JPEG artifacts from gray images, at any quality",
        reference="Zhang et al., DnCNN-3, arXiv:1608.03981",
        source="the authors' repository, github.com/cszn/DnCNN",
        paper=_paper("Classic5", "quality", {10: 29.40, 20: 31.63, 30: 32.91, 40: 33.77}),
        **_JPEG,
    ),
    "sr-x2": Entry(
        "enlarges images to twice their size",
        paper={("Set5", ""): 36.94, ("Set14", ""): 32.54},
        **_FSRCNN,
    ),
    "sr-x3": Entry(
        "enlarges images to three times their size",
        paper={("Set5", ""): 33.06, ("Set14", ""): 29.37},
        **_FSRCNN,
    ),
    "sr-x4": Entry(
        "enlarges images to four times their size",
        paper={("Set5", ""): 30.55, ("Set14", ""): 27.50},
        **_FSRCNN,
    ),
    "codec": Entry(
        "compresses color images at several qualities",
        codec,
        "Compress photographs at low rates, and experiments with learned compression.",
        "Only this model reads its files. Coding takes seconds per megapixel on a CPU. Drawings and text are "
        "better served by PNG.",
    ),
    "digits-gan": Entry(
        "generates handwritten digits of a class, 32 x 32 pixels",
        use="Demonstrate a class-conditional GAN.",
        **_GAN,
    ),
    "mnist-gan": Entry(
        "generates MNIST digits of a class, 28 x 28 pixels",
        use="Demonstrate a class-conditional GAN.",
        **_GAN,
    ),
    "brick": Entry(
        "generates brick walls of any size, whose borders may fit together",
        seams,
        "Demonstrate textures of any size: tiles for scenes, walks, and growing images.",
        "It knows a single photograph, and draws its bricks at one size and in one direction.",
    ),
    "mnist-vae": Entry(
        "models binarized MNIST digits, 28 x 28 pixels",
        evaluated(
            ("iwae", "elbo"),
            {"iwae": ("-log p(x), bound", "nats", -1.0), "elbo": ("-ELBO", "nats", -1.0)},
        ),
        "Demonstrate a VAE: samples, walks and traversals of the latent space.",
        "Samples are less sharp than those of a GAN.",
    ),
    "digit-scenes-unet": Entry(
        "segments handwritten digits in synthetic scenes",
        evaluated(("miou", "pixel_accuracy", "boundary_f1"), {"miou": ("mIoU", "", 1.0)}),
        "Demonstrate segmentation.",
        **_SCENES,
    ),
    "digit-scenes-centernet": Entry(
        "detects handwritten digits in synthetic scenes",
        evaluated(("ap", "ap50", "ap75"), {"ap": ("AP", "", 1.0), "ap50": ("AP50", "", 1.0)}),
        "Demonstrate detection.",
        **_SCENES,
    ),
    "digits-classifier": Entry(
        "classifies handwritten digits, 32 x 32 pixels",
        use="Demonstrate classification and attribution; metrics of generated digits.",
        extractor="digits",
        **_EXTRACTOR,
    ),
    "mnist-classifier": Entry(
        "classifies MNIST digits",
        use="Demonstrate classification and attribution; metrics of generated MNIST images.",
        extractor="mnist",
        **_EXTRACTOR,
    ),
    "fashion-classifier": Entry(
        "classifies clothes of Fashion-MNIST",
        use="Demonstrate classification and attribution; metrics of generated Fashion-MNIST images.",
        extractor="fashion",
        **_EXTRACTOR,
    ),
}

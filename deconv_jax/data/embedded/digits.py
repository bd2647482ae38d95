"""The test partition of UCI "Optical Recognition of Handwritten Digits" as a TFDS data set.

1,797 digits written by 13 people, scanned to 8 x 8 pixels of 17 gray levels (Alpaydin & Kaynak, 1998,
doi:10.24432/C50P49, CC BY 4.0), as distributed by scikit-learn's `load_digits`. They are enlarged to 32 x 32
when the data set is prepared. The image is a Tensor feature and not an Image feature, so that neither
preparing nor reading it requires TensorFlow.
"""

from collections.abc import Iterator
from importlib import resources
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

SIZE = 32
LEVELS = 16
SPLITS = {"train": (0, 1257), "validation": (1257, 1437), "test": (1437, 1797)}
"""Positions in file order, so that most writers of validation and test are not in train."""


class Digits(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits, uint8 (32, 32, 1), with their class. Needs no download."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="UCI handwritten digits, 8x8 enlarged to 32x32 by bicubic interpolation.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(SIZE, SIZE, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            homepage="https://doi.org/10.24432/C50P49",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
        del dl_manager
        return {name: self._generate_examples(*bounds) for name, bounds in SPLITS.items()}

    def _generate_examples(self, start: int, stop: int) -> Iterator[tuple[int, dict[str, Any]]]:
        path = resources.files("deconv_jax.data.embedded") / "digits.npz"
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
        for i in range(start, stop):
            small = Image.fromarray((images[i] * (255 / LEVELS)).round().astype(np.uint8))
            large = small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            yield i, {"image": np.asarray(large)[..., None], "label": int(labels[i])}

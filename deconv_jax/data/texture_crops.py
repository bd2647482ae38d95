"""Random crops of one or a few photographs as examples, for the synthesis of textures."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from deconv_jax.data.batch import HostBatch
from deconv_jax.data.decoded_files import DecodedFiles
from deconv_jax.data.folders import file_fingerprint
from deconv_jax.data.images import Color
from deconv_jax.data.overlap import image_file_records
from deconv_jax.errors import InputError, did_you_mean

EMBEDDED = ("brick", "grass", "gravel")
"""Textures of scikit-image, gray, 512 x 512 pixels."""
SEEDS = {"train": 0, "validation": 1, "test": 2}
"""Seed of the positions of each split."""


class TextureCrops:
    """Crops at random positions, which are the same in every process and run.

    The images follow one another, so that each has the same number of crops. Features are "image", uint8, and
    "label", the number of the photograph.

    Args:
      paths: The photographs.
      split: "train", "validation" or "test", with different positions in the same photographs.
      side: Side of the square crops, in pixels.
      count: Number of crops.
      color: Channels of the images: "rgb", "gray" or "y"; see `read_pixels`.

    Attributes:
      fingerprint, files: See `Source`.

    Raises:
      InputError: The split is unknown, or a photograph cannot be read or is smaller than a crop.
    """

    def __init__(self, paths: Sequence[Path], split: str, *, side: int, count: int, color: Color):
        if split not in SEEDS:
            raise InputError(f"textures have no split {split!r}; {did_you_mean(split, SEEDS)}")
        self._paths, self._side = tuple(paths), side
        self._decoded = DecodedFiles(color)
        infos = {}
        for path in self._paths:
            info = self._decoded.inspect(path)
            if isinstance(info, str):
                raise InputError(info)
            if min(info.height, info.width) < side:
                raise InputError(
                    f"{path} has {info.width} x {info.height} pixels, fewer than crops of "
                    f"{side} x {side}; set data.source.side"
                )
            infos[path] = info
        random = np.random.default_rng(SEEDS[split])
        fractions = random.random((count, 2))
        room = np.array([(i.height - side + 1, i.width - side + 1) for i in infos.values()])
        self._photographs = (np.arange(count) % len(infos)).astype(np.int32)
        self._corners = (fractions * room[self._photographs]).astype(np.int32)
        self.files = image_file_records(infos)
        named = {path.name: info for path, info in infos.items()}
        self.fingerprint = file_fingerprint(count, named, (split, side, color))

    def __len__(self) -> int:
        return len(self._corners)

    def gather(self, indices: np.ndarray) -> HostBatch:
        """Return the crops at `indices`: "image" (count, side, side, 3 or 1) and "label" (count).

        Raises:
          InputError: A file has become unreadable.
        """
        crops = [
            self._decoded.read(self._paths[number])[
                top : top + self._side, left : left + self._side
            ]
            for number, (top, left) in zip(
                self._photographs[indices], self._corners[indices], strict=True
            )
        ]
        return {"image": np.stack(crops), "label": self._photographs[indices]}


def embedded_texture(name: str) -> Path:
    """Return the file of one of the `EMBEDDED` textures.

    Raises:
      InputError: scikit-image was installed without its photographs.
    """
    path = Path(str(resources.files("skimage"))) / "data" / f"{name}.png"
    if not path.is_file():
        raise InputError(f"scikit-image lacks {path}; install it from its wheel")
    return path

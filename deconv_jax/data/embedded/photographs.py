"""Twelve photographs that ship inside scikit-image's wheel, a small set for restoration.

Portraits, still lifes, textures and a landscape, gray and colour, 300 to 741 pixels a side; the two
views of a stereo pair (motorcycle) are both for training. What scikit-image would have to download
is not used, nor its drawings, text and microscopy.
"""

from importlib import resources
from pathlib import Path

from deconv_jax.data.folders import Files, parse_split, sliced
from deconv_jax.errors import InputError, did_you_mean

NAME = "photographs"
SPLITS = {
    "train": (
        "brick.png",
        "coffee.png",
        "coins.png",
        "grass.png",
        "moon.png",
        "motorcycle_left.png",
        "motorcycle_right.png",
    ),
    "validation": ("gravel.png", "rocket.jpg"),
    "test": ("astronaut.png", "camera.png", "chelsea.png"),
}


def find_files(split: str) -> Files:
    """The files of "train", "validation", "test" or "all", or of a slice such as "train[:2]".

    Raises:
      InputError: no such split, or scikit-image was installed without its photographs.
    """
    chosen, ends = parse_split(split)
    splits = SPLITS | {"all": tuple(name for names in SPLITS.values() for name in names)}
    if chosen not in splits:
        raise InputError(
            f"data set {NAME!r} has no split {split!r}; {did_you_mean(chosen, splits)}"
        )
    root = Path(str(resources.files("skimage"))) / "data"
    paths = tuple(root / name for name in splits[chosen])
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise InputError(
            f"data set {NAME!r}: {root} lacks {', '.join(missing)}; install scikit-image from its "
            "wheel"
        )
    return sliced(Files(root, paths), split, ends)

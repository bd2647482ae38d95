"""Twelve photographs from scikit-image's wheel, a small data set for restoration.

Portraits, still lifes, textures and a landscape, gray and color, 300 to 741 pixels a side. Both views of a
stereo pair (motorcycle) are in the training split. Images that scikit-image would have to download are not
used, nor are its drawings, text and microscopy.
"""

from importlib import resources
from pathlib import Path

from deconv_jax.data.file_splits import Files, parse_split, slice_files
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
    """Return the files of "train", "validation", "test" or "all", or a slice such as "train[:2]".

    The order is that of `SPLITS`.

    Raises:
      InputError: The split does not exist, the slice is ill-formed or empty, or scikit-image was installed
        without its photographs.
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
    return slice_files(Files(root, paths), split, ends)

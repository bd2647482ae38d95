"""Model cards of the named models, and the names of families of models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.io import kind_of, list_names, read_json

PACKAGE = Path(__file__).parent.parent
"""Folder of the package; "file" in a card is relative to it."""
CARDS = Path("zoo/weights")
"""Folder of the cards in the package."""

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "denoise": ("denoise-color", "denoise-gray"),
    "jpeg": ("jpeg-color", "jpeg-gray"),
    "sr": ("sr-x2", "sr-x3", "sr-x4"),
    "digit-scenes": ("digit-scenes-unet", "digit-scenes-centernet"),
}
"""Variants of each family, the default first."""


def names() -> list[str]:
    """Return the sorted names of the models in the package, without those of families."""
    return [path[:-5] for path in list_names(PACKAGE / CARDS) if path.endswith(".json")]


def card(name: str) -> dict[str, Any]:
    """Return the model card of a model.

    Args:
      name: Name of a model, or of a family, which is resolved to its default variant.

    Returns:
      The card: "name", "family", "task", "summary", "config" (of the experiment), "inputs" (shapes of a training
      example), "channels" and "scale" (None if the model has none), "parameters" (their number), "file",
      "bytes" and "sha256" of the weights, and records of the training and of the figures.

    Raises:
      InputError: There is no such model, or its card is damaged.
    """
    name = resolve(name)
    return _read(name)


def resolve(name: str, *, channels: int | None = None, scale: int | None = None) -> str:
    """Return the name of the model that a name and properties select.

    Args:
      name: Name of a model or of a family (`FAMILIES`).
      channels: Number of image channels of the model; None accepts any.
      scale: Ratio of output to input size of a restoration network; None accepts any.

    Returns:
      The name of the model, or of the first variant of the family that has these properties.

    Raises:
      InputError: There is no such model or family, or the model or no variant has these properties.
    """
    variants = FAMILIES.get(name, (name,))
    if name not in FAMILIES and name not in (known := names()):
        raise InputError(f"no model {name!r}; {did_you_mean(name, [*known, *FAMILIES])}")
    wanted = {"channels": channels, "scale": scale}
    wanted = {key: value for key, value in wanted.items() if value is not None}
    cards = {variant: _read(variant) for variant in variants} if wanted else {}
    for variant in variants:
        if all(cards[variant][key] == value for key, value in wanted.items()):
            return variant
    asked = ", ".join(f"{key}={value}" for key, value in wanted.items())
    has = "; ".join(
        f"{variant} has " + ", ".join(f"{key}={about[key]}" for key in wanted)
        for variant, about in cards.items()
    )
    raise InputError(f"model {name!r} is not available with {asked}: {has}")


def _read(name: str) -> dict[str, Any]:
    path = PACKAGE / CARDS / f"{name}.json"
    found = read_json(path)
    missing = [key for key in _USED if key not in found]
    if missing or kind_of(PACKAGE / str(found["file"])) != "file":
        problem = f"it lacks {', '.join(missing)}" if missing else f"{found['file']} is missing"
        raise InputError(f"{path} is damaged: {problem}; install the package again")
    return found


_USED = ("name", "config", "inputs", "channels", "scale", "file", "sha256")
"""Keys that the code relies on."""

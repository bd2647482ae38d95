"""The argument of a config file, `FILE.py:latent=16,norm=group`, parsed beside its defaults."""

from typing import Any

from deconv_jax.errors import InputError, closest


def config_arguments(argument: str, **defaults: Any) -> dict[str, Any]:
    """Values of "NAME=VALUE,NAME=VALUE", each of its default's type.

    Raises:
      InputError: an unknown name or a value of another type.
    """
    values = dict(defaults)
    for part in filter(None, argument.split(",")):
        name, _, text = part.partition("=")
        if name not in defaults:
            raise InputError(f"unknown config argument {name!r}; {closest(name, defaults)}")
        kind = type(defaults[name])
        try:
            # bool("False") is True.
            values[name] = {"True": True, "False": False}[text] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise InputError(
                f"config argument {name} must be {kind.__name__}; got {text!r}"
            ) from None
    return values

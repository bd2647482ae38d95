"""Config files as Python modules, and their argument, `FILE.py:latent=16,norm=group`."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.io import kind_of


def config_arguments(argument: str, **defaults: Any) -> dict[str, Any]:
    """Values of "NAME=VALUE,NAME=VALUE", each of its default's type.

    Raises:
      InputError: an unknown name or a value of another type.
    """
    values = dict(defaults)
    for part in filter(None, argument.split(",")):
        name, _, text = part.partition("=")
        if name not in defaults:
            raise InputError(f"unknown config argument {name!r}; {did_you_mean(name, defaults)}")
        kind = type(defaults[name])
        try:
            # bool("False") is True.
            values[name] = {"True": True, "False": False}[text] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise InputError(
                f"config argument {name} must be {kind.__name__}; got {text!r}"
            ) from None
    return values


def load_module(path: Path) -> ModuleType:
    """Runs a Python file; it may import files beside it.

    Raises:
      InputError: there is none.
    """
    if kind_of(path) != "file":
        raise InputError(f"no config file {str(path)!r}")
    spec = importlib.util.spec_from_file_location(f"experiments_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"config file {str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    known = set(sys.modules)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
        # Files of the same name in another folder are other modules.
        for name in set(sys.modules) - known:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).parent == path.parent:
                del sys.modules[name]
    return module

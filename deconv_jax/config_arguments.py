"""Loading of config files, and parsing of their arguments as in `FILE.py:latent=16,norm=group`."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.io import kind_of


def config_arguments(argument: str, **defaults: Any) -> dict[str, Any]:
    """Parse the arguments of a config file.

    Args:
      argument: Text "NAME=VALUE,NAME=VALUE,...", possibly empty. The last value of a name counts.
      **defaults: Default value of every valid name: a bool, int, float or string. A bool is written
        as "True" or "False".

    Returns:
      Value of every valid name. Values have the type of their defaults, and names that are missing
      in the text have their defaults.

    Raises:
      InputError: A name is unknown, or a value does not have the type of its default.

    Example:
      >>> config_arguments("latent=16", latent=8, norm="batch")
      {'latent': 16, 'norm': 'batch'}
    """
    values = dict(defaults)
    for part in filter(None, argument.split(",")):
        name, _, text = part.partition("=")
        if name not in defaults:
            raise InputError(f"unknown config argument {name!r}; {did_you_mean(name, defaults)}")
        kind = type(defaults[name])
        try:
            # Not `bool(text)`: bool("False") is True.
            values[name] = {"True": True, "False": False}[text] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise InputError(
                f"config argument {name} must be {kind.__name__}; got {text!r}"
            ) from None
    return values


def load_module(path: Path) -> ModuleType:
    """Run a Python file and return it as a module. It may import files from its own folder.

    Every call runs the file again, and the files that it imports from its own folder. The module is not
    registered in `sys.modules`.

    Args:
      path: Path of the file.

    Raises:
      InputError: There is no regular file at the path, or its name is not that of a Python file.
        Exceptions of the file itself are passed on.
    """
    if kind_of(path) != "file":
        raise InputError(f"no config file {str(path)!r}")
    path = path.absolute()  # As in the `__file__` of the modules that it imports.
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
        # Forget modules of this folder: another folder may have files of the same name.
        for name in set(sys.modules) - known:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).parent == path.parent:
                del sys.modules[name]
    return module

"""Config files and their overrides: `--config FILE.py:ARGUMENT --config.KEY=VALUE`."""

import ast
import copy
import math
import sys
from collections.abc import Iterator, Sequence, Set
from fractions import Fraction
from pathlib import Path
from typing import Any

from deconv_jax.config_arguments import load_module
from deconv_jax.errors import InputError

_WARMUPS = ("warmup_steps", "kl_warmup_steps", "freeze_discriminator_steps")
_MILESTONES = ("decay_steps", "step_boundaries")
"""Keys that count steps of the run and are scaled with its length.

Warm-ups are rounded down and milestones up, so a milestone stays after the warm-up.
"""

_SOURCE_IDENTITY = ("name", "path", "dataset", "base")
"""Settings of `config.data.source` that say which data set it is."""


def load_config(path_and_argument: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the config of a file's `get_config`, with overrides, as a dict.

    If the overrides select another data set, settings of the source that it does not have are dropped,
    and, for a folder of images, also the splits that the file sets. If they shorten the run,
    `warmup_steps`, `kl_warmup_steps`, `freeze_discriminator_steps`, `decay_steps` and `step_boundaries`
    are scaled, and `training.steps_per_call` is reduced to a divisor of the new length; the intervals
    of evaluating, saving and logging stay. Overridden keys are never changed. Notes on standard error
    list the changes. The config is not validated; `Experiment.from_dict` does that.

    Args:
      path_and_argument: "FILE.py" or "FILE.py:ARGUMENT"; the argument is "" by default.
      overrides: "--config.KEY.KEY=VALUE" strings; keys may be new. A value that is not a Python literal is a
        string. `config.data.source` also accepts the short form of a data set, such as "mnist" or
        "folder:PATH".

    Raises:
      InputError: The file does not exist or has no `get_config`, an override is malformed, or it sets a key
        below a value.
    """
    name, _, argument = path_and_argument.partition(":")
    module = load_module(Path(name))
    if not hasattr(module, "get_config"):
        raise InputError(f"config file {name!r} has no get_config(arg)")
    config = module.get_config(argument).to_dict()
    num_steps, source = _num_steps(config), copy.deepcopy(_get(config, "data", "source"))
    overridden = {_apply(config, word) for word in overrides}
    if _identity(_get(config, "data", "source")) != _identity(source):
        dropped = [*_dropped_keys(config, source), *_drop_splits(config, overridden)]
        if dropped:
            print(
                "note: data.source changed, so these settings of the config are dropped: "
                f"{', '.join(dropped)}",
                file=sys.stderr,
            )
    new_num_steps = _num_steps(config)
    if num_steps and new_num_steps and new_num_steps < num_steps:
        scaled = list(_scale_steps(config, Fraction(new_num_steps, num_steps), overridden))
        if scaled:
            print(
                f"note: training.num_steps {num_steps} -> {new_num_steps} also changes "
                f"{', '.join(scaled)}",
                file=sys.stderr,
            )
    return config


def parse_literal(text: str) -> Any:
    """Return the value of a Python literal, or the text itself if it is none."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _apply(config: dict[str, Any], override: str) -> str:
    """Apply an override to a config in place, and return its dotted key."""
    dotted, equals, text = override.removeprefix("--config.").partition("=")
    if not equals or not dotted:
        raise InputError(f"an override must be --config.KEY=VALUE; got {override!r}")
    *groups, last = dotted.split(".")
    group = config
    for key in groups:
        group = group.setdefault(key, {})
        if not isinstance(group, dict):
            raise InputError(f"{override!r}: config.{key} is a value, not a group of keys")
    value = parse_literal(text)
    if dotted == "data.source" and isinstance(value, str):
        value = _source_settings(value, group.get(last))
    group[last] = value
    return dotted


def _get(config: dict[str, Any], group: str, key: str) -> Any:
    """Return a value of a config that may be malformed, or None if it is missing."""
    values = config.get(group)
    return values.get(key) if isinstance(values, dict) else None


def _num_steps(config: dict[str, Any]) -> int | None:
    """Return `training.num_steps`, or None if it is missing or invalid."""
    steps = _get(config, "training", "num_steps")
    return steps if type(steps) is int and steps > 0 else None


def _source_settings(text: str, before: Any) -> dict[str, Any]:
    """Return the settings of `config.data.source` for a short form such as "folder:PATH" or "mnist".

    No other part of a config accepts short forms. Settings of the previous source, such as tile and
    color, are kept if the new source has them too.
    """
    from deconv_jax import schema
    from deconv_jax.data.source_configs import SOURCE_CHOICES, parse_source

    settings = schema.to_dict(parse_source(text), SOURCE_CHOICES)
    kept = {
        key: value
        for key, value in (before if isinstance(before, dict) else {}).items()
        if key in settings and key not in _SOURCE_IDENTITY
    }
    return settings | kept


def _identity(source: Any) -> dict[str, Any]:
    """Return the settings of a source that say which data set it is."""
    settings = source if isinstance(source, dict) else {}
    return {key: value for key, value in settings.items() if key in _SOURCE_IDENTITY}


def _dropped_keys(config: dict[str, Any], before: Any) -> Iterator[str]:
    """Yield "KEY=VALUE" for each setting of the previous source that the new source cannot have."""
    after = _get(config, "data", "source")
    for key, value in (before if isinstance(before, dict) else {}).items():
        if key not in _SOURCE_IDENTITY and isinstance(after, dict) and key not in after:
            yield f"data.source.{key}={value!r}"


def _drop_splits(config: dict[str, Any], overridden: Set[str]) -> Iterator[str]:
    """Remove the splits of a folder of images unless one is overridden; yield "KEY=VALUE" for each."""
    data, source = config.get("data"), _get(config, "data", "source")
    if not isinstance(data, dict) or "path" not in _identity(source):
        return
    splits = [key for key in data if key.endswith("_split")]
    if any(f"data.{key}" in overridden for key in splits):
        return
    for key in splits:
        yield f"data.{key}={data.pop(key)!r}"


def _scale_steps(
    config: dict[str, Any], ratio: Fraction, overridden: Set[str], prefix: str = ""
) -> Iterator[str]:
    """Scale, in place, the keys that count steps of the run; yield "KEY OLD -> NEW" for each change.

    Args:
      config: Config with the new number of steps.
      ratio: New number of steps over the old one.
      overridden: Dotted keys and groups to leave unchanged, such as "optimizer.warmup_steps".
      prefix: Prefix of the dotted keys of this group.
    """
    for key, old in config.items():
        dotted = f"{prefix}{key}"
        if isinstance(old, dict):
            yield from _scale_steps(old, ratio, overridden, f"{dotted}.")
            continue
        new = old
        if dotted == "training.steps_per_call" and type(old) is int:
            new = math.gcd(old, config["num_steps"])
        elif key in _WARMUPS and type(old) is int:
            new = math.floor(ratio * old)
        elif key in _MILESTONES and type(old) is int:
            new = math.ceil(ratio * old)
        elif key in _MILESTONES and isinstance(old, tuple | list):
            new = tuple(math.ceil(ratio * step) for step in old)
        if new != old and not any(f"{dotted}.".startswith(f"{word}.") for word in overridden):
            config[key] = new
            yield f"{dotted} {old} -> {new}"

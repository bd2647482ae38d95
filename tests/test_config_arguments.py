"""Tests of the arguments of a config file."""

import doctest
from pathlib import Path

import pytest

import deconv_jax.config_arguments
from deconv_jax.config_arguments import config_arguments, load_module
from deconv_jax.errors import InputError

DEFAULTS = {"latent": 8, "rate": 0.5, "norm": "batch", "remat": False}


@pytest.mark.parametrize(
    ("argument", "changed"),
    [
        ("", {}),
        ("latent=16", {"latent": 16}),
        ("latent=16,norm=group", {"latent": 16, "norm": "group"}),
        ("rate=1e-3", {"rate": 1e-3}),
        ("rate=1", {"rate": 1.0}),
        ("norm=a=b", {"norm": "a=b"}),
        ("remat=True", {"remat": True}),
        ("remat=False", {"remat": False}),
        ("latent=1,latent=2,", {"latent": 2}),
    ],
)
def test_values_replace_defaults_and_have_their_types(argument, changed):
    values = config_arguments(argument, **DEFAULTS)
    assert values == DEFAULTS | changed
    assert {k: type(v) for k, v in values.items()} == {k: type(v) for k, v in DEFAULTS.items()}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("latnet=16", "unknown config argument 'latnet'; did you mean 'latent'?"),
        ("=3", "unknown config argument ''; known are: latent, norm, rate, remat"),
        ("latent=1.5", "config argument latent must be int; got '1.5'"),
        ("latent", "config argument latent must be int; got ''"),
        ("rate=fast", "config argument rate must be float; got 'fast'"),
        ("remat=maybe", "config argument remat must be bool; got 'maybe'"),
    ],
)
def test_errors_name_the_argument_and_its_value(argument, message):
    with pytest.raises(InputError) as raised:
        config_arguments(argument, **DEFAULTS)
    assert str(raised.value) == message


def test_docstring_example_prints_what_it_says():
    assert doctest.testmod(deconv_jax.config_arguments) == (0, 1)


def test_folders_may_have_modules_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("first", "second"):
        Path(folder).mkdir()
        Path(folder, "sibling.py").write_text(f"NAME = {folder!r}\n")
        Path(folder, "config.py").write_text("from sibling import NAME\n")
    names = [load_module(Path(folder, "config.py")).NAME for folder in ("first", "second")]
    assert names == ["first", "second"]

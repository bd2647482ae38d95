"""Sources as configs: short forms and invalid settings."""

import pytest

from deconv_jax import schema
from deconv_jax.data.source_configs import (
    SOURCE_CHOICES,
    SOURCES,
    Digits,
    Folder,
    ImageLabel,
    Pairs,
    PennFudan,
    Photographs,
    Stacked,
    Textures,
    Tfds,
    parse_source,
)
from deconv_jax.errors import InputError


def message_of(call, *args):
    with pytest.raises(InputError) as raised:
        call(*args)
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("digits", Digits()),
        ("photographs", Photographs()),
        ("mnist", Tfds("mnist")),
        ("cifar10:3.0.2", Tfds("cifar10:3.0.2")),
        ("stacked_digits", Stacked(Digits())),
        ("stacked_mnist", Stacked(Tfds("mnist"))),
        ("folder:a:b", Folder("a:b")),
        ("penn_fudan:people", PennFudan("people")),
        ("image_label:cells", ImageLabel("cells")),
        ("pairs:scans", Pairs("scans")),
        ("textures:brick,wall.jpg", Textures(("brick", "wall.jpg"))),
    ],
)
def test_short_forms_are_parsed(text, expected):
    source = parse_source(text)
    assert source == expected
    assert str(source) == text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "tfds"}, "source.dataset is missing"),
        ({"name": "digits", "tile": 8}, "unknown key source.tile"),
        ({"name": "photographs", "canvas": 8}, "unknown key source.canvas"),
        ({"name": "penn_fudan", "path": "x", "tile": 8}, "unknown key source.tile"),
        ({"name": "folder", "path": ""}, "data.source.path must not be empty"),
        ({"name": "folder", "path": "x", "tile": 0}, "data.source.tile must be at least 1; got 0"),
        ({"name": "tfds", "dataset": "x", "canvas": 0}, "data.source.canvas must be at least 1"),
        (
            {"name": "stacked", "base": {"name": "photographs"}},
            "source.base.name: no 'photographs'",
        ),
        ({"name": "mnist"}, "source.name: no 'mnist'"),
    ],
)
def test_invalid_settings_of_a_source_are_errors(settings, words):
    def build():
        cls, fields = schema.choose_class(SOURCES, settings, "source")
        return schema.build(cls, fields, SOURCE_CHOICES, "source")

    assert words in message_of(build)

"""Tests of the conversion between dicts and dataclasses, and of its error messages."""

import dataclasses
from typing import Any, Literal, Protocol

import flax.linen as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deconv_jax import schema
from deconv_jax.errors import InputError, did_you_mean


class Shape(Protocol):
    """A protocol whose implementation is selected by name."""


@dataclasses.dataclass(frozen=True)
class Circle:
    radius: float = 1.0


@dataclasses.dataclass(frozen=True)
class Box:
    sides: tuple[float, float]


class Net(nn.Module):
    """A module, whose `parent` and `name` are not settings."""

    features: tuple[int, ...] = (1, 2)


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    steps: int | None = None


@dataclasses.dataclass(frozen=True)
class Outer:
    shape: Shape
    net: nn.Module
    size: tuple[int, int]
    inner: Inner = dataclasses.field(default_factory=Inner)
    flag: bool = False
    count: int = 1
    text: str = "a"
    mode: Literal["fast", "slow"] = "fast"
    either: int | str = 0
    sizes: tuple[int, ...] = ()


CHOICES: schema.Choices = {Shape: {"circle": Circle, "box": Box}, nn.Module: {"net": Net}}
LEAST: dict[str, Any] = {"shape": {"name": "circle"}, "net": {"name": "net"}, "size": [2, 3]}


def build(**values):
    return schema.build(Outer, LEAST | values, CHOICES)


def message_of(call, *args, **kwargs):
    with pytest.raises(InputError) as raised:
        call(*args, **kwargs)
    return str(raised.value)


outers = st.builds(
    Outer,
    shape=st.one_of(
        st.builds(Circle, radius=st.floats(0, 9)),
        st.builds(Box, sides=st.tuples(st.floats(0, 9), st.floats(0, 9))),
    ),
    net=st.builds(Net, features=st.lists(st.integers(1, 9), max_size=3).map(tuple)),
    size=st.tuples(st.integers(), st.integers()),
    inner=st.builds(Inner, rate=st.floats(0, 1), steps=st.none() | st.integers()),
    flag=st.booleans(),
    count=st.integers(),
    text=st.text(),
    mode=st.sampled_from(["fast", "slow"]),
    either=st.integers() | st.text(),
    sizes=st.lists(st.integers()).map(tuple),
)


@pytest.mark.slow
@settings(max_examples=50, deadline=None, derandomize=True)
@given(value=outers)
def test_build_inverts_to_dict(value):
    values = schema.to_dict(value, CHOICES)
    assert schema.build(Outer, values, CHOICES) == value
    assert list(schema.differences(values, schema.to_dict(value, CHOICES))) == []


def test_to_dict_writes_names_and_defaults_and_converts_tuples_to_lists():
    assert schema.to_dict(build(), CHOICES) == {
        "shape": {"name": "circle", "radius": 1.0},
        "net": {"name": "net", "features": [1, 2]},
        "size": [2, 3],
        "inner": {"rate": 0.5, "steps": None},
        "flag": False,
        "count": 1,
        "text": "a",
        "mode": "fast",
        "either": 0,
        "sizes": [],
    }


def test_to_dict_excludes_fields():
    values = schema.to_dict(build(), CHOICES, exclude=frozenset({"net", "sizes"}))
    assert set(schema.to_dict(build(), CHOICES)) - set(values) == {"net", "sizes"}


@pytest.mark.parametrize(
    ("values", "field", "expected"),
    [
        ({"inner": {"rate": 1}}, "inner", Inner(rate=1.0)),
        ({"inner": {"steps": 7}}, "inner", Inner(steps=7)),
        ({"shape": {"name": "box", "sides": (1, 2.5)}}, "shape", Box((1.0, 2.5))),
        ({"either": "x"}, "either", "x"),
        ({"sizes": [1, 2, 3]}, "sizes", (1, 2, 3)),
        ({"inner": {"steps": np.int64(7), "rate": np.float32(0.5)}}, "inner", Inner(0.5, 7)),
    ],
)
def test_values_are_converted_to_the_types_of_their_fields(values, field, expected):
    made = getattr(build(**values), field)
    assert made == expected
    assert type(made) is type(expected)


def test_int_for_a_float_field_becomes_a_float():
    assert type(build(inner={"rate": 1}).inner.rate) is float


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cuont": 2}, "unknown key config.cuont; did you mean 'count'?"),
        ({"inner": {"raet": 2}}, "unknown key config.inner.raet; did you mean 'rate'?"),
        ({"zzz": 2}, "unknown key config.zzz; known are: count, either, flag, inner, mode, "),
        ({"net": {"name": "net", "parent": None}}, "unknown key config.net.parent; "),
        ({"shape": {"name": "cirle"}}, "config.shape.name: no 'cirle'; did you mean 'circle'?"),
        ({"shape": {"radius": 1.0}}, "config.shape.name is missing; known are: box, circle"),
        ({"shape": 3}, "config.shape.name is missing"),
        ({"shape": {"name": "box"}}, "config.shape.sides is missing"),
        ({"inner": 3}, "config.inner must be a group of settings; got 3"),
        ({"count": "3"}, "config.count must be int; got '3' (str)"),
        ({"count": 3.0}, "config.count must be int; got 3.0 (float)"),
        ({"count": True}, "config.count must be int; got True (bool)"),
        ({"count": None}, "config.count must be int; got None (NoneType)"),
        ({"flag": 1}, "config.flag must be bool; got 1 (int)"),
        ({"text": 1}, "config.text must be str; got 1 (int)"),
        ({"inner": {"rate": True}}, "config.inner.rate must be float; got True (bool)"),
        ({"inner": {"rate": "1e-3"}}, "config.inner.rate must be float; got '1e-3' (str)"),
        ({"inner": {"steps": 1.5}}, "config.inner.steps must be int or None; got 1.5"),
        ({"inner": {"steps": True}}, "config.inner.steps must be int or None; got True"),
        ({"either": 1.5}, "config.either must be int or str; got 1.5"),
        ({"mode": "medium"}, "config.mode must be one of 'fast', 'slow'; got 'medium'"),
        ({"mode": ["fast"]}, "config.mode must be one of 'fast', 'slow'; got ['fast']"),
        ({"size": 3}, "config.size must be a sequence; got 3"),
        ({"size": [1, 2, 3]}, "config.size must have 2 entries; got [1, 2, 3]"),
        ({"size": [1, "2"]}, "config.size[1] must be int; got '2' (str)"),
        ({"sizes": [1, 2.5]}, "config.sizes[1] must be int; got 2.5 (float)"),
        ({"sizes": "12"}, "config.sizes must be a sequence; got '12'"),
    ],
)
def test_errors_name_the_key_its_value_and_what_is_valid(values, message):
    assert message_of(build, **values).startswith(message)


def test_missing_key_is_named():
    assert message_of(schema.build, Outer, {}, CHOICES) == "config.shape is missing"


def test_given_fields_cannot_be_set_by_the_dict():
    """For example, the experiment passes `optimizer` to every task."""
    assert schema.build(Inner, {}, CHOICES, rate=0.25, unknown=1) == Inner(rate=0.25)
    message = message_of(schema.build, Inner, {"rate": 0.5}, CHOICES, rate=0.25)
    assert message.startswith("unknown key config.rate")


def test_differences_name_every_changed_value():
    old = {"a": {"b": 1, "same": 0}, "list": [1, 2], "gone": 3}
    new = {"a": {"b": 2, "same": 0}, "list": [1, 3], "new": {"c": "x"}}
    assert list(schema.differences(old, new)) == [
        "config.a.b: 1 -> 2",
        "config.gone: 3 -> None",
        "config.list: [1, 2] -> [1, 3]",
        "config.new: None -> {'c': 'x'}",
    ]


def test_did_you_mean_lists_all_choices():
    choices = [f"choice_{i:02}" for i in range(30)]
    assert did_you_mean("zzz", choices) == f"known are: {', '.join(choices)}"


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan")])
def test_non_finite_numbers_are_refused(value):
    with pytest.raises(InputError, match=r"config.rate must be finite; got"):
        schema.build(Inner, {"rate": value}, {})

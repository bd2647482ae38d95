"""The base classes of degradations: y = A(x) + noise.

A degradation is a frozen dataclass. Its values are compared and hashed by content, NumPy kernels
included, so a config can hold one, a protocol can name one, and it can be a static argument of
`jax.jit`. It is also a pytree whose leaves are its numbers and kernels. A jitted solver that takes
it as an ordinary argument is compiled once for all kernels of one size. A parameter can then be an
array with one number per example.

A parameter can be a range, such as `GaussianNoise(sigma=(0, 55))`. `draw` samples every range, and whatever
else is random about A (such as the pixels of a mask), for each example; `apply` then adds the noise. Calling
a degradation does both.

Randomness comes from one key per example (`deconv_jax.data.augment.example_keys`), so the result of an example
does not depend on its position in the batch or on the other examples.
"""

import dataclasses
import hashlib
import itertools
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from deconv_jax.errors import InputError, at_least

Images = Float[Array, "batch height width channels"]
Keys = Key[Array, " batch"]


@dataclasses.dataclass(frozen=True, eq=False)
class Degradation:
    """The base class of all degradations.

    Subclasses are dataclasses with `frozen=True, eq=False`. `leaves` names the fields that are leaves of the
    pytree; the other fields are its static structure. Fields are validated in `__post_init__` only, which
    raises InputError, because inside `jax.jit` a leaf may be a tracer.
    """

    leaves: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        """Register the subclass as a pytree."""
        super().__init_subclass__(**options)
        jax.tree_util.register_pytree_with_keys(
            cls, Degradation._flatten, lambda static, leaves: _unflatten(cls, static, leaves)
        )

    def draw(self, keys: Keys | None, shape: Sequence[int]) -> "Degradation":
        """Sample all random parameters for the images of a batch.

        Args:
          keys: One key per example; not used by a degradation without random parameters.
          shape: Shape of the images (batch, height, width, channels).

        Returns:
          A degradation whose ranges are replaced by arrays (batch,), sampled uniformly; `self` if there are
          no ranges.

        Raises:
          InputError: There are random parameters but not one key per example.
        """
        ranges = [name for name in self.leaves if is_range(getattr(self, name))]
        if not ranges:
            return self
        keys = check_keys(self, keys, shape)
        drawn = {
            name: jax.vmap(self._draw_number, (0, None))(fold_in(keys, i), getattr(self, name))
            for i, name in enumerate(ranges)
        }
        return self._with(**drawn)

    def apply(self, x: Images, keys: Keys | None = None) -> Images:
        """Degrade images. Only `Jpeg` clips and rounds, so values may leave [0, 1].

        Args:
          x: Images in [0, 1].
          keys: One key per example for the noise; not used by a degradation without noise.

        Returns:
          Images of the size that `output_size` returns.

        Raises:
          InputError: There is noise but not one key per example, a range or a random mask was not sampled by
            `draw`, or the images do not fit.
        """
        raise NotImplementedError

    def __call__(self, x: Images, keys: Keys | None = None) -> Images:
        """Sample parameters and noise, and degrade images. Without anything random, `keys` may be None.

        Note:
          The keys of the parameters and of the noise are folded from `keys`. `draw` with the same
          keys therefore samples different parameters. To know the parameters, call `draw` and then
          `apply`.

        Raises:
          InputError: x is not a batch of images of floats, keys are not one per example, or as in `draw` and
            `apply`.
        """
        x = jnp.asarray(x)
        if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise InputError(
                "images must be floats in [0, 1] of shape (batch, height, width, channels); got "
                f"{x.dtype} {x.shape}"
            )
        if keys is None:
            return self.draw(None, x.shape).apply(x)
        keys = check_keys(self, keys, x.shape)
        return self.draw(fold_in(keys, 0), x.shape).apply(x, fold_in(keys, 1))

    def output_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Return the height and width in pixels of degraded images of height and width `size`."""
        height, width = size
        return height, width

    def describe(self) -> str:
        """Return a description for the protocol of a result: the repr, with arrays by shape and content.

        Equal degradations have equal descriptions. An array is written as its shape and the first 32 bits of its
        SHA-256: `Blur(psf=25x25 #1a2b3c4d, boundary='circular', method='fft')`.
        """
        shown = (field.name for field in dataclasses.fields(self) if field.repr)
        fields = ", ".join(f"{name}={_description(getattr(self, name))}" for name in shown)
        return f"{type(self).__name__}({fields})"

    @staticmethod
    def _draw_number(key: Array, low_high: tuple[Any, Any]) -> Array:
        """Sample a number from a range, uniformly."""
        return jax.random.uniform(key, minval=low_high[0], maxval=low_high[1])

    def _settled(self, name: str) -> Any:
        """Return a parameter, which must not be a range."""
        value = getattr(self, name)
        if is_range(value):
            raise InputError(
                f"{type(self).__name__}: {name} is the range {value}; sample it with draw(keys, shape)"
            )
        return value

    def _with(self, **changed: Any) -> Self:
        """Return a copy with other leaves, which may be arrays or tracers and are not validated."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, **changed)
        return copy

    def _flatten(self) -> tuple[list[tuple[Any, Any]], tuple[tuple[str, Any], ...]]:
        names = [field.name for field in dataclasses.fields(self)]
        static = tuple((k, getattr(self, k)) for k in names if k not in self.leaves)
        return [(jax.tree_util.GetAttrKey(k), getattr(self, k)) for k in self.leaves], static

    def _content(self) -> tuple[Any, ...]:
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return type(self), *map(_comparable, values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Degradation) and self._content() == other._content()

    def __hash__(self) -> int:
        return hash(self._content())


class LinearDegradation(Degradation):
    """A degradation that is a linear map A of each channel, without noise."""

    def forward(self, x: Images) -> Images:
        """Return A x for images (batch, height, width, channels).

        Raises:
          InputError: The images do not fit a PSF or a mask, or a parameter is a range that was not sampled.
        """
        raise NotImplementedError

    def adjoint(self, y: Images, size: Sequence[int]) -> Images:
        """Return the transpose of `forward` applied to y: <forward(x), y> = <x, adjoint(y, size)>.

        Args:
          y: Images as `forward` returns them.
          size: Height and width of the images that `forward` takes.

        Raises:
          InputError: The size of y is not `output_size(size)`, or as in `forward`.
        """
        if y.shape[1:3] != self.output_size(size):
            raise InputError(
                f"{type(self).__name__}.adjoint: forward maps images of {tuple(size)} pixels to "
                f"{self.output_size(size)}, but y has {y.shape[1:3]}"
            )
        x = jax.ShapeDtypeStruct((y.shape[0], *size, y.shape[-1]), y.dtype)
        return jax.linear_transpose(self.forward, x)(y)[0]

    def apply(self, x: Images, keys: Keys | None = None) -> Images:
        """Return A x, which is `forward(x)`; keys are not used."""
        del keys
        return self.forward(x)


class Noise(Degradation):
    """A degradation that adds noise to every pixel. Its A is the identity.

    The only leaf of a subclass is the strength of the noise, one number or one per example.
    """

    @property
    def sigma_unit_range(self) -> float | Float[Array, " batch"] | None:
        """Standard deviation in units of [0, 1], or None if it depends on the image."""
        return None

    def apply(self, x: Images, keys: Keys | None = None) -> Images:
        """Add noise. The noise of example i depends only on `keys[i]`. The result is not clipped.

        Raises:
          InputError: There is not one key per example, or the strength is a range that was not sampled.
        """
        keys = check_keys(self, keys, x.shape)
        strength = jnp.asarray(self._settled(self.leaves[0]), x.dtype)
        return jax.vmap(self._degrade)(keys, x, jnp.broadcast_to(strength, x.shape[:1]))

    @staticmethod
    def _degrade(key: Array, image: Array, strength: Array) -> Array:
        """Add noise to one image."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class Chain(LinearDegradation):
    """Degradations applied in order, the first to the clean image. An empty chain is the identity.

    A call and `apply` apply all steps. `forward` and `adjoint` are those of A: they apply the linear steps, skip
    noise, and raise InputError for a step that is neither linear nor noise, such as `Jpeg` or a random mask.

    Attributes:
      steps: Degradations in a tuple, the first one applied to the clean image.
    """

    leaves = ("steps",)

    steps: tuple[Degradation, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.steps, tuple):
            raise InputError(f"steps must be a tuple of degradations; got {self.steps!r}")

    def draw(self, keys: Keys | None, shape: Sequence[int]) -> "Chain":
        """Sample each step with its own keys, for the image size at that step.

        Raises:
          InputError: A step has random parameters but there is not one key per example.
        """
        batch, *size, channels = shape
        drawn = []
        for i, step in enumerate(self.steps):
            drawn.append(step.draw(_fold_in_given(keys, i), (batch, *size, channels)))
            size = list(drawn[-1].output_size(size))
        return Chain(tuple(drawn))

    def apply(self, x: Images, keys: Keys | None = None) -> Images:
        """Apply all steps, each with its own keys, which steps without noise do not need.

        Raises:
          InputError: As in `Degradation.apply` of a step.
        """
        for i, step in enumerate(self.steps):
            x = step.apply(x, _fold_in_given(keys, i))
        return x

    def forward(self, x: Images) -> Images:
        """Return A x, by the linear steps alone.

        Raises:
          InputError: A step is neither linear nor noise, or as in `LinearDegradation.forward`.
        """
        for step in _linear_steps(self):
            x = step.forward(x)
        return x

    def output_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Return the height and width in pixels after all steps."""
        height, width = size
        for step in self.steps:
            height, width = step.output_size((height, width))
        return height, width


def linear_part(degradation: Degradation) -> LinearDegradation:
    """Return the linear operator A of a degradation y = A x + noise.

    Returns:
      For a `Chain`, the chain of its linear steps. For noise, the empty `Chain`, which is the identity. Any other
      linear degradation is returned as it is.

    Raises:
      InputError: The degradation or a step is neither linear nor noise (such as `Jpeg`), or a linear one or a
        mask was not sampled by `draw`.
    """
    if isinstance(degradation, Chain | Noise):
        return Chain(_linear_steps(degradation))
    return _linear_steps(degradation)[0]


def _linear_steps(degradation: Degradation) -> tuple[LinearDegradation, ...]:
    if isinstance(degradation, Noise):
        return ()
    if isinstance(degradation, Chain):
        return tuple(itertools.chain(*map(_linear_steps, degradation.steps)))
    if not isinstance(degradation, LinearDegradation):
        raise InputError(
            f"{type(degradation).__name__} is not linear; draw() turns a random mask into a linear map"
        )
    for name in degradation.leaves:
        degradation._settled(name)
    return (degradation,)


def fold_in(keys: Keys, data: int | Array) -> Keys:
    """Fold a number into each key; `jax.random.fold_in` over the batch."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def _fold_in_given(keys: Keys | None, data: int) -> Keys | None:
    return None if keys is None else fold_in(keys, data)


def check_keys(degradation: Degradation, keys: Keys | None, shape: Sequence[int]) -> Keys:
    """Return the keys; raises InputError unless there is one for each of the `shape[0]` examples."""
    wanted = f"one key per example, shape ({shape[0]},)"
    if keys is None:
        raise InputError(f"{type(degradation).__name__} is random and requires {wanted}; got none")
    if keys.shape != (shape[0],):
        raise InputError(f"keys must be {wanted}; got shape {keys.shape}")
    return keys


def is_range(value: Any) -> bool:
    """Return whether a parameter is a range (low, high), from which numbers are sampled: any tuple."""
    return isinstance(value, tuple)


def bounds(value: Any) -> tuple[Any, Any]:
    """Return the ends of a range, or a number (or array) twice."""
    return (value[0], value[1]) if is_range(value) else (value, value)


def check_numbers(
    name: str,
    value: Any,
    least: float,
    most: float = math.inf,
    *,
    exclude_least: bool = False,
    integer: bool = False,
) -> None:
    """Raise InputError unless a parameter is a number or a range within [least, most].

    Arrays may be traced, so only their dtype is checked. With `integer`, numbers must be integers. Bools, NaN and
    infinity are errors.
    """
    kind = "an integer" if integer else "a number"
    wanted = f"{name} must be {kind}, a range (low, high) or an array"
    if isinstance(value, np.ndarray | jax.Array):
        if not jnp.issubdtype(value.dtype, jnp.integer if integer else jnp.number):
            raise InputError(f"{wanted}; got an array of {value.dtype}")
        return
    ends = value if is_range(value) else (value, value)
    if (
        len(ends) != 2
        or not all(_is_number(end, integer) for end in ends)
        or not ends[0] <= ends[1]
    ):
        raise InputError(f"{wanted}; got {value!r}")
    low, high = ends
    if not least <= low <= high <= most or (exclude_least and low == least):
        wanted = f"{'greater than' if exclude_least else 'at least'} {least:g}"
        wanted += "" if most == math.inf else f" and at most {most:g}"
        raise InputError(f"{name} must be {wanted}; got {value}")


def check_integer(name: str, value: Any, least: int) -> None:
    """Raise InputError unless a field is an integer (not a bool) of at least `least`."""
    if not _is_number(value, integer=True):
        raise InputError(f"{name} must be an integer; got {value!r}")
    at_least(name, value, least)


def _is_number(value: Any, integer: bool) -> bool:
    """Return whether a value is a finite real number (NumPy scalars included) and not a bool."""
    kind = numbers.Integral if integer else numbers.Real
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


def frozen_array(name: str, value: Any) -> Any:
    """Return numbers or nested sequences of numbers as a read-only float32 NumPy array.

    JAX arrays, which may be traced, are returned unchanged.

    Raises:
      InputError: The values are not numbers, or not finite.
    """
    if isinstance(value, jax.Array):
        return value
    try:
        array = np.array(value, np.float32)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be an array of numbers; got {value!r}") from None
    if not np.isfinite(array).all():
        raise InputError(f"{name} must be finite; got {value!r}")
    array.flags.writeable = False
    return array


def _unflatten(
    cls: type[Degradation], static: Iterable[tuple[str, Any]], leaves: Iterable[Any]
) -> Any:
    made: Any = object.__new__(cls)
    made.__dict__.update(static)
    made.__dict__.update(zip(cls.leaves, leaves, strict=True))
    return made


def _comparable(value: Any) -> Any:
    """Convert the value of a field to one that Python compares and hashes by content."""
    if isinstance(value, np.ndarray | jax.Array):
        content = np.asarray(value)
        return content.shape, content.dtype.str, content.tobytes()
    if isinstance(value, np.generic):
        return value.item()
    return tuple(map(_comparable, value)) if isinstance(value, tuple) else value


def _description(value: Any) -> str:
    """Describe the value of a field; values that are equal under `_comparable` get equal descriptions."""
    if isinstance(value, Degradation):
        return value.describe()
    if isinstance(value, np.ndarray | jax.Array):
        content = repr(_comparable(value)).encode()
        size = "x".join(map(str, value.shape)) or "number"
        return f"{size} #{hashlib.sha256(content).hexdigest()[:8]}"
    value = _comparable(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_description, value))}{',' if len(value) == 1 else ''})"
    # 25 and 25.0 are equal.
    whole = isinstance(value, float) and value.is_integer()
    return repr(int(value) if whole else value)

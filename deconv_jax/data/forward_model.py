"""What a degradation is: a value y = A(x) + noise that can be applied, drawn, transposed and chained.

A degradation is a frozen dataclass and two things at once. It is a *value*: equal and hashed by
content, NumPy kernels included, so that it may be built of a config, name a protocol or be a static
argument of `jax.jit`. And it is a *pytree* whose leaves are its numbers and kernels, so that it may
as well be an ordinary argument: a solver is then compiled once for all kernels of one size, and a
parameter may be an array of one number an example.

What a reader would get wrong: a parameter given as a range, `GaussianNoise(sigma=(0, 55))`, is not
yet a degradation of anything. `draw` settles it, and whatever else is random about A (a mask's
pixels), to a value an example; `apply` then adds the noise. Calling a degradation does both.

Randomness is a key an example (`deconv_jax.data.augment.example_keys`), so what happens to an
example depends on neither its place in the batch nor the examples beside it.
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
    """What is done to images; the base class of all forward models.

    Subclasses are dataclasses with `frozen=True, eq=False`. `leaves` names the fields that are
    leaves of the pytree; the others are part of its structure. Fields are checked on construction
    by hand only: inside `jax.jit` a leaf may be anything.
    """

    leaves: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        """Registers every subclass as a pytree."""
        super().__init_subclass__(**options)
        jax.tree_util.register_pytree_with_keys(
            cls, Degradation._flatten, lambda static, leaves: _unflatten(cls, static, leaves)
        )

    def draw(self, keys: Keys | None, shape: Sequence[int]) -> "Degradation":
        """This degradation of images of one batch, with all random parameters settled.

        Args:
          keys: one an example; None for a degradation without random parameters.
          shape: (batch, height, width, channels) of the images.

        Returns:
          A degradation whose ranges are arrays (batch,) of numbers, drawn uniformly.

        Raises:
          InputError: for random parameters and no keys.
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
        """The degraded images, which may leave [0, 1]: only `Jpeg` clips and rounds.

        Args:
          x: images in [0, 1].
          keys: one an example, of which the noise is made; None for a degradation without noise.

        Raises:
          InputError: for noise without keys, or random parameters that were not drawn.
        """
        raise NotImplementedError

    def __call__(self, x: Images, keys: Keys | None = None) -> Images:
        """The images degraded by parameters and noise drawn from the same keys, folded apart.

        To know the parameters, `draw` them and `apply` what is drawn; `draw` of these very keys
        gives others.

        Raises:
          InputError: for what are no images, and as `draw` and `apply`.
        """
        x = jnp.asarray(x)
        if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise InputError(
                "images are floats in [0, 1], (batch, height, width, channels); got "
                f"{x.dtype} {x.shape}"
            )
        if keys is None:
            return self.draw(None, x.shape).apply(x)
        keys = check_keys(self, keys, x.shape)
        return self.draw(fold_in(keys, 0), x.shape).apply(x, fold_in(keys, 1))

    def output_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Height and width that images of height and width `size` come out with, in pixels."""
        height, width = size
        return height, width

    def describe(self) -> str:
        """The degradation for a result's protocol: its repr, but arrays by shape and content.

        Degradations that are equal have equal descriptions; an array stands as its shape and the
        first 32 bits of its SHA-256: `Blur(psf=25x25 #1a2b3c4d, boundary='circular', method='fft')`.
        """
        shown = (field.name for field in dataclasses.fields(self) if field.repr)
        fields = ", ".join(f"{name}={_description(getattr(self, name))}" for name in shown)
        return f"{type(self).__name__}({fields})"

    @staticmethod
    def _draw_number(key: Array, low_high: tuple[Any, Any]) -> Array:
        """One number of a range; whole numbers where a subclass says so."""
        return jax.random.uniform(key, minval=low_high[0], maxval=low_high[1])

    def _settled(self, name: str) -> Any:
        """The parameter of that name, which must not be a range any more."""
        value = getattr(self, name)
        if is_range(value):
            raise InputError(
                f"{type(self).__name__}: {name} is the range {value}; draw(keys, shape) settles it"
            )
        return value

    def _with(self, **changed: Any) -> Self:
        """A copy with other leaves, which may be arrays or tracers and are not checked."""
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


class Linear(Degradation):
    """A degradation that is a linear map A of each channel of each image, without noise."""

    def forward(self, x: Images) -> Images:
        """A x, of (batch, height, width, channels); raises InputError for what does not fit."""
        raise NotImplementedError

    def adjoint(self, y: Images, size: Sequence[int]) -> Images:
        """The transpose of `forward`: <forward(x), y> = <x, adjoint(y, size)>.

        Args:
          y: images as `forward` puts them out.
          size: (height, width) of the images that `forward` takes.

        Raises:
          InputError: for y of another size than `forward` makes of `size`.
        """
        if y.shape[1:3] != self.output_size(size):
            raise InputError(
                f"{type(self).__name__}.adjoint: of images of {tuple(size)} pixels come images of "
                f"{self.output_size(size)}; got {y.shape[1:3]}"
            )
        x = jax.ShapeDtypeStruct((y.shape[0], *size, y.shape[-1]), y.dtype)
        return jax.linear_transpose(self.forward, x)(y)[0]

    def apply(self, x: Images, keys: Keys | None = None) -> Images:
        """A x; the keys are not needed."""
        del keys
        return self.forward(x)


class Noise(Degradation):
    """A degradation that has to be drawn for every pixel; its A is the identity.

    The one leaf of a subclass is the strength of the noise, a number or one an example.
    """

    @property
    def sigma_01(self) -> float | Float[Array, " batch"] | None:
        """Standard deviation in units of images in [0, 1], None where it depends on the image."""
        return None

    def apply(self, x: Images, keys: Keys | None = None) -> Images:
        """The noisy images; the noise of example i depends on `keys[i]` alone."""
        keys = check_keys(self, keys, x.shape)
        strength = jnp.asarray(self._settled(self.leaves[0]), x.dtype)
        return jax.vmap(self._degrade)(keys, x, jnp.broadcast_to(strength, x.shape[:1]))

    @staticmethod
    def _degrade(key: Array, image: Array, strength: Array) -> Array:
        """One noisy image."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class Chain(Linear):
    """Degradations one after another, the first on the clean image; without any, the identity.

    `apply` and a call do all of them. `forward` and `adjoint` are those of A: they go over the
    linear steps, leave the noise out, and raise InputError for a step that is neither, like `Jpeg`.
    """

    leaves = ("steps",)

    steps: tuple[Degradation, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.steps, tuple):
            raise InputError(f"steps is a tuple of degradations; got {self.steps!r}")

    def draw(self, keys: Keys | None, shape: Sequence[int]) -> "Chain":
        """The chain of the drawn steps, each with keys of its own and the sizes it will see."""
        batch, *size, channels = shape
        drawn = []
        for i, step in enumerate(self.steps):
            drawn.append(step.draw(_fold_in_given(keys, i), (batch, *size, channels)))
            size = list(drawn[-1].output_size(size))
        return Chain(tuple(drawn))

    def apply(self, x: Images, keys: Keys | None = None) -> Images:
        """The images after all steps, each with keys of its own."""
        for i, step in enumerate(self.steps):
            x = step.apply(x, _fold_in_given(keys, i))
        return x

    def forward(self, x: Images) -> Images:
        """A x: the linear steps alone."""
        for step in _linear_steps(self):
            x = step.forward(x)
        return x

    def output_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Height and width after all steps, in pixels."""
        height, width = size
        for step in self.steps:
            height, width = step.output_size((height, width))
        return height, width


def linear_part(degradation: Degradation) -> Linear:
    """A of a degradation y = A x + noise: for a `Chain` that of its linear steps.

    Returns:
      The degradation without its noise; the empty `Chain`, which is the identity, for noise alone.

    Raises:
      InputError: for a degradation that is not linear, or a random one that was not drawn.
    """
    if isinstance(degradation, Chain | Noise):
        return Chain(_linear_steps(degradation))
    return _linear_steps(degradation)[0]


def _linear_steps(degradation: Degradation) -> tuple[Linear, ...]:
    if isinstance(degradation, Noise):
        return ()
    if isinstance(degradation, Chain):
        return tuple(itertools.chain(*map(_linear_steps, degradation.steps)))
    if not isinstance(degradation, Linear):
        raise InputError(
            f"{type(degradation).__name__} is no linear map; a random mask becomes one by draw()"
        )
    for name in degradation.leaves:
        degradation._settled(name)
    return (degradation,)


def fold_in(keys: Keys, data: int | Array) -> Keys:
    """Keys of their own for the use number `data` of keys."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def _fold_in_given(keys: Keys | None, data: int) -> Keys | None:
    return None if keys is None else fold_in(keys, data)


def check_keys(degradation: Degradation, keys: Keys | None, shape: Sequence[int]) -> Keys:
    """The keys, one for each of `shape[0]` examples; raises InputError for none or another count."""
    wanted = f"a key an example, of shape ({shape[0]},)"
    if keys is None:
        raise InputError(f"{type(degradation).__name__} is random and takes {wanted}; got none")
    if keys.shape != (shape[0],):
        raise InputError(f"keys are {wanted}; got keys of shape {keys.shape}")
    return keys


def is_range(value: Any) -> bool:
    """Whether a parameter is (low, high), of which numbers are yet to be drawn."""
    return isinstance(value, tuple)


def bounds(value: Any) -> tuple[Any, Any]:
    """The least and the largest number that a parameter, a number or a range, can be."""
    return (value[0], value[1]) if is_range(value) else (value, value)


def check_numbers(
    name: str,
    value: Any,
    least: float,
    most: float = math.inf,
    *,
    exclude_least: bool = False,
    whole: bool = False,
) -> None:
    """Raises InputError unless a parameter is a number or a range within [least, most].

    Arrays may be traced: their values pass unseen. With `whole` all have to be whole numbers.
    """
    kind = "a whole number" if whole else "a number"
    wanted = f"{name} is {kind}, a range (low, high) of them or an array"
    if isinstance(value, np.ndarray | jax.Array):
        if not jnp.issubdtype(value.dtype, jnp.integer if whole else jnp.number):
            raise InputError(f"{wanted}; got an array of {value.dtype}")
        return
    ends = value if is_range(value) else (value, value)
    if len(ends) != 2 or not all(_is_number(end, whole) for end in ends) or not ends[0] <= ends[1]:
        raise InputError(f"{wanted}; got {value!r}")
    low, high = ends
    if not least <= low <= high <= most or (exclude_least and low == least):
        wanted = f"{'greater than' if exclude_least else 'at least'} {least:g}"
        wanted += "" if most == math.inf else f" and at most {most:g}"
        raise InputError(f"{name} must be {wanted}; got {value}")


def check_whole(name: str, value: Any, least: int) -> None:
    """Raises InputError unless a field is a whole number from `least` on, and no range of them."""
    if not _is_number(value, whole=True):
        raise InputError(f"{name} is a whole number; got {value!r}")
    at_least(name, value, least)


def _is_number(value: Any, whole: bool) -> bool:
    """Whether a value is a finite real number, NumPy's among them, and no truth value."""
    kind = numbers.Integral if whole else numbers.Real
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


def frozen_array(name: str, value: Any) -> Any:
    """Numbers, nested sequences of them included, as a float32 NumPy array that cannot change.

    Arrays of JAX, which may be traced, pass as they are.
    """
    if isinstance(value, jax.Array):
        return value
    try:
        array = np.array(value, np.float32)
    except (TypeError, ValueError):
        raise InputError(f"{name} is an array of numbers; got {value!r}") from None
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds finite numbers; got {value!r}")
    array.flags.writeable = False
    return array


def _unflatten(cls: type, static: Iterable[tuple[str, Any]], leaves: Iterable[Any]) -> Any:
    made: Any = object.__new__(cls)
    made.__dict__.update(static)
    made.__dict__.update(zip(cls.leaves, leaves, strict=True))  # type: ignore[attr-defined]
    return made


def _comparable(value: Any) -> Any:
    """A field's value as something that Python compares and hashes by content."""
    if isinstance(value, np.ndarray | jax.Array):
        content = np.asarray(value)
        return content.shape, content.dtype.str, content.tobytes()
    if isinstance(value, np.generic):
        return value.item()
    return tuple(map(_comparable, value)) if isinstance(value, tuple) else value


def _description(value: Any) -> str:
    """A field's value as `Degradation.describe` shows it, alike for what `_comparable` equates."""
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

"""The integer tables that a codec's files are written and read by: made once, kept beside the weights."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float

from deconv_jax.errors import InputError
from deconv_jax.inference.compression.entropy_coding import (
    FixedPointLayer,
    FrequencyTables,
    normal_masses,
    probability_masses,
)
from deconv_jax.io import check_regular, kind_of, write_atomically
from deconv_jax.models.codec import (
    HYPER_UP_STRIDES,
    SCALE_OFFSET,
    FactorizedCodec,
    HyperpriorCodec,
)
from deconv_jax.models.entropy_models import MIN_SCALE

Latents = Float[np.ndarray, "height width channels"]
Tree = Any

_SCALES = np.geomspace(MIN_SCALE, 128.0, 128)
"""Standard deviations that latents have tables for; neighbours differ by 6 %, which costs 0.001 bits."""


@dataclasses.dataclass(frozen=True, eq=False)
class CodingTables:
    """All that reading the numbers of a file depends on, as integers.

    Attributes:
      prior: a table for each channel of the side information, or of the latents if there is none.
      normal: tables of `_SCALES`, None without side information.
      layers: of the side information's way to means and scales, likewise ().
      bounds: between the scales of neighbouring tables of `normal`, int32 multiples of 2^-10; or none.
    """

    prior: FrequencyTables
    normal: FrequencyTables | None = None
    layers: tuple[FixedPointLayer, ...] = ()
    bounds: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))

    @classmethod
    def of(cls, model: FactorizedCodec, variables: Tree) -> "CodingTables":
        """FrequencyTables of a trained model; raises InputError for weights that none can be made of."""
        logits = functools.partial(_prior_logits, variables["params"]["prior"])
        channels = range(model.prior_channels)
        prior = FrequencyTables.of_masses(
            [probability_masses(functools.partial(logits, channel=c)) for c in channels]
        )
        if not isinstance(model, HyperpriorCodec):
            return cls(prior)
        layers = tuple(
            FixedPointLayer.of(variables["params"][f"hyper_up_{number}"], stride)
            for number, stride in enumerate(HYPER_UP_STRIDES)
        )
        between = np.sqrt(_SCALES[1:] * _SCALES[:-1])
        bounds = np.rint(between * 2**FixedPointLayer.VALUE_BITS).astype(np.int32)
        normal = FrequencyTables.of_masses([normal_masses(scale) for scale in _SCALES])
        return cls(prior, normal, layers, bounds)

    def arrays(self) -> dict[str, np.ndarray]:
        """As named arrays."""
        arrays = _arrays_of("prior", self.prior)
        if self.normal is not None:
            arrays |= _arrays_of("normal", self.normal) | {"bounds": self.bounds}
        for number, layer in enumerate(self.layers):
            arrays |= _arrays_of(f"layer{number}", layer)
        return arrays

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], model: FactorizedCodec) -> "CodingTables":
        """The tables that `arrays` gave of this model; raises InputError for others."""

        def made(kind: Any, name: str) -> Any:
            fields = [field.name for field in dataclasses.fields(kind)]
            return kind(**{field: _array(arrays, f"{name}.{field}") for field in fields})

        tables = cls(made(FrequencyTables, "prior"))
        if isinstance(model, HyperpriorCodec):
            layers = (made(FixedPointLayer, f"layer{n}") for n in range(len(HYPER_UP_STRIDES)))
            bounds = _array(arrays, "bounds")
            tables = cls(tables.prior, made(FrequencyTables, "normal"), tuple(layers), bounds)
        tables.check(model)
        return tables

    def check(self, model: FactorizedCodec) -> None:
        """Raises InputError for tables that are of another model than this one."""
        fits = len(self.prior) == model.prior_channels
        if isinstance(model, HyperpriorCodec):
            strides = tuple(layer.stride for layer in self.layers)
            widths = [model.features, *(layer.channels[1] for layer in self.layers)]
            inputs = [layer.channels[0] for layer in self.layers]
            fits = (
                fits
                and strides == HYPER_UP_STRIDES
                and widths == [*inputs, 2 * model.latent_features]
                and self.normal is not None
                and self.bounds.shape == (len(self.normal) - 1,)
                and bool(np.all(np.diff(self.bounds) > 0))
            )
        if not fits:
            raise InputError(f"tables of a codec do not fit its model {type(model).__name__}")

    def means_and_tables(self, side: Latents) -> tuple[Latents, np.ndarray]:
        """Means of the latents, multiples of 2^-10, and the place of each one's table."""
        x: Any = side.astype(np.float64)
        for number, layer in enumerate(self.layers):
            x = layer(np.maximum(x, 0.0) if number else x)
        mean, scale = np.split(x, 2, axis=-1)
        fixed = (scale + SCALE_OFFSET) * 2**FixedPointLayer.VALUE_BITS
        return mean, np.searchsorted(self.bounds, fixed)


def load_tables(path: Path, model: FactorizedCodec, variables: Tree) -> CodingTables | None:
    """The tables that `save_tables` wrote for these weights; None if there are none, or of others.

    Raises:
      InputError: the file is damaged.
    """
    if kind_of(path) is None:
        return None
    check_regular(path)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            if (file.metadata() or {}).get("weights") != weights_digest(variables).hex():
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"cannot read {path}: {error}; delete it to have it made anew") from error
    return CodingTables.of_arrays(arrays, model)


def save_tables(path: Path, tables: CodingTables, variables: Tree) -> None:
    """Writes tables, with the digest of the weights that they were made of."""
    data = safetensors.numpy.save(tables.arrays(), {"weights": weights_digest(variables).hex()})
    write_atomically(path, lambda file: file.write(data))


def weights_digest(variables: Tree) -> bytes:
    """SHA-256 of a model's weights and their names."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf, "<f4").tobytes())
    return digest.digest()


def _prior_logits(parameters: Mapping[str, Any], x: np.ndarray, channel: int) -> np.ndarray:
    """`FactorizedPrior.logits` of numbers of one channel: in float64, and of lengths no compiler has seen."""
    values = x[:, None]
    number = 0
    while f"matrix{number}" in parameters:
        matrix, bias = (
            np.asarray(parameters[f"{name}{number}"][channel], np.float64)
            for name in ("matrix", "bias")
        )
        values = values @ np.logaddexp(0.0, matrix).T + bias
        if f"factor{number}" in parameters:
            factor = np.asarray(parameters[f"factor{number}"][channel], np.float64)
            values = values + np.tanh(factor) * np.tanh(values)
        number += 1
    return values[:, 0]


def _arrays_of(name: str, value: Any) -> dict[str, np.ndarray]:
    return {
        f"{name}.{field.name}": np.asarray(getattr(value, field.name), np.int32)
        for field in dataclasses.fields(value)
    }


def _array(arrays: Mapping[str, np.ndarray], name: str) -> Any:
    """An array, or the number that one called stride is."""
    axes = {"stride": 0, "kernel": 4}.get(name.rpartition(".")[2], 1)
    found = arrays.get(name)
    if found is None or found.dtype != np.int32 or found.ndim != axes:
        raise InputError(
            f"tables of a codec lack {name!r}, or it is no array of {axes} axes of 32-bit integers"
        )
    return found if axes else int(found)

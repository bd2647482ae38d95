"""Integer tables of a codec, derived once from the trained weights and stored beside them."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float, Int

from deconv_jax.errors import InputError
from deconv_jax.inference.compression.entropy_coding import (
    FrequencyTables,
    normal_masses,
    probability_masses,
)
from deconv_jax.inference.compression.fixed_point import FixedPointLayer
from deconv_jax.io import check_regular, kind_of, write_atomically
from deconv_jax.models.codec import (
    HYPER_UP_STRIDES,
    SCALE_OFFSET,
    FactorizedCodec,
    HyperpriorCodec,
)
from deconv_jax.models.entropy_models import MIN_SCALE
from deconv_jax.training.state import Tree

Latents = Float[np.ndarray, "height width channels"]

_SCALES = np.geomspace(MIN_SCALE, 128.0, 128)
"""Standard deviations that have a frequency table; their spacing of 6 % costs 0.001 bits per latent."""


@dataclasses.dataclass(frozen=True, eq=False)
class CodingTables:
    """Integers that determine how the payload of a file is decoded.

    Attributes:
      prior: A table per channel of the hyperlatents, or of the latents without a hyperprior.
      normal: A table per standard deviation in `_SCALES`; None without a hyperprior.
      hyper_decoder_layers: Layers from hyperlatents to means and scales; () without a hyperprior.
      scale_boundaries: Scales that separate neighboring tables of `normal`, int32 multiples of 2^-10;
        empty without a hyperprior.
    """

    prior: FrequencyTables
    normal: FrequencyTables | None = None
    hyper_decoder_layers: tuple[FixedPointLayer, ...] = ()
    scale_boundaries: Int[np.ndarray, " boundaries"] = dataclasses.field(
        default_factory=lambda: np.zeros(0, np.int32)
    )

    @classmethod
    def from_model(cls, model: FactorizedCodec, variables: Tree) -> "CodingTables":
        """Return the tables of a trained model.

        Raises:
          InputError: A prior is too wide for a table, or a weight is out of fixed-point range.
        """
        logits = functools.partial(_prior_logits, variables["params"]["prior"])
        channels = range(model.prior_channels)
        prior = FrequencyTables.from_masses(
            [probability_masses(functools.partial(logits, channel=c)) for c in channels]
        )
        if not isinstance(model, HyperpriorCodec):
            return cls(prior)
        layers = _fixed_point_layers(variables)
        between = np.sqrt(_SCALES[1:] * _SCALES[:-1])
        bounds = np.rint(between * 2**FixedPointLayer.VALUE_BITS).astype(np.int32)
        normal = FrequencyTables.from_masses([normal_masses(scale) for scale in _SCALES])
        return cls(prior, normal, layers, bounds)

    @classmethod
    def from_stored(
        cls, arrays: Mapping[str, np.ndarray], model: FactorizedCodec, variables: Tree
    ) -> "CodingTables":
        """Return the tables from the result of `to_stored` and the weights.

        Raises:
          InputError: An array is missing or wrong, or the tables belong to another model.
        """
        layers = _fixed_point_layers(variables) if isinstance(model, HyperpriorCodec) else ()
        return cls.from_arrays(_layers_to_arrays(layers) | dict(arrays), model)

    def to_stored(self) -> dict[str, np.ndarray]:
        """Return the arrays of `to_arrays` that another machine might not derive alike.

        These are the frequencies, which are computed in floating point. The weights of the layers are
        only scaled and rounded, which is exact.
        """
        layers = _layers_to_arrays(self.hyper_decoder_layers)
        return {name: array for name, array in self.to_arrays().items() if name not in layers}

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the tables as int32 arrays by name, such as "prior.lengths" and "layer0.kernel"."""
        arrays = _fields_to_arrays("prior", self.prior)
        if self.normal is not None:
            arrays |= _fields_to_arrays("normal", self.normal) | {"bounds": self.scale_boundaries}
        return arrays | _layers_to_arrays(self.hyper_decoder_layers)

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], model: FactorizedCodec
    ) -> "CodingTables":
        """Return the tables from the result of `to_arrays`.

        Raises:
          InputError: An array is missing or wrong, or the tables belong to another model.
        """

        def build(kind: Any, name: str) -> Any:
            fields = [field.name for field in dataclasses.fields(kind)]
            return kind(**{field: _get_array(arrays, f"{name}.{field}") for field in fields})

        tables = cls(build(FrequencyTables, "prior"))
        if isinstance(model, HyperpriorCodec):
            layers = (build(FixedPointLayer, f"layer{n}") for n in range(len(HYPER_UP_STRIDES)))
            bounds = _get_array(arrays, "bounds")
            normal = build(FrequencyTables, "normal")
            tables = cls(tables.prior, normal, tuple(layers), bounds)
        tables.check(model)
        return tables

    def check(self, model: FactorizedCodec) -> None:
        """Raise InputError unless the tables fit a model."""
        fits = len(self.prior) == model.prior_channels
        if isinstance(model, HyperpriorCodec):
            strides = tuple(layer.stride for layer in self.hyper_decoder_layers)
            widths = [model.features, *(layer.channels[1] for layer in self.hyper_decoder_layers)]
            inputs = [layer.channels[0] for layer in self.hyper_decoder_layers]
            fits = (
                fits
                and strides == HYPER_UP_STRIDES
                and widths == [*inputs, 2 * model.latent_features]
                and self.normal is not None
                and self.scale_boundaries.shape == (len(self.normal) - 1,)
                and bool(np.all(np.diff(self.scale_boundaries) > 0))
            )
        if not fits:
            raise InputError(f"the tables of the codec do not fit its model {type(model).__name__}")

    def means_and_table_indices(self, hyperlatents: Latents) -> tuple[Latents, np.ndarray]:
        """Return the mean of each latent, a multiple of 2^-10, and the index of its table in `normal`.

        Requires tables with a hyperprior. Both arrays have the shape of the latents.
        """
        x: Any = hyperlatents.astype(np.float64)
        for number, layer in enumerate(self.hyper_decoder_layers):
            x = layer(np.maximum(x, 0.0) if number else x)
        mean, scale = np.split(x, 2, axis=-1)
        fixed = (scale + SCALE_OFFSET) * 2**FixedPointLayer.VALUE_BITS
        return mean, np.searchsorted(self.scale_boundaries, fixed)


def load_tables(path: Path, model: FactorizedCodec, variables: Tree) -> CodingTables | None:
    """Return the tables that `save_tables` wrote for these weights.

    Returns:
      The tables; None if the file does not exist or holds the tables of other weights.

    Raises:
      InputError: The file is unreadable or damaged, or does not fit the model.
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
        raise InputError(f"cannot read {path}: {error}; delete it to create it again") from error
    return CodingTables.from_arrays(arrays, model)


def save_tables(path: Path, tables: CodingTables, variables: Tree) -> None:
    """Write tables to a file, with the digest of the weights that they were derived from.

    Raises:
      InputError: The file cannot be written.
    """
    metadata = {"weights": weights_digest(variables).hex()}
    data = safetensors.numpy.save(tables.to_arrays(), metadata)
    write_atomically(path, lambda file: file.write(data))


def weights_digest(variables: Tree) -> bytes:
    """Return the SHA-256 of the weights in "params", as float32, and of their names."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf, "<f4").tobytes())
    return digest.digest()


def _prior_logits(parameters: Mapping[str, Any], x: np.ndarray, channel: int) -> np.ndarray:
    """Compute `FactorizedPrior.logits` of one channel in NumPy, in float64 and for any length."""
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


def _fixed_point_layers(variables: Tree) -> tuple[FixedPointLayer, ...]:
    """Return the layers of the hyperprior's decoder, with rounded weights."""
    return tuple(
        FixedPointLayer.from_weights(variables["params"][f"hyper_up_{number}"], stride)
        for number, stride in enumerate(HYPER_UP_STRIDES)
    )


def _layers_to_arrays(layers: Sequence[FixedPointLayer]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for number, layer in enumerate(layers):
        arrays |= _fields_to_arrays(f"layer{number}", layer)
    return arrays


def _fields_to_arrays(name: str, value: Any) -> dict[str, np.ndarray]:
    return {
        f"{name}.{field.name}": np.asarray(getattr(value, field.name), np.int32)
        for field in dataclasses.fields(value)
    }


def _get_array(arrays: Mapping[str, np.ndarray], name: str) -> Any:
    """Return an array by name, or an int if the name ends in "stride"."""
    axes = {"stride": 0, "kernel": 4}.get(name.rpartition(".")[2], 1)
    array = arrays.get(name)
    if array is None or array.dtype != np.int32 or array.ndim != axes:
        raise InputError(f"the tables of the codec lack an int32 array {name!r} with {axes} axes")
    return array if axes else int(array)

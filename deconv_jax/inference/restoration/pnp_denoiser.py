"""Trained networks as the denoiser of `classical.plug_and_play`, which asks for any level of noise.

A network that is told the level is told; one that was trained for a single level has the contrast of
the image scaled to it, see `classical.any_level_denoiser`. What a reader would get wrong: the
levels that plug and play asks for are not those of the noise in the photograph. They begin far above
it, at sigma 49 of 255 unless told otherwise, and fall to it; of networks for single levels, to the
lowest of them.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from deconv_jax.classical import any_level_denoiser, any_level_options
from deconv_jax.data.degradations import Chain, Degradation, GaussianNoise
from deconv_jax.errors import InputError
from deconv_jax.inference.restoration.learned_restorer import (
    adapt_channels,
    apply_at_noise_level,
    check_restoration_model,
)
from deconv_jax.training.state import Tree

Denoiser = Callable[[Array, Array], Array]
"""Images (batch, height, width, 1 or 3) and the level of their noise in [0, 1] units to images."""


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedDenoiser:
    """A network, and what it was trained to remove.

    Attributes:
      name: what errors call it, such as its file.
      model: a restoration network that keeps the size of images.
      variables: its "params" and, if it has them, "batch_stats".
      noise_conditional: the network takes the noise's level as one channel more.
      degradation: that it was trained on; None where nobody knows, as of published weights.
    """

    name: str
    model: nn.Module
    variables: Tree
    noise_conditional: bool = False
    degradation: Degradation | None = None

    def __post_init__(self) -> None:
        check_restoration_model(self.model)
        if self.scale != 1:
            raise InputError(f"{self.name} is no denoiser: it enlarges {self.scale} times")
        if self.degradation is not None and self._levels is None:
            raise InputError(
                f"{self.name} is no denoiser of Gaussian noise: it was trained on "
                f"{self.degradation}"
            )

    @property
    def channels(self) -> int:
        """Of the images that it takes, 1 or 3."""
        return self.model.channels  # type: ignore[attr-defined]

    @property
    def scale(self) -> int:
        """Size of a restored image over that of the one given."""
        return self.model.scale  # type: ignore[attr-defined]

    def trained_sigma(self, told: float | None = None) -> float:
        """The single level of noise, in 8-bit levels, that the network is used at.

        Args:
          told: by a person, needed where the training does not say a single one.

        Raises:
          InputError: it is not known, or what is told is no level that it was trained for.
        """
        low, high = self._levels or (0.0, np.inf)
        if told is None and low < high:
            known = "it is not known" if self.degradation is None else f"{low:g} to {high:g}"
            raise InputError(
                f"the level of noise that {self.name} was trained for has to be told "
                f"(denoiser-sigma): {known}"
            )
        sigma = low if told is None else told
        if not (low <= sigma <= high and 0 < sigma < np.inf):
            wanted = "a positive number" if self.degradation is None else f"{low:g} to {high:g}"
            raise InputError(f"the level of noise of {self.name} must be {wanted}; got {sigma:g}")
        return sigma

    @property
    def _levels(self) -> tuple[float, float] | None:
        """The least and the greatest; None if anything else happened, or is not known."""
        degradation = self.degradation
        while isinstance(degradation, Chain) and len(degradation.steps) == 1:
            degradation = degradation.steps[0]
        if not isinstance(degradation, GaussianNoise):
            return None
        low, high = np.broadcast_to(np.asarray(degradation.sigma), (2,))
        return float(low), float(high)


@dataclasses.dataclass(frozen=True, eq=False)
class PnpDenoiser:
    """What `plug_and_play` is given of networks.

    Attributes:
      denoiser: they; their weights are arguments of a compiled program and no constants in it.
      options: that suit them, where a person says nothing else.
    """

    denoiser: Denoiser
    options: Mapping[str, Any]


def make_pnp_denoiser(
    networks: Sequence[TrainedDenoiser], sigmas: Sequence[float] = ()
) -> PnpDenoiser:
    """The denoiser that networks make together.

    Images of other channels than the networks' are brought to them as `restore` says.

    Args:
      networks: one that is told the level, or one or more for single levels, of which
        `any_level_denoiser` says the one that is taken. All take images of as many channels.
      sigmas: the single levels in 8-bit units, one a network; needed where the training of one
        does not say.

    Raises:
      InputError: networks that do not go together, or sigmas that do not fit them.
    """
    if not networks:
        raise InputError("a denoiser takes at least one network; got none")
    channels = {network.channels for network in networks}
    if len(channels) > 1:
        raise InputError("the networks of a denoiser take images of 1 or of 3 channels; got both")
    wanted = channels.pop()
    if any(network.noise_conditional for network in networks):
        if len(networks) > 1 or sigmas:
            raise InputError(
                "a network that is told the noise's level works alone and was trained for no "
                f"single level; got {len(networks)} networks and denoiser-sigma {list(sigmas)}"
            )
        conditional = Partial(
            functools.partial(_told, networks[0].model), _on_device(networks[0].variables)
        )
        return PnpDenoiser(Partial(functools.partial(_bridged, wanted), conditional), {})
    if sigmas and len(sigmas) != len(networks):
        raise InputError(
            f"denoiser-sigma is given once for each network or never; got {len(sigmas)} for "
            f"{len(networks)}"
        )
    told: list[float | None] = list(sigmas) or [None] * len(networks)
    levels = [n.trained_sigma(sigma) / 255.0 for n, sigma in zip(networks, told, strict=True)]
    single = [
        Partial(functools.partial(_untold, network.model), _on_device(network.variables))
        for network in networks
    ]
    denoiser = Partial(functools.partial(_bridged, wanted), any_level_denoiser(single, levels))
    return PnpDenoiser(denoiser, any_level_options(levels))


def _bridged(
    wanted: int,
    denoiser: Denoiser,
    images: Float[Array, "batch height width channels"],
    sigma: Array,
) -> Array:
    return adapt_channels(lambda own: denoiser(own, sigma), wanted, images)


def _told(model: nn.Module, variables: Tree, images: Array, sigma: Array) -> Array:
    return apply_at_noise_level(model, variables, sigma, images)


def _untold(model: nn.Module, variables: Tree, images: Array) -> Array:
    return apply_at_noise_level(model, variables, None, images)


def _on_device(variables: Tree) -> Tree:
    return jax.device_put({"batch_stats": {}} | dict(variables), jax.local_devices()[0])

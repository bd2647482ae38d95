"""Trained networks as denoisers for plug-and-play restoration, which asks for many noise levels.

A noise-conditional network receives each level. For a network trained for a single level, the image's
contrast is scaled so that its noise matches that level, see `classical.any_level_denoiser`.

Note: The levels are not those of the photograph's noise. They start far above it, at 49/255 by
default, and fall to it; with single-level networks they fall to the lowest trained level.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from deconv_jax.classical import any_level_denoiser, any_level_options
from deconv_jax.data.degradations import Chain, Degradation, gaussian_noise_range
from deconv_jax.errors import InputError
from deconv_jax.inference.restoration.learned_restorer import (
    GRAY_NOISE_FACTOR,
    adapt_channels,
    apply_at_noise_level,
    check_restoration_model,
)
from deconv_jax.models.interfaces import RestorationModel
from deconv_jax.training.state import Tree

Denoiser = Callable[[Array, Array], Array]
"""(images (batch, height, width, 1 or 3), noise level in [0, 1] units) -> denoised images."""


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedDenoiser:
    """A denoising network and the noise that it was trained on.

    Attributes:
      name: Name in error messages, such as its file.
      model: Restoration network of scale 1.
      variables: Collection "params", and "batch_stats" if the network has it.
      noise_conditional: Whether the network takes a noise-level map as an additional channel.
      degradation: Degradation of the training images; None if unknown, as for published weights.

    Raises:
      InputError: The model is not a restoration network of scale 1 for 1 or 3 channels, or the
        degradation is known and not Gaussian noise alone.
    """

    name: str
    model: nn.Module
    variables: Tree
    noise_conditional: bool = False
    degradation: Degradation | None = None

    def __post_init__(self) -> None:
        check_restoration_model(self.model)
        if self._interface.scale != 1:
            raise InputError(
                f"a denoiser must have scale 1; {self.name} has scale {self._interface.scale}"
            )
        if self.degradation is not None and self._levels is None:
            raise InputError(
                f"{self.name} is not a denoiser of Gaussian noise: it was trained on "
                f"{self.degradation}"
            )

    @property
    def channels(self) -> int:
        """Number of image channels, 1 or 3."""
        return self._interface.channels

    def trained_sigma(self, sigma: float | None = None) -> float:
        """Return the noise level, in units of 1/255, at which to use a single-level network.

        Args:
          sigma: Level given by the user, required unless the training used a single level.

        Raises:
          InputError: The level is unknown, or `sigma` is not a level of the training.
        """
        low, high = self._levels or (0.0, np.inf)
        if sigma is None and low < high:
            known = "unknown" if self.degradation is None else f"{low:g} to {high:g}"
            raise InputError(
                f"denoiser-sigma is required for {self.name}, whose training noise level is {known}"
            )
        sigma = low if sigma is None else sigma
        if not (low <= sigma <= high and 0 < sigma < np.inf):
            valid = "a positive number" if self.degradation is None else f"in [{low:g}, {high:g}]"
            raise InputError(f"the noise level of {self.name} must be {valid}; got {sigma:g}")
        return sigma

    @property
    def _interface(self) -> RestorationModel:
        """The network's attributes, for the type checker."""
        return cast(RestorationModel, self.model)

    @property
    def _levels(self) -> tuple[float, float] | None:
        """Lowest and highest trained noise level; None unless trained on Gaussian noise alone."""
        alone = not isinstance(self.degradation, Chain) or len(self.degradation.steps) == 1
        return gaussian_noise_range(self.degradation) if alone else None


@dataclasses.dataclass(frozen=True, eq=False)
class PnpDenoiser:
    """A denoiser for `classical.plug_and_play`, with recommended options.

    Attributes:
      denoiser: Function of images and noise level. It is a pytree whose leaves are the networks'
        weights, so that they are arguments of compiled programs rather than constants.
      options: Recommended keyword arguments of `plug_and_play`; {} for a noise-conditional network.
    """

    denoiser: Denoiser
    options: Mapping[str, Any]


def make_pnp_denoiser(
    networks: Sequence[TrainedDenoiser], sigmas: Sequence[float] = ()
) -> PnpDenoiser:
    """Combine networks into one denoiser for any noise level.

    Networks for gray images denoise color images channel by channel; networks for color images get
    gray images with three equal channels, at a level multiplied by sqrt(3).

    Args:
      networks: A single noise-conditional network, or one or more single-level networks, of which the
        one with the largest level up to the requested one denoises. All have the same number of
        channels.
      sigmas: Trained noise level of each single-level network, in units of 1/255; () if all are
        known from their training.

    Raises:
      InputError: There is no network, the networks cannot be combined, the sigmas do not match them, or
        a trained level is unknown.
    """
    if not networks:
        raise InputError("a denoiser requires at least one network; got none")
    channels = {network.channels for network in networks}
    if len(channels) > 1:
        raise InputError("the networks of a denoiser must have the same channels; got 1 and 3")
    adapt = functools.partial(_adapt, channels.pop())
    if any(network.noise_conditional for network in networks):
        if len(networks) > 1 or sigmas:
            raise InputError(
                "a noise-conditional network must be the only one and takes no denoiser-sigma; got "
                f"{len(networks)} networks and denoiser-sigma {list(sigmas)}"
            )
        conditional = Partial(
            functools.partial(_denoise_at_level, networks[0].model),
            _on_device(networks[0].variables),
        )
        return PnpDenoiser(Partial(adapt, conditional), {})
    if sigmas and len(sigmas) != len(networks):
        raise InputError(
            "denoiser-sigma must be given once for each network or not at all; got "
            f"{len(sigmas)} for {len(networks)} networks"
        )
    given: list[float | None] = list(sigmas) or [None] * len(networks)
    levels = [n.trained_sigma(sigma) / 255.0 for n, sigma in zip(networks, given, strict=True)]
    single = [
        Partial(functools.partial(_denoise, network.model), _on_device(network.variables))
        for network in networks
    ]
    denoiser = Partial(adapt, any_level_denoiser(single, levels))
    return PnpDenoiser(denoiser, any_level_options(levels))


def _adapt(
    channels: int,
    denoiser: Denoiser,
    images: Float[Array, "batch height width image_channels"],
    sigma: Array,
) -> Array:
    if images.shape[-1] < channels:
        sigma = GRAY_NOISE_FACTOR * sigma
    return adapt_channels(lambda adapted: denoiser(adapted, sigma), channels, images)


def _denoise_at_level(model: nn.Module, variables: Tree, images: Array, sigma: Array) -> Array:
    return apply_at_noise_level(model, variables, sigma, images)


def _denoise(model: nn.Module, variables: Tree, images: Array) -> Array:
    return apply_at_noise_level(model, variables, None, images)


def _on_device(variables: Tree) -> Tree:
    return jax.device_put({"batch_stats": {}} | dict(variables), jax.local_devices()[0])

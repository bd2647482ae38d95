"""Trained GANs and VAEs as the prior of restoration."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from deconv_jax.classical import LatentGenerator
from deconv_jax.errors import InputError
from deconv_jax.tasks import GAN, Variational
from deconv_jax.training.state import Tree


def make_latent_generator(
    task: GAN | Variational,
    variables: Mapping[str, Tree],
    discriminator: Mapping[str, Tree] | None = None,
) -> LatentGenerator:
    """Return the generator of `classical.generative_prior` that a GAN or VAE is.

    Args:
      task: Task of the model.
      variables: Its variables, from `TrainState.inference_variables`.
      discriminator: Variables of a GAN's discriminator, which becomes the critic; None for no critic.

    Raises:
      InputError: The discriminator's logit of an image depends on the other images of a batch.
    """
    critic = None
    if discriminator is not None:
        assert isinstance(task, GAN)  # a VAE has no discriminator
        if not task.has_independent_logits:
            raise InputError(
                "a critic requires a discriminator without batch norm and minibatch_std_group, whose logit of "
                "an image does not depend on other images"
            )
        critic = Partial(task.discriminate, jax.tree.map(jnp.asarray, dict(discriminator)))
    return LatentGenerator(
        Partial(task.sample, jax.tree.map(jnp.asarray, dict(variables))),
        task.latent_dim,
        task.num_classes,
        critic,
    )

"""Networks as flax.linen modules, by the name a config gives in `model.name`."""

from deconv_jax.models.autoencoder import Autoencoder
from deconv_jax.models.classifier import Classifier

MODELS = {
    "autoencoder": Autoencoder,
    "classifier": Classifier,
}

__all__ = ["MODELS", "Autoencoder", "Classifier"]

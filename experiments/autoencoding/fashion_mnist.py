"""Autoencoder of Fashion-MNIST: that of MNIST, on other images."""

import ml_collections
import mnist


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: latent=32, the size of the code."""
    config = mnist.get_config(arg)
    config.data.name = "fashion_mnist"
    return config

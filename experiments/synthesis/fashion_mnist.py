"""DCGAN of Fashion-MNIST, with the networks and schedule of `mnist.py` and another extractor.

  deconv-jax prepare fashion_mnist
  deconv-jax train --config experiments/synthesis/fashion_mnist.py --workdir runs/gan_fashion

Training takes about 3 minutes on two CPU cores. Test Fréchet distance with the extractor "fashion": 14.4 +- 0.3
(3 seeds; real training images: 0.03), 10,000 images. The table gan_losses compares all losses.
"""

import ml_collections
import mnist


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: those of `mnist.py`."""
    config = mnist.get_config(arg)
    config.data.source.dataset = "fashion_mnist"
    config.task.extractor = "fashion"
    return config

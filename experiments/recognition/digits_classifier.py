"""Small convolutional classifier of the embedded handwritten digits: that of MNIST, trained less.

  deconv-jax train --config experiments/recognition/digits_classifier.py --workdir runs/classifier

Two CPU cores, about a minute. Test accuracy 98.5 % +- 1 (360 images, so one image is 0.3 %).
"""

import ml_collections
import mnist_classifier


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: as for `mnist_classifier.py`."""
    config = mnist_classifier.get_config(arg)
    config.data = dict(name="digits", cache="device")
    config.optimizer.warmup_steps = 50
    config.training.update(num_steps=600, eval_every=200, save_every=200)
    return config

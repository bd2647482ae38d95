"""Named models: trained networks in the package, each with a model card.

`load` returns a named model, which is used like the model of a run:

    model = zoo.load("denoise", channels=3)
    restored = model.task.model.apply(model.variables, noisy_and_level)

The weights are `weights/NAME.safetensors`, and the card is `weights/NAME.json` beside them.
"""

from deconv_jax.zoo.cards import FAMILIES, card, names, resolve
from deconv_jax.zoo.model import ZooModel, load

__all__ = ["FAMILIES", "ZooModel", "card", "load", "names", "resolve"]

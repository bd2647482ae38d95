"""Import and export of published PyTorch weights.

The network and its attributes are inferred from the names and shapes of the tensors. Every module of
this package but `importer` and `architecture` describes one network: the names that its
implementations give to the tensors, and where the weights belong in the Flax module.
"""

from deconv_jax.models.weight_import.importer import (
    ImportedNetwork,
    load_torch_weights,
    save_torch_weights,
)

__all__ = ["ImportedNetwork", "load_torch_weights", "save_torch_weights"]

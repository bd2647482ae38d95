"""Export of the weights of a restoration network with the names that PyTorch users know."""

import tempfile
from pathlib import Path

import jax
import numpy as np

from deconv_jax.errors import InputError
from deconv_jax.export.functions import ModelFunction, restoration_function
from deconv_jax.export.parity import Run
from deconv_jax.inference.restoration.load import load_weights
from deconv_jax.models.dncnn import DnCNN, fold_batch_norm
from deconv_jax.models.weight_import import save_torch_weights

_FILE = "weights.safetensors"


def to_torch_weights(function: ModelFunction) -> bytes:
    """Return a `.safetensors` file with the weights of a restoration network.

    Batch normalization of a DnCNN is folded into its convolutions, as in published files.

    Args:
      function: Function of the network.

    Raises:
      InputError: The function is not that of a restoration network, or the network is not one of
        `models.weight_import`.
    """
    network = function.network
    if network is None:
        raise InputError(
            f"--format safetensors requires a restoration network; got a model of {function.task}"
        )
    module, params = network.model, network.variables["params"]
    if isinstance(module, DnCNN) and module.norm == "batch":
        params = fold_batch_norm(params, network.variables["batch_stats"])
        module = module.clone(norm="none")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, _FILE)
        save_torch_weights(path, module, params)
        return path.read_bytes()


def run_torch_weights(data: bytes) -> Run:
    """Return the function of the network that this package reads from a file of PyTorch weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, _FILE)
        path.write_bytes(data)
        network = load_weights(path)
    variables = {"batch_stats": {}} | dict(network.variables)
    read = restoration_function(network.model, variables, network.noise_conditional)

    def run(*inputs: np.ndarray) -> dict[str, np.ndarray]:
        return jax.device_get(jax.jit(read.apply)(*inputs))

    return run

"""Tasks: what an experiment learns and how it is evaluated, by the name in `task.name` of a config."""

from deconv_jax.tasks.autoencoding import Autoencoding
from deconv_jax.tasks.classification import Classification
from deconv_jax.tasks.compression import Compression
from deconv_jax.tasks.detection import Detection
from deconv_jax.tasks.gan import GAN
from deconv_jax.tasks.restoration import Restoration
from deconv_jax.tasks.segmentation import Segmentation
from deconv_jax.tasks.variational import Variational
from deconv_jax.tasks.vector_quantization import VectorQuantization

TASKS = {
    "autoencoding": Autoencoding,
    "classification": Classification,
    "compression": Compression,
    "detection": Detection,
    "gan": GAN,
    "restoration": Restoration,
    "segmentation": Segmentation,
    "variational": Variational,
    "vector_quantization": VectorQuantization,
}

__all__ = [
    "GAN",
    "TASKS",
    "Autoencoding",
    "Classification",
    "Compression",
    "Detection",
    "Restoration",
    "Segmentation",
    "Variational",
    "VectorQuantization",
]

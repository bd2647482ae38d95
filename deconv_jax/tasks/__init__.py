"""What one experiment family learns, by the name a config gives in `task.name`."""

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
    "compression": Compression,
    "detection": Detection,
    "classification": Classification,
    "restoration": Restoration,
    "segmentation": Segmentation,
    "gan": GAN,
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

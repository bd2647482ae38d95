"""What one experiment family learns, by the name a config gives in `task.name`."""

from deconv_jax.tasks.autoencoding import Autoencoding
from deconv_jax.tasks.compression import Compression
from deconv_jax.tasks.detection import Detection
from deconv_jax.tasks.recognition import Recognition
from deconv_jax.tasks.restoration import Restoration
from deconv_jax.tasks.segmentation import Segmentation
from deconv_jax.tasks.synthesis import Synthesis
from deconv_jax.tasks.variational import Variational
from deconv_jax.tasks.vector_quantization import VectorQuantization

TASKS = {
    "autoencoding": Autoencoding,
    "compression": Compression,
    "detection": Detection,
    "recognition": Recognition,
    "restoration": Restoration,
    "segmentation": Segmentation,
    "synthesis": Synthesis,
    "variational": Variational,
    "vector_quantization": VectorQuantization,
}

__all__ = [
    "TASKS",
    "Autoencoding",
    "Compression",
    "Detection",
    "Recognition",
    "Restoration",
    "Segmentation",
    "Synthesis",
    "Variational",
    "VectorQuantization",
]

"""What one experiment family learns, by the name a config gives in `task.name`."""

from deconv_jax.tasks.autoencoding import Autoencoding
from deconv_jax.tasks.recognition import Recognition
from deconv_jax.tasks.restoration import Restoration

TASKS = {
    "autoencoding": Autoencoding,
    "recognition": Recognition,
    "restoration": Restoration,
}

__all__ = ["TASKS", "Autoencoding", "Recognition", "Restoration"]

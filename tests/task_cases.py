"""A tiny example of every task, with the shapes of a batch, for tests that trace or compile training steps."""

import jax

from deconv_jax import models, tasks
from deconv_jax.data.blurs import Downsample
from deconv_jax.training.optimizer import Optimizer

SHAPE, BATCH = (16, 16, 1), 16
ADAM = Optimizer(ema_decay=0.9)
LABELS = {"label": ((), "int32")}
BOXES = {"boxes": ((3, 4), "float32"), "box_class": ((3,), "int32")}
CASES = {
    "autoencoding": (
        tasks.Autoencoding(models.Autoencoder(SHAPE, features=(4, 4), latent_dim=6), ADAM),
        {},
    ),
    "classification": (
        tasks.Classification(
            models.Classifier(3, features=(4,), up_features=(3,), embedding_dim=8), ADAM
        ),
        LABELS,
    ),
    "compression": (
        tasks.Compression(
            models.FactorizedCodec(1, features=4, latent_features=6), (0.01,), ADAM, crop=16
        ),
        {},
    ),
    "detection": (
        tasks.Detection(
            models.CenterNet(2, features=(8, 16), blocks=0, output_stride=2, head_features=8),
            ADAM,
            class_names=("dark", "bright"),
        ),
        BOXES,
    ),
    "gan": (
        tasks.GAN(
            models.DCGANGenerator(SHAPE, latent_dim=4, width=2),
            models.DCGANDiscriminator(width=2, norm="none"),
            ADAM,
            num_steps=10,
            gradient_penalty=10.0,
        ),
        LABELS,
    ),
    "restoration": (
        tasks.Restoration(models.FSRCNN(scale=2, d=4, s=2, m=1), Downsample(2), ADAM, crop=16),
        {},
    ),
    "segmentation": (
        tasks.Segmentation(
            models.UNet(3, features=(4, 8), residual=False), ADAM, class_names=("a", "b", "c")
        ),
        {"segments": ((16, 16), "uint8")},
    ),
    "variational": (
        tasks.Variational(models.VAE(SHAPE, features=(4, 4), latent_dim=6), ADAM),
        {},
    ),
    "vector_quantization": (
        tasks.VectorQuantization(
            models.VQVAE(SHAPE, features=(4, 4), latent_dim=3, codebook_size=8),
            ADAM,
            image_variance=0.1,
        ),
        {},
    ),
}


def abstract(name, batch_size=BATCH):
    """Return the shapes of a case's state and batch."""
    task, more = CASES[name]
    arrays = {"image": (SHAPE, "uint8"), "index": ((), "int32")} | more
    batch = {k: jax.ShapeDtypeStruct((batch_size, *s), t) for k, (s, t) in arrays.items()}
    return jax.eval_shape(task.init, jax.random.key(0), batch), batch

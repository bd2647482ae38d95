"""Networks as Flax modules; `MODELS` maps the `model.name` of a config to its module."""

from deconv_jax.models.autoencoder import Autoencoder
from deconv_jax.models.centernet import CenterNet
from deconv_jax.models.classifier import Classifier
from deconv_jax.models.codec import FactorizedCodec, HyperpriorCodec
from deconv_jax.models.conv_deconv import ConvDeconv
from deconv_jax.models.deconvnet import DeconvNet
from deconv_jax.models.dncnn import DnCNN
from deconv_jax.models.espcn import ESPCN
from deconv_jax.models.fcn import FCN
from deconv_jax.models.ffdnet import FFDNet
from deconv_jax.models.fsrcnn import FSRCNN
from deconv_jax.models.gan import (
    DCGANDiscriminator,
    DCGANGenerator,
    ResNetDiscriminator,
    ResNetGenerator,
    SNGANDiscriminator,
)
from deconv_jax.models.rednet import REDNet
from deconv_jax.models.rrdb import RRDBNet
from deconv_jax.models.srcnn import SRCNN
from deconv_jax.models.srvgg import SRVGGNet
from deconv_jax.models.texture import TextureDiscriminator, TextureGenerator
from deconv_jax.models.unet import UNet
from deconv_jax.models.vae import VAE
from deconv_jax.models.vqvae import VQVAE

MODELS = {
    "autoencoder": Autoencoder,
    "centernet": CenterNet,
    "classifier": Classifier,
    "dcgan_discriminator": DCGANDiscriminator,
    "dcgan_generator": DCGANGenerator,
    "deconvnet": DeconvNet,
    "dncnn": DnCNN,
    "espcn": ESPCN,
    "factorized_codec": FactorizedCodec,
    "fcn": FCN,
    "ffdnet": FFDNet,
    "fsrcnn": FSRCNN,
    "hyperprior_codec": HyperpriorCodec,
    "rednet": REDNet,
    "resnet_discriminator": ResNetDiscriminator,
    "resnet_generator": ResNetGenerator,
    "conv_deconv": ConvDeconv,
    "sngan_discriminator": SNGANDiscriminator,
    "rrdbnet": RRDBNet,
    "srcnn": SRCNN,
    "srvggnet": SRVGGNet,
    "texture_discriminator": TextureDiscriminator,
    "texture_generator": TextureGenerator,
    "unet": UNet,
    "vae": VAE,
    "vqvae": VQVAE,
}

__all__ = [
    "ESPCN",
    "FCN",
    "FSRCNN",
    "MODELS",
    "SRCNN",
    "VAE",
    "VQVAE",
    "Autoencoder",
    "CenterNet",
    "Classifier",
    "ConvDeconv",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "DeconvNet",
    "DnCNN",
    "FFDNet",
    "FactorizedCodec",
    "HyperpriorCodec",
    "REDNet",
    "RRDBNet",
    "ResNetDiscriminator",
    "ResNetGenerator",
    "SNGANDiscriminator",
    "SRVGGNet",
    "TextureDiscriminator",
    "TextureGenerator",
    "UNet",
]

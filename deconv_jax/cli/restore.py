"""`deconv-jax restore`: images and videos through a trained network or a classical method."""

import argparse
import functools
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deconv_jax.cli.arguments import (
    parse_checkpoint,
    refuse_flags,
    report_skipped,
)
from deconv_jax.cli.config import parse_literal
from deconv_jax.cli.exit_codes import EXIT_SOME_FAILED
from deconv_jax.cli.process import enable_compilation_cache
from deconv_jax.cli.restore_flags import Network, add_restore_parser
from deconv_jax.errors import InputError

_METHOD_FLAGS = ("--kernel", "--mask", "--boundary", "--option", "--denoiser-sigma")
_NETWORK_FLAGS = (
    "--interpolate",
    "--scale",
    "--strength",
    "--alpha",
    "--tile",
    "--self-ensemble",
    "--precision",
)
_TRAINING_FLAGS = ("--checkpoint", "--batch-norm-epsilon")


def add_commands(commands: Any) -> None:
    """Add the parser of `restore`."""
    add_restore_parser(commands, _restore)


def _restore(arguments: argparse.Namespace) -> int:
    from deconv_jax.inference.image_files import plan_jobs
    from deconv_jax.inference.restoration.restore_files import restore_files
    from deconv_jax.inference.restoration.video import DEFAULT_CRF
    from deconv_jax.inference.restoration.video_parts import output_format, result_suffix
    from deconv_jax.inference.restoration.video_source import VIDEO_SUFFIXES, is_video
    from deconv_jax.metrics.protocol import EvaluationProtocol

    enable_compilation_cache()
    _check_flags(arguments)
    protocol = EvaluationProtocol(
        color="y" if arguments.y_channel else "rgb", border=arguments.border or 0
    )
    plan = plan_jobs(
        arguments.inputs,
        arguments.output,
        suffix=arguments.format and f".{arguments.format.lower().removeprefix('.')}",
        references=arguments.reference,
        compare=arguments.compare,
        accept_file=True,
        videos={suffix: result_suffix(suffix) for suffix in VIDEO_SUFFIXES},
    )
    videos = [job for job in plan.jobs if is_video(job.source)]
    if arguments.crf is not None and not videos:
        raise InputError("--crf requires a video among the inputs")
    for job in videos:
        output_format(job.output)  # An unknown format is an error before anything is loaded.
    failed = restore_files(
        _restorer(arguments),
        plan.jobs,
        protocol=protocol,
        overwrite=arguments.overwrite,
        outscale=arguments.outscale,
        alpha=arguments.alpha or "bicubic",
        crf=DEFAULT_CRF if arguments.crf is None else arguments.crf,
        wrap=arguments.wrap or "none",
    )
    return report_skipped(plan) or (EXIT_SOME_FAILED if failed else 0)


def _check_flags(arguments: argparse.Namespace) -> None:
    """Raise InputError unless the flags describe one network, one method, or a method with networks."""
    from deconv_jax.classical import METHODS
    from deconv_jax.inference.restoration.classical_restorer import FILLING, WITHOUT_KERNEL

    networks, method = arguments.networks, arguments.method
    plug_and_play, generative = method == "plug_and_play", method == "generative_prior"
    flags = {network.flag for network in networks}
    if networks and method and not (plug_and_play or generative):
        raise InputError(
            f"{networks[0].flag} cannot be combined with --method {method}; only plug_and_play and "
            "generative_prior take networks"
        )
    if generative and (not networks or "--weights" in flags):
        raise InputError(f"--method {method} requires --model or --workdir, a GAN or VAE")
    if arguments.interpolate is not None:
        if not 0 <= arguments.interpolate <= 1:
            raise InputError(f"--interpolate must be in [0, 1]; got {arguments.interpolate:g}")
        if len(networks) != 2:
            raise InputError(
                "--interpolate requires two networks, each given by --model, --workdir or --weights; got "
                f"{len(networks)}"
            )
    elif len(networks) > 1 and not plug_and_play:
        raise InputError(
            "only --method plug_and_play and --interpolate take several networks; got "
            f"{len(networks)}"
        )
    if plug_and_play:
        refuse_flags(arguments, _NETWORK_FLAGS, f"--method {method}")
    elif method:
        training = _TRAINING_FLAGS[1:] if generative else _TRAINING_FLAGS
        others = (*training, *_NETWORK_FLAGS, "--denoiser-sigma")
        refuse_flags(arguments, others, f"--method {method}")
    else:
        refuse_flags(arguments, _METHOD_FLAGS, networks[0].flag if networks else "--model photo")
    if method and arguments.kernel is None:
        usable = WITHOUT_KERNEL if arguments.mask is None else FILLING
        if method in METHODS and method not in usable:
            raise InputError(
                f"--method {method} requires --kernel, the blur to undo; methods without a kernel"
                f"{'' if arguments.mask is None else ' and with --mask'} are {', '.join(usable)}"
            )
        if arguments.boundary is not None:
            raise InputError("--boundary requires --kernel")
    if plug_and_play and not networks:
        raise InputError(
            f"--method {method} requires --model, --workdir or --weights, a denoising network"
        )
    if arguments.checkpoint is not None and "--workdir" not in flags:
        raise InputError("--checkpoint requires --workdir; only runs have checkpoints")
    if arguments.batch_norm_epsilon is not None and "--weights" not in flags:
        raise InputError("--batch-norm-epsilon requires --weights")
    if arguments.scale is not None and "--workdir" in flags:
        raise InputError("--scale requires --model or --weights")
    if arguments.outscale is not None and not 0 < arguments.outscale < math.inf:
        raise InputError(f"--outscale must be a positive number; got {arguments.outscale:g}")
    if arguments.crf is not None and not 0 <= arguments.crf <= 51:
        raise InputError(f"--crf must be in [0, 51]; got {arguments.crf:g}")
    if not arguments.reference and (arguments.border is not None or arguments.y_channel):
        raise InputError("--border and --y-channel require --reference")


def _restorer(arguments: argparse.Namespace) -> Any:
    """Return the restorer that the flags describe."""
    from deconv_jax.inference.restoration.load import DEFAULT_MODEL
    from deconv_jax.inference.restoration.restorer_by_channels import RestorerByChannels

    if not arguments.networks and not arguments.method:
        arguments.networks = [Network("--model", DEFAULT_MODEL)]
    if arguments.method == "generative_prior":
        return _classical(arguments)
    make = _classical if arguments.method else _learned
    if any(network.flag == "--model" for network in arguments.networks):
        return RestorerByChannels(functools.partial(make, arguments))
    return make(arguments)


def _classical(arguments: argparse.Namespace, channels: int = 3) -> Any:
    """Return the restorer of a classical method for images with a number of channels."""
    from deconv_jax.inference.restoration.blur_kernel import read_kernel
    from deconv_jax.inference.restoration.classical_restorer import ClassicalRestorer
    from deconv_jax.inference.restoration.mask_file import read_mask

    options = {}
    for word in arguments.option or ():
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise InputError(f"--option must be KEY=VALUE; got {word!r}")
        options[key] = parse_literal(text)
    kernel = None if arguments.kernel is None else read_kernel(arguments.kernel)
    generative = arguments.method == "generative_prior"
    return ClassicalRestorer(
        arguments.method,
        kernel,
        noise_sigma=arguments.noise_sigma,
        boundary=arguments.boundary or "unknown",
        wrap=arguments.wrap or "none",
        options=options,
        denoiser=None if generative else _denoiser(arguments, channels),
        generator=_generator(arguments, options) if generative else None,
        mask=None if arguments.mask is None else read_mask(arguments.mask),
    )


def _denoiser(arguments: argparse.Namespace, channels: int) -> Any:
    """Return the denoiser of the networks for images with a number of channels; None without networks."""
    from deconv_jax.inference.restoration.pnp_denoiser import TrainedDenoiser, make_pnp_denoiser

    if not arguments.networks:
        return None
    loaded = [_load(network, arguments, channels) for network in arguments.networks]
    denoisers = [
        TrainedDenoiser(
            n.name,
            n.model,
            n.variables,
            noise_conditional=n.noise_conditional,
            degradation=n.degradation,
        )
        for n in loaded
    ]
    return make_pnp_denoiser(denoisers, arguments.denoiser_sigma or ())


def _generator(arguments: argparse.Namespace, options: Mapping[str, Any]) -> Any:
    """Return the generator of the network, with its critic if the options of the method use it."""
    from deconv_jax import zoo
    from deconv_jax.inference.generation.load import load_discriminator, load_generator
    from deconv_jax.inference.restoration.latent_generator import make_latent_generator

    (network,) = arguments.networks
    named = network.flag == "--model"
    trained = zoo.load(network.value) if named else Path(network.value)
    checkpoint = parse_checkpoint(arguments.checkpoint)
    critic = load_discriminator(trained, checkpoint) if options.get("critic_weight") else None
    return make_latent_generator(*load_generator(trained, checkpoint), critic)


def _learned(arguments: argparse.Namespace, channels: int = 3) -> Any:
    """Return the restorer of a trained network for images with a number of channels."""
    import jax

    from deconv_jax.data.degradations import gaussian_noise_range
    from deconv_jax.inference.restoration.learned_restorer import LearnedRestorer
    from deconv_jax.inference.restoration.load import interpolate_networks

    networks = arguments.networks
    loaded = _load(networks[0], arguments, channels)
    if arguments.interpolate is not None:
        other = _load(networks[1], arguments, channels)
        loaded = interpolate_networks(loaded, other, arguments.interpolate)
    return LearnedRestorer(
        loaded.model,
        loaded.variables,
        name=loaded.name if networks[0].flag == "--model" else "",
        noise_conditional=loaded.noise_conditional,
        noise_sigma=arguments.noise_sigma,
        trained_sigmas=gaussian_noise_range(loaded.degradation),
        strength=1.0 if arguments.strength is None else arguments.strength,
        precision=arguments.precision or ("f32" if jax.default_backend() == "cpu" else "bf16"),
        tile=arguments.tile,
        ensemble=bool(arguments.self_ensemble),
        wrap=arguments.wrap or "none",
    )


def _load(network: Network, arguments: argparse.Namespace, channels: int) -> Any:
    """Return the `LoadedNetwork` for images with a number of channels."""
    from deconv_jax.inference.restoration import load

    if network.flag == "--workdir":
        return load.load_run(Path(network.value), parse_checkpoint(arguments.checkpoint))
    if network.flag == "--weights":
        return load.load_weights(
            Path(network.value),
            arguments.scale,
            batch_norm_epsilon=arguments.batch_norm_epsilon,
            report=lambda sentence: print(f"deconv-jax: {sentence}", file=sys.stderr),
        )
    scale = arguments.scale
    if scale is None and arguments.outscale is not None:
        scale = load.smallest_scale(network.value, arguments.outscale)
    return load.load_named(network.value, channels=channels, scale=scale)

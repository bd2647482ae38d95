"""Frames per second of a walk through the latents of a texture, on the CPU and at most on accelerators.

The generator is that of `experiments/synthesis/texture.py`, untrained; its speed does not depend on the weights. A
frame is the grid of a latent of the walk, the tileable texture of the grid, and its copy in host memory, uint8.

  python experiments/benchmarks/texture_speed.py
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import ROOT, parse_arguments, time_in_turns, time_ratios, write_record

from deconv_jax.cli import load_config
from deconv_jax.cost.accelerators import ACCELERATORS
from deconv_jax.cost.networks import trace_step
from deconv_jax.experiment import Experiment
from deconv_jax.inference.generation.sampling import latent_walk, latents_from_seed
from deconv_jax.inference.generation.texture import draw_textures, texture_task
from deconv_jax.tasks import GAN

SIDES = (256, 512)
FRAMES = 30


def main() -> None:
    """Time both sizes in turns."""
    arguments = parse_arguments(__file__, __doc__, rounds=7)
    config = load_config(str(ROOT / "experiments" / "synthesis" / "texture.py"), [])
    task = Experiment.from_dict(config).task
    tasks = {side: texture_task(task, (side, side), tileable=True) for side in SIDES}
    candidates = {
        f"{side} x {side} pixels, {FRAMES} frames": functools.partial(
            draw, of_side, variables_of(of_side), walk_of(of_side)
        )
        for side, of_side in tasks.items()
    }
    times = time_in_turns(candidates, rounds=arguments.rounds, calls=1)
    small, large = candidates
    write_record(
        arguments.output,
        measured=f"{FRAMES} frames of a latent walk of a tileable texture, float32, CPU",
        protocol="one timed walk per turn after an untimed one, sizes in turns; the bounds on accelerators are "
        "those of deconv-jax cost for the generator's forward pass of one frame, by peak rates in float32",
        times=times,
        ratios=time_ratios(times, (large, small)),
        frames_per_second={
            str(side): float(f"{FRAMES * 1e3 / np.median(ms):.4g}")
            for side, ms in zip(SIDES, times.values(), strict=True)
        },
        frames_per_second_at_most={str(side): at_most(of_side) for side, of_side in tasks.items()},
    )


def draw(task: GAN, variables: Any, walk: np.ndarray) -> None:
    """Draw the frames of a walk."""
    for _ in draw_textures(task, variables, walk):
        pass


def walk_of(task: GAN) -> np.ndarray:
    """Return the latents of the first frames of a walk."""
    return latent_walk(latents_from_seed(2, task.latent_dim, seed=0), FRAMES)[:FRAMES]


def variables_of(task: GAN) -> Any:
    """Return initial variables of a generator."""
    return task.generator.init(jax.random.key(0), jnp.zeros((1, task.latent_dim)))


def at_most(task: GAN) -> dict[str, float]:
    """Return the frames per second that no accelerator exceeds, by roofline."""
    batch = {
        "image": jax.ShapeDtypeStruct((1, *task.image_shape), jnp.uint8),
        "index": jax.ShapeDtypeStruct((1,), jnp.int32),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(task.init, key, batch)
    networks, _ = trace_step(task.train_step, state, batch)
    (generator,) = (n for n in networks if n.name == type(task.generator).__name__)
    outputs = sum(layer.activation_bytes for layer in generator.layers if layer.forward_flops)
    moved = 4 * generator.total("parameters") + 2 * outputs
    bounds = {a.name: a.bound(generator.total("forward_flops"), moved, "f32") for a in ACCELERATORS}
    return {name: float(f"{1 / bound.seconds:.4g}") for name, bound in bounds.items()}


if __name__ == "__main__":
    main()

"""Training steps compiled with different options of XLA's CPU backend, in turns.

The networks are those of `recognition_step.py` and `restoration_step.py`. "default" has no options, "deconv_jax"
has `deconv_jax.compiler_options()`, and each other candidate adds one option to those.

  python experiments/benchmarks/compiler_options.py
"""

from collections.abc import Mapping
from unittest import mock

import jax
import recognition_step
import restoration_step
from peers import OURS, JaxTraining, check_losses, costs
from timing import parse_arguments, time_in_turns, time_ratios, write_record

from deconv_jax import compilation
from deconv_jax.cli.process import retain_freed_memory
from deconv_jax.compilation import compiler_options

CALLS, CHECKED_STEPS = 3, 3
DEFAULT = "default"
ADDED = {
    "backend_optimization_level=1": {"xla_backend_optimization_level": 1},
    "cpu_use_fusion_emitters=false": {"xla_cpu_use_fusion_emitters": False},
    "cpu_enable_fast_math=true": {"xla_cpu_enable_fast_math": True},
    "cpu_prefer_vector_width=512": {"xla_cpu_prefer_vector_width": 512},
    "cpu_enable_concurrency_optimized_scheduler=false": {
        "xla_cpu_enable_concurrency_optimized_scheduler": False
    },
    "cpu_copy_insertion_use_region_analysis=true": {
        "xla_cpu_copy_insertion_use_region_analysis": True
    },
}
CASES = {
    "classifier": recognition_step.CASES["classifier"],
    "U-Net": recognition_step.CASES["U-Net"],
    "photo denoiser": restoration_step.CASES["photo denoiser"],
}


def main() -> None:
    """Time each network with each set of options, and write the record."""
    arguments = parse_arguments(__file__, __doc__, rounds=9)
    jax.config.update("jax_platforms", "cpu")
    retain_freed_memory()
    ours = compiler_options()
    if not ours:
        raise SystemExit("this jaxlib or backend does not know the options of deconv_jax")
    options: dict[str, Mapping[str, object]] = {OURS: dict(ours), DEFAULT: {}}
    options |= {name: ours | added for name, added in ADDED.items()}
    times, ratios, cost = {}, {}, {}
    for name, make in CASES.items():
        case = make()
        candidates = {}
        for who, chosen in options.items():
            with mock.patch.object(compilation, "compiler_options", lambda chosen=chosen: chosen):
                candidates[who] = JaxTraining(case.step, case.state, case.batch)
        check_losses(candidates, CHECKED_STEPS)
        of_case = time_in_turns(candidates, rounds=arguments.rounds, calls=CALLS)
        times |= {f"{name}: {who}": ms for who, ms in of_case.items()}
        cost |= {f"{name}: {who}": value for who, value in costs(candidates).items()}
        of_pairs = time_ratios(of_case, *((who, OURS) for who in options if who != OURS))
        ratios |= {f"{name}: {pair}": ratio for pair, ratio in of_pairs.items()}
    write_record(
        arguments.output,
        measured="one training step, compiled with different options of XLA; float32, CPU",
        protocol=f"median over rounds of the mean of {CALLS} steps after a warm-up step; candidates interleaved in "
        "one process; freed memory is kept as by `deconv-jax train`; each option is added to those of "
        "deconv_jax",
        times=times,
        ratios=ratios,
        cost=cost,
        options={name: dict(chosen) for name, chosen in options.items()},
    )


if __name__ == "__main__":
    main()

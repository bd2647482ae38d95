"""XLA compiles the training steps for eight H100 and eight TPU v5e. No device is needed.

The compilers come with the extras `cuda` and `tpu`; a test whose compiler is not installed is skipped.
"""

import functools
import importlib.util
import re

import jax
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh
from task_cases import CASES, abstract

from deconv_jax.training.parallel import Devices

DEVICES = 8
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
runtime_version { major: 13 } platform_name: "CUDA" dnn_version_info { major: 9 minor: 12 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""Description of the GPU for XLA, in place of a device."""
COMPILERS = {"cuda": "jax_cuda13_plugin", "tpu": "libtpu"}

pytestmark = pytest.mark.slow


@pytest.fixture
def compiled(monkeypatch):
    """Return the program of a task's step for eight devices of a platform."""

    def compile_step(name, platform):
        if importlib.util.find_spec(COMPILERS[platform]) is None:
            pytest.skip(f"{COMPILERS[platform]} is not installed")
        # Do not ask the network which TPU this is.
        monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
        return compile_for(name, platform)

    return compile_step


@functools.cache
def compile_for(name, platform):
    if platform == "cuda":
        of_gpu = {"target_config": H100, "topology": f"1x1x{DEVICES}"}
        chips = topologies.get_topology_desc("H100", "cuda", **of_gpu).devices
    else:
        chips = topologies.get_topology_desc("v5e:2x4", "tpu").devices
    devices = Devices(Mesh(chips, ("data",), axis_types=(AxisType.Auto,)))
    state, example = abstract(name, 1)
    lowered = devices.lower(CASES[name][0].train_step, state, example, (1, 2 * DEVICES))
    # Algorithms cannot be timed without a device.
    return lowered.compile({"xla_gpu_autotune_level": 0} if platform == "cuda" else {})


@pytest.mark.parametrize("platform", COMPILERS)
@pytest.mark.parametrize("name", CASES)
def test_step_compiles_and_donates_its_state(compiled, name, platform):
    program = compiled(name, platform)
    header = program.as_text().splitlines()[0]
    aliases = re.findall(r"\{\d+\}: \(\d+, \{\}", header)
    assert len(aliases) == len(jax.tree.leaves(abstract(name)[0]))


@pytest.mark.parametrize("name", CASES)
def test_gpu_stores_no_zeros_between_pixels(compiled, name):
    """XLA would write a padding such as 2_2_1 (before, after, between) for each axis."""
    text = compiled(name, "cuda").as_text()
    assert "__cudnn$conv" in text
    before_convolutions = re.findall(r"pad\(.*padding=([\dx_-]+).*conv_general_dilated", text)
    assert [p for p in before_convolutions if re.search(r"\d_\d+_[1-9]", p)] == []


@pytest.mark.parametrize("platform", COMPILERS)
def test_gradients_of_a_network_without_norm_are_summed_by_one_all_reduce(compiled, platform):
    text = compiled("restoration", platform).as_text()
    assert len(re.findall(r" all-reduce(?:-start)?\(", text)) == 1
    assert not re.search(r" (all-gather|all-to-all|collective-permute)(-start)?\(", text)

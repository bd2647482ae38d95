"""The training steps as programs for a GPU, a TPU and several devices, read without running them."""

import collections
import dataclasses
import functools
import json
import re

import jax
import pytest
from task_cases import CASES, abstract

from deconv_jax.tasks import TASKS

pytestmark = pytest.mark.slow

HALF = [name for name in CASES if name != "compression"]
"""The tasks that can be trained in bfloat16."""

_OPERATION = re.compile(r"(%\w+) = stablehlo\.(\w+)")
_TYPES = re.compile(r": \(tensor<([^>]*)>, tensor<([^>]*)>\) -> tensor<([^>]*)>")


@functools.cache
def exported(name, platform, precision="f32"):
    """Return a step in StableHLO, the language in which it is given to XLA."""
    task = dataclasses.replace(CASES[name][0], precision=precision)
    step = jax.jit(task.train_step, donate_argnums=0)
    return jax.export.export(step, platforms=[platform])(*abstract(name)).mlir_module()


def convolutions(program):
    """Yield each convolution's window as a dict, its right operand's operation, and all its text."""
    operations = {}
    for line in program.splitlines():
        if "func.func" in line:
            operations = {}
        found = _OPERATION.search(line)
        if found is None:
            continue
        operations[found[1]] = line
        if found[2] == "convolution":
            window = re.search(r"window = \{(.*?)\} \{", line)[1]
            sizes = {
                k: json.loads(v) for k, v in re.findall(r"(\w+) = (\[.*?\](?!,? ?\[|\]))", window)
            }
            right = re.search(r"\(%\w+, (%\w+)\)", line)[1]
            yield sizes, operations.get(right, ""), line


def test_every_task_has_a_case():
    assert set(CASES) == set(TASKS)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("name", CASES)
def test_step_exports_and_donates_its_state(name, platform):
    program = exported(name, platform)
    assert "custom_call" not in re.sub(r"custom_call @Sharding", "", program)
    main = next(line for line in program.splitlines() if "func.func public @main" in line)
    assert main.count("tf.aliasing_output") == len(jax.tree.leaves(abstract(name)[0]))


@pytest.mark.parametrize("name", CASES)
def test_images_are_dilated_only_where_cudnn_skips_the_zeros(name):
    """XLA's GPU backend calls cuDNN's backward-data convolution for this pattern.

    It must have a stride of 1, no dilated kernel, no groups, a kernel that is a `reverse` along all spatial axes, and
    at most kernel size - 1 pixels of padding (xla/service/gpu/transforms/conv_rewriter.cc). A kernel gradient of this
    form would have an image as its kernel.
    """
    dilated = 0
    for window, kernel, line in convolutions(exported(name, "cuda")):
        if set(window.get("lhs_dilate", [1])) == {1}:
            continue
        dilated += 1
        assert set(window.get("stride", [1])) | set(window.get("rhs_dilate", [1])) == {1}, line
        assert re.search(r"stablehlo\.reverse %\w+, dims = \[0, 1\]", kernel), (line, kernel)
        assert "feature_group_count = 1" in line
        assert "batch_group_count = 1" in line
        sizes = _TYPES.search(line)[2].split("x")[:2]
        for pads, size in zip(window["pad"], sizes, strict=True):
            assert max(pads) < int(size)
    assert dilated > 0


@pytest.mark.parametrize("name", HALF)
def test_bfloat16_is_multiplied_and_float32_is_summed(name):
    """GPUs and TPUs sum the products of bfloat16 in float32; other sums have the type that is written."""
    products, sums = collections.Counter(), collections.Counter()
    for line in exported(name, "cuda", "bf16").splitlines():
        if re.search(r"stablehlo\.(convolution|dot_general)\b", line):
            products[tuple(t.split("x")[-1] for t in _TYPES.search(line).groups())] += 1
        if "applies stablehlo.add" in line or "reduce_window" in line:
            sums[re.search(r": \(tensor<([^>]*)>", line)[1].split("x")[-1]] += 1
    allowed = {("bf16",) * 3} | ({("f32",) * 3} if name == "vector_quantization" else set())
    assert set(products) == allowed
    assert "bf16" not in sums
    assert sums["f32"] > 0

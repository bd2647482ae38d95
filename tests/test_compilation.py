"""Tests of `jit` and its compiler options."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from deconv_jax import compilation
from deconv_jax.compilation import compiler_options, jit


@pytest.fixture
def forget_options():
    compilation._backend_knows_options.cache_clear()
    yield
    compilation._backend_knows_options.cache_clear()


def double(x):
    return 2 * x


def test_cpu_options_disable_ynnpack_fusion():
    assert set(compiler_options()) == {"xla_cpu_experimental_ynn_fusion_type"}


def test_convolutions_run_on_the_kernels_of_xla():
    def conv(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)

    shapes = (16, 32, 32, 64), (3, 3, 64, 64)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    assert "ynn_fusion" not in jit(conv).lower(*arrays).compile().as_text()
    assert "ynn_fusion" in jax.jit(conv).lower(*arrays).compile().as_text()


@pytest.mark.usefixtures("forget_options")
def test_options_that_jaxlib_does_not_support_are_left_out(monkeypatch):
    monkeypatch.setattr(compilation, "_CPU_OPTIONS", {"xla_cpu_no_such_option": "1"})
    assert compiler_options() == {}
    assert jit(double)(3) == 6


@pytest.mark.usefixtures("forget_options")
def test_other_backends_get_no_options(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiler_options() == {}


def test_options_are_a_copy():
    compiler_options().clear()
    assert compiler_options()


def test_first_import_while_tracing_changes_nothing():
    program = (
        "import jax\n"
        "def f(x):\n"
        "    from deconv_jax.compilation import jit\n"
        "    return jit(lambda x: 2 * x)(x)\n"
        "assert jax.jit(f)(1.0) == 2\n"
        "from deconv_jax import compilation\n"
        "assert not compilation._is_tracing()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=dict(os.environ))


def test_compiled_functions_nest_and_transform():
    inner = jit(double)
    assert jax.jit(lambda x: inner(x) + 1)(2.0) == 5
    assert jit(lambda x: inner(x) + 1)(2.0) == 5
    assert jax.grad(lambda x: inner(x) ** 2)(1.0) == 8
    assert jax.vmap(inner)(jnp.arange(3.0)).tolist() == [0, 2, 4]
    assert jax.eval_shape(inner, jnp.ones(3)).shape == (3,)


def test_methods_and_static_arguments_are_compiled():
    class Scale:
        factor = 3

        def _times(self, x, power):
            return self.factor**power * x

        times = jit(_times, static_argnums=(0, 2))

    assert Scale().times(2.0, 2) == 18
    times = functools.partial(jit(Scale().times, static_argnums=1).lower, 2.0)
    assert times(2).compile()(2.0) == 18


def test_importing_changes_no_environment_and_starts_no_backend():
    program = (
        "import os; before = dict(os.environ); import deconv_jax.ops, jax; "
        "assert dict(os.environ) == before; "
        # JAX refuses this setting once a backend has been initialized.
        "jax.config.update('jax_num_cpu_devices', 3); assert jax.device_count() == 3"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=dict(os.environ))

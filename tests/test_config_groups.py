"""Tests of the groups of settings that configs share."""

import doctest

import deconv_jax.config_groups


def test_docstring_examples_print_what_they_say():
    assert doctest.testmod(deconv_jax.config_groups) == (0, 3)

"""Blur kernels from image and NumPy files sum to one, or are refused."""

import os

import numpy as np
import pytest

from deconv_jax.data.images import write_image
from deconv_jax.errors import InputError
from deconv_jax.inference.restoration.blur_kernel import read_kernel


def test_kernels_from_images_and_arrays_sum_to_one(tmp_path):
    kernel = np.array([[0, 1, 0, 0], [1, 4, 1, 0]])
    np.save(tmp_path / "k.npy", kernel)
    read = read_kernel(tmp_path / "k.npy")
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, kernel / 7, rtol=1e-6)
    write_image(tmp_path / "k.png", (kernel / 5.0).astype(np.float32)[..., None])
    np.testing.assert_allclose(read_kernel(tmp_path / "k.png"), kernel / 7, atol=1e-3)
    gray = np.repeat((kernel / 5.0).astype(np.float32)[..., None], 3, axis=-1)
    write_image(tmp_path / "rgb.png", gray)
    np.testing.assert_array_equal(
        read_kernel(tmp_path / "rgb.png"), read_kernel(tmp_path / "k.png")
    )


@pytest.mark.parametrize(
    "kernel", [np.zeros((3, 3)), np.ones(3), np.full((2, 2), np.nan), np.ones((0, 2)), -np.eye(2)]
)
def test_arrays_that_are_not_kernels_are_refused(tmp_path, kernel):
    np.save(tmp_path / "k.npy", kernel)
    with pytest.raises(InputError, match=r"kernel .*k.npy must"):
        read_kernel(tmp_path / "k.npy")


def test_unreadable_kernel_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read kernel"):
        read_kernel(tmp_path / "none.npy")
    np.save(tmp_path / "k.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match="cannot read kernel"):
        read_kernel(tmp_path / "k.npy")
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    (tmp_path / "k.npy").write_bytes(
        b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(64)
    )
    with pytest.raises(InputError, match=r"cannot read kernel .*greater than file size"):
        read_kernel(tmp_path / "k.npy")
    np.save(tmp_path / "k.npy", np.ones((1, 2**24 + 1), np.uint8))
    with pytest.raises(InputError, match="at most 16777216 pixels"):
        read_kernel(tmp_path / "k.npy")
    with pytest.raises(
        InputError, match=r"k\.mat: MATLAB files are not supported; use \.png or \.npy"
    ):
        read_kernel(tmp_path / "k.mat")
    np.savez(tmp_path / "z.npz", a=np.ones(2))
    (tmp_path / "z.npz").rename(tmp_path / "z.npy")
    with pytest.raises(InputError, match="must be a 2-D array"):
        read_kernel(tmp_path / "z.npy")
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(InputError, match=r"cannot read kernel .*pipe\.npy: .*not a regular"):
        read_kernel(tmp_path / "pipe.npy")

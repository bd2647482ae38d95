"""Standard codecs report the size of the file and the image that it decodes to."""

import io

import numpy as np
import pytest
import skimage.data
from PIL import Image

from deconv_jax.errors import InputError
from deconv_jax.metrics import standard_codecs
from deconv_jax.metrics.standard_codecs import encode_decode, is_available


@pytest.mark.parametrize("codec", [c for c in ("JPEG", "WEBP", "AVIF") if is_available(c)])
@pytest.mark.parametrize("channels", [1, 3])
def test_higher_quality_gives_more_bytes_and_less_error(codec, channels):
    image = skimage.data.chelsea()[:96, :128, :channels]
    sizes, errors = [], []
    for quality in (10, 50, 90):
        size, decoded = encode_decode(image, codec, quality)
        assert (decoded.shape, decoded.dtype) == (image.shape, np.uint8)
        sizes.append(size)
        errors.append(np.mean(np.square(decoded.astype(float) - image)))
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)


def test_size_and_image_equal_those_of_the_file():
    image = skimage.data.chelsea()[:64, :64]
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=40, optimize=True)
    size, decoded = encode_decode(image, "JPEG", 40)
    assert size == len(file.getvalue())
    np.testing.assert_array_equal(decoded, np.asarray(Image.open(file)))


def test_unsupported_format_is_an_error(monkeypatch):
    monkeypatch.setattr(standard_codecs.features, "check", {}.get)
    with pytest.raises(InputError, match="without AVIF"):
        encode_decode(np.zeros((8, 8, 3), np.uint8), "AVIF", 50)

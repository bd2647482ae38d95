"""DiffAugment: what it does to an image, in which range, and that gradients pass through it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.data.differentiable_augment import differentiable_augment

KEY = jax.random.key(0)
COUNT, SIZE = 400, (16, 24)
KEYS = jax.random.split(KEY, COUNT)
augment = jax.jit(differentiable_augment, static_argnums=2)


def images_of(count, channels=3, size=SIZE, seed=0):
    return np.random.default_rng(seed).random((count, *size, channels), np.float32)


def alike(image):
    """Return one copy of an image per key."""
    return jnp.asarray(np.tile(image[None], (COUNT, 1, 1, 1)))


# Translation


def shifts():
    """Down and right in pixels, of each key: where it takes a single bright pixel."""
    dot = np.zeros((*SIZE, 1), np.float32)
    dot[8, 12] = 1.0
    moved = np.asarray(augment(KEYS, alike(dot), ("translation",)))
    found, rows, columns, _ = np.nonzero(moved)
    np.testing.assert_array_equal(found, np.arange(COUNT))
    return rows - 8, columns - 12


@pytest.mark.slow
def test_translation_is_uniform_up_to_an_eighth_and_fills_with_zeros():
    """16 x 24 pixels: by up to 2 and 3 pixels, all 5 x 7 shifts equally likely."""
    down, right = shifts()
    assert (down.min(), down.max(), right.min(), right.max()) == (-2, 2, -3, 3)
    places, counts = np.unique(np.stack([down, right]), axis=1, return_counts=True)
    assert places.shape[1] == 35
    # COUNT / 35 of each with a standard deviation of its root, about.
    assert np.abs(counts - COUNT / 35).max() < 5 * (COUNT / 35) ** 0.5
    images = images_of(40)
    moved = augment(KEYS[:40], jnp.asarray(images), ("translation",))
    for image, result, y, x in zip(images, moved, down, right, strict=False):
        padded = np.pad(image, ((2, 2), (3, 3), (0, 0)))
        expected = padded[2 - y :, 3 - x :][: SIZE[0], : SIZE[1]]
        np.testing.assert_array_equal(result, expected)


def test_an_eighth_of_a_side_is_rounded_half_up():
    """As in the authors' code: 12 and 20 pixels are translated by up to 2 and 3."""
    dots = np.zeros((COUNT, 12, 20, 1), np.float32)
    dots[:, 6, 10] = 1.0
    _, rows, columns, _ = np.nonzero(np.asarray(augment(KEYS, jnp.asarray(dots), ("translation",))))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 8, 7, 13)


# Cutout


def test_cutout_blanks_half_of_each_side_about_any_pixel():
    """8 x 12 pixels about one of 17 x 25 positions, clipped at the border."""
    blanked = np.asarray(augment(KEYS, alike(np.ones((*SIZE, 1), np.float32)), ("cutout",))) == 0
    corners = []
    for image in blanked[..., 0]:
        rows, columns = (np.flatnonzero(image.any(axis=axis)) for axis in (1, 0))
        # A rectangle, without a gap.
        assert image.sum() == len(rows) * len(columns)
        assert (np.diff(rows) == 1).all()
        assert (np.diff(columns) == 1).all()
        corners.append([rows[0], rows[-1], columns[0], columns[-1]])
        for found, size, n in ((rows, 8, 16), (columns, 12, 24)):
            at_border = found[0] == 0 or found[-1] == n - 1
            assert len(found) == size or (at_border and size // 2 <= len(found) < size)
    least, most = np.min(corners, axis=0), np.max(corners, axis=0)
    # The first row blanked is 0 to 12: centered at the last pixel's far side, 4 rows are left.
    np.testing.assert_array_equal(least, [0, 3, 0, 5])
    np.testing.assert_array_equal(most, [12, 15, 18, 23])
    # Nine of the 17 places leave the part whole across the rows, 13 of 25 across the columns.
    whole = np.mean(blanked.sum(axis=(1, 2, 3)) == 8 * 12)
    expected = 9 / 17 * 13 / 25
    assert abs(whole - expected) < 5 * (expected * (1 - expected) / COUNT) ** 0.5


def test_cutout_keeps_the_other_pixels():
    images = jnp.asarray(images_of(40)) + 0.1
    results = np.asarray(augment(KEYS[:40], images, ("cutout",)))
    blank = (results == 0).all(axis=-1)
    assert blank.any(axis=(1, 2)).all()
    np.testing.assert_array_equal(results[~blank], np.asarray(images)[~blank])


@pytest.mark.parametrize("size", [(9, 11), (7, 7)])
def test_cutout_of_odd_sides_never_blanks_the_whole_image(size):
    images = jnp.asarray(np.ones((COUNT, *size, 1), np.float32))
    blanked = np.asarray(augment(KEYS, images, ("cutout",)))[..., 0] == 0
    most = (size[0] // 2) * (size[1] // 2)
    assert blanked.sum(axis=(1, 2)).max() == most
    assert blanked.sum(axis=(1, 2)).min() >= 1
    assert blanked.any(axis=0).all()


@pytest.mark.slow
@pytest.mark.parametrize("policy", [("translation",), ("cutout",), ("cutout", "translation")])
def test_translation_and_cutout_are_linear(policy):
    """<A x, y> = <x, A' y>, with the same A' for any x."""
    x, other, y = (jnp.asarray(images_of(20, seed=seed)) for seed in range(3))

    @jax.jit
    def pulled(x):
        result, pull = jax.vjp(lambda x: differentiable_augment(KEYS[:20], x, policy), x)
        return result, pull(y)[0]

    (result, back), (_, again) = pulled(x), pulled(other)
    np.testing.assert_array_equal(back, again)
    products = [np.sum(np.asarray(a * b, np.float64)) for a, b in ((result, y), (x, back))]
    assert products[0] == pytest.approx(products[1], rel=1e-6)


# Color


def drawn():
    """Return brightness, saturation and contrast of each key, computed from two augmented images."""
    black = augment(KEYS, alike(np.zeros((*SIZE, 3), np.float32)), ("color",))
    brightness = np.asarray(black)[:, 0, 0, 0]
    # The left half in red, the right half in gray of the same mean: contrast moves the halves.
    image = np.zeros((*SIZE, 3), np.float32)
    image[:, :12] = [0.9, 0.3, 0.0]
    image[:, 12:] = 0.8
    result = np.asarray(augment(KEYS, alike(image), ("color",)))
    contrast = (result[:, 0, 12].mean(-1) - result[:, 0, 0].mean(-1)) / 0.4
    saturation = (result[:, 0, 0, 0] - result[:, 0, 0, 2]) / 0.9 / contrast
    return brightness, saturation, contrast


def test_color_strengths_have_the_ranges_of_the_authors():
    for values, (least, most) in zip(drawn(), [(-0.25, 0.25), (0.0, 2.0), (0.5, 1.5)], strict=True):
        near = 0.02 * (most - least)
        assert least - 1e-5 <= values.min() < least + near
        assert most - near < values.max() <= most + 1e-5
        mean, deviation = (least + most) / 2, (most - least) / 12**0.5
        assert abs(values.mean() - mean) < 5 * deviation / COUNT**0.5


def test_color_is_brightness_then_saturation_then_contrast():
    images = images_of(COUNT)
    results = augment(KEYS, jnp.asarray(images), ("color",))
    brightness, saturation, contrast = (v[:, None, None, None] for v in drawn())
    expected = images + brightness
    gray = expected.mean(-1, keepdims=True)
    expected = gray + saturation * (expected - gray)
    mean = expected.mean(axis=(1, 2, 3), keepdims=True)
    expected = mean + contrast * (expected - mean)
    np.testing.assert_allclose(results, expected, atol=2e-5)


def test_saturation_does_not_change_gray_images():
    """With one channel or three equal ones, only brightness and contrast change."""
    gray = images_of(COUNT, channels=1)
    brightness, _, contrast = (v[:, None, None, None] for v in drawn())
    mean = gray.mean(axis=(1, 2, 3), keepdims=True)
    expected = mean + brightness + contrast * (gray - mean)
    for channels in (1, 3):
        images = jnp.asarray(np.repeat(gray, channels, axis=-1))
        results = augment(KEYS, images, ("color",))
        np.testing.assert_allclose(results, np.repeat(expected, channels, -1), atol=2e-5)


def test_gradients_pass_through_color():
    """Color is affine in the image, so its gradient predicts any change exactly."""
    x, step, y = (jnp.asarray(images_of(8, seed=seed)) for seed in range(3))

    def through(x):
        return jnp.sum(differentiable_augment(KEYS[:8], x, ("color",)) * y)

    slope = jax.jit(jax.grad(through))(x)
    change = jax.jit(through)(x + step) - jax.jit(through)(x)
    assert jnp.sum(slope * step) == pytest.approx(float(change), rel=1e-3)
    assert (jnp.abs(slope).max(axis=(1, 2, 3)) > 0).all()


# All


def test_empty_policy_is_the_identity():
    images = jnp.asarray(images_of(4))
    np.testing.assert_array_equal(differentiable_augment(KEYS[:4], images, ()), images)


def test_steps_of_a_policy_are_independent():
    """The same augmentation twice uses different random numbers."""
    dot = np.zeros((*SIZE, 1), np.float32)
    dot[8, 12] = 1.0
    moved = np.asarray(augment(KEYS, alike(dot), ("translation", "translation")))
    rows, columns = (np.nonzero(moved)[axis] - center for axis, center in ((1, 8), (2, 12)))
    first = shifts()
    assert (rows % 2 == 1).any()
    seconds = np.stack([rows - first[0], columns - first[1]])
    assert (np.abs(seconds) <= [[2], [3]]).all()
    assert np.corrcoef(first[0], seconds[0])[0, 1] == pytest.approx(0, abs=5 / COUNT**0.5)


def test_result_depends_only_on_the_key():
    policy = ("color", "translation", "cutout")
    images = jnp.asarray(images_of(16))
    results = augment(KEYS[:16], images, policy)
    order = np.random.default_rng(1).permutation(16)
    np.testing.assert_array_equal(augment(KEYS[order], images[order], policy), results[order])
    other = augment(KEYS[16:32], images, policy)
    assert (np.asarray(other) != np.asarray(results)).any(axis=(1, 2, 3)).all()

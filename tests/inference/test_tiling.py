"""Tiled restoration equals restoration of the whole image, for every restoration network."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from deconv_jax.errors import InputError
from deconv_jax.inference import memory, tiling
from deconv_jax.inference.tiling import (
    MAX_TILE,
    default_tile,
    min_tile,
    restore_tiled,
    tile_plan,
)
from deconv_jax.models import MODELS
from deconv_jax.models.receptive_field import ReceptiveField

FIELDS = [
    ReceptiveField(0, 0),
    ReceptiveField(2, 3),
    ReceptiveField(5, 1, multiple=4),
    ReceptiveField(7, 9, multiple=8, scale=2),
]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("lengths", [(40, 96), (8, 64)])
def test_inner_regions_partition_the_image_and_their_receptive_fields_are_covered(field, lengths):
    for tile in (min_tile(field), min_tile(field) + field.multiple, 33):
        plan = tile_plan(lengths, tile, field)
        count = np.zeros(lengths, int)
        for piece in plan:
            count[np.ix_(*piece.inner)] += 1
            for window, inner, length in zip(piece.window, piece.inner, lengths, strict=True):
                assert window.start % field.multiple == 0
                assert window.start >= 0
                assert window.stop <= length
                # The receptive field of the inner region, clipped to the image, is in the window.
                assert max(inner.start - field.before, 0) >= window.start
                assert min(inner.stop + field.after, length) <= window.stop
        np.testing.assert_array_equal(count, 1)
        assert len({tuple(map(len, piece.window)) for piece in plan}) == 1
        for window in plan[0].window:
            assert len(window) % field.multiple == 0
            assert len(window) <= max(tile, field.multiple)


def test_tiles_step_by_their_inner_size():
    # A tile of 10 pixels without the first 2 and the last 3 leaves 5 per step.
    rows = [piece.window[0].start for piece in tile_plan((30, 10), 10, ReceptiveField(2, 3))]
    assert rows == [0, 5, 10, 15, 20]
    assert len(tile_plan((30, 30), None, ReceptiveField(2, 3))) == 1


def test_too_small_tiles_and_wrong_sizes_are_refused():
    field = ReceptiveField(5, 6, multiple=4)
    assert min_tile(field) == 16
    with pytest.raises(InputError, match=r"tile must be at least 16 pixels .* got 15"):
        tile_plan((32, 16), 15, field)
    # An image that fits into one tile needs no overlap.
    assert len(tile_plan((8, 8), 8, field)) == 1
    with pytest.raises(InputError, match=r"multiples of 4 .*; got 30"):
        tile_plan((30, 32), 16, field)
    with pytest.raises(InputError, match="at least one pixel"):
        restore_tiled(np.asarray, np.zeros((0, 3, 1), np.float32), field)


def check_tiled_equals_whole(model, variables, image, tile):
    """Check that tiles have one shape and give the whole image's output; return their number."""
    field = model.receptive_field()
    compiled = jax.jit(model.apply)
    shapes = []

    def apply(images):
        shapes.append(images.shape)
        return compiled(variables, images)

    whole = restore_tiled(apply, image, field)
    tiled = restore_tiled(apply, image, field, tile)
    assert len(set(shapes[1:])) == 1
    assert tiled.shape == (*(n * field.scale for n in image.shape[:2]), model.channels)
    scale = max(1.0, float(np.abs(whole).max()))
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-5 * scale)
    return len(shapes) - 1


def small_networks():
    """Yield every registered restoration network with few channels and layers, at every scale."""
    for name, kind in MODELS.items():
        if not hasattr(kind, "receptive_field"):
            continue
        small = {}
        for field in dataclasses.fields(kind):
            if field.name in ("d", "s", "m", "depth", "features", "growth"):
                small[field.name] = _small(field.default)
            elif field.name == "blocks":  # More blocks of an RRDBNet exceed the overlap of tiles.
                small[field.name] = 1
        scalable = any(field.name == "scale" for field in dataclasses.fields(kind))
        scales = (2, 4) if name == "rrdbnet" else (2, 3, 4)
        for scale in scales if scalable else (None,):
            fields = small if scale is None else small | {"scale": scale}
            label = name if scale is None else f"{name}-x{scale}"
            yield pytest.param(kind(**fields), id=label)
    yield pytest.param(MODELS["conv_deconv"](features=(4, 4), stride=2), id="restorer-strided")
    for upsampling in ("transposed", "resize"):
        model = MODELS["espcn"](scale=3, features=(4, 4), upsampling=upsampling)
        yield pytest.param(model, id=f"espcn-{upsampling}")
    yield pytest.param(MODELS["unet"](features=(4, 4), upsampling="resize"), id="unet-resize")


def _small(value):
    return tuple(map(_small, value)) if isinstance(value, tuple) else min(value, 4)


@pytest.mark.parametrize("model", list(small_networks()))
def test_tiled_equals_whole(model, random_variables, draw):
    field = model.receptive_field()
    # Sizes are not multiples of the stride, and some tiles have neighbors on all sides.
    tile = min_tile(field) + field.multiple
    side = tile + 3 * field.multiple
    image = draw(side + 1, side + 2 * field.multiple - 1, model.channels)
    variables = random_variables(model, model.channels)
    assert check_tiled_equals_whole(model, variables, image, tile) >= 9
    # Tiles along one axis only.
    assert check_tiled_equals_whole(model, variables, image[:1], tile) >= 3


def test_receptive_field_is_tight(random_variables, draw):
    model = MODELS["dncnn"](depth=4, features=4)
    field = model.receptive_field()
    variables, image = random_variables(model, 1), draw(40, 40, 1)
    apply = functools.partial(jax.jit(model.apply), variables)
    whole = restore_tiled(apply, image, field)
    for side in ("before", "after"):
        smaller = dataclasses.replace(field, **{side: getattr(field, side) - 1})
        assert np.abs(restore_tiled(apply, image, smaller, 16) - whole).max() > 1e-3


def test_images_are_padded_symmetrically_and_outputs_cropped(draw):
    image = draw(5, 3, 2)
    seen = []

    def apply(images):
        seen.append(images[0])
        return images.repeat(3, axis=1).repeat(3, axis=2)

    field = ReceptiveField(0, 0, multiple=4, scale=3)
    restored = restore_tiled(apply, image, field)
    np.testing.assert_array_equal(restored, image.repeat(3, axis=0).repeat(3, axis=1))
    mirrored = image[[0, 1, 2, 3, 4, 4, 3, 2]][:, [0, 1, 2, 2]]
    np.testing.assert_array_equal(seen[0], mirrored)
    # A single pixel is mirrored repeatedly.
    np.testing.assert_array_equal(
        restore_tiled(apply, image[:1, :1], field)[::3, ::3], image[:1, :1]
    )
    np.testing.assert_array_equal(seen[1], np.broadcast_to(image[0, 0], (4, 4, 2)))


def test_progress_is_reported_and_a_wrong_output_size_is_refused(draw):
    shares = []
    restore_tiled(np.asarray, draw(8, 4, 1), ReceptiveField(0, 0), 4, shares.append)
    assert shares == [0.5, 1.0]
    with pytest.raises(
        InputError, match=r"scale 2 must output \(16, 8\) pixels for a tile; got \(8, 4\)"
    ):
        restore_tiled(np.asarray, draw(8, 4, 1), ReceptiveField(0, 0, scale=2))


def test_default_tile_fits_the_free_memory(monkeypatch):
    field = ReceptiveField(3, 3, multiple=4)

    def side(free, bytes_per_pixel=1000, field=field):
        monkeypatch.setattr(tiling, "free_memory", lambda: free)
        return default_tile(lambda side: bytes_per_pixel * side**2, field)

    # A quarter of the memory suffices for a tile of 502 pixels, which is rounded down to 500.
    assert side(4 * 1000 * 502**2) == 500
    assert side(10**15) == MAX_TILE
    assert side(0) == min_tile(field) == 12
    # A large overlap justifies a larger tile.
    assert side(10**15, field=ReceptiveField(400, 400)) == 3200
    monkeypatch.undo()
    assert 10**7 < memory.free_memory() < 10**15

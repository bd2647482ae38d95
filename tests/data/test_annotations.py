"""Annotated images are resized with their annotations and padded to a batch."""

import numpy as np

from deconv_jax.data.annotations import Example, pad_to_batch, resize_example


def test_resizing_keeps_the_aspect_and_every_class():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (30, 50, 1), np.uint8)
    segments = random.choice(np.array([3, 9, 255], np.uint8), (30, 50))
    boxes = np.array([[3, 5, 30, 50]], np.float32)
    example = Example(image, segments, boxes, np.array([4], np.int32))
    same = resize_example(example, 50)
    for found, expected in zip(same, example, strict=True):
        np.testing.assert_array_equal(found, expected)
    large = resize_example(example, 100)
    np.testing.assert_array_equal(large.segments, segments.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(large.boxes, 2 * boxes)
    small = resize_example(example, 25)
    assert small.image.shape == (15, 25, 1)
    assert set(np.unique(small.segments)) == {3, 9, 255}
    # Antialiased: a mean of about four pixels, with a third of the deviation of one.
    assert small.image.std() < 0.6 * image.std()
    assert resize_example(Example(np.zeros((2, 400, 3), np.uint8)), 40).image.shape == (1, 40, 3)


def test_largest_boxes_are_kept_in_their_order():
    sides = np.array([3, 1, 5, 2, 4], np.float32)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=1)
    example = Example(np.zeros((8, 8, 3), np.uint8), None, boxes, np.arange(5, dtype=np.int32))
    batch = pad_to_batch([example], (8, 8), 3)
    np.testing.assert_array_equal(batch["box_class"], [[0, 2, 4]])
    np.testing.assert_array_equal(batch["boxes"][0], boxes[[0, 2, 4]])

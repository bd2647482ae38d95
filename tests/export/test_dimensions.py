import jax
import pytest

from deconv_jax.export.dimensions import evaluate_dimension

(height, width) = jax.export.symbolic_shape("height, width")
SIZES = {"height": 7, "width": 4}


@pytest.mark.parametrize(
    ("dimension", "value"),
    [
        (3, 3),
        (height, 7),
        (2 * height + 1, 15),
        (height * width - 5, 23),
        (-2 * height + 3 * width, -2),
        (height * height, 49),
        (height // 2, 3),
        (-(-height // 2), 4),
        (height % 2 + width, 5),
        (jax.core.max_dim(height, width), 7),
        (jax.core.min_dim(height, width), 4),
    ],
    ids=str,
)
def test_expression_has_the_value_of_the_dimension(dimension, value):
    assert evaluate_dimension(dimension, SIZES) == value

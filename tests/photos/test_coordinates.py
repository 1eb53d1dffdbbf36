"""Maps of coordinates and their inverses: resizing, and EXIF's eight orientations."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eloftr.matching.resizing import to_original
from pipeline.photos.exif import TRANSPOSE
from pipeline.photos.sizes import bucket, buckets, resize_factor
from pipeline.reconstruct.cameras.images import StoredImages

SIDES = st.integers(1, 20_000)
LONG_SIDES = st.integers(32, 2048)


def to_resized(points: np.ndarray, shape: tuple[int, int], original: tuple[int, int]) -> np.ndarray:
    """Pixels of the original → pixels of the resized image, as a resize maps pixel centres."""
    scale = np.array([original[1] / shape[1], original[0] / shape[0]])
    return (points + 0.5) / scale - 0.5


@given(SIDES, SIDES, LONG_SIDES, st.floats(0, 1), st.floats(0, 1))
def test_there_and_back_is_the_same_place(
    width: int, height: int, long_side: int, x: float, y: float
) -> None:
    original, shape = (height, width), bucket(width, height, long_side)
    point = np.array([[x * width - 0.5, y * height - 0.5]])
    back = to_original(to_resized(point, shape, original), shape, original)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, point, atol=max(width, height) * 1e-6)


@given(SIDES, SIDES, LONG_SIDES)
def test_the_borders_of_the_resized_image_are_those_of_the_original(
    width: int, height: int, long_side: int
) -> None:
    h, w = shape = bucket(width, height, long_side)
    corners = to_original(np.array([[-0.5, -0.5], [w - 0.5, h - 0.5]]), shape, (height, width))
    np.testing.assert_allclose(corners, [[-0.5, -0.5], [width - 0.5, height - 0.5]], rtol=1e-6)
    assert shape in buckets(long_side)


@given(SIDES, SIDES, st.floats(0, 1), st.floats(0, 1))
def test_an_image_that_keeps_its_size_keeps_its_coordinates(
    width: int, height: int, x: float, y: float
) -> None:
    point = np.array([[x * width - 0.5, y * height - 0.5]])
    np.testing.assert_array_equal(
        to_original(point, (height, width), (height, width)), point.astype(np.float32)
    )


@given(SIDES, SIDES, LONG_SIDES)
def test_the_resize_factor_is_the_same_for_both_directions(
    width: int, height: int, long_side: int
) -> None:
    assert resize_factor(width, height, long_side) == resize_factor(height, width, long_side) >= 1


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 8), st.data())
def test_a_pixel_of_the_upright_image_is_found_where_the_file_stores_it(
    stored_width: int, stored_height: int, orientation: int, data: st.DataObject
) -> None:
    numbers = np.arange(stored_width * stored_height, dtype=np.int32).reshape(
        stored_height, stored_width
    )
    stored = Image.fromarray(numbers)
    upright = np.asarray(stored.transpose(TRANSPOSE[orientation]) if orientation > 1 else stored)
    height, width = upright.shape
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    columns = (
        np.array([value])
        for value in (width, height, stored_width, stored_height, orientation, np.nan)
    )
    (turn,) = StoredImages(
        np.array(["a.jpg"], object), *columns, np.array([""], object)
    ).to_stored()
    u, v = (turn @ [x, y, 1])[:2] - 0.5  # COLMAP's origin is the corner of the first pixel
    assert numbers[int(v), int(u)] == upright[y, x]

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pytest

from pipeline.tables import (
    FAILURES,
    IMAGES,
    KEYPOINTS,
    MATCHES,
    PAIRS,
    POINT,
    SHARDS,
    ragged,
    unragged,
)

RAGGED = [
    pa.list_(POINT),
    pa.list_(pa.float32()),
    pa.list_(pa.bool_()),
    pa.list_(pa.list_(pa.int32(), 2)),
]


def rows_of(kind: pa.DataType, lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    fixed = pa.types.is_fixed_size_list(kind.value_type)
    scalar = kind.value_type.value_type if fixed else kind.value_type
    shapes = [(n, kind.value_type.list_size) if fixed else (n,) for n in lengths]
    return [rng.integers(0, 2, shape).astype(scalar.to_pandas_dtype()) for shape in shapes]


def equal(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return len(first) == len(second) and all(
        a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("kind", RAGGED)
@pytest.mark.parametrize("lengths", [[], [0], [3], [0, 2, 0, 5, 1, 0]])
def test_ragged_rows_come_back_as_they_went_in(kind: pa.DataType, lengths: list[int]) -> None:
    rows = rows_of(kind, lengths)
    column = ragged(rows, kind)
    column.validate(full=True)
    assert column.type == kind
    assert column.to_pylist() == [row.tolist() for row in rows]
    assert equal(unragged(column), rows)
    assert equal(unragged(pa.chunked_array([column, column], kind)), rows + rows)
    assert unragged(pa.chunked_array([], kind)) == []


@pytest.mark.parametrize("kind", RAGGED)
def test_slices_and_nulls_of_a_ragged_column_are_read_right(kind: pa.DataType) -> None:
    rows = rows_of(kind, [4, 0, 2, 3])
    column = ragged(rows, kind)
    assert equal(unragged(column.slice(1, 2)), rows[1:3])
    masked = pa.ListArray.from_arrays(
        column.offsets, column.values, type=kind, mask=pa.array([False, False, True, False])
    )
    assert [len(row) for row in unragged(masked)] == [4, 0, 0, 3]
    assert equal(unragged(masked)[3:], rows[3:])
    inner = pa.concat_arrays([column.values.slice(0, 1), column.values]).slice(1)
    assert equal(unragged(pa.ListArray.from_arrays(column.offsets, inner, type=kind)), rows)


def test_rows_of_the_wrong_width_are_refused() -> None:
    with pytest.raises(ValueError, match="9 values for a column of list"):
        ragged([np.zeros((3, 3))], pa.list_(POINT))
    with pytest.raises(ValueError, match="6 values for a column of list"):
        ragged([np.zeros((3, 2))], pa.list_(pa.float32()))


def test_every_table_says_its_version_units_and_origin() -> None:
    for schema in (PAIRS, SHARDS, IMAGES, MATCHES, FAILURES, KEYPOINTS):
        assert set(schema.metadata) == {b"version", b"units", b"origin"}
        assert schema.empty_table().num_rows == 0


def test_thirty_two_pairs_of_five_thousand_matches_become_a_column_without_python_objects() -> None:
    rows = [np.zeros((5000, 2), np.float32)] * 32
    start = time.process_time()
    unragged(ragged(rows, pa.list_(POINT)))
    assert time.process_time() - start < 0.1

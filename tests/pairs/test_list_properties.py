"""Whatever an image is called, a list that was written is read back as it was, or refused when it
is written.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import PairListError
from pipeline.pairs.formats import ENDINGS, write_list
from pipeline.pairs.pair_list import PairList, check_pairs, exhaustive, pairs_table, read_pairs
from pipeline.tables import FAILURES

FORMATS = [(ending, wanted) for ending, formats in ENDINGS.items() for wanted in formats]
SCORED = ("parquet", "csv", "kapture")
# Letters that lists give a meaning to, others of everyday names, and any at all.
LETTERS = st.one_of(
    st.sampled_from(" \"',#\t;/\\-._aB1äü東\u00a0\u3000\ufeff"),
    st.characters(exclude_categories=["Cs"]),
)
NAMES = st.lists(
    st.text(LETTERS, max_size=8).map("{}.jpg".format), min_size=2, max_size=5, unique=True
)
NBSP = "\u00a0"  # which Python and Arrow take for white space, and regular expressions do not


@st.composite
def lists(draw: st.DrawFn) -> tuple[list[str], PairList]:
    """Names of images, and some of their pairs with scores."""
    names = sorted(draw(NAMES))
    pairs = exhaustive(len(names))
    pairs = pairs[draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs)))]
    numbers = st.floats(-100, 100, width=32)
    scores = np.array(draw(st.lists(numbers, min_size=len(pairs), max_size=len(pairs))), np.float32)
    return names, PairList(pairs, scores, FAILURES.empty_table(), 0)


def listed(*names: str) -> tuple[list[str], PairList]:
    """All pairs of these names."""
    names = tuple(sorted(names))
    pairs = exhaustive(len(names))
    return [*names], PairList(pairs, np.ones(len(pairs), np.float32), FAILURES.empty_table(), 0)


@pytest.mark.parametrize(("ending", "wanted"), FORMATS)
@given(lists())
@example(listed("#a.jpg", "b.jpg"))
@example(listed(f"{NBSP}a.jpg", f"{NBSP}b.jpg"))
@example(listed("\ufeffa.jpg", "\ufeffb.jpg"))
@example(listed("\x1f.jpg", ".jpg"))
@example(listed("a.jpg", f"b{NBSP}c.jpg"))
def test_a_list_that_was_written_is_read_back(
    ending: str, wanted: str, given_list: tuple[list[str], PairList]
) -> None:
    names, found = given_list
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"pairs{ending}"
        with suppress(PairListError):
            write_list(path, names, found, wanted)
        if not path.exists():
            with pytest.raises(PairListError, match="cannot hold this name; give"):
                write_list(path, names, found, wanted)
            assert wanted != "parquet"
            return
        again = read_pairs(path, names)
    assert again.failures.num_rows == 0, again.failures["detail"].to_pylist()
    assert again.duplicates == 0
    np.testing.assert_array_equal(again.pairs, found.pairs)
    if wanted in SCORED and len(found.pairs):
        assert again.scores is not None
        np.testing.assert_array_equal(again.scores, found.scores)


@given(lists(), st.randoms(use_true_random=False))
def test_the_order_of_rows_and_sides_changes_nothing(
    given_list: tuple[list[str], PairList], random: object
) -> None:
    names, found = given_list
    order = list(range(len(found.pairs)))
    random.shuffle(order)  # type: ignore[attr-defined]
    turned = found.pairs[order][:, ::-1]
    again = check_pairs(pairs_table(names, turned, found.scores[order]), names)
    np.testing.assert_array_equal(again.pairs, found.pairs)
    assert (again.duplicates, again.failures.num_rows) == (0, 0)

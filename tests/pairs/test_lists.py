from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline.errors import PairListError
from pipeline.pairs.candidates import read_candidates
from pipeline.pairs.formats import (
    FORMATS,
    MOST,
    OF_CANDIDATES,
    format_of,
    minus,
    of_pairs,
    read_lists,
    sample,
    union,
    write_candidates,
    write_list,
)
from pipeline.pairs.pair_list import PairList, read_pairs
from pipeline.tables import CANDIDATES, FAILURES

NAMES = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


def listed(*pairs: tuple[int, int], scores: list[float] | None = None) -> PairList:
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    return of_pairs(first, second, None if scores is None else np.array(scores, np.float32))


def test_pairs_in_any_order_and_direction_become_canonical() -> None:
    found = listed((3, 1), (0, 2), (1, 3), (2, 0), (0, 1), scores=[0.25, 0.5, 0.75, np.nan, np.nan])
    assert found.pairs.tolist() == [[0, 1], [0, 2], [1, 3]]
    assert found.pairs.dtype == np.int32
    np.testing.assert_array_equal(found.scores, np.array([np.nan, 0.5, 0.75], np.float32))
    assert found.failures.schema.equals(FAILURES, check_metadata=True)


@pytest.mark.parametrize(
    ("name", "wanted", "text"),
    [
        ("p.csv", None, '"image0","image1","score"\n"a.jpg","b.jpg",0.5\n"b.jpg","d.jpg",\n'),
        (
            "p.csv",
            "kapture",
            "# kapture format: 1.1\n# query_image, map_image, score\n"
            "a.jpg,b.jpg,0.5\nb.jpg,d.jpg,1\n",
        ),
        ("p.txt", None, "a.jpg b.jpg\nb.jpg d.jpg\n"),
        ("p.txt", "hloc", "a.jpg b.jpg\nb.jpg d.jpg\n"),
        ("p.txt", "colmap", "a.jpg b.jpg\nb.jpg d.jpg\n"),
        (
            "p.txt",
            "kapture",
            "# kapture format: 1.1\n# query_image, map_image, score\n"
            "a.jpg,b.jpg,0.5\nb.jpg,d.jpg,1\n",
        ),
        ("p.parquet", None, None),
    ],
)
def test_every_format_is_written_as_its_programs_read_it(
    tmp_path: Path, name: str, wanted: str | None, text: str | None
) -> None:
    found = listed((0, 1), (1, 3), scores=[0.5, np.nan])
    write_list(tmp_path / name, NAMES, found, wanted)
    if text is not None:
        assert (tmp_path / name).read_text() == text
    again = read_pairs(tmp_path / name, NAMES)
    assert again.pairs.tolist() == found.pairs.tolist()
    assert len(again.failures) == 0
    if wanted is None and name != "p.txt":
        np.testing.assert_array_equal(again.scores, found.scores)


ODD = (
    "c d.jpg",
    "c,d.jpg",
    'c"d.jpg',
    "#c.jpg",
    " c.jpg",
    "c.jpg ",
    "c\nd.jpg",
    "ü/1e5.jpg",
    "c\td.jpg",
)


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "trec"])
def test_odd_names_are_read_again_or_refused(tmp_path: Path, form: str) -> None:
    path = tmp_path / {"parquet": "p.parquet", "csv": "p.csv"}.get(form, "p.txt")
    for odd in ODD:
        names = sorted(["a.jpg", odd])
        try:
            write_list(path, names, listed((0, 1), scores=[1e-9]), form)
        except PairListError as error:
            assert "cannot hold this name; give" in str(error)  # noqa: PT017
            assert form != "parquet"
            continue
        again = read_pairs(path, names)
        assert (again.pairs.tolist(), len(again.failures)) == ([[0, 1]], 0), odd


def candidates(*rows: tuple[str, str, float]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [[], [], []]
    return pa.table(
        [pa.array(column, f.type) for column, f in zip(columns, CANDIDATES, strict=True)],
        CANDIDATES,
    )


@pytest.mark.parametrize(
    ("name", "wanted", "text"),
    [
        (
            "c.csv",
            None,
            '"query","candidate","score"\n"b.jpg","c.jpg",0.5\n"b.jpg","a.jpg",-0.25\n"c.jpg","b.jpg",0.5\n',
        ),
        ("c.csv", "kapture", None),
        ("c.txt", None, "b.jpg c.jpg\nb.jpg a.jpg\nc.jpg b.jpg\n"),
        ("c.txt", "kapture", None),
        *(
            (
                name,
                wanted,
                "b.jpg Q0 c.jpg 1 0.5 eloftr\nb.jpg Q0 a.jpg 2 -0.25 eloftr\n"
                "c.jpg Q0 b.jpg 1 0.5 eloftr\n",
            )
            for name, wanted in (("c.txt", "trec"), ("c.trec", None), ("c.run", None))
        ),
        ("c.parquet", None, None),
    ],
)
def test_candidates_are_read_again_in_their_order_and_both_directions(
    tmp_path: Path, name: str, wanted: str | None, text: str | None
) -> None:
    rows = [("b.jpg", "c.jpg", 0.5), ("b.jpg", "a.jpg", -0.25), ("c.jpg", "b.jpg", 0.5)]
    write_candidates(tmp_path / name, candidates(*rows), wanted)
    if text is not None:
        assert (tmp_path / name).read_text() == text
    found = read_candidates(tmp_path / name, NAMES, NAMES, pc.equal)
    assert list(zip(found.query.to_pylist(), found.candidate.to_pylist(), strict=True)) == [
        row[:2] for row in rows
    ]
    assert found.rank.tolist() == [1, 2, 1]
    assert (found.failures.num_rows, found.duplicates) == (0, 0)
    if (name, wanted) != ("c.txt", None):
        assert found.score.to_pylist() == [0.5, -0.25, 0.5]


@pytest.mark.parametrize("form", FORMATS)
def test_odd_names_of_candidates_are_read_again_or_refused(tmp_path: Path, form: str) -> None:
    path = tmp_path / {"parquet": "c.parquet", "csv": "c.csv"}.get(form, "c.txt")
    for odd in ODD:
        rows = [("a.jpg", odd, 0.5), (odd, "a.jpg", 0.5)]
        try:
            write_candidates(path, candidates(*rows), form)
        except PairListError as error:
            assert "cannot hold this name; give" in str(error)  # noqa: PT017
            assert form != "parquet"
            continue
        found = read_candidates(path, ["a.jpg", odd], ["a.jpg", odd], pc.equal)
        pairs = list(zip(found.query.to_pylist(), found.candidate.to_pylist(), strict=True))
        assert sorted(pairs) == sorted(row[:2] for row in rows), odd


def test_no_candidates_make_an_empty_list(tmp_path: Path) -> None:
    for ending in OF_CANDIDATES:
        write_candidates(tmp_path / f"c{ending}", candidates())
        with pytest.raises(PairListError, match="is empty"):
            read_candidates(tmp_path / f"c{ending}", NAMES, NAMES, pc.equal)


def test_names_that_are_in_no_pair_may_be_odd(tmp_path: Path) -> None:
    write_list(tmp_path / "p.txt", ["a", "b", "c d"], listed((0, 1)))
    assert (tmp_path / "p.txt").read_text() == "a b\n"


def test_more_than_a_list_can_hold_is_refused(tmp_path: Path) -> None:
    for names, found in (
        (["a", "b"], PairList(np.zeros((MOST + 1, 2), np.int32), None, FAILURES.empty_table(), 0)),
        (
            ["a" * 5_000, "b"],
            PairList(np.zeros((500_000, 2), np.int32), None, FAILURES.empty_table(), 0),
        ),
    ):
        with pytest.raises(PairListError, match="too many for one list"):
            write_list(tmp_path / "p.csv", names, found)
    assert list(tmp_path.iterdir()) == []


def test_a_list_without_pairs_is_written_and_read(tmp_path: Path) -> None:
    for name in ("p.txt", "p.csv", "p.parquet"):
        write_list(tmp_path / name, NAMES, listed())
        assert len(read_pairs(tmp_path / name, NAMES).pairs) == 0


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("p.list", None, "by its ending"),
        ("p.parquet", "hloc", "none of the formats of its ending"),
        ("p.csv", "colmap", "none of the formats of its ending"),
        ("p.txt", "trec", "none of the formats of its ending"),
        ("p.run", None, "is no pair list by its ending; give a .parquet, .csv or .txt file"),
    ],
)
def test_endings_and_formats_must_fit(name: str, wanted: str | None, message: str) -> None:
    with pytest.raises(PairListError, match=message):
        format_of(f"s3://bucket/{name}", wanted)


def test_several_lists_are_read_over_all_their_names(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("c.jpg a.jpg 0.5\nc.jpg c.jpg\n")
    (tmp_path / "two.csv").write_text("image0,image1\nb.jpg,a.jpg\nb.jpg\n")
    names, (one, two) = read_lists([str(tmp_path / "one.txt"), str(tmp_path / "two.csv")])
    assert names == ["a.jpg", "b.jpg", "c.jpg"]
    assert (one.pairs.tolist(), two.pairs.tolist()) == ([[0, 2]], [[0, 1]])
    reasons = [found.failures["reason"].to_pylist() for found in (one, two)]
    assert reasons == [["self_pair"], ["malformed_line"]]
    known, (one, two) = read_lists(
        [str(tmp_path / "one.txt"), str(tmp_path / "two.csv")], ["a.jpg", "b.jpg"]
    )
    assert known == ["a.jpg", "b.jpg"]
    assert one.failures["reason"].to_pylist() == ["unknown_image", "unknown_image"]


def test_a_kapture_list_is_read_whatever_its_ending(tmp_path: Path) -> None:
    text = "# kapture format: 1.1\n# query_image, map_image, score\na b.jpg, c.jpg, 0.5\n"
    for name in ("p.txt", "p.csv"):
        (tmp_path / name).write_text(text)
        found = read_pairs(tmp_path / name, ["a b.jpg", "c.jpg"])
        assert (found.pairs.tolist(), found.scores.tolist()) == ([[0, 1]], [0.5])


def test_a_union_keeps_every_pair_once_with_its_highest_score() -> None:
    found = union(
        [
            listed((0, 1), (1, 2), scores=[0.5, 0.25]),
            listed((1, 2), (2, 3)),
            listed((0, 1), scores=[0.75]),
        ]
    )
    assert found.pairs.tolist() == [[0, 1], [1, 2], [2, 3]]
    np.testing.assert_array_equal(found.scores, np.array([0.75, 0.25, np.nan], np.float32))
    assert found.duplicates == 2


def test_minus_takes_away_what_any_other_list_has() -> None:
    found = minus(
        listed((0, 1), (1, 2), (2, 3), scores=[1, 2, 3]), [listed((1, 2)), listed((0, 3), (0, 1))]
    )
    assert (found.pairs.tolist(), found.scores.tolist()) == ([[2, 3]], [3])
    whole = listed((0, 1), (1, 2))
    assert minus(whole, []).pairs.tolist() == whole.pairs.tolist()
    assert len(minus(whole, [whole]).pairs) == 0
    assert minus(listed((0, 1), (1, 2), scores=[0.5, np.nan]), [listed((0, 1))]).scores is None


def test_a_sample_is_part_of_its_list_and_the_same_for_the_same_seed() -> None:
    whole = listed(*((i, j) for i in range(20) for j in range(i + 1, 20)))
    first, again, other = (
        sample(whole, 50, seed=3),
        sample(whole, 50, seed=3),
        sample(whole, 50, seed=4),
    )
    assert len(first.pairs) == 50
    assert np.array_equal(first.pairs, again.pairs)
    assert not np.array_equal(first.pairs, other.pairs)
    assert len(union([whole, first]).pairs) == len(whole.pairs)
    assert len(sample(whole, 1000).pairs) == len(whole.pairs)


def test_the_best_sample_has_the_highest_scores() -> None:
    whole = listed((0, 1), (0, 2), (1, 2), (2, 3), scores=[0.5, np.nan, 0.9, 0.7])
    assert sample(whole, 2, best=True).pairs.tolist() == [[1, 2], [2, 3]]
    with pytest.raises(PairListError, match="no scores"):
        sample(listed((0, 1)), 1, best=True)
    with pytest.raises(PairListError, match="give 0 or more"):
        sample(whole, -1)

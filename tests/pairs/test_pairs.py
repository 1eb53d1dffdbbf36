from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import PairListError
from pipeline.pairs.pair_list import PairList, exhaustive, pairs_table, read_pairs
from pipeline.store.folder import Folder
from pipeline.tables import CANDIDATES, FAILURES, PAIRS
from pipeline.vocabulary import LINE_MEANINGS

NAMES = sorted(["a.jpg", "b.jpg", "c d.jpg", 'e"f.jpg', "g,h.jpg", "sub/i.jpg", "ü.jpg"])
A, B, CD, EF, GH, SUB, UMLAUT = map(
    NAMES.index, ["a.jpg", "b.jpg", "c d.jpg", 'e"f.jpg', "g,h.jpg", "sub/i.jpg", "ü.jpg"]
)


def read(tmp_path: Path, text: str | bytes, suffix: str = ".txt") -> PairList:
    path = tmp_path / f"pairs{suffix}"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_pairs(path, NAMES)


def pairs_of(found: PairList) -> list[tuple[int, int]]:
    return [tuple(pair) for pair in found.pairs.tolist()]


def reasons_of(found: PairList) -> list[str]:
    assert found.failures.schema.equals(FAILURES, check_metadata=True)
    assert set(found.failures["reason"].to_pylist()) <= set(LINE_MEANINGS)
    return found.failures["reason"].to_pylist()


@pytest.mark.parametrize(
    ("line", "pair"),
    [
        ("a.jpg b.jpg", (A, B)),
        ("b.jpg   a.jpg", (A, B)),
        ("a.jpg\tsub/i.jpg", (A, SUB)),
        ("a.jpg\tc d.jpg", (A, CD)),
        ("c d.jpg \t a.jpg\t0.5", (A, CD)),
        ('"c d.jpg" a.jpg', (A, CD)),
        ('a.jpg "c d.jpg" 0.25', (A, CD)),
        ('"a.jpg"\t"c d.jpg"', (A, CD)),
        ('"e""f.jpg" g,h.jpg', (EF, GH)),
        ("ü.jpg a.jpg", (A, UMLAUT)),
    ],
)
def test_a_line_of_text_names_two_images(tmp_path: Path, line: str, pair: tuple[int, int]) -> None:
    found = read(tmp_path, line)
    assert pairs_of(found) == [tuple(sorted(pair))]
    assert reasons_of(found) == []


@pytest.mark.parametrize(
    ("line", "pair"),
    [
        ("a.jpg,b.jpg", (A, B)),
        ("b.jpg , a.jpg, 0.5", (A, B)),
        ("a.jpg,c d.jpg", (A, CD)),
        ('"g,h.jpg",a.jpg,', (A, GH)),
        ('"e""f.jpg","g,h.jpg",1e-3', (EF, GH)),
    ],
)
@pytest.mark.parametrize(
    "header", ["", "image0,image1\n", '"Image_0","Image_1","score"\r\n', '"query","candidate"\n']
)
def test_a_line_of_csv_names_two_images(
    tmp_path: Path, header: str, line: str, pair: tuple[int, int]
) -> None:
    found = read(tmp_path, header + line, ".csv")
    assert pairs_of(found) == [tuple(sorted(pair))]
    assert reasons_of(found) == []


def test_candidates_of_queries_are_pairs_in_either_direction(tmp_path: Path) -> None:
    rows = [("b.jpg", "a.jpg", 0.5), ("a.jpg", "b.jpg", 0.25), ("a.jpg", "c d.jpg", 0.75)]
    pq.write_table(
        pa.table(list(map(list, zip(*rows, strict=True))), CANDIDATES.names), tmp_path / "c.parquet"
    )
    found = read_pairs(tmp_path / "c.parquet", NAMES)
    assert pairs_of(found) == [(A, B), (A, CD)]
    assert (found.scores.tolist(), found.duplicates, found.failures.num_rows) == ([0.5, 0.75], 1, 0)


def test_marks_of_other_systems_comments_and_empty_lines_are_skipped(tmp_path: Path) -> None:
    found = read(
        tmp_path, "\ufeff# my list\r\n\r\na.jpg b.jpg\r\n  # more\r\n   \r\na.jpg\tc d.jpg\r\n"
    )
    assert pairs_of(found) == [(A, B), (A, CD)]
    assert len(found.failures) == 0
    assert found.duplicates == 0
    assert found.scores is None


def test_both_orders_are_one_pair_and_duplicates_are_counted(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "a.jpg b.jpg 0.5\nb.jpg a.jpg 0.75\na.jpg b.jpg\nb.jpg sub/i.jpg\na.jpg sub/i.jpg -1.5\n",
    )
    assert pairs_of(found) == [(A, B), (A, SUB), (B, SUB)]
    assert found.duplicates == 2
    assert found.scores is not None
    assert found.pairs.dtype == np.int32
    assert found.scores.dtype == np.float32
    np.testing.assert_array_equal(found.scores, np.array([0.75, -1.5, np.nan], np.float32))


def test_the_order_of_the_lines_does_not_matter(tmp_path: Path) -> None:
    lines = ["a.jpg b.jpg 0.5", "b.jpg a.jpg 0.75", "a.jpg sub/i.jpg", "sub/i.jpg b.jpg 2"]
    first, second = read(tmp_path, "\n".join(lines)), read(tmp_path, "\n".join(lines[::-1]))
    assert np.array_equal(first.pairs, second.pairs)
    np.testing.assert_array_equal(first.scores, second.scores)


def test_what_cannot_be_matched_becomes_a_failure_row(tmp_path: Path) -> None:
    bad = {
        "a.jpg a.jpg": "self_pair",
        "a.jpg none.jpg": "unknown_image",
        "../x.jpg a.jpg": "unknown_image",
        "/etc/passwd a.jpg 0.5": "unknown_image",
        "A.JPG b.jpg": "unknown_image",
        "a.jpg": "malformed_line",
        "a.jpg b.jpg c d.jpg": "malformed_line",
        "a.jpg b.jpg high": "malformed_line",
        "a.jpg b.jpg nan": "malformed_line",
        '"a.jpg b.jpg': "malformed_line",
    }
    found = read(tmp_path, "# header\n" + "\n".join(bad) + "\na.jpg b.jpg\n")
    assert pairs_of(found) == [(A, B)]
    assert reasons_of(found) == list(bad.values())
    rows = found.failures.to_pylist()
    assert {row["stage"] for row in rows} == {"plan"}
    assert rows[0] == {
        "image0": "a.jpg",
        "image1": "a.jpg",
        "stage": "plan",
        "reason": "self_pair",
        "detail": "line 2 of pairs.txt: an image is paired with itself",
    }
    assert rows[1]["detail"] == "line 3 of pairs.txt: there is no image none.jpg"
    assert rows[2]["image0"] == "../x.jpg"
    assert rows[5]["image0"] is None
    assert rows[5]["detail"] == "line 7 of pairs.txt: not two names and at most a score: a.jpg"


def test_failures_come_in_the_order_of_the_lines_whatever_separates_their_names(
    tmp_path: Path,
) -> None:
    found = read(tmp_path, "a.jpg x1\na.jpg\tx2\na.jpg x3\na.jpg\tx4\n")
    assert found.failures["image1"].to_pylist() == ["x1", "x2", "x3", "x4"]


def test_bytes_that_are_no_text_become_failure_rows(tmp_path: Path) -> None:
    found = read(tmp_path, b"a.jpg \xff\xfe.jpg\na.jpg b.jpg\n\x00\x01\x02\n")
    assert pairs_of(found) == [(A, B)]
    assert reasons_of(found) == ["unknown_image", "malformed_line"]


@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_an_empty_list_holds_no_pairs(tmp_path: Path, suffix: str) -> None:
    for text in ("", "\n\n", "# nothing\n"):
        found = read(tmp_path, text, suffix)
        assert found.pairs.shape == (0, 2)
        assert (found.scores, found.duplicates, len(found.failures)) == (None, 0, 0)


def test_a_parquet_list_reads_like_any_other(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    rows = {
        "image0": ["b.jpg", "a.jpg", "a.jpg", None, "x"],
        "image1": ["a.jpg", "c d.jpg", "a.jpg", "a.jpg", "a.jpg"],
    }
    folder.publish_table(
        "pairs.parquet", pa.table(rows | {"score": [0.5, None, 1.0, 1.0, 1.0]}, schema=PAIRS)
    )
    found = read_pairs(tmp_path / "pairs.parquet", NAMES)
    assert pairs_of(found) == [(A, B), (A, CD)]
    np.testing.assert_array_equal(found.scores, np.array([0.5, np.nan], np.float32))
    assert reasons_of(found) == ["self_pair", "malformed_line", "unknown_image"]
    assert (
        found.failures["detail"][0].as_py()
        == "row 2 of pairs.parquet: an image is paired with itself"
    )
    text = pa.table({k: pa.array(v).dictionary_encode() for k, v in rows.items()})
    folder.publish_table("text.parquet", text)
    assert read_pairs(tmp_path / "text.parquet", NAMES).scores is None
    for wrong in (pa.table({"image0": ["a.jpg"]}), pa.table(rows | {"score": ["high"] * 5})):
        folder.publish_table("wrong.parquet", wrong)
        with pytest.raises(PairListError, match="needs text columns image0 and image1"):
            read_pairs(tmp_path / "wrong.parquet", NAMES)


def test_pairs_survive_being_written_as_a_table(tmp_path: Path) -> None:
    pairs, scores = exhaustive(4), np.array([1, 2, np.nan, 4, 5, 6], np.float32)
    table = pairs_table(NAMES, pairs, scores)
    assert table.schema.equals(PAIRS, check_metadata=True)
    assert table["score"].null_count == 1
    Folder(str(tmp_path)).publish_table("plan/pairs.parquet", table)
    found = read_pairs(tmp_path / "plan" / "pairs.parquet", NAMES)
    assert np.array_equal(found.pairs, pairs)
    np.testing.assert_array_equal(found.scores, scores)
    assert pairs_table(NAMES, np.empty((0, 2), np.int32)).num_rows == 0


def test_a_list_on_another_storage_is_read(tmp_path: Path) -> None:
    Folder("memory://lists").publish("pairs.txt", b"a.jpg b.jpg\n")
    assert pairs_of(read_pairs("memory://lists/pairs.txt", NAMES)) == [(A, B)]


@pytest.mark.parametrize("name", ["nowhere.txt", "nowhere.parquet"])
def test_a_missing_list_is_told_with_its_path_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(PairListError) as told:
        read_pairs(tmp_path / name, NAMES)
    cause = "cannot be read (No such file or directory); check the path."
    assert str(told.value) == f"{tmp_path / name}: {cause}"


@pytest.mark.parametrize(
    ("name", "make", "cause"),
    [
        ("pairs.parquet", lambda path: path.write_bytes(b"a.jpg b.jpg"), "is not whole Parquet"),
        ("pairs.txt", Path.mkdir, "is not a regular file"),
    ],
)
def test_a_list_that_is_none_is_told_with_one_path_and_one_cure(
    tmp_path: Path, name: str, make: Callable[[Path], object], cause: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(PairListError) as told:
        read_pairs(tmp_path / name, NAMES)
    assert str(told.value) == f"{tmp_path / name}: cannot be read ({cause}); check the path."


def test_a_list_that_cannot_be_used_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PairListError, match=r"nowhere\.txt: cannot be read .*check the path"):
        read_pairs(tmp_path / "nowhere.txt", NAMES)
    with pytest.raises(PairListError, match=r"give a \.txt, \.csv or \.parquet file"):
        read_pairs(tmp_path / "pairs.xlsx", NAMES)
    (tmp_path / "half.parquet").write_bytes(b"PAR1")
    with pytest.raises(PairListError, match="is not whole Parquet"):
        read_pairs(tmp_path / "half.parquet", NAMES)
    with pytest.raises(ValueError, match="names must be sorted and unique"):
        read_pairs(tmp_path / "nowhere.txt", ["b", "a"])


@pytest.mark.parametrize("n", [0, 1, 2, 17])
def test_an_exhaustive_list_holds_every_pair_once(n: int) -> None:
    pairs = exhaustive(n)
    assert pairs.shape == (n * (n - 1) // 2, 2)
    assert pairs.dtype == np.int32
    assert [tuple(p) for p in pairs.tolist()] == [(i, j) for i in range(n) for j in range(i + 1, n)]
    with pytest.raises(ValueError, match="must not be negative"):
        exhaustive(-1)


@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_a_hundred_thousand_pairs_are_read_in_a_moment(tmp_path: Path, suffix: str) -> None:
    names = [f"photos/{k:06}.jpg" for k in range(2000)]
    pairs = exhaustive(2000)[::20]
    path = tmp_path / f"pairs{suffix}"
    path.write_text(
        "\n".join((" " if suffix == ".txt" else ",").join((names[j], names[i])) for i, j in pairs)
    )
    start = time.process_time()
    found = read_pairs(path, names)
    assert time.process_time() - start < 2
    assert np.array_equal(found.pairs, pairs)

"""Headings that a person gives as a table: read back as written, or refused with a sentence."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import PairListError
from pipeline.photos.headings import headings_digest, read_headings
from pipeline.store.folder import Folder

LETTERS = st.one_of(
    st.sampled_from(" \"',#\t;/\\-._aB1äü東\u00a0\u3000\ufeff\r\n"),
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
)
NAMES = st.text(LETTERS, max_size=8).map("{}.jpg".format)
YAWS = st.floats(-720, 720)


def written(rows: list[tuple[str, str]], header: tuple[str, ...] = ("image", "yaw")) -> bytes:
    sink = io.StringIO(newline="")
    csv.writer(sink).writerows([header, *rows])
    return sink.getvalue().encode()


@given(
    st.dictionaries(NAMES, YAWS, min_size=1, max_size=6),
    st.booleans(),
    st.randoms(use_true_random=False),
)
@example({" a.jpg": 1.0, "a.jpg": 2.0}, False, None)
@example({"a.jpg": -1e-20}, False, None)
def test_a_table_that_was_written_is_read_back(
    angles: dict[str, float], mark: bool, random: object
) -> None:
    rows = [(name, repr(yaw)) for name, yaw in angles.items()]
    if random is not None:
        random.shuffle(rows)  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "yaw.csv"
        path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + written(rows))
        found = read_headings(path, sorted(angles))
        table = pa.table({"name": [*angles], "heading": pa.array([*angles.values()], pa.float64())})
        pq.write_table(table, path.with_suffix(".parquet"))
        assert read_headings(path.with_suffix(".parquet"), sorted(angles)) == found
        assert read_headings(table, sorted(angles)) == found
    assert found == {name: yaw % 360 % 360 for name, yaw in angles.items()}
    assert headings_digest(found) == headings_digest(dict(sorted(found.items())))


@given(st.text(max_size=60), st.lists(NAMES, max_size=3))
def test_any_text_is_a_table_or_refused_with_a_sentence(text: str, names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "yaw.csv"
        path.write_text("image,yaw\n" + text, encoding="utf-8", errors="replace")
        found: dict[str, float] = {}
        message = "yaw.csv."
        try:
            found = read_headings(path, names)
        except PairListError as error:
            message = str(error)
    assert message.startswith("yaw.csv")
    assert message.endswith(".")
    assert all(name in names and 0 <= yaw < 360 for name, yaw in found.items())


@pytest.mark.parametrize(
    "text",
    [
        "image,yaw\na.jpg,90\nb/c.jpg,-90\n",
        "Heading , Name, camera\n90,a.jpg,X1\n\n-90, b/c.jpg ,X1\n",
        'yaw,image\r\n"90.0","a.jpg"\r\n270,b/c.jpg\r\n90,a.jpg',
    ],
)
def test_columns_stand_in_any_order(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text, newline="")
    assert read_headings(tmp_path / "t.csv", ["a.jpg", "b/c.jpg"]) == {"a.jpg": 90, "b/c.jpg": 270}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("t.txt", "", "t.txt: is no table of headings by its ending; give a .csv or .parquet"),
        ("t.csv", "", r"needs the columns image and yaw \(or name and heading\), and has none"),
        ("t.csv", "image,roll\n", "and has image, roll"),
        ("t.csv", "image,yaw\n", "t.csv: names no photograph; give rows of image and yaw"),
        ("t.csv", "image,yaw\na.jpg,north\n", "t.csv, line 2: the yaw of a.jpg is 'north'; give"),
        ("t.csv", "image,yaw\na.jpg,\n", "line 2: the yaw of a.jpg is ''"),
        ("t.csv", "image,yaw\n\na.jpg,nan\n", "line 3: the yaw of a.jpg is 'nan'"),
        ("t.csv", "image,yaw\na.jpg,-inf\n", "the yaw of a.jpg is '-inf'"),
        ("t.csv", "image,yaw\na.jpg,1\na.jpg,2\n", "line 3: a.jpg has the yaw 2 here and 1 before"),
        ("t.csv", "image,yaw\na.jpg,12,5\n", "line 2: has 3 fields below a header of 2"),
        (
            "t.csv",
            "image,yaw\nb.jpg,1\na.jpg,1\nc.jpg,1\n",
            r"t.csv: 2 names of no photograph \(line 2: b.jpg\); give names relative to the folder",
        ),
        ("t.csv", "image,yaw\n,1\n", r"1 name of no photograph \(line 2: no name\)"),
        ("t.parquet", "PAR1", "not whole Parquet"),
        ("nowhere/t.csv", None, "cannot be read"),
    ],
)
def test_unusable_tables_are_refused_with_a_sentence(
    tmp_path: Path, file: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises(PairListError, match=message) as caught:
        read_headings(tmp_path / file, ["a.jpg"])
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_columns_of_other_types_are_refused() -> None:
    with pytest.raises(PairListError, match="yaw: needs the columns"):
        read_headings(pa.table({"image": ["a.jpg"], "yaw": ["east"]}), ["a.jpg"])
    with pytest.raises(PairListError, match=r"row 0: the yaw of a\.jpg is None"):
        read_headings(pa.table({"image": ["a.jpg"], "yaw": pa.nulls(1, pa.float32())}), ["a.jpg"])


def test_a_table_without_rows_is_refused() -> None:
    empty = pa.table({"image": pa.nulls(0, pa.string()), "yaw": pa.nulls(0, pa.float64())})
    with pytest.raises(PairListError, match="yaw: names no photograph; give rows"):
        read_headings(empty, ["a.jpg"])


def test_a_table_may_be_in_an_object_store(s3: dict[str, str]) -> None:
    store = Folder("s3://bucket/tables", s3)
    store.publish("yaw.csv", written([("a.jpg", "45")]))
    store.publish_table("yaw.parquet", pa.table({"image": ["a.jpg"], "yaw": [45.0]}))
    for name in ("yaw.csv", "yaw.parquet"):
        assert read_headings(store.url_of(name), ["a.jpg"], s3) == {"a.jpg": 45}
    with pytest.raises(PairListError, match=r"s3://bucket/tables/gone\.csv: cannot be read"):
        read_headings(store.url_of("gone.csv"), ["a.jpg"], s3)

"""Lists and tables as spreadsheets and other programs write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from pipeline.names.text import csv_text, text_of
from pipeline.pairs.candidates import read_candidates
from pipeline.pairs.pair_list import read_pairs
from pipeline.pairs.spatial import read_positions
from pipeline.photos.cameras.intrinsics import read_intrinsics
from pipeline.photos.headings import read_headings

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_texts_are_read_in_every_encoding_of_spreadsheets(encoding: str) -> None:
    assert text_of("é.jpg b.jpg\r\n".encode(encoding)) == "é.jpg b.jpg\r\n"


def test_semicolons_and_decimal_commas_become_commas_and_points() -> None:
    written = '# made by hand; 1,5\nimage;x;y\n"a, b.jpg";1,5;-2,25\n\nc;d.jpg;3;4\n'
    plain = '# made by hand; 1,5\nimage,x,y\n"a, b.jpg",1.5,-2.25\n\nc,d.jpg,3,4\n'
    assert csv_text(written.encode()) == plain


@pytest.mark.parametrize("text", ["a;b.jpg,c;d.jpg\n", "image,x\na;b,1\n", "a.jpg\n", "", "#x;y\n"])
def test_texts_with_commas_stay_as_they_are(text: str) -> None:
    assert csv_text(text.encode()) == text


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_list_and_table_may_come_from_a_spreadsheet(tmp_path: Path, encoding: str) -> None:
    def written(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    names = ["a b.jpg", "c.jpg", "d.jpg"]
    pairs = read_pairs(
        written("pairs.csv", "image0;image1;score\na b.jpg;c.jpg;0,5\nc.jpg;d.jpg;2\n"), names
    )
    assert pairs.pairs.tolist() == [[0, 1], [1, 2]]
    assert pairs.scores is not None
    assert pairs.scores.tolist() == [0.5, 2.0]
    assert pairs.failures.num_rows == 0
    assert read_pairs(written("pairs.txt", "c.jpg d.jpg\n"), names).pairs.tolist() == [[1, 2]]
    taken = read_candidates(
        written("c.csv", "query;candidate;score\nq.jpg;d.jpg;0,25\n"), ["q.jpg"], names, pc.equal
    )
    assert taken.candidate.to_pylist() == ["d.jpg"]
    places = written("p.csv", "image;x;y\na b.jpg;1,5;2\nc.jpg;-1;0,25\n")
    assert np.array_equal(read_positions(places).metres[:, :2], [[1.5, 2.0], [-1.0, 0.25]])
    yaws = written("y.csv", "image;yaw\na b.jpg;90,5\n")
    assert read_headings(yaws, names) == {"a b.jpg": 90.5}
    cameras = written("i.csv", "images;model;params\n*;PINHOLE;800 800 360 270\n")
    assert read_intrinsics(str(cameras))[0].model == "PINHOLE"

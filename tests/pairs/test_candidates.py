"""Lists of candidates and truths as files, in every form they may have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.errors import PairListError
from pipeline.pairs.candidates import Candidates, read_candidates, read_truth
from pipeline.pairs.formats import trec_run
from pipeline.tables import FAILURES, RANKING

QUERIES, DATABASE = ["a.jpg", "b c.jpg"], ["x.jpg", "y.jpg", "z.jpg"]
ROWS = [
    ("b c.jpg", "y.jpg", 0.5),
    ("a.jpg", "x.jpg", 0.25),
    ("a.jpg", "z.jpg", 0.75),
    ("b c.jpg", "x.jpg", 0.5),
]
EXPECTED = [
    ("a.jpg", "z.jpg", 0.75, 1),
    ("a.jpg", "x.jpg", 0.25, 2),
    ("b c.jpg", "y.jpg", 0.5, 1),  # of equal scores the first line
    ("b c.jpg", "x.jpg", 0.5, 2),
]


def other(query: pa.Array, candidate: pa.Array) -> pa.Array:
    """Two folders without a file in common."""
    return pa.repeat(False, len(query))


def read(path: Path) -> Candidates:
    return read_candidates(path, QUERIES, DATABASE, other)


def rows(found: Candidates) -> list[tuple]:
    columns = (
        found.query.to_pylist(),
        found.candidate.to_pylist(),
        found.score.to_pylist(),
        found.rank.tolist(),
    )
    return list(zip(*columns, strict=True))


def written(folder: Path, form: str) -> Path:
    trec = [f"{q}\tQ0\t{c}\t{k}\t{s:+.2e}\ttag" for k, (q, c, s) in enumerate(ROWS)]
    texts = {
        "list.csv": [",".join(map(str, row)) for row in ROWS],
        "query.csv": ["Query,Candidate,Score", *(",".join(map(str, row)) for row in ROWS)],
        "image0.csv": ["image0,image1", *(",".join(map(str, row)) for row in ROWS)],
        "list.txt": ["# hloc's way", *(f'"{q}" {c} {s}' for q, c, s in ROWS)],
        "kapture.txt": ["# kapture format: 1.1", *(", ".join(map(str, row)) for row in ROWS)],
        "run.txt": ["", "# a run", *trec],
        "list.trec": trec,
        "list.run": [line.replace("\ttag", "") for line in trec],
    }
    path = folder / form
    if form.endswith(".parquet"):
        names = (
            ["image0", "image1", "score"]
            if form.startswith("pairs")
            else ["query", "candidate", "score"]
        )
        pq.write_table(pa.table(list(map(list, zip(*ROWS, strict=True))), names=names), path)
    else:
        path.write_text("\r\n".join(texts[form]) + "\r\n")
    return path


@pytest.mark.parametrize(
    "form",
    [
        *(
            "list.csv",
            "query.csv",
            "image0.csv",
            "list.txt",
            "kapture.txt",
            "run.txt",
            "list.trec",
            "list.run",
        ),
        *("pairs.parquet", "query.parquet"),
    ],
)
def test_every_form_of_a_list_gives_the_same_candidates(form: str, tmp_path: Path) -> None:
    found = read(written(tmp_path, form))
    assert rows(found) == EXPECTED
    assert found.starts.tolist() == [0, 2, 4]
    assert (found.failures.num_rows, found.duplicates) == (0, 0)
    assert found.failures.schema.equals(FAILURES)


def test_without_scores_the_order_of_the_lines_counts(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.jpg z.jpg\na.jpg x.jpg\na.jpg y.jpg\n")
    assert [row[1:] for row in rows(read(tmp_path / "list.txt"))] == [
        *(("z.jpg", None, 1), ("x.jpg", None, 2), ("y.jpg", None, 3))
    ]


def test_what_cannot_be_matched_is_named_and_counted(tmp_path: Path) -> None:
    lines = [
        "a.jpg,x.jpg,0.1",
        "a.jpg,gone.jpg,0.9",
        "nobody.jpg,x.jpg,0.9",
        "rubbish",
        "a.jpg,x.jpg,0.8",
        "z.jpg,z.jpg",
    ]
    (tmp_path / "list.csv").write_text("query,candidate,score\n" + "\n".join(lines) + "\n")
    same = pc.equal  # one folder: names are files
    found = read_candidates(tmp_path / "list.csv", ["a.jpg", "z.jpg"], DATABASE, same)
    # The higher of the two scores stays; unknown candidates and queries stay too, with a reason.
    assert rows(found) == [
        ("a.jpg", "gone.jpg", pytest.approx(0.9), 1),
        ("a.jpg", "x.jpg", pytest.approx(0.8), 2),
        ("nobody.jpg", "x.jpg", pytest.approx(0.9), 1),
    ]
    assert found.reason.to_pylist() == ["unknown_image", None, "unknown_image"]
    assert found.duplicates == 1
    failures = found.failures.to_pylist()
    assert [row["reason"] for row in failures] == [
        "unknown_image",
        "unknown_image",
        "malformed_line",
        "self_pair",
    ]
    details = [row["detail"] for row in failures]
    assert details[0] == "line 3 of list.csv: the database has no image gone.jpg"
    assert details[1] == "line 4 of list.csv: there is no query nobody.jpg"
    assert details[2].endswith("a query, a candidate and at most a score: rubbish")
    assert details[3].startswith("line 7 of list.csv")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gone.txt", None, "cannot be read"),
        ("list.json", "{}", "no list by its ending"),
        ("list.txt", "# nothing\n", "is empty"),
        ("list.txt", "a.jpg q.jpg\n", "names no candidate .* has no image q.jpg"),
        ("list.csv", "a,b,c,d,e\n", "names no candidate"),
        ("list.parquet", b"PAR1", "cannot be read"),
    ],
)
def test_a_list_without_candidates_is_refused_in_one_sentence(
    name: str, text: str | bytes | None, message: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PairListError, match=message) as caught:
        read(tmp_path / name)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_a_parquet_list_without_its_columns_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"query": ["a.jpg"], "score": [1.0]}), tmp_path / "list.parquet")
    with pytest.raises(PairListError, match="needs text columns"):
        read(tmp_path / "list.parquet")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "truth.json",
            json.dumps({"note": "…", "positives": {"a.jpg": ["x.jpg", "y.jpg"], "b c.jpg": []}}),
        ),
        ("truth.csv", "query,candidate,relevance\na.jpg,x.jpg,1\na.jpg,y.jpg,2\na.jpg,z.jpg,0\n"),
        ("truth.txt", "a.jpg x.jpg\na.jpg y.jpg\na.jpg y.jpg\n"),
        ("truth.qrels", "a.jpg 0 x.jpg 1\na.jpg 0 y.jpg 3\nb.jpg 0 x.jpg 0\n"),
    ],
)
def test_every_form_of_a_truth_says_the_same(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    truth = read_truth(tmp_path / name)
    assert truth.to_pylist() == [{"query": "a.jpg", "candidate": c} for c in ("x.jpg", "y.jpg")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("truth.json", "[1, 2]", 'no {"positives"'),
        ("truth.json", "not json", "cannot be read"),
        ("truth.csv", "a.jpg,x.jpg,0\n", "says of no image that it is true"),
        ("truth.qrels", "a.jpg 0 x.jpg 1\nrubbish\n", "line 2 is no"),
        ("truth.png", "", "no list by its ending"),
    ],
)
def test_a_truth_that_cannot_be_used_is_refused_in_one_sentence(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(PairListError, match=message) as caught:
        read_truth(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("query", ["a.jpg", "b c.jpg"])
def test_a_run_file_is_read_back_in_the_same_order(query: str, tmp_path: Path) -> None:
    names = ["z.jpg", "x.jpg", "y.jpg"]
    columns = {
        "query": [query] * 3,
        "candidate": names,
        "rank": [1, 2, 3],
        "score": [4.0, 0.0, 0.0],
    }
    table = pa.table(
        [pa.array(columns.get(f.name, [None] * 3), f.type) for f in RANKING], schema=RANKING
    )
    (tmp_path / "ranking.trec").write_bytes(trec_run(table))
    assert [row[1] for row in rows(read(tmp_path / "ranking.trec"))] == names
    scores = [float(line.split()[-2]) for line in trec_run(table).decode().splitlines()]
    assert (np.diff(scores) < 0).all()  # trec_eval sorts by the score alone

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import write_views
from synthetic_run import Scene

from pipeline import tables
from pipeline.cli import main
from pipeline.match.options import RunOptions
from pipeline.match.plan import make_plan
from pipeline.pairs.descriptors import read_descriptors
from pipeline.pairs.pair_list import read_pairs
from pipeline.store.folder import Folder

pytestmark = pytest.mark.usefixtures("kept_processes")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two places, three views each, and a photograph that is cut off."""
    folder = tmp_path_factory.mktemp("plan") / "photos"
    write_views(folder / "gate", 3, seed=0)
    write_views(folder / "tower", 3, seed=1)
    (folder / "cut.jpg").write_bytes((folder / "gate" / "view 0.jpg").read_bytes()[:4000])
    return folder


def plan(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, str]:
    """Run the job in this process: the lines that it prints, by name."""
    code = main(["pairs", *map(str, arguments)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return {
        name: value.strip()
        for name, _, value in (line.partition(":") for line in printed.out.splitlines())
    }


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one sentence that the job refuses these arguments with."""
    assert main(["pairs", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (sentence,) = printed.err.splitlines()
    assert sentence.startswith(f"eloftr pairs {arguments[0]}: ")
    return sentence


def names_in(path: Path) -> list[tuple[str, str]]:
    table = pq.read_table(path)
    assert table.schema.equals(tables.PAIRS, check_metadata=True)
    return list(zip(table["image0"].to_pylist(), table["image1"].to_pylist(), strict=True))


def test_similar_photographs_are_paired_with_nothing_else_installed(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = {"output": tmp_path / "pairs.parquet", "failures": tmp_path / "failures.parquet"}
    given = [part for name, path in lists.items() for part in (f"--{name}", path)]
    printed = plan(capsys, "retrieval", "--images", photos, "--top-k", 2, *given)
    pairs = names_in(lists["output"])
    assert len(pairs) == 6
    assert all(first.partition("/")[0] == second.partition("/")[0] for first, second in pairs)
    assert printed["pairs"] == "6 of 15"
    assert printed["unusable"].startswith("1 truncated (cut.jpg: ")
    failures = pq.read_table(lists["failures"])
    assert failures.schema.equals(tables.FAILURES, check_metadata=True)
    assert failures["image0"].to_pylist() == ["cut.jpg"]


def test_described_images_give_the_same_list_from_their_file(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "d.parquet"
    printed = plan(capsys, "describe", "--images", photos, "--output", made)
    assert printed["described"] == "6 images, 2,080 numbers each"
    assert len(read_descriptors(made).names) == 6
    direct, again = tmp_path / "direct.parquet", tmp_path / "again.parquet"
    plan(capsys, "retrieval", "--images", photos, "--output", direct, "--top-k", 3)
    given = ["--descriptors", made, "--reduce", 256]
    printed = plan(capsys, "retrieval", "--images", photos, *given, "--output", again, "--top-k", 3)
    assert names_in(again) == names_in(direct)
    assert printed["unusable"].startswith("1 no_descriptor (cut.jpg: ")


def test_a_dry_run_of_candidates_counts_them(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["retrieval", "--images", photos, "--queries", photos / "gate", "--top-k", 2]
    printed = plan(capsys, *given, "--output", "candidates.run", "--dry-run")
    assert (printed["queries"], printed["candidates"]) == ("3, of which 3 have candidates", "6")
    assert printed["partners"] == "2 to 2 a query, median 2"
    assert printed["unusable"].startswith("1 truncated (database/cut.jpg: ")
    assert "results" not in printed
    printed = plan(capsys, *given, "--min-score", 2, "--dry-run")
    assert (printed["queries"], printed["candidates"]) == ("3, of which 0 have candidates", "0")
    assert list(tmp_path.iterdir()) == []


def test_the_matching_job_plans_the_pairs_of_a_list(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for ending in ("parquet", "csv"):
        output = tmp_path / f"pairs.{ending}"
        plan(capsys, "sequential", "--images", photos, "--window", 1, "--output", output)
        made = make_plan(
            RunOptions(str(photos), str(tmp_path), str(output)), Folder(str(photos)), "cpu"
        )
        assert (len(made.pairs.pairs), len(made.pairs.failures), len(made.shards)) == (4, 0, 1)


def test_a_dry_run_counts_and_writes_nothing(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan(capsys, "exhaustive", "--images", photos, "--dry-run")["pairs"] == "21 of 21"
    printed = plan(
        capsys,
        "exhaustive",
        "--images",
        photos,
        "--output",
        "p.csv",
        "--failures",
        "f.parquet",
        "--dry-run",
    )
    assert "results" not in printed
    assert list(tmp_path.iterdir()) == []


def test_loop_closures_join_a_sequence(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Descriptors say that the last view of the tower is the place of the first of the gate."""
    names = [f"{place}/view {k}.jpg" for place in ("gate", "tower") for k in range(3)]
    vectors = np.eye(6, dtype=np.float32)
    vectors[5, 0] = 2
    np.savez(tmp_path / "d.npz", names=np.array(names), descriptors=vectors)
    loops = [
        "--loop-closure",
        1,
        "--loop-every",
        6,
        "--loop-gap",
        2,
        "--descriptors",
        tmp_path / "d.npz",
    ]
    output = tmp_path / "pairs.parquet"
    shown = ["--window", 1, "--across-folders", *loops, "--output", output]
    plan(capsys, "sequential", "--images", photos, *shown)
    assert ("gate/view 0.jpg", "tower/view 2.jpg") in names_in(output)
    scores = [score for score in pq.read_table(output)["score"].to_pylist() if score is not None]
    assert max(scores) == pytest.approx(2 / 5**0.5)


def test_positions_of_a_table_are_paired(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "gate/view 0.jpg,0,0\ngate/view 1.jpg,3,4\ntower/view 0.jpg,100,0\nnowhere.jpg,0,0\n"
    (tmp_path / "p.csv").write_text("image,x,y\n" + rows)
    given = ["--positions", tmp_path / "p.csv", "--radius", 5, "--output", tmp_path / "pairs.csv"]
    printed = plan(capsys, "spatial", "--images", photos, *given)
    assert (tmp_path / "pairs.csv").read_text().splitlines()[1:] == [
        '"gate/view 0.jpg","gate/view 1.jpg",-5'
    ]
    assert printed["scores"] == "-5 to -5, median -5"
    assert printed["unusable"].startswith("4 no_position (cut.jpg: p.csv has no row for it)")
    assert (
        plan(capsys, "spatial", *given)["pairs"] == "3 of 6"
    )  # the table's own images: two are at one place
    (tmp_path / "p.csv").write_text("image,x,y\n" + rows + "cute.jpg,0,0\n")
    printed = plan(capsys, "spatial", "--images", photos, *given)
    cause = "p.csv has no row for it; the nearest name is cute.jpg"
    assert printed["unusable"].startswith(f"4 no_position (cut.jpg: {cause})")


def test_lists_are_joined_cut_and_sampled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.csv"
    one.write_text("b a 0.5\nb c\nc c\n")
    (tmp_path / "bad.txt").write_text("a b\nc\n")
    printed = plan(capsys, "union", tmp_path / "bad.txt", "--dry-run")
    assert (
        printed["unusable"]
        == "1 malformed_line (line 2 of bad.txt: not two names and at most a score: c)"
    )
    two.write_text("image0,image1,score\na,b,0.75\nc,d,\n")
    output = tmp_path / "out.parquet"
    printed = plan(capsys, "union", one, two, "--output", output)
    assert names_in(output) == [("a", "b"), ("b", "c"), ("c", "d")]
    assert pq.read_table(output)["score"].to_pylist() == [0.75, None, None]
    assert printed["repeated"] == "1, written once"
    assert printed["unusable"].startswith("1 self_pair (c: line 3 of one.txt")
    plan(capsys, "minus", output, two, "--output", tmp_path / "rest.txt")
    assert (tmp_path / "rest.txt").read_text() == "b c\n"
    plan(
        capsys,
        "sample",
        output,
        "--count",
        1,
        "--best",
        "--output",
        tmp_path / "best.csv",
        "--format",
        "kapture",
    )
    assert (tmp_path / "best.csv").read_text().splitlines()[2:] == ["a,b,0.75"]


def test_a_run_and_its_model_give_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Scene(cameras=4).write(tmp_path / "run")
    assert main(["reconstruct", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    output = tmp_path / "pairs.parquet"
    plan(
        capsys,
        "covisibility",
        "--model",
        tmp_path / "run/sfm/sparse/0",
        "--top-k",
        3,
        "--output",
        output,
    )
    assert len(names_in(output)) == 6
    assert min(pq.read_table(output)["score"].to_pylist()) >= 15
    assert plan(capsys, "transitive", "--run", tmp_path / "run", "--dry-run")["pairs"] == "0 of 6"


def test_inputs_and_outputs_may_be_in_an_object_store(
    photos: Path, s3: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    store = fsspec.filesystem("s3", **s3)
    for path in photos.rglob("*.jpg"):
        store.put(str(path), f"bucket/photos/{path.relative_to(photos)}")
    given = ["--images", "s3://bucket/photos", "--storage-options", json.dumps(s3)]
    made = ["--output", "s3://bucket/d.npz", "--failures", "s3://bucket/failures.parquet"]
    plan(capsys, "describe", *given, *made)
    similar = [
        "--descriptors",
        "s3://bucket/d.npz",
        "--top-k",
        1,
        "--output",
        "s3://bucket/pairs.csv",
    ]
    printed = plan(capsys, "retrieval", *given, *similar)
    assert printed["results"] == "s3://bucket/pairs.csv"
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.jpg"))
    found = read_pairs("s3://bucket/pairs.csv", names, s3)
    assert len(found.pairs) >= 3
    asked = [
        "--queries",
        "s3://bucket/photos/gate",
        "--top-k",
        2,
        "--output",
        "s3://bucket/candidates.run",
    ]
    assert plan(capsys, "retrieval", *given, *asked)["candidates"] == "6"
    lines = [line.split("\t") for line in store.cat("bucket/candidates.run").decode().splitlines()]
    assert all(
        line[2] != f"gate/{line[0]}" for line in lines
    )  # below the images: a query is its own file there
    plan(
        capsys, "union", "s3://bucket/pairs.csv", "--output", "s3://bucket/all.parquet", *given[2:]
    )
    assert pq.read_table(pa.BufferReader(store.cat("bucket/all.parquet"))).num_rows == len(
        found.pairs
    )
    assert "hidden" not in refused(
        capsys, "retrieval", *given, "--descriptors", "s3://bucket/no.npz", "--dry-run"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["exhaustive", "--images", "nowhere", "--dry-run"], "no such folder"),
        (["exhaustive", "--images", "PHOTOS"], "give --output"),
        (["exhaustive", "--images", "PHOTOS", "--output", "p.list"], "by its ending"),
        (
            ["exhaustive", "--images", "PHOTOS", "--output", "p.csv", "--format", "hloc"],
            "none of the formats",
        ),
        (
            ["exhaustive", "--images", "PHOTOS", "--output", "p.csv", "--failures", "f.csv"],
            "give a .parquet file",
        ),
        (["exhaustive", "--images", "PHOTOS", "--output", "p.txt"], "cannot hold this name"),
        (["exhaustive", "--images", "PHOTOS/gate/none", "--dry-run"], "no such folder"),
        (["sequential", "--images", "PHOTOS", "--window", "0", "--dry-run"], "pairs nothing"),
        (["retrieval", "--images", "PHOTOS", "--top-k", "0", "--dry-run"], "give 1 or more"),
        (["retrieval", "--images", "PHOTOS", "--reduce", "0", "--dry-run"], "give 1 or more"),
        (
            ["retrieval", "--images", "PHOTOS", "--descriptors", "none.npz", "--dry-run"],
            "none.npz: cannot be read",
        ),
        (["retrieval", "--images", "PHOTOS", "--weights", "none.ckpt", "--dry-run"], "none.ckpt"),
        (
            ["retrieval", "--images", "PHOTOS", "--output", "c.trec"],
            "is no pair list by its ending",
        ),
        (
            ["retrieval", "--images", "PHOTOS", "--queries", "PHOTOS", "--output", "c.json"],
            "is no list of candidates",
        ),
        (
            ["retrieval", "--images", "PHOTOS", "--queries", "nowhere", "--dry-run"],
            "nowhere: no such folder",
        ),
        (
            ["retrieval", "--images", "PHOTOS", "--queries", "PHOTOS", "--mutual", "--dry-run"],
            "leave one out",
        ),
        (
            ["retrieval", "--images", "PHOTOS", "--query-descriptors", "q.npz", "--dry-run"],
            "give both",
        ),
        (
            [
                "retrieval",
                "--images",
                "PHOTOS",
                "--queries",
                "PHOTOS",
                "--query-descriptors",
                "q.npz",
                "--dry-run",
            ],
            "give --descriptors",
        ),
        (["describe", "--images", "PHOTOS", "--output", "d.h5"], "give .parquet, .npz or .npy"),
        (
            ["spatial", "--images", "PHOTOS", "--nearest", "3", "--dry-run"],
            "0 images have a position (cut.jpg: its EXIF data hold no position), and a pair needs "
            "two; give a table of them by --positions.",
        ),
        (["spatial", "--dry-run"], "give --images, --positions or both"),
        (
            ["covisibility", "--model", "PHOTOS", "--dry-run"],
            "holds no cameras, images and points3D",
        ),
        (["transitive", "--run", "PHOTOS", "--dry-run"], "holds no matches"),
        (["union", "none.txt", "--dry-run"], "none.txt: cannot be read"),
        (["sample", "none.txt", "--count", "3", "--dry-run"], "none.txt: cannot be read"),
        (
            ["exhaustive", "--images", "PHOTOS", "--dry-run", "--storage-options", "x"],
            "not a JSON object",
        ),
    ],
)
def test_wrong_arguments_end_with_code_two_and_a_sentence(
    photos: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [argument.replace("PHOTOS", str(photos)) for argument in arguments]
    assert message in refused(capsys, *given)


def test_a_list_that_is_written_empty_ends_with_code_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("a b\n")
    lists = [str(tmp_path / "a.txt")] * 2
    assert main(["pairs", "minus", *lists, "--output", str(tmp_path / "rest.txt")]) == 1
    assert "pairs:        0 of 1\n" in capsys.readouterr().out
    assert (tmp_path / "rest.txt").read_text() == ""


def test_a_summary_as_json_has_the_numbers_of_the_text(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "pairs.parquet"
    given = ["--images", str(photos), "--top-k", "2", "--output", str(output), "--json"]
    assert main(["pairs", "retrieval", *given]) == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert (summary["kind"], summary["images"], summary["used"], summary["count"]) == (
        *("pairs", 6, 6, 6),
    )
    assert summary["partners"] == {"least": 2, "most": 2, "median": 2.0}
    assert summary["scores"]["least"] <= summary["scores"]["median"] <= 1
    assert summary["unusable"]["truncated"]["count"] == 1
    assert summary["results"] == str(output)
    assert {json.loads(line)["event"] for line in err.splitlines()} == {"progress"}
    described = tmp_path / "d.parquet"
    given = ["--images", str(photos), "--output", str(described), "--json"]
    assert main(["pairs", "describe", *given]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["described"], summary["dimensions"]) == (6, 2080)

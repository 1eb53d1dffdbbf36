"""Reranking without Ray: the rounds, what they write, and what they claim."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from pictures import views, write_places
from PIL import Image
from stages import match_here

from pipeline.errors import PairListError, RunError
from pipeline.match.options import MatchingOptions, RunOptions, VerificationOptions
from pipeline.match.run import Run, RunSummary, Session
from pipeline.match.verify import VerifyShard
from pipeline.photos.source import Folders, list_images, read_image
from pipeline.report.rankings import draw_rankings
from pipeline.report.text import rerank_text
from pipeline.rerank.job import rerank_with as rerank
from pipeline.rerank.job import round_sizes
from pipeline.rerank.options import RerankOptions
from pipeline.store.folder import Folder
from pipeline.tables import QUERIES, RANKING

SIZE, LONG_SIDE = (160, 120), 160
MATCHING = MatchingOptions(LONG_SIDE)
VERIFICATION = VerificationOptions(long_side=LONG_SIDE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("places")
    write_places(root, SIZE)
    return root


def asked(place: Path, output: Path, **other: Any) -> RerankOptions:
    images = {"query": str(place / "queries"), "database": str(place / "database")}
    run = RunOptions(images, str(output), matching=MATCHING, verification=VERIFICATION, max_pairs=6)
    options: dict[str, Any] = {
        "candidates": str(place / "candidates.trec"),
        "truth": str(place / "truth.json"),
    }
    return RerankOptions(run, **{**options, **other})


def match(options: RunOptions) -> RunSummary:
    """The main job without Ray."""
    run = Run(options, "cpu")
    pairs = sum(len(pairs) for pairs in run.pending()["pairs"].to_pylist())
    match_here(run)
    return run.finish(
        Session(pairs=pairs, seconds=1.0, start_seconds=0.0, pairs_per_second=1.0, executor="none")
    )


def reranked(options: RerankOptions) -> dict[str, Any]:
    found = rerank(options, match)
    assert found is not None
    return {**found.summary, "pictures": draw_rankings(found)}


def ranking(output: Path) -> list[dict[str, Any]]:
    return pq.read_table(output / "ranking.parquet").to_pylist()


def firsts(output: Path, top: int = 1) -> list[tuple]:
    return [
        (row["query"], row["rank"], row["candidate"])
        for row in ranking(output)
        if row["rank"] <= top
    ]


@pytest.fixture(scope="module")
def full(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """All candidates matched, with pictures of two queries."""
    output = tmp_path_factory.mktemp("full") / "run"
    return output, reranked(asked(place, output, draw=2))


def test_every_candidate_is_in_the_output_once_and_failed_ones_come_last(
    full: tuple[Path, dict[str, Any]],
) -> None:
    output, result = full
    rows = ranking(output)
    assert pq.read_schema(output / "ranking.parquet").equals(RANKING, check_metadata=True)
    assert len({(row["query"], row["candidate"]) for row in rows}) == len(rows) == 3 * 9 + 2
    for query in ("0.jpg", "1.jpg", "2.jpg"):
        mine = [row for row in rows if row["query"] == query]
        assert [row["rank"] for row in mine] == list(range(1, len(mine) + 1))
        assert sorted(row["retrieval_rank"] for row in mine) == list(range(1, len(mine) + 1))
        assert [row["candidate"].split("/")[0] for row in mine[:3]] == [query[0]] * 3
        scores = [row["score"] for row in mine if row["status"] != "failed"]
        assert scores == sorted(scores, reverse=True)
        unverified = [row["retrieval_rank"] for row in mine if row["status"] == "unverified"]
        assert unverified == sorted(unverified)
    failed = rows[9:11]
    assert [(row["candidate"], row["status"], row["reason"], row["score"]) for row in failed] == [
        ("cut.jpg", "failed", "truncated", None),
        ("gone.jpg", "failed", "unknown_image", None),
    ]
    assert [row["retrieval_score"] for row in failed] == [1.0, pytest.approx(0.99)]
    assert result["failed"] == {"truncated": 1, "unknown_image": 1}
    assert (result["pairs"], result["planned_pairs"], result["saved_pairs"]) == (28, 28, 0)
    failures = pq.read_table(output / "failures" / "candidates.parquet")["reason"].to_pylist()
    assert failures == ["malformed_line", "unknown_image"]


def test_inliers_are_those_of_the_main_job(place: Path, full: tuple[Path, dict[str, Any]]) -> None:
    (folder,) = (full[0] / "rounds").iterdir()
    matches = pa.concat_tables(
        pq.read_table(path) for path in sorted((folder / "matches").iterdir())
    ).to_pylist()
    found = {(row["image1"], row["image0"]): row["num_inliers"] for row in matches}
    for row in ranking(full[0]):
        if row["status"] in ("verified", "unverified"):
            assert (
                row["num_inliers"] == found[f"query/{row['query']}", f"database/{row['candidate']}"]
            )
    # Twelve photographs in shards of six pairs: fewer encodes than two a pair.
    assert full[1]["encodes"] < 2 * 28


def test_text_forms_hold_the_same_ranking(full: tuple[Path, dict[str, Any]]) -> None:
    output, _ = full
    rows = ranking(output)
    table = pa.csv.read_csv(output / "ranking.csv").to_pylist()
    names = ("query", "candidate", "rank", "num_inliers", "status")
    assert [[row[name] for name in names] for row in table] == [
        [row[name] for name in names] for row in rows
    ]
    lines = [line.split(" ") for line in (output / "ranking.trec").read_text().splitlines()]
    assert [(line[0], line[2], int(line[3])) for line in lines] == [
        (row["query"], row["candidate"], row["rank"]) for row in rows
    ]


def test_queries_and_evaluation_say_what_moved(full: tuple[Path, dict[str, Any]]) -> None:
    output, result = full
    queries = pq.read_table(output / "queries.parquet")
    assert queries.schema.equals(QUERIES, check_metadata=True)
    first = queries.to_pylist()[0]
    assert (first["query"], first["candidates"], first["matched"]) == ("0.jpg", 11, 9)
    assert (first["first_before"], first["first_after"][:2], first["gated"]) == (
        "cut.jpg",
        "0/",
        False,
    )
    assert (first["positive_before"], first["positive_after"]) == (5, 1)
    assert first["ap_before"] == pytest.approx((1 / 5 + 2 / 8 + 3 / 11) / 3)
    assert first["ap_after"] == 1
    evaluation = json.loads((output / "evaluation.json").read_text())
    assert evaluation == result["evaluation"]
    assert (evaluation["queries"], evaluation["truth_without_candidates"], evaluation["gate"]) == (
        3,
        1,
        25,
    )
    measures = evaluation["measures"]
    assert (
        measures["retrieval"]["recall@1"]["mean"],
        measures["reranked"]["recall@1"]["mean"],
    ) == (0, 1)
    assert evaluation["change"]["recall@1"] == {"mean": 1, "low": 1, "high": 1}
    text = rerank_text(result, "out")
    assert text.index("\nretrieval") < text.index("\nreranked ") < text.index("\nchange")
    assert "0 kept by the gate of 25 inliers" in text


def test_the_queries_that_moved_most_are_drawn(full: tuple[Path, dict[str, Any]]) -> None:
    output, result = full
    assert result["pictures"] == ["pictures/00.png", "pictures/01.png"]
    picture = np.asarray(
        Image.open(io.BytesIO((output / "pictures" / "00.png").read_bytes())).convert("RGB")
    )
    green, red = (
        int((picture == colour).all(axis=2).sum()) for colour in ((70, 222, 120), (240, 72, 72))
    )
    assert (
        green > 3 * 1000
    )  # frames of the three true candidates after, and of the one among the first six before
    assert red > 6 * 1000


@pytest.mark.parametrize("top", [1, 2])
def test_stopping_early_gives_the_first_places_of_the_full_run(
    place: Path, tmp_path: Path, top: int
) -> None:
    whole = reranked(asked(place, tmp_path / "whole", saturation=60.0))
    early = reranked(asked(place, tmp_path / "early", saturation=60.0, top=top))
    assert firsts(tmp_path / "early", top) == firsts(tmp_path / "whole", top)
    assert early["saved_pairs"] == whole["pairs"] - early["pairs"] > 0
    assert sum(row["pairs"] for row in early["rounds"]) == early["pairs"]
    assert early["skipped"] == early["saved_pairs"]
    assert len(ranking(tmp_path / "early")) == len(ranking(tmp_path / "whole"))
    assert len(early["rounds"]) == (1 if top == 1 else 2)


def test_rounds_double_up_to_the_longest_list() -> None:
    assert round_sizes(20, False) == [20]
    assert round_sizes(20, True) == [5, 10, 20]
    assert round_sizes(23, True) == [5, 10, 20, 23]
    assert round_sizes(3, True) == [3]


def test_a_killed_rerank_goes_on_where_it_stopped(place: Path, tmp_path: Path) -> None:
    options = asked(place, tmp_path / "run", saturation=60.0, top=2)
    matched: list[int] = []

    def counted(run: RunOptions) -> RunSummary:
        summary = match(run)
        matched.append(summary["session"]["pairs"])
        return summary

    def killed(run: RunOptions) -> RunSummary:
        if run.output.endswith("01"):
            raise KeyboardInterrupt
        return counted(run)

    with pytest.raises(KeyboardInterrupt):
        rerank(options, killed)
    assert not (tmp_path / "run" / "ranking.parquet").exists()
    (marker, *_) = sorted((tmp_path / "run" / "rounds" / "00" / "done").iterdir())
    marker.unlink()  # as if the first round had been stopped too, in its first shard
    rerank(options, counted)
    fresh = reranked(asked(place, tmp_path / "fresh", saturation=60.0, top=2))
    assert matched[1] == 6
    assert sum(matched[:1] + matched[2:]) == fresh["pairs"]
    for name in ("ranking.parquet", "queries.parquet", "ranking.trec", "evaluation.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


def test_other_candidates_are_refused_in_the_same_folder(place: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("0.jpg 0/0.jpg\n")
    (tmp_path / "other.txt").write_text("0.jpg 0/1.jpg\n")
    reranked(asked(place, tmp_path / "run", candidates=str(tmp_path / "one.txt")))
    before = (tmp_path / "run" / "ranking.parquet").read_bytes()
    with pytest.raises(RunError, match="its images or pairs were others"):
        reranked(asked(place, tmp_path / "run", candidates=str(tmp_path / "other.txt")))
    assert (tmp_path / "run" / "ranking.parquet").read_bytes() == before


def test_another_score_or_gate_needs_no_new_matches(place: Path, tmp_path: Path) -> None:
    reranked(asked(place, tmp_path / "run"))
    reranked(asked(place, tmp_path / "run", draw=2))
    by_ratio = reranked(asked(place, tmp_path / "run", score="ratio", truth=None, draw=1))
    assert [path.name for path in (tmp_path / "run" / "pictures").iterdir()] == ["00.png"]
    assert by_ratio["session"]["pairs"] == 0
    assert all(
        0 <= row["score"] <= 1 for row in ranking(tmp_path / "run") if row["score"] is not None
    )
    assert not (tmp_path / "run" / "evaluation.json").exists()
    closed = reranked(asked(place, tmp_path / "run", gate=10_000))
    assert (closed["gated_queries"], closed["changed_first"]) == (
        3,
        1,
    )  # a failed first candidate goes all the same
    measures = closed["evaluation"]["measures"]
    assert measures["reranked without the gate"]["recall@1"]["mean"] == 1
    assert measures["reranked"]["recall@1"]["mean"] == 0
    kept = [row for row in ranking(tmp_path / "run") if row["query"] == "1.jpg"]
    assert (kept[0]["retrieval_rank"], kept[0]["status"]) == (1, "unverified")
    assert [row["status"] for row in kept[1:4]] == ["verified"] * 3


@pytest.fixture(scope="module")
def one_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs of two places, and for each all others, itself first: false ones before true
    ones.
    """
    root = tmp_path_factory.mktemp("one")
    (root / "photos").mkdir()
    for place in range(2):
        for k, view in enumerate(views(3, SIZE, seed=place)):
            view.save(root / "photos" / f"{place}{k}.jpg", quality=92)
    names = sorted(path.name for path in (root / "photos").iterdir())
    by_place = [
        sorted(names, key=lambda other, own=name: (other != own, other[0] == own[0]))
        for name in names
    ]
    lines = [
        f"{name},{other}" for name, others in zip(names, by_place, strict=True) for other in others
    ]
    (root / "candidates.csv").write_text("query,candidate\n" + "\n".join(lines) + "\n")
    return root


def in_one_folder(root: Path, output: Path, **other: Any) -> RerankOptions:
    link = output.parent / "link"  # another path to the same folder
    if not link.exists():
        link.symlink_to(root / "photos")
    options = asked(root, output, candidates=str(root / "candidates.csv"), truth=None, **other)
    return replace(
        options,
        run=replace(options.run, images={"query": str(root / "photos"), "database": str(link)}),
    )


def test_in_one_folder_a_query_is_not_its_own_candidate_and_a_pair_is_matched_once(
    one_folder: Path, tmp_path: Path
) -> None:
    result = reranked(in_one_folder(one_folder, tmp_path / "run"))
    rows = ranking(tmp_path / "run")
    assert len(rows) == 6 * 5
    assert all(row["query"] != row["candidate"] for row in rows)
    assert result["pairs"] == 15
    assert result["unusable_lines"] == 6
    inliers = {(row["query"], row["candidate"]): row["num_inliers"] for row in rows}
    assert all(inliers[one] == inliers[one[::-1]] for one in inliers)
    assert all(row["query"][0] == row["candidate"][0] for row in rows if row["rank"] <= 2)


def test_a_query_s_places_do_not_depend_on_the_pairs_of_others(
    one_folder: Path, tmp_path: Path
) -> None:
    """A pair beyond one query's budget may be within another's: it is matched, and must not count
    for the first.
    """
    lines = ["00.jpg,10.jpg", "00.jpg,11.jpg", "00.jpg,01.jpg", "01.jpg,00.jpg"]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    options = in_one_folder(one_folder, tmp_path / "run", budget=2)
    reranked(replace(options, candidates=str(tmp_path / "list.csv")))
    mine = [row for row in ranking(tmp_path / "run") if row["query"] == "00.jpg"]
    assert [row["candidate"] for row in mine] == ["10.jpg", "11.jpg", "01.jpg"]
    assert [row["status"] for row in mine] == ["unverified", "unverified", "skipped"]
    assert [row["num_inliers"] for row in mine][2] is None
    assert (
        next(row for row in ranking(tmp_path / "run") if row["query"] == "01.jpg")["status"]
        == "verified"
    )


def test_a_database_below_the_queries_knows_its_own_files(place: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("database/0/0.jpg 0/0.jpg\ndatabase/0/0.jpg 0/1.jpg\n")
    options = asked(place, tmp_path / "run", candidates=str(tmp_path / "list.txt"), truth=None)
    images = {"query": str(place), "database": str(place / "database")}
    result = reranked(replace(options, run=replace(options.run, images=images)))
    assert (result["candidates"], result["verified"]) == (1, 1)


def test_an_object_store_gives_the_same_ranking(
    place: Path, full: tuple[Path, dict[str, Any]], s3: dict[str, str]
) -> None:
    store = Folder("s3://bucket/places", s3)
    for path in (
        *place.glob("queries/*.jpg"),
        *place.glob("database/**/*.jpg"),
        *place.glob("*.*"),
    ):
        store.publish(path.relative_to(place).as_posix(), path.read_bytes())
    options = asked(
        place,
        place,
        candidates=store.url_of("candidates.trec"),
        truth=store.url_of("truth.json"),
        draw=1,
    )
    images = {"query": store.url_of("queries"), "database": store.url_of("database")}
    run = replace(options.run, images=images, output="s3://bucket/reranked", storage=s3)
    result = reranked(replace(options, run=run))
    output = Folder("s3://bucket/reranked", s3)
    for name in (
        "ranking.parquet",
        "ranking.csv",
        "queries.parquet",
        "failures/candidates.parquet",
    ):
        assert output.read_bytes(name) == (full[0] / name).read_bytes(), name
    assert output.exists("pictures/00.png")
    assert result["evaluation"] == full[1]["evaluation"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": "beauty"}, "choose inliers, ratio, sum"),
        ({"top": 1}, "needs a saturation"),
        ({"top": 0, "saturation": 10.0}, "at least 1"),
        ({"budget": 0}, "at least 1"),
        ({"budget": 4.5}, "budget=4.5: give a whole number"),
        ({"saturation": 0.0}, "above 0"),
        ({"draw": -1}, "not negative"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    place: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        asked(place, place / "unused", **change)


def test_a_truth_of_other_queries_is_refused_before_any_work(place: Path, tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("query,candidate\nsomebody.jpg,0/0.jpg\n")
    with pytest.raises(PairListError, match=r"names none of the queries, 0\.jpg for one"):
        reranked(asked(place, tmp_path / "run", truth=str(tmp_path / "truth.csv")))
    assert not (tmp_path / "run").exists()


def test_results_inside_the_photographs_are_refused(place: Path) -> None:
    with pytest.raises(RunError, match="lies inside the folder of the images"):
        reranked(asked(place, place / "database" / "run"))
    assert not (place / "database" / "run").exists()


def test_folders_are_read_as_one(place: Path) -> None:
    source = Folders(
        {"query": Folder(str(place / "queries")), "database": Folder(str(place / "database"))}
    )
    names = list_images(source)
    assert names == sorted(names)
    assert Counter(name.partition("/")[0] for name in names) == {"query": 3, "database": 10}
    pixels, row = read_image(source, "database/0/1.jpg", long_side=LONG_SIDE)
    assert row["image"] == "database/0/1.jpg"
    np.testing.assert_array_equal(
        pixels, read_image(source.parts["database"], "0/1.jpg", long_side=LONG_SIDE)[0]
    )


@pytest.mark.parametrize(
    ("model", "geometry", "matrix"),
    [("homography", "planar_or_panoramic", "H"), ("fundamental", "uncalibrated", "F")],
)
def test_one_geometry_for_all_pairs_can_be_asked_for(
    place: Path, tmp_path: Path, model: str, geometry: str, matrix: str
) -> None:
    (tmp_path / "list.txt").write_text("0.jpg 0/0.jpg\n0.jpg 1/0.jpg\n")
    options = asked(place, tmp_path / "run", candidates=str(tmp_path / "list.txt"))
    reranked(
        replace(options, run=replace(options.run, verification=replace(VERIFICATION, model=model)))
    )
    (path,) = (tmp_path / "run" / "rounds" / "00" / "matches").iterdir()
    true, false = sorted(pq.read_table(path).to_pylist(), key=lambda row: row["image0"])
    assert true["geometry"] == geometry
    assert [name for name in "EFH" if true[name]] == [matrix]
    assert false["num_inliers"] == 0
    points0, points1, good = (
        np.array(true[name]) for name in ("keypoints0", "keypoints1", "inliers")
    )
    estimate = np.reshape(true[matrix], (3, 3))
    ones = np.ones((len(points0), 1))
    if model == "homography":
        there = np.concatenate([points0, ones], axis=1) @ estimate.T
        distance = np.linalg.norm(there[:, :2] / there[:, 2:] - points1, axis=1)
    else:
        lines = np.concatenate([points0, ones], axis=1) @ estimate.T
        distance = np.abs(
            (lines * np.concatenate([points1, ones], axis=1)).sum(1)
        ) / np.linalg.norm(lines[:, :2], axis=1)
    assert good.sum() == true["num_inliers"] > 50
    assert np.median(distance[good]) < VERIFICATION.max_error
    with pytest.raises(ValueError, match="model is one of"):
        VerifyShard(VerificationOptions(model="ellipse"))

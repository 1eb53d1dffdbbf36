"""`eloftr rerank` as a person starts it: another process, a real Ray node, real files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from job_process import PROJECT, Job
from pictures import write_places
from quiet_run import match_plainly

from pipeline.cli import main
from pipeline.cli.app import app
from pipeline.match.options import MatchingOptions, RunOptions, VerificationOptions
from pipeline.rerank.job import rerank_with as rerank
from pipeline.rerank.options import RerankOptions

pytestmark = pytest.mark.usefixtures("kept_processes")

SIZE, LONG_SIDE = (192, 144), 192
JOB = (str(PROJECT / "jobs" / "rerank.py"),)
FOLDERS = ("--queries", "queries", "--database", "database", "--candidates", "candidates.trec")
ASKED = (*FOLDERS, "--truth", "truth.json", "--long-side", LONG_SIDE, "--shard-pairs", 6)
EARLY = ("--saturation", 60, "--top", 2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("places")
    write_places(root, SIZE)
    return root


def exit_code(*arguments: object) -> int:
    return main(["rerank", *map(str, arguments)])


@pytest.fixture(scope="module")
def plain(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of the same options, made without an executor."""
    run = tmp_path_factory.mktemp("plain") / "run"
    options = RunOptions(
        {"query": str(place / "queries"), "database": str(place / "database")},
        str(run),
        matching=MatchingOptions(LONG_SIDE),
        verification=VerificationOptions(long_side=LONG_SIDE),
        max_pairs=6,
    )
    lists = {"candidates": str(place / "candidates.trec"), "truth": str(place / "truth.json")}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.cuda, "is_available", lambda: False)
        rerank(RerankOptions(options, **lists, saturation=60.0, top=2), match_plainly)
    return run


@pytest.mark.timeout(600)
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_all_rounds_share_one_executor_which_does_not_change_the_result(
    executor: str,
    place: Path,
    here: Path,
    plain: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = place / f"run-{executor}"
    how = ("--draw", 1, "--actors", 1, "--executor", executor)
    job = Job(*ASKED, *EARLY, *how, "--output", run, cwd=place, program=JOB)
    assert job.ended() == 0, job.out + job.err
    summary = json.loads((run / "summary.json").read_text())
    assert [row["up_to"] for row in summary["rounds"]] == [5, 10]
    assert summary["saved_pairs"] == 28 - summary["pairs"] > 0
    files = [run / f"rounds/{k:02}/summary.json" for k in range(2)]
    starts = [json.loads(path.read_text())["session"]["start_seconds"] for path in files]
    assert (starts[0] > 0.5) == (executor == "ray")
    assert starts[1] < 0.5
    for text in (
        "round 1: up to 10 candidates",
        "skipped",
        "gate of 25 inliers",
        "\nretrieval ",
        "\nchange ",
    ):
        assert text in job.out
    assert (run / "pictures" / "00.png").stat().st_size > 10_000
    (shown,) = re.findall(
        r"--draw 3\n(.*?)^```$", (PROJECT / "docs" / "reranking.md").read_text(), re.M | re.S
    )
    labels = re.findall(r"^[a-z]+(?: [a-z]+)*:|^[a-z]+(?: [a-z]+)*(?= {3})", shown, re.M)
    assert len(labels) == 11
    assert [label for label in labels if f"\n{label}" not in job.out] == []

    for name in (
        "ranking.parquet",
        "ranking.csv",
        "ranking.trec",
        "queries.parquet",
        "evaluation.json",
    ):
        assert (run / name).read_bytes() == (plain / name).read_bytes(), name

    # Again: nothing is matched, Ray is not started, and the ranking stays as it is.
    capsys.readouterr()
    assert exit_code(*ASKED, *EARLY, "--output", run) == 0
    assert "this session: 0 pairs" in capsys.readouterr().out
    ranking = "ranking.parquet"
    assert (run / ranking).read_bytes() == (plain / ranking).read_bytes()
    # All candidates are other rounds: another folder is asked for.
    assert exit_code(*ASKED, "--output", run) == 2
    assert re.fullmatch(
        r"eloftr rerank: \S+/rounds/00: [^\n]+ give another --output[^\n]+\n",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--queries", "nowhere"], "nowhere: no such folder"),
        (["--candidates", "absent.csv"], "cannot be read"),
        (["--candidates", "truth.json"], "no list by its ending"),
        (["--database", "queries"], "names no candidate of a query"),
        (["--truth", "absent.json"], "cannot be read"),
        (["--output", "database/run"], "lies inside the folder of the images"),
        (["--weights", "absent"], "no such file, folder or bundled name"),
        (["--top", "1"], "needs a saturation"),
        (["--budget", "0"], "at least 1"),
        (["--gate", "-1"], "gate must be 0 inliers or more"),
        (["--output", ""], "a path is empty"),
        (["--output", "matched"], "matched: holds a run of eloftr match"),
        (["--long-side", "16"], "'--long-side': 16 is not in the range 32<=x<=8192."),
        (["--storage-options", '{"secret": "hidden"'], "not a JSON object"),
    ],
)
def test_wrong_arguments_end_with_code_two_and_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (here / "matched").mkdir(exist_ok=True)
    (here / "matched" / "run.json").write_text("{}")
    before = sorted(here.iterdir())
    assert exit_code(*FOLDERS, "--output", "refused", *arguments) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"eloftr rerank: [^\n]+\n", err)
    assert message in err
    assert "hidden" not in err
    assert sorted(here.iterdir()) == before


def test_both_commands_ask_for_matching_alike() -> None:
    asked = [{option.name for option in app.load(name).params} for name in ("match", "rerank")]
    # rerank shows photographs as they are, and each of its two folders has masks of its own
    as_they_are = {"turns", "scales", "yaw", "detail", "panoramas", "intrinsics"}
    assert asked[0] - asked[1] == {"images", "pairs", "masks", *as_they_are}


@pytest.fixture(scope="module")
def matched_candidates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first list of candidates leaves its matches for the others, whose pairs must be
    the same.
    """
    return tmp_path_factory.mktemp("matched") / "run"


@pytest.mark.parametrize("ending", ["parquet", "csv", "txt", "trec", "run"])
def test_candidates_that_are_planned_are_reranked(
    here: Path,
    matched_candidates: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    ending: str,
) -> None:
    """The list of `eloftr pairs retrieval --queries`, whose descriptors need nothing else."""
    listed = tmp_path / f"candidates.{ending}"
    places = ["--queries", "queries", "--images", "database", "--output", str(listed)]
    asked = ["pairs", "retrieval", *places, "--top-k", "3"]
    assert main(asked) == 0
    assert "unusable:     1 truncated (database/cut.jpg: " in capsys.readouterr().out
    images = {"query": "queries", "database": "database"}
    options = RunOptions(
        images,
        str(matched_candidates),
        matching=MatchingOptions(LONG_SIDE),
        verification=VerificationOptions(long_side=LONG_SIDE),
    )
    found = rerank(RerankOptions(options, str(listed), "truth.json"), match_plainly)
    assert found is not None
    result = found.summary
    assert (result["queries"], result["candidates"], result["unusable_lines"]) == (3, 9, 0)
    assert result["evaluation"]["measures"]["reranked"]["recall@1"]["mean"] == 1


def test_a_dry_run_prints_the_plan_and_its_cost_and_writes_nothing(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    assert exit_code(*ASKED, "--output", "dry", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "3 queries, 29 candidates, 28 pairs; 2 lines cannot be matched (line "
    )
    assert lines[1:3] == [
        "round 0: up to 11 candidates of 3 queries",
        "13 images, 28 pairs in 5 shards",
    ]
    assert re.fullmatch(
        r"\d+ encodes and 28 pairs to do: about .* on one c\w+ like this one .*", lines[3]
    )
    assert len(lines) == 4
    assert exit_code(*ASKED, "--output", "dry", "--dry-run", "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["event"] for event in events] == ["candidates", "round", "plan", "estimate"]
    counts = {"queries": 3, "candidates": 29, "pairs": 28, "duplicates": 0, "unusable": 2}
    assert counts.items() <= events[0].items()
    assert {"number": 0, "up_to": 11, "queries": 3}.items() <= events[1].items()
    # With an early stop, what comes after the first round is not known: at most the rest.
    assert exit_code(*ASKED, *EARLY, "--output", "dry", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == [
        "round 0: up to 5 candidates of 3 queries",
        "13 images, 14 pairs in 3 shards",
    ]
    assert lines[4].startswith("later rounds, at most: ")
    assert lines[5] == "13 images, 14 pairs in 3 shards"
    assert sorted(here.rglob("*")) == before


def test_a_dry_run_on_a_stopped_command_plans_what_is_left(
    here: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*ASKED, *EARLY, "--output", tmp_path / "run", "--dry-run"]
    shutil.copytree(plain, tmp_path / "run")
    assert exit_code(*given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "to do" in line] == [lines[3], lines[6]]
    assert all(line.startswith("0 encodes and 0 pairs to do: ") for line in (lines[3], lines[6]))
    (marker, *_) = (tmp_path / "run" / "rounds" / "01" / "done").iterdir()
    pairs = json.loads(marker.read_text())["counts"]["pairs"]
    marker.unlink()
    assert exit_code(*given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f" encodes and {pairs} pairs to do: " in lines[6]
    assert lines[7].startswith("later rounds, at most: ")
    assert lines[8] == "13 images, 1 pair in 1 shard"
    (tmp_path / "run" / "rounds" / "00" / "run.json").write_text("{}")
    assert exit_code(*given) == 2
    assert "holds a run that does not fit" in capsys.readouterr().err

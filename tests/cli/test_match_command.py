"""`eloftr match` as a person starts it: another process, a real Ray node, real files."""

from __future__ import annotations

import http.server
import io
import json
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from job_process import Job, done, eloftr, free_port, rows, shards, tables
from pictures import views
from PIL import Image
from quiet_run import match_plainly

from pipeline.cli import main
from pipeline.match.options import MatchingOptions, RunOptions, VerificationOptions

pytestmark = pytest.mark.usefixtures("kept_processes")

LONG_SIDE = 192
SIZE = (192, 144)
BAD = {
    "broken.jpg": "truncated",
    "dot.png": "too_small",
    "nothing.jpg": "empty",
    "notes.jpg": "not_an_image",
    "panorama.jpg": "too_large",
}
GOOD = [
    *("16 bit.png", "alpha.png", "cmyk.jpg", "grey.png", "palette.png", "plain.jpg"),
    *("sub/deep er/Plain.JPG", "tagged.tiff", "turned.jpg", "web.webp"),
]


def write_photos(folder: Path) -> None:
    """Ten overlapping views, each stored in another way, and five files that are no photographs."""
    view = dict(zip(GOOD, views(len(GOOD), SIZE), strict=True))
    (folder / "sub" / "deep er").mkdir(parents=True)
    wide = np.asarray(view["16 bit.png"], np.uint16) * 16
    Image.fromarray(wide).save(folder / "16 bit.png")
    clear = Image.merge("LA", (view["alpha.png"], Image.new("L", SIZE, 255)))
    clear.save(folder / "alpha.png")
    view["cmyk.jpg"].convert("RGB").convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    view["grey.png"].save(folder / "grey.png")
    view["palette.png"].convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE).save(
        folder / "palette.png"
    )
    view["plain.jpg"].convert("RGB").save(folder / "plain.jpg", quality=95)
    view["sub/deep er/Plain.JPG"].convert("RGB").save(folder / "sub/deep er/Plain.JPG", quality=95)
    view["tagged.tiff"].convert("RGB").save(folder / "tagged.tiff", compression="tiff_deflate")
    exif = Image.Exif()
    exif[0x0112] = 6
    view["turned.jpg"].transpose(Image.Transpose.ROTATE_90).save(
        folder / "turned.jpg", exif=exif, quality=95
    )
    view["web.webp"].save(folder / "web.webp", quality=95)

    (folder / "broken.jpg").write_bytes((folder / "plain.jpg").read_bytes()[:4000])
    Image.new("L", (1, 1)).save(folder / "dot.png")
    (folder / "nothing.jpg").touch()
    (folder / "notes.jpg").write_text("Remember to take photographs.\n")
    Image.new("L", (20_000, 200), 128).save(folder / "panorama.jpg")
    (folder / ".hidden.jpg").write_text("of no interest")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos` and `pairs.csv`: all pairs, one of them twice, and three that are none."""
    place = tmp_path_factory.mktemp("place")
    write_photos(place / "photos")
    pairs = [*combinations(sorted([*GOOD, *BAD]), 2), ("plain.jpg", "grey.png")]
    pairs += [("plain.jpg", "plain.jpg"), ("plain.jpg", "absent.jpg"), ("gone.jpg", "absent.jpg")]
    (place / "pairs.csv").write_text(
        "image0,image1\n" + "".join(f"{first},{second}\n" for first, second in pairs)
    )
    return place


class Finished(NamedTuple):
    """What a job printed that has ended well, its run folder, and its executor."""

    out: str
    err: str
    run: Path
    executor: str


LISTED = (
    "--images",
    "photos",
    "--pairs",
    "pairs.csv",
    "--long-side",
    LONG_SIDE,
    "--shard-pairs",
    6,
)


EXECUTORS = ("local", "ray")
UPRIGHT = ("--turns", "off", "--scales", "off")  # one round is enough for these tests


@contextmanager
def chdir(place: Path) -> Iterator[None]:
    """As that of Python 3.11."""
    before = Path.cwd()
    os.chdir(place)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module", params=EXECUTORS)
def finished(place: Path, request: pytest.FixtureRequest) -> Finished:
    """The job, run once from start to end.

    On this machine it is a process of its own. On Ray it is this process, which has joined a node
    already; jobs that start Ray or join it by themselves are in other tests.
    """
    run = place / f"run by {request.param}"
    arguments = (*LISTED, "--output", run, "--executor", request.param, "--actors", 1)
    if request.param == "local":
        job = Job(*arguments, cwd=place)
        assert job.ended() == 0, job.out + job.err
        return Finished(job.out, job.err, run, request.param)
    request.getfixturevalue("embedded_ray")
    out, err = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    with chdir(place), redirect_stdout(out), redirect_stderr(err):
        assert exit_code(*arguments) == 0
    signal.signal(signal.SIGTERM, handler)
    return Finished(out.getvalue(), err.getvalue(), run, request.param)


def exit_code(*arguments: object) -> int:
    return main(["match", *map(str, arguments)])


# Without Ray


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "nowhere"], "nowhere: no such folder"),
        (["--images", "pairs.csv"], "/pairs.csv: is a file; give a folder"),
        (["--output", "pairs.csv"], "/pairs.csv: is a file; give a folder"),
        (["--output", "pairs.csv/in/it"], "/pairs.csv: is a file; give a folder"),
        (["--output", "photos/run"], "lies inside the folder of the images"),
        (["--pairs", "pairs.yaml"], "give a .txt, .csv or .parquet"),
        (["--pairs", "absent.csv"], "cannot be read"),
        (["--weights", "absent"], "no such file, folder or bundled name"),
        (["--weights", "pairs.csv"], "unknown kind of file"),
        (["--long-side", "16"], "'--long-side': 16 is not in the range 32<=x<=8192."),
        (["--batch-size", "0"], "'--batch-size': 0 is not in the range x>=1."),
        (["--limit", "max_side=8"], "min_side ≤ max_side"),
        (["--limit", "pixels=8"], "give NAME=NUMBER, with a NAME of min_side"),
        (["--limit", "max_pixels=many"], "limit 'max_pixels=many'"),
        (["--max-error", "0"], "'--max-error': 0.0 is not in the range x>0."),
        (["--min-inliers", "3"], "'--min-inliers': 3 is not in the range x>=8."),
        (["--shard-pairs", "0"], "'--shard-pairs': 0 is not in the range x>=1."),
        (["--shard-images", "1"], "'--shard-images': 1 is not in the range x>=2."),
        (["--actors", "0"], "actors must be at least 1"),
        (["--storage-options", '{"secret": "hidden"'], "not a JSON object"),
    ],
)
def test_wrong_arguments_end_with_code_two_and_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = sorted(here.iterdir())
    assert exit_code("--images", "photos", "--output", "refused", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"eloftr match: [^\n]+\n", err)
    assert message in err
    assert "hidden" not in err
    assert sorted(here.iterdir()) == before


def test_a_bucket_that_may_not_be_read_ends_likewise(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("s3fs", reason="s3fs is not installed")

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        storage = json.dumps({"endpoint_url": endpoint, "key": "hidden", "secret": "hidden"})
        for arguments in (("--images", "s3://closed/photos"), ("--output", "s3://closed/run")):
            command = (
                "--images",
                "photos",
                "--output",
                "refused",
                *arguments,
                "--storage-options",
                storage,
            )
            assert exit_code(*command) == 2
            out, err = capsys.readouterr()
            assert re.fullmatch(r"eloftr match: s3://closed/\w+: [^\n]+\n", err)
            assert "rights" in err
            assert "hidden" not in err + out
        server.shutdown()


@pytest.mark.parametrize(
    "arguments", [[], ["--images", "photos"], ["--variant", "half"], ["--threshold", "low"]]
)
def test_arguments_that_make_no_command_end_with_code_two(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert exit_code(*arguments) == 2
    assert re.fullmatch(r"eloftr match: [^\n]+\n", capsys.readouterr().err)


def test_a_wrong_ray_address_ends_with_code_two_and_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    started = time.monotonic()
    assert exit_code("--images", "photos", "--output", "refused") == 2
    assert time.monotonic() - started < 20  # Ray by itself tries for a quarter of an hour
    assert re.fullmatch(
        r"eloftr match: RAY_ADDRESS=127\.0\.0\.1:\d+: no Ray cluster [^\n]+\n",
        capsys.readouterr().err,
    )


def test_a_ray_that_does_not_start_is_one_sentence(place: Path, tmp_path: Path) -> None:
    """In a process of its own, because a Ray that failed leaves one in which no other one works."""
    command = ("match", "--images", "photos", "--output", "refused", "--executor", "ray")
    long = str(tmp_path / ("long" * 30))  # for sockets of Unix
    ended = eloftr(*command, cwd=place, RAY_TMPDIR=long)
    assert ended.returncode == 2
    assert re.fullmatch(
        r"eloftr match: Ray does not start on this machine \([^\n]+\); [^\n]+ --executor local\.",
        ended.stderr.splitlines()[-1],
    )
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("speaks", [True, False])
def test_an_address_at_which_something_else_listens_is_refused_too(
    speaks: bool,
    here: Path,
    served: Callable[[Path], str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pipeline.execute import starting

    monkeypatch.setattr(starting, "ANSWER", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = served(here) if speaks else f"ray://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", place.removeprefix("http://"))
        assert exit_code("--images", "photos", "--output", "refused") == 2
    why = "what answers there is no Ray" if speaks else "timed out"
    assert re.fullmatch(
        rf"eloftr match: RAY_ADDRESS=[^ ]+: no Ray cluster answers there \({why}\); [^\n]+\n",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1", "127.0.0.1:abc", ":6379"])
def test_an_address_that_is_none_is_one_sentence(
    address: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert exit_code("--images", "photos", "--output", "refused") == 2
    assert re.fullmatch(
        rf"eloftr match: RAY_ADDRESS={address}: is no address of a cluster \([^\n]+\); "
        r"give host:port\.\n",
        capsys.readouterr().err,
    )


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    assert exit_code(*LISTED, "--output", "dry", "--dry-run") == 0
    out, err = capsys.readouterr()
    plan, first, cost, later = out.splitlines()
    assert plan.startswith(
        "15 images, 105 pairs in 18 shards; 1 duplicate dropped; 3 lines of the list cannot be"
    )
    assert first == (
        "the first line that cannot be matched: line 108 of pairs.csv: "
        "an image is paired with itself"
    )
    assert re.match(r"\d+ encodes and 105 pairs to do: about \d+ (s|min)", cost)
    assert later == "later rounds: at most 12 probes a round, and the pairs that they find"
    assert err == ""
    assert sorted(here.rglob("*")) == before


# One undisturbed run


def test_the_job_prints_plan_progress_and_summary(finished: Finished) -> None:
    out, err = finished.out, finished.err
    assert out.startswith("15 images, 105 pairs in 18 shards; 1 duplicate dropped; 3 lines")
    for text in ("matched:", "verified:", "unusable:", "this session: 105 pairs in"):
        assert text in out
    told = {"local": "on this machine", "ray": "to start Ray"}
    assert told[finished.executor] in out
    lines = err.split("\n")
    assert lines[-2].startswith("105 of 105 pairs · ")
    expected = re.compile(r"[\d,]+ of 105 pairs · [\d.]+ pairs/s · \d+ failed · .* left$")
    assert [line for line in lines if not expected.match(line)] == [""]


def test_every_pair_has_one_row_and_all_pairs_of_photographs_are_matched(
    finished: Finished,
) -> None:
    found = {(row["image0"], row["image1"]): row for row in rows(finished.run)}
    assert len(rows(finished.run)) == len(found) == 105
    assert set(found) == set(combinations(sorted([*GOOD, *BAD]), 2))
    for (first, second), row in found.items():
        reasons = {BAD[name] for name in (first, second) if name in BAD}
        if reasons:
            assert (row["status"], row["geometry"]) == ("failed", "none")
            assert row["reason"] in reasons
        else:
            assert row["status"] == "matched", (first, second)
    verified = Counter(row["geometry"] for row in found.values() if row["status"] == "matched")
    assert verified.total() == 45
    assert verified["planar"] + verified["uncalibrated"] + verified["planar_or_panoramic"] > 20


def test_unusable_photographs_become_failure_rows_with_the_reason(finished: Finished) -> None:
    failures = [pq.read_table(path) for path in (finished.run / "failures").glob("0*.parquet")]
    found = {
        (row["image0"], row["image1"], row["stage"], row["reason"])
        for row in pa.concat_tables(failures).to_pylist()
    }
    assert found == {(name, None, "read", reason) for name, reason in BAD.items()}
    plan = pq.read_table(finished.run / "failures" / "plan.parquet")
    assert sorted(plan["reason"].to_pylist()) == ["self_pair", "unknown_image", "unknown_image"]


def test_the_summary_counts_what_is_in_the_tables(finished: Finished) -> None:
    summary = json.loads((finished.run / "summary.json").read_text())
    found = rows(finished.run)
    reasons = Counter(row["reason"] for row in found if row["reason"])
    reasons.update({"self_pair": 1, "unknown_image": 2})
    assert summary["failed"] == dict(reasons)
    assert summary["failed_images"] == dict.fromkeys(BAD.values(), 1)
    assert (summary["images"], summary["pairs"], summary["matched"]) == (15, 105, 45)
    assert summary["matches"] == sum(len(row["scores"]) for row in found)
    assert summary["inliers"] == sum(row["num_inliers"] for row in found)
    assert summary["session"]["pairs"] == 105
    assert summary["session"]["executor"] == finished.executor
    assert 0 <= summary["session"]["start_seconds"] < summary["session"]["seconds"]
    assert summary["session"]["start_seconds"] < 0.5  # the job joins a Ray that is there


@pytest.fixture(scope="module")
def plain(place: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tables of the same job without an executor."""
    run = tmp_path_factory.mktemp("plain") / "run"
    options = RunOptions(
        str(place / "photos"),
        str(run),
        str(place / "pairs.csv"),
        matching=MatchingOptions(LONG_SIDE),
        verification=VerificationOptions(long_side=LONG_SIDE),
        max_pairs=6,
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.cuda, "is_available", lambda: False)
        match_plainly(options)
    return tables(run)


def test_no_executor_changes_the_result(finished: Finished, plain: dict[str, bytes]) -> None:
    assert plain == tables(finished.run)


def test_rerun_skips_finished_shards(
    finished: Finished, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def times() -> dict[Path, int]:
        files = (
            path
            for path in finished.run.rglob("*")
            if path.is_file() and path.name not in ("summary.json", "report.html")
        )
        return {path: path.stat().st_mtime_ns for path in files}

    before, summary = times(), json.loads((finished.run / "summary.json").read_text())
    assert exit_code(*LISTED, "--output", finished.run) == 0
    out, err = capsys.readouterr()
    assert "18 shards done" in out
    assert "this session: 0 pairs" in out
    assert err == ""
    assert times() == before
    again = json.loads((finished.run / "summary.json").read_text())
    assert {**again, "session": None} == {**summary, "session": None}


def test_other_options_on_a_finished_run_are_refused(
    finished: Finished, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*LISTED, "--output", finished.run, "--long-side", "256") == 2
    assert "long_side was 192, now 256" in capsys.readouterr().err
    assert exit_code(*LISTED, "--output", finished.run, "--threshold", "0.3", "--dry-run") == 2
    assert "threshold was 0.2, now 0.3" in capsys.readouterr().err
    assert exit_code(*LISTED, "--output", finished.run, "--least-squares", "0", "--dry-run") == 2
    assert "least_squares was 5, now 0" in capsys.readouterr().err


# Disturbed runs; others are in test_faults.py


STOPPED = "eloftr match: stopped; run the same command again to go on."


@pytest.mark.parametrize("executor", EXECUTORS)
def test_ctrl_c_ends_with_code_three_and_a_sentence(place: Path, executor: str) -> None:
    run = place / f"interrupted {executor}"
    small = (*UPRIGHT, "--long-side", 96, "--shard-pairs", 2, "--executor", executor)
    job = Job("--images", "photos", "--output", run, *small, "--actors", 1, cwd=place)
    job.until(lambda: done(run) > 0)
    os.killpg(job.process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    assert job.ended() == 3, job.out + job.err
    assert job.err.splitlines()[-1] == STOPPED
    assert "Traceback" not in job.err
    assert 0 < done(run) < shards(run)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_sigterm_while_processes_start_ends_likewise(place: Path, executor: str) -> None:
    output = f"terminated early {executor}"
    small = (*UPRIGHT, "--long-side", 96, "--executor", executor)
    job = Job("--images", "photos", "--output", output, *small, cwd=place)
    job.until(lambda: len(job.left()) > 1)
    job.process.terminate()
    assert job.ended() == 3, job.out + job.err
    assert job.err.splitlines()[-1] == STOPPED
    assert done(place / output) == 0

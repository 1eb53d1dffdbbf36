"""What the end of a command says, each code by a process of its own. Code 3 is in
test_match_command.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from job_process import PROJECT, eloftr
from PIL import Image
from small_run import SMALL, Done

from pipeline.cli.console import Console, ExitCode
from pipeline.errors import ArgumentError
from pipeline.store.folder import Folder
from pipeline.store.lease import Lease

Command = Callable[..., subprocess.CompletedProcess[str]]
BUG = """
from pipeline.match import job

def broken(*arguments, **named):
    raise {error}("a bug")

job.match_photographs = broken
"""


def test_done_is_zero_and_json_can_be_read(done: Done) -> None:
    summary = json.loads(done.out)
    assert summary == json.loads((done.place / "run" / "summary.json").read_text())
    assert (summary["pairs"], summary["matched"]) == (6, 3)
    assert summary["failed"] == {"truncated": 3}
    assert summary["session"]["executor"] == "local"
    events = [json.loads(line) for line in done.err.splitlines()]
    assert [event["event"] for event in events] == ["plan", "progress"]
    assert {"images": 4, "pairs": 6, "shards": 1}.items() <= events[0].items()
    assert {"unit": "pairs", "done": 6, "total": 6, "failed": 3}.items() <= events[1].items()


def test_warnings_of_decoders_are_no_lines_among_those_of_json(done: Done, tmp_path: Path) -> None:
    """Pillow warns of damaged EXIF data in each process that reads the photograph."""
    (tmp_path / "photos").mkdir()
    damaged = b"Exif\0\0MM\0\x2a\xff\xff\xff\xff" + 99 * b"z"
    for name in ("view 0.jpg", "view 1.jpg"):
        Image.open(done.place / "photos" / name).save(tmp_path / "photos" / name, exif=damaged)
    with pytest.warns(UserWarning, match="Corrupt EXIF data"):
        Image.open(tmp_path / "photos" / "view 0.jpg").getexif()
    options = ("--images", "photos", "--output", "run", *SMALL, "--json")
    ended = eloftr("match", *options, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    events = [json.loads(line)["event"] for line in ended.stderr.splitlines()]
    assert events[0] == "plan"


def test_nothing_matched_is_one(done: Done, tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text('"cut.jpg" "view 0.jpg"\n')
    options = ("--pairs", tmp_path / "pairs.txt", "--output", tmp_path / "run", *SMALL)
    ended = eloftr("match", "--images", "photos", *options, cwd=done.place)
    assert ended.returncode == 1, ended.stderr
    assert "matched:      0 pairs" in ended.stdout
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("error", ["ValueError", "KeyError", "OSError", "RuntimeError"])
def test_a_bug_is_one_and_keeps_its_traceback(done: Done, tmp_path: Path, error: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(BUG.format(error=error))
    paths = f"{tmp_path}{os.pathsep}{PROJECT}"
    options = ("--images", "photos", "--output", tmp_path / "run", *SMALL)
    ended = eloftr("match", *options, cwd=done.place, PYTHONPATH=paths)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback")
    assert error in ended.stderr.splitlines()[-1]
    assert "a bug" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--images", "nowhere"), "nowhere: no such folder"),
        (("--long-side", 8), "'--long-side': 8 is not in the range 32<=x<=8192."),
        (("--yaw", "nowhere.csv"), "nowhere.csv: cannot be read"),
        (("--yaw", "yaw.csv", "--turns", "off"), "yaw needs turns, which are off"),
        (("--executor", "ray", "--actors", "many"), "actors are a number or a range"),
    ],
)
def test_what_cannot_be_used_is_two_and_one_sentence(
    eloftr_here: Command,
    done: Done,
    tmp_path: Path,
    options: tuple[object, ...],
    sentence: str,
) -> None:
    given = ("--images", "photos", "--output", tmp_path / "run", *SMALL, *options)
    ended = eloftr_here("match", *given, cwd=done.place)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("eloftr match: ")
    assert sentence in line
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_that_may_only_be_read_is_two_and_one_sentence(
    eloftr_here: Command, done: Done, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    mount = ["mount", "--bind", str(done.place / "run"), str(run)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems may not be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(run)], check=True)
        given = ("--images", "photos", "--output", run, *SMALL)
        ended = eloftr_here("match", *given, cwd=done.place)
        shown = eloftr_here("info", run, cwd=done.place)
    finally:
        subprocess.run(["umount", "--lazy", str(run)], check=True)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"eloftr match: {run}: may only be read (Read-only file system), and")
    assert shown.returncode == 0, shown.stderr
    assert "matched:      3 pairs" in shown.stdout


def test_an_error_as_json_has_its_message_and_code(done: Done, tmp_path: Path) -> None:
    given = ("--images", "nowhere", "--output", tmp_path / "run", *SMALL, "--json")
    ended = eloftr("match", *given, cwd=done.place)
    assert (ended.returncode, ended.stdout) == (2, "")
    error = json.loads(ended.stderr)
    assert (error["event"], error["exit_code"]) == ("error", 2)
    assert "nowhere: no such folder" in error["message"]


def test_a_run_folder_in_use_is_four(done: Done, tmp_path: Path) -> None:
    given = ("--images", "photos", "--output", tmp_path / "run", *SMALL)
    with Lease(Folder(str(tmp_path / "run"))):
        ended = eloftr("match", *given, cwd=done.place)
    assert ended.returncode == 4, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert f"another command, process {os.getpid()} on " in line


@pytest.mark.parametrize("as_json", [True, False])
def test_no_error_shows_the_password_of_a_url(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = "http://user:hidden@store.example/x.csv: is no table; correct it."
    Console("eloftr match", as_json).fail(ArgumentError(sentence), ExitCode.UNUSABLE)
    told = capsys.readouterr().err
    assert "http://store.example/x.csv: is no table; correct it." in told
    assert "hidden" not in told

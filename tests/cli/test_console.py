from __future__ import annotations

import io
import json
import sys
import threading
from datetime import datetime, timedelta

import click
import pytest
from clock import Clock

from pipeline import events
from pipeline.cli import console
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.events import Event, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    monkeypatch.setattr(events, "time", clock)
    return clock


def test_a_line_says_pairs_rate_failures_and_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(5000, listen=Console("eloftr match"))
    clock.now += 20
    progress.advance(600, 2)
    progress.advance(400, 1)
    assert capsys.readouterr().err == (
        "600 of 5,000 pairs · 30.0 pairs/s · 2 failed · 2 min 27 s left\n"
    )
    clock.now += 20
    progress.advance(1000)
    line = "2,000 of 5,000 pairs · 50.0 pairs/s · 3 failed · 1 min 0 s left\n"
    assert capsys.readouterr().err == line


def test_elsewhere_there_is_a_plain_line_now_and_then_and_one_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(100, listen=Console("eloftr match"))
    for _ in range(100):
        clock.now += 0.3
        progress.advance(1)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert len(lines) == 3  # about every 10 s of 30 s
    assert lines[-1].startswith("100 of 100 pairs")
    assert "\r" not in err
    assert "\x1b" not in err
    assert out == ""


def test_a_terminal_has_one_line_that_is_rewritten(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    shown = Console("eloftr match")
    progress = Progress(40, listen=shown)
    for _ in range(3):
        clock.now += 1
        progress.advance(10)
    assert "\n" not in terminal.getvalue()
    shown(Event("worker_died", "a process died"))  # the line of progress makes room for a moment
    clock.now += 1
    progress.advance(10)
    lines = terminal.getvalue().split("\n")
    assert len(lines) == 2  # the line has ended with the work
    assert lines[1] == ""
    assert "30 of 40 pairs · 10.0 pairs/s · 0 failed · 1 s left" in lines[0]
    assert "40 of 40 pairs · 10.0 pairs/s · 0 failed · 0 s left" in lines[0].split("\r")[-1]
    assert capsys.readouterr().out == "a process died\n"


def test_every_round_of_a_job_has_a_line_of_its_own_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    shown = Console("eloftr rerank")
    for total in (20, 10):
        progress = Progress(total, listen=shown)
        for _ in range(2):
            progress.advance(total // 2)
    first, second, last = terminal.getvalue().split("\n")
    assert "20 of 20" in first
    assert "10 of 10" in second
    assert last == ""


def test_work_that_is_stopped_leaves_the_line_and_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    shown = Console("eloftr match")
    Progress(40, listen=shown).advance(10)
    assert shown.fail("stopped", ExitCode.STOPPED) == 3
    assert terminal.getvalue().endswith("\neloftr match: stopped\n")


def test_json_lines_say_the_same_and_the_summary_is_one_object(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = Console("eloftr match", as_json=True)
    shown(Event("plan", "for a person", {"images": 3}))
    shown(Event("estimate", "only words"))
    Progress(10, listen=shown).advance(10, 2)
    assert shown.fail("it's over", ExitCode.UNUSABLE) == 2
    shown.finish("for a person", {"pairs": 10})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"pairs": 10}
    lines = [json.loads(line) for line in err.splitlines()]
    for line in lines:
        assert datetime.fromisoformat(line.pop("time")).utcoffset() == timedelta(0)
    lines[2].pop("per_second")
    counts = {"unit": "pairs", "done": 10, "total": 10, "failed": 2, "seconds_left": 0}
    assert lines == [
        {"event": "plan", "images": 3},
        {"event": "estimate", "message": "only words"},
        {"event": "progress", **counts},
        {"event": "error", "message": "it's over", "exit_code": 2},
    ]


def test_text_goes_to_people(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Console("eloftr match")
    shown(Event("plan", "3 images", {"images": 3}))
    shown.finish("one\ntwo\n", {"images": 3})
    assert shown.fail("it's over", ExitCode.STOPPED) == 3
    assert capsys.readouterr() == ("3 images\none\ntwo\n", "eloftr match: it's over\n")


@pytest.mark.parametrize("as_json", [False, True])
def test_what_a_library_prints_is_not_on_standard_output(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command("work", cls=Command)
    @click.pass_obj
    def work(console: Console) -> ExitCode:
        thread = threading.Thread(target=print, args=("(raylet) there are no CPUs",))
        thread.start()
        thread.join()
        console(Event("plan", "1 pair", {"pairs": 1}))
        console.finish("done", {"done": 1})
        return ExitCode.DONE

    work.main(["--json"] if as_json else [], standalone_mode=False)
    print("after it")
    out, err = capsys.readouterr()
    assert out == ('{"done": 1}\n' if as_json else "1 pair\ndone\n") + "after it\n"
    assert err.startswith("(raylet) there are no CPUs\n")

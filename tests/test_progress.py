from __future__ import annotations

import io
import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from pipeline import progress
from pipeline.progress import Log, Progress, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def marker(pairs: int, failed: int = 0) -> dict[str, Any]:
    return {"counts": {"pairs": pairs}, "failed": {"truncated": failed} if failed else {}}


def test_the_line_says_pairs_rate_failures_and_time_left(clock: Clock) -> None:
    shown = Progress(5000, io.StringIO())
    clock.now += 20
    shown.add(marker(600, 2))
    shown.add(marker(400, 1))
    assert shown.line(clock.now) == "1,000 of 5,000 pairs · 50.0 pairs/s · 3 failed · 1 min 20 s left"


def test_a_terminal_has_one_line_that_is_rewritten(clock: Clock) -> None:
    stream = Terminal()
    shown = Progress(40, stream)
    for _ in range(4):
        clock.now += 1
        shown.add(marker(10))
    shown.close()
    text = stream.getvalue()
    assert text.count("\r") == text.count("\x1b[K") == 4
    assert text.count("\n") == 1
    assert text.endswith("40 of 40 pairs · 10.0 pairs/s · 0 failed · 0 s left\x1b[K\n")


def test_elsewhere_there_is_a_plain_line_now_and_then_and_one_at_the_end(clock: Clock) -> None:
    stream = io.StringIO()
    shown = Progress(100, stream)
    for _ in range(100):
        clock.now += 0.3
        shown.add(marker(1))
    shown.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3  # about every 10 s of 30 s
    assert lines[-1].startswith("100 of 100 pairs")
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_run_that_did_nothing_shows_nothing() -> None:
    for stream in (Terminal(), io.StringIO()):
        Progress(10, stream).close()
        assert stream.getvalue() == ""


def test_no_rate_no_time(clock: Clock) -> None:
    assert Progress(10, io.StringIO()).line(clock.now).endswith("unknown time left")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (42.4, "42 s"),
        (59.7, "1 min 0 s"),
        (430, "7 min 10 s"),
        (3599.8, "1 h 00 min"),
        (11_100, "3 h 05 min"),
        (1e6, "277 h 46 min"),
        (float("inf"), "unknown time"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_json_lines_say_the_same_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(as_json=True)
    log.say("plan", "for a person", images=3)
    log.say("estimate", "only words")
    shown = Progress(10, Terminal(), log=log)
    shown.add(marker(10, failed=2))
    shown.close()
    assert log.fail("job", "it's over", 2) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = [json.loads(line) for line in err.splitlines()]
    for line in lines:
        assert datetime.fromisoformat(line.pop("time")).utcoffset() == timedelta(0)
    lines[2].pop("pairs_per_second")
    assert lines == [
        {"event": "plan", "images": 3},
        {"event": "estimate", "message": "only words"},
        {"event": "progress", "pairs": 10, "planned": 10, "failed": 2, "seconds_left": 0},
        {"event": "error", "message": "it's over", "exit_code": 2},
    ]


def test_text_goes_to_people(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log()
    log.say("plan", "3 images", images=3)
    log.say("summary", "one\ntwo\n", images=3)
    assert log.fail("job", "it's over", 130) == 130
    assert capsys.readouterr() == ("3 images\none\ntwo\n", "job: it's over\n")

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from clock import Clock

from pipeline import events
from pipeline.events import Event, Progress, counted, duration


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(events, "time", clock)
    return clock


def test_an_event_says_what_is_done_the_rate_failures_and_time_left(clock: Clock) -> None:
    heard: list[Event] = []
    progress = Progress(5000, listen=heard.append)
    clock.now += 20
    progress.advance(600, 2)
    progress.advance(400, 1)
    assert heard[-1].text == "1,000 of 5,000 pairs · 50.0 pairs/s · 3 failed · 1 min 20 s left"


def test_an_event_says_the_same_to_machines(clock: Clock) -> None:
    heard: list[Event] = []
    progress = Progress(40, "images", heard.append)
    clock.now += 5
    progress.advance(10, failed=2)
    assert json.loads(json.dumps(asdict(heard[0]))) == {
        "name": "progress",
        "text": "10 of 40 images · 2.0 images/s · 2 failed · 15 s left",
        "fields": {
            "unit": "images",
            "done": 10,
            "total": 40,
            "failed": 2,
            "per_second": 2.0,
            "seconds_left": 15,
        },
    }


def test_every_step_is_one_event(clock: Clock) -> None:
    heard: list[Event] = []
    progress = Progress(40, listen=heard.append)
    assert heard == []
    for _ in range(4):
        clock.now += 1
        progress.advance(10)
    assert [event.fields["done"] for event in heard] == [10, 20, 30, 40]
    assert heard[-1].text == "40 of 40 pairs · 10.0 pairs/s · 0 failed · 0 s left"


def test_no_rate_no_time(clock: Clock) -> None:
    heard: list[Event] = []
    Progress(10, listen=heard.append).advance(0)
    assert heard[0].text.endswith("unknown time left")
    assert heard[0].fields["seconds_left"] is None


def test_work_that_nobody_watches_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(10).advance(10)
    assert capsys.readouterr() == ("", "")


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
        (None, "unknown time"),
    ],
)
def test_durations_read_well(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 pairs"), (1, "1 pair"), (2, "2 pairs"), (1200, "1,200 pairs")]
)
def test_numbers_have_their_nouns(number: int, text: str) -> None:
    assert counted(number, "pair") == text

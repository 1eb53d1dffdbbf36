"""What long work says while it goes on: events for a callback. Nothing here prints."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """Something that happened.

    name: `plan`, `progress`, …; text: for a person; fields: the same for a machine.
    """

    name: str
    text: str
    fields: dict[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]


def nobody(event: Event) -> None:
    """The listener of work that nobody watches."""


class Progress:
    """Counts what is done and says so.

    total: of `unit` (pairs, images), still to do when the counting starts.
    """

    def __init__(self, total: int, unit: str = "pairs", listen: Listener = nobody) -> None:
        self.total, self.unit, self.listen = total, unit, listen
        self.done = self.failed = 0
        self.started = time.monotonic()

    def advance(self, done: int, failed: int = 0) -> None:
        """Count some more as done, `failed` of them without success."""
        self.done += done
        self.failed += failed
        rate = self.done / max(time.monotonic() - self.started, 1e-9)
        left = (self.total - self.done) / rate if rate else None
        text = (
            f"{self.done:,} of {self.total:,} {self.unit} · {rate:.1f} {self.unit}/s · {self.failed:,} failed · "
            f"{duration(left)} left"
        )
        fields = {
            "unit": self.unit,
            "done": self.done,
            "total": self.total,
            "failed": self.failed,
            "per_second": round(rate, 2),
            "seconds_left": None if left is None else round(left),
        }
        self.listen(Event("progress", text, fields))


def duration(seconds: float | None) -> str:
    """Seconds for a person: 42 s, 7 min 10 s, 3 h 05 min."""
    if seconds is None or seconds >= 1e8:
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 pair`, `1,200 pairs`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")

"""Events: what long work tells a callback while it goes on. Nothing here prints."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """Something that happened.

    name: the kind of event, such as `plan` or `progress`.
    text: one line for a person. fields: the same facts for a machine.
    """

    name: str
    text: str
    fields: dict[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]


def nobody(event: Event) -> None:
    """A listener that ignores every event, for work that nobody watches."""


class Progress:
    """Count finished work and send a `progress` event at each step.

    total: how much is to do when the counting starts, in `unit` (pairs, images).
    """

    def __init__(self, total: int, unit: str = "pairs", listen: Listener = nobody) -> None:
        self.total, self.unit, self.listen = total, unit, listen
        self.done = self.failed = 0
        self.started = time.monotonic()

    def advance(self, done: int, failed: int = 0) -> None:
        """Add finished work, `failed` of it without success, and send an event."""
        self.done += done
        self.failed += failed
        rate = self.done / max(time.monotonic() - self.started, 1e-9)
        left = (self.total - self.done) / rate if rate else None
        text = (
            f"{self.done:,} of {self.total:,} {self.unit} · {rate:.1f} {self.unit}/s · "
            f"{self.failed:,} failed · {duration(left)} left"
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
    """Format seconds for a person: 42 s, 7 min 10 s, 3 h 05 min.

    None and values of 1e8 or more become "unknown time".
    """
    if seconds is None or seconds >= 1e8:
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def counted(number: int, noun: str) -> str:
    """Format a number with its noun: `1 pair`, `1,200 pairs`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")

"""Progress of long work: one line that is rewritten on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

EVERY = {True: 0.5, False: 10.0}  # seconds between lines, on a terminal or not


class Progress:
    """Counts what is done. total: of `unit` (pairs, images), still to do when the session starts."""

    def __init__(self, total: int, stream: TextIO | None = None, unit: str = "pairs") -> None:
        self.total = total
        self.unit = unit
        self.done = 0
        self.failed = 0
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.started = self.shown = time.monotonic()

    def add(self, marker: dict[str, Any]) -> None:
        """Count a finished shard by its done marker."""
        self.advance(marker["counts"]["pairs"], sum(marker["failed"].values()))

    def advance(self, done: int, failed: int = 0) -> None:
        """Count some more as done, `failed` of them without success."""
        self.done += done
        self.failed += failed
        now = time.monotonic()
        if now - self.shown >= EVERY[self.terminal] or self.done == self.total:
            self.shown = now
            line = self.line(now)
            self.stream.write(f"\r{line}\x1b[K" if self.terminal else f"{line}\n")
            self.stream.flush()

    def line(self, now: float) -> str:
        rate = self.done / max(now - self.started, 1e-9)
        left = (self.total - self.done) / rate if rate else float("inf")
        return (
            f"{self.done:,} of {self.total:,} {self.unit} · {rate:.1f} {self.unit}/s · {self.failed:,} failed · "
            f"{duration(left)} left"
        )

    def close(self) -> None:
        if self.terminal and self.done:
            self.stream.write("\n")


def duration(seconds: float) -> str:
    """Seconds for a person: 42 s, 7 min 10 s, 3 h 05 min."""
    if seconds >= 1e8:
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60:02} min"

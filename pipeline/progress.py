"""What a job says: text for a person, one line of progress rewritten on a terminal; or JSON lines for a machine."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, TextIO

EVERY = {True: 0.5, False: 10.0}  # seconds between lines, on a terminal or not


@dataclass(frozen=True)
class Log:
    """Text on standard output, errors on standard error; or all of it as JSON lines on standard error."""

    as_json: bool = False

    def say(self, event: str, text: str, **fields: Any) -> None:
        """An event: its text for a person, its fields for a machine, or the text where it has none."""
        if self.as_json:
            self.write(event, **(fields or {"message": text}))
        else:
            print(text, end="" if text.endswith("\n") else "\n", flush=True)

    def fail(self, job: str, message: object, exit_code: int) -> int:
        """The one sentence that a job ends with; its exit code."""
        if self.as_json:
            self.write("error", message=str(message), exit_code=exit_code)
        else:
            print(f"{job}: {message}", file=sys.stderr, flush=True)
        return exit_code

    def write(self, event: str, **fields: Any) -> None:
        """One JSON line: `time` in UTC, `event`, and the fields."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        print(json.dumps({"time": now, "event": event, **fields}), file=sys.stderr, flush=True)


TEXT = Log()


class Progress:
    """Counts what is done. total: of `unit` (pairs, images), still to do when the session starts."""

    def __init__(self, total: int, stream: TextIO | None = None, unit: str = "pairs", log: Log = TEXT) -> None:
        self.total = total
        self.unit = unit
        self.done = 0
        self.failed = 0
        self.stream = stream or sys.stderr
        self.log = log
        self.terminal = self.stream.isatty() and not log.as_json
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
            if self.log.as_json:
                rate, left = self.pace(now)
                self.log.write(
                    "progress",
                    planned=self.total,
                    failed=self.failed,
                    seconds_left=round(left),
                    **{self.unit: self.done, f"{self.unit}_per_second": round(rate, 2)},
                )
                return
            line = self.line(now)
            self.stream.write(f"\r{line}\x1b[K" if self.terminal else f"{line}\n")
            self.stream.flush()

    def pace(self, now: float) -> tuple[float, float]:
        """Pairs a second, and seconds left (infinite before the first pair)."""
        rate = self.done / max(now - self.started, 1e-9)
        return rate, (self.total - self.done) / rate if rate else float("inf")

    def line(self, now: float) -> str:
        rate, left = self.pace(now)
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

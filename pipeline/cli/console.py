"""What a command prints, for a person or for a machine, and what its exit code says."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import click

from pipeline.events import Event

if TYPE_CHECKING:
    from tqdm import tqdm

EVERY = 10.0  # seconds between two lines of progress that are not on a terminal
BAR = "{percentage:3.0f}%|{bar}| {desc}"


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    NOTHING = 1
    UNUSABLE = 2
    STOPPED = 3
    OCCUPIED = 4


EXIT_MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.NOTHING: "the work is done and there is nothing to show for it, as no pair matched",
    ExitCode.UNUSABLE: "options, inputs or storage cannot be used; one sentence says why",
    ExitCode.STOPPED: "stopped by Ctrl-C or SIGTERM; the same command goes on",
    ExitCode.OCCUPIED: "another command works on the run folder",
}


class Console:
    """Prints events, a summary and errors. It is a listener: call it with an `Event`.

    For a person, text goes to standard output, progress and errors go to standard error. As JSON,
    every event is a line on standard error, and the summary is the one object on standard output.
    """

    def __init__(self, command: str, as_json: bool = False) -> None:
        self.command, self.as_json = command, as_json
        self.out = sys.stdout  # as it is now; what others print later goes elsewhere
        self.bar: tqdm[Any] | None = None  # of progress on a terminal
        self.shown = time.monotonic()  # when the latest line of progress was, elsewhere

    def __call__(self, event: Event) -> None:
        """Show an event, and of progress what is due."""
        if event.name == "progress":
            self._progress(event)
        elif self.as_json:
            self._line(event.name, event.fields or {"message": event.text})
        elif self.bar is not None:
            self.bar.write(event.text, file=self.out)
        else:
            self._text(event.text)

    def finish(self, text: str, summary: Mapping[str, Any]) -> None:
        """Show what the work came to: its text to a person, or the summary as JSON."""
        self.close()
        self._text(strict_json(summary) if self.as_json else text)

    def fail(self, sentence: object, code: ExitCode) -> ExitCode:
        """Say what was in the way, without passwords of URLs, and return the exit code."""
        from pipeline.store.retries import redacted  # what a command needs, and --help does not

        self.close()
        told = str(sentence)
        told = redacted(told) if "@" in told and "://" in told else told
        if self.as_json:
            self._line("error", {"message": told, "exit_code": int(code)})
        else:
            click.echo(f"{self.command}: {told}", err=True)
        return code

    def close(self) -> None:
        """End a line of progress that stands on the terminal."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _progress(self, event: Event) -> None:
        done, total = event.fields["done"], event.fields["total"]
        if not self.as_json and sys.stderr.isatty():
            self._draw(event.text, done, total)
        elif done == total or time.monotonic() - self.shown >= EVERY:
            self.shown = time.monotonic()
            if self.as_json:
                self._line(event.name, event.fields)
            else:
                click.echo(event.text, err=True)

    def _draw(self, text: str, done: int, total: int) -> None:
        """Rewrite the line of progress on a terminal."""
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(total=total, bar_format=BAR, dynamic_ncols=True, file=sys.stderr)
        self.bar.n = done
        self.bar.set_description_str(text)
        if done == total:
            self.close()

    def _text(self, text: str) -> None:
        if text:
            click.echo(text, self.out, nl=not text.endswith("\n"))
            self.out.flush()

    def _line(self, name: str, fields: Mapping[str, Any]) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        click.echo(strict_json({"time": now, "event": name, **fields}), err=True)


def strict_json(value: Any) -> str:
    """A value as JSON, in which numbers that are not finite are null: JSON has none."""

    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: finite(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [finite(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(value), default=str, allow_nan=False)

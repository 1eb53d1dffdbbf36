"""What carries a function's work out."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.execute.executor import Actors, Executor


def closing(executor: str | Executor) -> Any:
    """A context that closes an executor made here, and leaves one that was given as it is."""
    from pipeline.execute.choose import make_executor

    return make_executor(executor) if isinstance(executor, str) else nullcontext(executor)


def chosen_actors(given: str | int | Actors | None) -> Actors:
    """How many processes hold the model, from the argument `actors` of a function.

    Raises ArgumentError for what is none of these.
    """
    from pipeline.execute.executor import Actors

    if isinstance(given, Actors):
        return given
    return Actors.parse(None if given is None else str(given))

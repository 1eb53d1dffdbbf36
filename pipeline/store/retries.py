"""Errors of remote storage: which ones are tried again, and how they are told without secrets."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from pipeline.errors import StorageError

T = TypeVar("T")
_random = random.Random()

# Another try cannot change these errors. Every other error of a remote store is tried again: the
# list of passing errors (time-outs, resets, throttling, each driver with its own classes) has no
# end, and this list has one.
REFUSALS = (
    FileNotFoundError,
    PermissionError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
)
BUGS = (TypeError, ValueError, LookupError, AttributeError, NotImplementedError, AssertionError)


def retried(call: Callable[[], T], shown: str, attempts: int, pause: float) -> T:
    """The call's result, after up to `attempts` tries.

    The pauses between tries are random, below `pause` seconds at first and doubled every time.

    shown: the place that an error names.

    Raises REFUSALS and BUGS at once, PermissionError where access is refused, and StorageError
    after the last attempt.
    """
    retrying = Retrying(
        stop=stop_after_attempt(attempts),
        wait=_pauses(pause),
        retry=retry_if_exception(_may_pass),
        reraise=True,
    )
    try:
        return retrying(call)
    except (*REFUSALS, *BUGS):
        raise
    except Exception as error:  # each driver raises classes of its own
        cause = f"{type(error).__name__}: {redacted(error)}"
        if _refused(error):
            raise PermissionError(f"{shown}: access refused ({cause})") from error
        tries = f"no answer in {attempts} tries ({cause})"
        raise StorageError(f"{shown}: {tries}; check the network and the endpoint.") from error


def _pauses(first: float) -> Callable[[RetryCallState], float]:
    """Random pauses around `first` seconds, doubled every time.

    They leave the host's random numbers alone, which tenacity's own pauses do not.
    """

    def pause(state: RetryCallState) -> float:
        doubled: float = first * 2 ** (state.attempt_number - 1)
        return doubled * _random.uniform(0.5, 1.5)

    return pause


def redacted(text: object) -> str:
    """A text on one line, with user, password and query taken out of every URL in it.

    The query of a signed URL holds a key. Drivers also quote a bucket or host without its protocol,
    so `user:password@` is taken out there too.
    """
    line = " ".join(str(text).splitlines())
    line = re.sub(r"(://)(?:[^/@\s]*@)?([^\s?'\")]*)(?:\?[^\s'\")]*)?", r"\1\2", line)
    return re.sub(r"[^\s/@'\"(]+:[^\s/@'\"]+@", "", line)


def cause_of(error: Exception) -> str:
    """Why a file cannot be read or written, for a sentence that has its path and a cure already."""
    number = getattr(error, "errno", None)
    if number:
        return os.strerror(number)
    text = redacted(error)
    if isinstance(error, StorageError):  # our own sentences: path, cause, cure
        text = text.partition(": ")[2].rpartition("; ")[0] or text
    return text


def _may_pass(error: BaseException) -> bool:
    """Whether another try may succeed."""
    return (
        isinstance(error, Exception)
        and not isinstance(error, (*REFUSALS, *BUGS))
        and not _refused(error)
    )


def _refused(error: BaseException) -> bool:
    """Whether a remote store refuses for good. Each driver has its own class for that."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    return status in (400, 401, 403, 405) or "Credential" in type(error).__name__

"""Trouble with remote storage: what is tried again, what is not, and how it is told without
credentials.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from pipeline.errors import StorageError

T = TypeVar("T")

# What another try cannot change. Everything else a remote store raises is tried again: the list of
# passing troubles (time-outs, resets, throttling, each driver with its own classes) has no end,
# this one has.
REFUSALS = (
    FileNotFoundError,
    PermissionError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
)
BUGS = (TypeError, ValueError, LookupError, AttributeError, NotImplementedError, AssertionError)


def retried(call: Callable[[], T], shown: str, attempts: int, pause: float) -> T:
    """The call's result.

    It is tried again after random pauses below `pause` seconds, doubled every time.

    Raises REFUSALS and BUGS at once, PermissionError where access is refused, and StorageError,
    naming the place `shown`, after the last attempt.
    """
    retrying = Retrying(
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=pause),
        retry=retry_if_exception(_may_pass),
        reraise=True,
    )
    try:
        return retrying(call)
    except (*REFUSALS, *BUGS):
        raise
    except Exception as error:  # each driver has classes of its own
        cause = f"{type(error).__name__}: {redacted(error)}"
        if _refused(error):
            raise PermissionError(f"{shown}: access refused ({cause})") from error
        tries = f"no answer in {attempts} tries ({cause})"
        raise StorageError(f"{shown}: {tries}; check the network and the endpoint.") from error


def redacted(text: object) -> str:
    """A text with every URL in it stripped of user, password and query (signed URLs carry a key
    there), on one line.

    Drivers quote what they took for a bucket or host without its protocol: `user:password@` goes
    there too.
    """
    line = " ".join(str(text).splitlines())
    line = re.sub(r"(://)(?:[^/@\s]*@)?([^\s?'\")]*)(?:\?[^\s'\")]*)?", r"\1\2", line)
    return re.sub(r"[^\s/@'\"(]+:[^\s/@'\"]+@", "", line)


def _may_pass(error: BaseException) -> bool:
    """Whether another try may succeed."""
    return (
        isinstance(error, Exception)
        and not isinstance(error, (*REFUSALS, *BUGS))
        and not _refused(error)
    )


def _refused(error: BaseException) -> bool:
    """Whether a remote store will say no however often it is asked (each driver in its own class)."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    return status in (400, 401, 403, 405) or "Credential" in type(error).__name__

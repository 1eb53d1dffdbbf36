"""Trouble with remote storage: what is tried again, what is not, and how it is told without credentials."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.errors import StorageError

T = TypeVar("T")

# What another try cannot change. Everything else a remote store raises is tried again: the list of passing
# troubles (time-outs, resets, throttling, each driver with its own classes) has no end, this one has.
REFUSALS = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
BUGS = (TypeError, ValueError, LookupError, AttributeError, NotImplementedError, AssertionError)


def retried(call: Callable[[], T], shown: str, attempts: int, pause: float) -> T:
    """The call's result; it is tried again after pauses that double, jittered so that many readers do not come at once.

    Raises REFUSALS and BUGS at once, PermissionError where access is refused, and StorageError, naming the place
    `shown`, after the last attempt. pause: seconds before the second.
    """
    attempt = 1
    while True:
        try:
            return call()
        except (*REFUSALS, *BUGS):
            raise
        except Exception as error:
            cause = f"{type(error).__name__}: {redacted(error)}"
            if _refused(error):
                raise PermissionError(f"{shown}: access refused ({cause})") from error
            if attempt == attempts:
                tries = f"no answer in {attempt} tries ({cause})"
                raise StorageError(f"{shown}: {tries}; check the network and the endpoint.") from error
        time.sleep(pause * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        attempt += 1


def redacted(text: object) -> str:
    """A text with every URL in it stripped of user, password and query (signed URLs carry a key there), on one line.

    Drivers quote what they took for a bucket or host without its protocol: `user:password@` goes there too.
    """
    line = " ".join(str(text).splitlines())
    line = re.sub(r"(://)(?:[^/@\s]*@)?([^\s?'\")]*)(?:\?[^\s'\")]*)?", r"\1\2", line)
    return re.sub(r"[^\s/@'\"(]+:[^\s/@'\"]+@", "", line)


def _refused(error: Exception) -> bool:
    """Whether a remote store will say no however often it is asked (each driver in its own class)."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    return status in (400, 401, 403, 405) or "Credential" in type(error).__name__

"""Packages of the optional extras, imported where they are needed."""

from __future__ import annotations

import ctypes
import signal
import sys
import zlib  # noqa: F401  pycolmap's wheel exports its own zlib: the system's must be loaded first
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from pipeline.errors import MissingExtraError

# What importing pycolmap replaces by handlers of its own, which print a trace and have been seen to
# deadlock.
HANDLED = (
    signal.SIGTERM,
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
)
SIGACTION = 256  # bytes, more than the C structure of that name has on any Linux


def import_pycolmap() -> ModuleType:
    """pycolmap, without what its import does to the handlers of signals, in any thread.

    Raises MissingExtraError where it is not installed.
    """
    if "pycolmap" not in sys.modules:
        with _handlers_kept():
            try:
                import pycolmap
            except ImportError as error:
                raise missing("pycolmap", error) from error
        return pycolmap
    return sys.modules["pycolmap"]


def missing(package: str, error: ImportError, extra: str = "pipeline") -> MissingExtraError:
    """The error that tells a person how to install what is missing."""
    return MissingExtraError(
        f'{package} is not installed ({error}); pip install "eloftr-pipeline[{extra}]".'
    )


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Put the handlers of signals back at the end.

    Python's `signal` may do that in the main thread only; C may in any.
    """
    sigaction = ctypes.CDLL(None, use_errno=True).sigaction
    kept = {number: ctypes.create_string_buffer(SIGACTION) for number in HANDLED}
    for number, action in kept.items():
        sigaction(int(number), None, action)
    try:
        yield
    finally:
        for number, action in kept.items():
            sigaction(int(number), action, None)

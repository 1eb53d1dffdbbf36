"""Packages of the optional extras, imported where they are needed."""

from __future__ import annotations

import ctypes
import signal
import sys
import zlib  # noqa: F401  The system's zlib must be loaded before the one that pycolmap exports.
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType

from pipeline.errors import MissingExtraError

# Importing pycolmap replaces the handlers of these signals. Its handlers print a trace, and they
# have been seen to deadlock.
REPLACED_SIGNALS = (
    signal.SIGTERM,
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
)
SIGACTION_BYTES = 256  # more than the C structure `sigaction` has on any Linux


def import_pycolmap() -> ModuleType:
    """Import pycolmap from any thread, and keep the signal handlers of this process.

    Raises MissingExtraError where pycolmap is not installed.
    """
    if "pycolmap" not in sys.modules:
        with _signal_actions_kept():
            try:
                import pycolmap
            except ImportError as error:
                raise missing("pycolmap", error) from error
        return pycolmap
    return sys.modules["pycolmap"]


def import_pymetis() -> ModuleType:
    """Import pymetis. Raises MissingExtraError where it is not installed."""
    try:
        import pymetis
    except ImportError as error:
        raise missing("pymetis", error) from error
    metis: ModuleType = pymetis
    return metis


def need_extra() -> None:
    """Raise MissingExtraError where the pipeline's packages are not installed."""
    if find_spec("pyarrow") is None:
        raise missing("pyarrow", ImportError("the matcher alone is installed"))


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def missing(package: str, error: ImportError, extra: str = "pipeline") -> MissingExtraError:
    """Make the error that says how to install a missing package."""
    return MissingExtraError(
        f'{package} is not installed ({error}); pip install "eloftr-pipeline[{extra}]".'
    )


@contextmanager
def _signal_actions_kept() -> Iterator[None]:
    """Put the signal handlers back at the end.

    Python's `signal` module can do this in the main thread only. The C function can do it in any
    thread.
    """
    sigaction = ctypes.CDLL(None, use_errno=True).sigaction
    kept = {number: ctypes.create_string_buffer(SIGACTION_BYTES) for number in REPLACED_SIGNALS}
    for number, action in kept.items():
        sigaction(int(number), None, action)
    try:
        yield
    finally:
        for number, action in kept.items():
            sigaction(int(number), action, None)

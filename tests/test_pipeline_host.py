"""The library in somebody else's program: a thread, a notebook, a server. It changes nothing there
and prints nothing.
"""

from __future__ import annotations

import copy
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import write_views
from PIL import Image, ImageFile
from synthetic_run import Scene

import pipeline
from pipeline.events import Event
from pipeline.execute.executor import Executor
from pipeline.match.options import VerificationOptions
from pipeline.photos.limits import ImageLimits
from pipeline.reconstruct.cameras.options import CameraOptions

PROJECT = Path(__file__).resolve().parents[1]
LONG_SIDE = 96


def host() -> dict[str, Any]:
    """Everything of a process that its libraries share."""
    loggers = {name: logging.getLogger(name) for name in logging.root.manager.loggerDict}
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002  the one that is shared
    return {
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "modules' path": [*sys.path],
        "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "types of torch": (torch.get_default_dtype(), torch.is_grad_enabled()),
        "determinism": (
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
        ),
        "levels": {name: (logger.level, len(logger.handlers)) for name, logger in loggers.items()},
        "root logger": (logging.root.level, [*logging.root.handlers], logging.root.manager.disable),
        "pixels of Pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "random numbers of numpy": (numpy_state[1].tobytes(), numpy_state[2]),
        "random numbers of Python": python_state,
        "random numbers of torch": torch.get_rng_state().numpy().tobytes(),
        "error handling of numpy": np.geterr(),
        "warnings": [*warnings.filters],
        "hooks": (sys.excepthook, threading.excepthook, sys.displayhook),
    }


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    known = before["levels"].keys()
    after["levels"] = {name: kept for name, kept in after["levels"].items() if name in known}
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


def in_threads(*works: Callable[[], Any]) -> list[Any]:
    """What each returns, all at once, each in a thread of its own."""
    found: list[Any] = [None] * len(works)

    def run(number: int, work: Callable[[], Any]) -> None:
        found[number] = work()

    threads = [threading.Thread(target=run, args=item) for item in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    return found


class Listener:
    """Remembers events, and the threads that they came in."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.threads: set[int] = set()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input") / "photos"
    write_views(folder, 3, (160, 120))
    return folder


def tables(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*.parquet")}


def matched(photos: Path, output: Path, **other: Any) -> dict[str, bytes]:
    how = {"long_side": LONG_SIDE, "executor": "local", "actors": 1, **other}
    summary = pipeline.match(str(photos), str(output), **how)
    assert summary["pairs"] == 3
    return tables(output)


@pytest.fixture(scope="module")
def finished(
    photos: Path, kept_executor: Executor, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run, made in this process."""
    folder = tmp_path_factory.mktemp("expected") / "run"
    matched(photos, folder, executor=kept_executor)
    return folder


@pytest.fixture(scope="module")
def expected(finished: Path) -> dict[str, bytes]:
    """What a run writes."""
    return tables(finished)


def test_matching_changes_nothing_around_it_and_prints_nothing(
    photos: Path, tmp_path: Path, expected: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    listener = Listener()
    storage: dict[str, Any] = {"s3": {"key": "unused"}}
    given: dict[str, Any] = {
        "verification": VerificationOptions(long_side=LONG_SIDE),
        "limits": ImageLimits(max_pixels=1 << 30),  # above Pillow's own
        "storage": storage,
    }
    kept, before = copy.deepcopy(given), host()
    assert matched(photos, tmp_path / "run", **given, progress=listener) == expected
    assert changes(before, host()) == {}
    assert given == kept
    assert given["storage"] is storage
    assert capfd.readouterr() == ("", "")
    assert listener.threads == {threading.get_ident()}
    assert [event.name for event in listener.events][:2] == ["plan", "progress"]
    assert listener.events[1].fields["done"] == 3
    assert {event.name for event in listener.events[2:]} <= {"progress"}  # of later rounds


def test_matching_works_in_two_threads_at_once(
    photos: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    listeners = Listener(), Listener()
    before = host()
    first, second = in_threads(
        lambda: (matched(photos, tmp_path / "first", progress=listeners[0]), threading.get_ident()),
        lambda: (
            matched(photos, tmp_path / "second", progress=listeners[1]),
            threading.get_ident(),
        ),
    )
    assert changes(before, host()) == {}
    assert first[0] == second[0] == expected
    for (_, thread), listener in zip((first, second), listeners, strict=True):
        assert listener.threads == {thread}


def test_a_run_that_is_done_has_nothing_to_do(
    photos: Path, finished: Path, expected: dict[str, bytes]
) -> None:
    summary = pipeline.match(str(photos), str(finished), long_side=LONG_SIDE, executor="local")
    assert (summary["pairs"], summary["session"]["pairs"]) == (3, 0)
    assert tables(finished) == expected


def test_paths_and_a_number_of_actors_may_be_given_as_such(
    photos: Path, tmp_path: Path, expected: dict[str, bytes], kept_executor: Executor
) -> None:
    (tmp_path / "pairs.txt").write_text('"view 0.jpg" "view 1.jpg"\n')
    summary = pipeline.match(
        photos,
        tmp_path / "run",
        pairs=tmp_path / "pairs.txt",
        long_side=LONG_SIDE,
        executor=kept_executor,
        actors=1,
    )
    assert summary["pairs"] == 1


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Verified matches of known cameras."""
    folder = tmp_path_factory.mktemp("run")
    Scene(cameras=3).write(folder)
    return folder


def model(sfm: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((sfm / "sparse" / "0").iterdir())]


def test_a_reconstruction_changes_nothing_around_it_and_prints_nothing(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    listener = Listener()
    storage: dict[str, Any] = {}
    cameras = CameraOptions(sharing="single")
    kept, before = copy.deepcopy(cameras), host()
    summary = pipeline.reconstruct(
        str(run), tmp_path / "sfm", cameras=cameras, storage=storage, progress=listener
    )
    assert changes(before, host()) == {}
    assert [found.images for found in summary.models] == [3]
    assert (cameras, storage) == (kept, {})
    assert capfd.readouterr() == ("", "")
    assert listener.threads == {threading.get_ident()}
    assert listener.events[0].name == "imported"


def test_reconstructions_in_two_threads_at_once_give_the_same_model(
    run: Path, tmp_path: Path
) -> None:
    before = host()
    summaries = in_threads(
        *(
            lambda name=name: pipeline.reconstruct(str(run), tmp_path / name)
            for name in ("first", "second")
        )  # type: ignore[misc]
    )
    assert changes(before, host()) == {}
    assert [[found.images for found in summary.models] for summary in summaries] == [[3], [3]]
    assert model(tmp_path / "first") == model(tmp_path / "second")


PYCOLMAP = """
import os, signal, sys, threading
from pipeline.extras import import_pycolmap
signal.signal(signal.SIGTERM, lambda number, frame: print("mine"))
{start}
assert "pycolmap" in sys.modules
os.kill(os.getpid(), signal.SIGTERM)
"""
IN_A_THREAD = "thread = threading.Thread(target=import_pycolmap); thread.start(); thread.join()"


@pytest.mark.parametrize("start", ["import_pycolmap()", IN_A_THREAD], ids=["here", "in a thread"])
def test_the_caller_s_handler_of_a_signal_survives_pycolmap(start: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PYCOLMAP.format(start=start)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "mine\n", "")

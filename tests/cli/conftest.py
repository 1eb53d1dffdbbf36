from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import ray
from small_run import Done, make_done

from pipeline.cli import main

Eloftr = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return make_done(tmp_path_factory.mktemp("done"))


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the photographs, for `main` in this process, which may start no Ray.

    place: that folder, a fixture of the module.
    """
    handler, before = signal.getsignal(signal.SIGTERM), ray.is_initialized()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(place)
    yield place
    signal.signal(signal.SIGTERM, handler)
    assert ray.is_initialized() == before


@pytest.fixture
def eloftr_here(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Eloftr]:
    """As `job_process.eloftr`, in this process, for tests that ask nothing of its start and end."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def eloftr(*arguments: object, cwd: Path) -> CompletedProcess[str]:
        monkeypatch.chdir(cwd)
        code = main([str(argument) for argument in arguments])
        return CompletedProcess(arguments, code, *capfd.readouterr())

    yield eloftr
    signal.signal(signal.SIGTERM, handler)

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from small_run import Done, make_done


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

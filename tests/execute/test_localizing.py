"""Placing queries over both executors: the same bytes, also after it was stopped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from localizable import Localizable, localizable
from stages import Stop

import pipeline
from pipeline.events import Event, Listener, nobody
from pipeline.execute.executor import Executor
from pipeline.reconstruct.localize import job

__all__ = ["localizable"]  # a fixture
PLACED = ("placed/00000000.parquet", "placed/00000001.parquet", "placed/00000002.parquet")
WRITTEN = ("poses.parquet", "poses.txt", *PLACED)


@pytest.fixture(scope="module", autouse=True)
def small_batches() -> Iterator[None]:
    """Every query is a task of its own."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(job, "BATCH", 1)
        yield


def localize(
    made: Localizable, output: Path, executor: Executor, listen: Listener = nobody
) -> dict[str, bytes]:
    pipeline.localize(
        made.model,
        made.images,
        made.queries,
        output,
        long_side=320,
        executor=executor,
        progress=listen,
    )
    return {name: (output / name).read_bytes() for name in WRITTEN}


@pytest.fixture(scope="module")
def whole(localizable: Localizable, kept_executor: Executor) -> dict[str, bytes]:
    return localize(localizable, localizable.model.parent / "whole", kept_executor)


def test_executors_do_not_change_the_result(
    localizable: Localizable,
    whole: dict[str, bytes],
    kept_executors: Executor,
    tmp_path: Path,
) -> None:
    """The matches are those of before: other tests compare what executors match."""
    output = tmp_path / "again"
    shutil.copytree(localizable.model.parent / "whole", output)
    shutil.rmtree(output / "placed")
    assert localize(localizable, output, kept_executors) == whole


def test_placing_that_is_stopped_goes_on_with_what_is_left(
    localizable: Localizable,
    whole: dict[str, bytes],
    kept_executor: Executor,
    tmp_path: Path,
) -> None:
    output = tmp_path / "stopped"
    shutil.copytree(localizable.model.parent / "whole", output)
    shutil.rmtree(output / "placed")

    def stop(event: Event) -> None:
        if event.fields.get("unit") == "queries":
            raise Stop

    with pytest.raises(Stop):
        localize(localizable, output, kept_executor, stop)
    done = {path: path.stat().st_mtime_ns for path in (output / "placed").glob("*.parquet")}
    assert len(done) == 1
    totals = []
    listen = lambda event: totals.append(event.fields.get("total"))  # noqa: E731
    assert localize(localizable, output, kept_executor, listen) == whole
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert max(total for total in totals if total) == 2

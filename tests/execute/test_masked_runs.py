"""Runs and imports with masks write the same bytes on every executor, and after kills."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import stages
from pictures import write_views
from PIL import Image
from synthetic_run import LONG_SIDE, Scene

import pipeline
from pipeline.execute.executor import Actors, Executor
from pipeline.execute.worker import Worker
from pipeline.masks.folder import find_masks
from pipeline.reconstruct.carrying import Carrying
from pipeline.reconstruct.merging import job
from pipeline.store.folder import Folder


def write_masks(folder: Path, names: list[str], size: tuple[int, int]) -> None:
    """Masks of every other image that ignore the upper half of its right half."""
    kept = np.ones(size[::-1], bool)
    kept[: size[1] // 2, size[0] // 2 :] = False
    for name in names[::2]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(kept).save(folder / f"{name}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("masked")
    write_masks(place / "masks", write_views(place / "photos", 4, (192, 144)), (192, 144))
    return place


def matched(place: Path, output: Path, executor: Executor, actors: str) -> dict[str, bytes]:
    """The tables that a run leaves."""
    how = {"masks": place / "masks", "long_side": 192, "max_pairs": 2, "actors": actors}
    summary = pipeline.match(place / "photos", output, executor=executor, **how)
    assert (summary["verified"], summary["failed"]) == (6, {})
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*.parquet")}


@pytest.fixture(scope="module")
def expected(place: Path, kept_executor: Executor) -> dict[str, bytes]:
    """What one process writes."""
    return matched(place, place / "expected", kept_executor, "1")


def test_executors_write_the_same_masked_matches(
    kept_executors: Executor, place: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    assert matched(place, tmp_path / "run", kept_executors, "2") == expected


def test_a_masked_run_whose_processes_are_killed_at_every_stage_is_whole(
    kept_executor: Executor, place: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """From the second attempt on, a process of its own reads each photograph with its mask."""
    (tmp_path / "killed").mkdir()
    killing = stages.Killing(kept_executor, tmp_path / "killed")
    assert matched(place, tmp_path / "run", killing, "1") == expected
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {"read", "match", "finish"}


def test_executors_import_the_same_masked_database(
    kept_executors: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene()
    scene.write(tmp_path / "run", shards=3)
    names = [scene.name(k) for k in range(scene.cameras)]
    write_masks(tmp_path / "masks", names, scene.size)
    masks = find_masks(Folder(str(tmp_path / "masks")), names)
    monkeypatch.setattr(job, "FEW", 0)
    monkeypatch.setattr(job, "SHARDS_A_TASK", 1)
    monkeypatch.setattr(job, "SHARDS_A_RANGE", 0.5)
    how = {"long_side": LONG_SIDE, "masks": masks}
    alone = job.import_matches(Folder(str(tmp_path / "run")), tmp_path / "a" / "database.db", **how)
    assert alone.masked > 300
    with Worker() as colmap:
        carrying = Carrying(kept_executors, colmap, Actors(2, 2))
        target = tmp_path / "b" / "database.db"
        made = job.import_matches(Folder(str(tmp_path / "run")), target, carrying=carrying, **how)
    assert made == alone
    for name in ("database.db", "keypoints.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

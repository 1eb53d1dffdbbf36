"""The demo as a whole, with fewer and smaller views than `eloftr demo` draws."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from pipeline.demo import job
from pipeline.demo.job import run_demo
from pipeline.demo.scene import make_demo_scene
from pipeline.events import Event
from pipeline.execute.executor import Executor


@pytest.fixture
def _small_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "make_demo_scene", partial(make_demo_scene, views=5, size=(320, 240)))


@pytest.mark.usefixtures("_small_scene", "kept_processes")
def test_the_demo_finds_the_true_cameras_and_draws_what_it_found(
    tmp_path: Path, kept_executor: Executor
) -> None:
    heard: list[Event] = []
    summary = run_demo(tmp_path / "demo", kept_executor, heard.append)
    names = [event.name for event in heard]
    assert names[:2] == ["scene", "plan"]
    assert names.index("matched") < names.index("imported") < names.index("reconstructed")
    assert summary.errors is not None
    assert len(summary.errors.names) >= 3
    assert summary.errors.rotation.max() < 2
    lines = summary.text().splitlines()
    assert lines[0] == f"against the truth: {len(summary.errors.names)} of 5 views registered"
    assert lines[3:5] == ["results:", f"  {tmp_path / 'demo' / 'run'}"]
    drawn = [tmp_path / "demo" / f"matches_{number}.png" for number in range(3)]
    assert summary.pictures == [*drawn, tmp_path / "demo" / "reconstruction.png"]
    assert all(Image.open(path).width > 300 for path in summary.pictures)
    fields = summary.fields()
    assert (fields["views"], fields["pairs"]) == (5, 10)
    assert len(fields["rotation_errors"]) == fields["registered"] == len(summary.errors.names)

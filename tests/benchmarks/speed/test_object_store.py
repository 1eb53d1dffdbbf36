"""The benchmark of object storage reads what it wrote, and compares the sides it names."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from benchmarks.speed import object_store

pytest.importorskip("obstore", reason="obstore is not installed")
pytest.importorskip("s3fs", reason="s3fs is not installed")


def test_every_side_reads_every_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin"):
        pytest.skip("nginx is not installed")
    out = tmp_path / "results.json"
    options = ("--objects", "20", "--rounds", "2", "--out", str(out))
    assert object_store.main([*options]) == 0
    printed = capsys.readouterr().out.splitlines()
    told = json.loads(out.read_text())
    assert told["objects"] == 20
    assert [line.split(" | ")[0].strip("| ") for line in printed[2:]] == list(told["microseconds"])
    assert all(len(found["wall"]) == 2 for found in told["microseconds"].values())
    assert all(min(found["wall"]) > 0 for found in told["microseconds"].values())

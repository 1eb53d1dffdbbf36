from __future__ import annotations

import json
import platform

import pytest
import torch
from small_run import Done

from pipeline.cli import main


def test_what_is_installed_and_what_work_would_run_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["torch"] == torch.__version__
    assert (found["executor"], found["gpus"], found["devices"]) == ("local", 0, [])
    assert found["weights"] == ["small"]
    assert found["extras"]["pipeline"] is True
    assert "all" not in found["extras"]
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert f"executor:     auto is local, with {found['cpus']} CPUs, 0 GPUs\n" in text
    assert "weights:      small\n" in text


def test_a_run_folder_tells_its_plan_and_how_much_is_done(
    done: Done, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(done.place / "run")]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"photographs:  {done.place / 'photos'}\n")
    assert "plan:         6 pairs in 1 shard\n" in text
    assert "done:         6 pairs in 1 shard\n" in text
    assert "options:      long_side 192, dtype float32, looks 3\n" in text
    assert "verified:     3 pairs" in text
    assert main(["info", str(done.place / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["pairs"], found["done_pairs"], found["shards"]) == (6, 6, 1)
    assert found["summary"]["matched"] == 3


def test_another_folder_is_one_sentence(done: Done, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(done.place / "photos")]) == 2
    assert "holds no run.json" in capsys.readouterr().err

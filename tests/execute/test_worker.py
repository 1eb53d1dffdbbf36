from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pipeline.errors import ImageError
from pipeline.execute.worker import Died, call
from pipeline.photos.source import read_image
from pipeline.store.folder import Folder


def test_a_result_and_an_error_come_back(tmp_path: Path) -> None:
    assert call(divmod, 7, 3) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        call(divmod, 7, 0)
    with pytest.raises(ImageError, match="missing") as error:
        call(read_image, Folder(str(tmp_path)), "absent.jpg")
    assert error.value.reason == "missing"


def test_what_a_call_prints_is_not_its_result() -> None:
    assert call(os.system, "echo printed") == 0


def test_a_death_is_told_with_its_cause() -> None:
    with pytest.raises(Died, match="killed by SIGSEGV"):
        call(signal.raise_signal, signal.SIGSEGV)
    with pytest.raises(Died, match="ended with exit code 3"):
        call(os._exit, 3)


def test_files_of_the_working_directory_are_not_taken_for_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pipeline.py").write_text("raise SystemExit('not the package')\n")
    (tmp_path / "json.py").write_text("raise SystemExit('not the package')\n")
    monkeypatch.chdir(tmp_path)
    assert call(divmod, 7, 3) == (2, 1)

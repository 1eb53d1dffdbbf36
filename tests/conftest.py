"""Where the photographs and reference files are, and a matcher with the bundled weights."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch

PROJECT = Path(__file__).resolve().parents[1]


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set {variable} to the folder to run this test")
    return folder


@pytest.fixture(scope="session")
def data() -> Path:
    """Photographs with ground truth, one folder a set."""
    return _folder("ELOFTR_DATA", PROJECT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def reference() -> Path:
    """Outputs of the authors' code, and the script that writes the checkpoint they were computed from."""
    return _folder("ELOFTR_REFERENCE", PROJECT.parent / "shared" / "reference")


@pytest.fixture(scope="session")
def reference_checkpoint(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference checkpoint, original keys, as one safetensors file."""
    from safetensors.numpy import save_file

    spec = importlib.util.spec_from_file_location("reference_checkpoint", reference / "reference_checkpoint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = tmp_path_factory.mktemp("reference") / "reference.safetensors"
    save_file(module.checkpoint(), path)
    return path


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> None:
    torch.set_num_threads(min(2, os.cpu_count() or 1))

"""Models on a full disk: one sentence, nothing is cut off, and on it goes when there is room."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stages import results
from synthetic_run import Scene

import pipeline
from pipeline.errors import StorageError

pytestmark = pytest.mark.usefixtures("kept_processes")
FULL = "cannot be written: No space left on device; free space"
ROOM = 64 << 20


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("full") / "run"
    Scene().write(folder)
    return str(folder)


@pytest.fixture(scope="module")
def quiet(run: str) -> Path:
    """What a disk with room gets."""
    output = Path(run).parent / "quiet"
    pipeline.reconstruct(run, output, refine="none", executor="local")
    return output


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Give a folder so many bytes, the first time or anew."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def sized(size: int) -> Path:
        again = ["remount"] if folder.is_mount() else []
        how = ",".join([*again, f"size={size}"])
        command = ["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("file systems may not be mounted here")
        return folder

    yield sized
    subprocess.run(["umount", "--lazy", str(folder)], check=False)


@pytest.mark.parametrize("share", [0.1, 0.6, 0.9, 1.2])
def test_a_reconstruction_says_so_and_goes_on_with_room(
    run: str, quiet: Path, disk: Callable[[int], Path], share: float
) -> None:
    size = sum(path.stat().st_size for path in quiet.rglob("*") if path.is_file())
    output = disk(int(share * size)) / "sfm"
    with pytest.raises(StorageError, match=FULL):
        pipeline.reconstruct(run, output, refine="none", executor="local")
    assert not (output / "report.txt").exists()
    disk(ROOM)
    pipeline.reconstruct(run, output, refine="none", executor="local")
    assert results(output) == results(quiet)


def test_a_model_that_is_cut_off_is_never_published(
    quiet: Path, disk: Callable[[int], Path]
) -> None:
    model = quiet / "sparse" / "0"
    size = sum(path.stat().st_size for path in model.iterdir())
    output = disk(size // 2) / "moved"
    with pytest.raises(StorageError, match=FULL):
        pipeline.transform_model(model, output, scale=2)
    assert not list(output.glob("*.bin"))
    disk(ROOM)
    pipeline.transform_model(model, output, scale=2)
    assert (output / "points3D.bin").stat().st_size == (model / "points3D.bin").stat().st_size


@pytest.mark.parametrize("form", ["colmap-binary", "ply"])
def test_an_export_that_is_cut_off_is_never_published(
    quiet: Path, disk: Callable[[int], Path], form: str
) -> None:
    output = disk(32 << 10) / "export"
    with pytest.raises(StorageError, match=FULL):
        pipeline.export_model(quiet / "sparse" / "0", output, format=form)
    assert not (output / "export.json").exists()
    disk(ROOM)
    pipeline.export_model(quiet / "sparse" / "0", output, format=form)
    assert (output / "export.json").is_file()


def test_models_are_written_in_one_place() -> None:
    """Else one of them would not be looked at. Exports are looked at as a whole."""
    sources = Path(pipeline.__file__).parent
    writing = {
        path.relative_to(sources).as_posix()
        for path in sources.rglob("*.py")
        if re.search(r"\.(write_binary|export_PLY)\b", path.read_text())
    }
    exports = {"reconstruct/exports/job.py", "reconstruct/exports/nerf.py"}
    assert writing == {"store/disk.py", *exports}

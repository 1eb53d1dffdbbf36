from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_process import eloftr
from synthetic_run import Scene

pytestmark = pytest.mark.usefixtures("kept_processes")
Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def job(eloftr_here: Command) -> Command:
    """The command in this process."""
    return partial(eloftr_here, "reconstruct")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    Scene(cameras=4).write(folder)
    return folder


def test_a_run_becomes_database_model_points_and_report(run: Path, tmp_path: Path) -> None:
    done = eloftr("reconstruct", run, cwd=tmp_path)  # a process of its own, from anywhere
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 of 4 images registered" in done.stdout
    assert (run / "sfm" / "report.txt").read_text() in done.stdout
    names = {
        path.relative_to(run / "sfm").as_posix()
        for path in (run / "sfm").rglob("*")
        if path.is_file()
    }
    model = {"cameras.bin", "images.bin", "points3D.bin", "rigs.bin", "frames.bin"}
    assert names == {
        *("database.db", "keypoints.parquet", "points.ply", "report.txt", "summary.json"),
        *(f"sparse/0/{name}" for name in model),
    }


def test_shards_that_are_not_matched_yet_are_told(job: Command, tmp_path: Path) -> None:
    Scene(cameras=4).write(tmp_path / "run", shards=2)
    (tmp_path / "run" / "plan").mkdir()
    plan = pa.table({"shard": ["00000", "00001", "00002"]})
    pq.write_table(plan, tmp_path / "run" / "plan" / "shards.parquet")
    (tmp_path / "run" / "done").mkdir()
    for shard in ("00000", "00001", "00001-rest"):  # the last is of a later round
        (tmp_path / "run" / "done" / f"{shard}.json").write_text("{}")
    done = job("run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 of 3 shards of the run are not matched yet; run eloftr match" in done.stdout


def test_an_output_that_cannot_be_made_is_two_before_any_work(
    job: Command, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = job(run, "--output", tmp_path / "file" / "sfm", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        f"eloftr reconstruct: {tmp_path}/file/sfm: cannot be written to (Not a directory); "
        "check folder and rights.\n"
    )


def test_options_reach_the_reconstruction(job: Command, run: Path, tmp_path: Path) -> None:
    done = job(
        *(run, "--output", tmp_path / "other", "--mapper", "global", "--radius", "1.5"),
        *("--intrinsics", "PINHOLE:800,800,360,270", "--camera-sharing", "single"),
        cwd=tmp_path,
    )
    assert done.returncode == 0
    assert "4 images, 1 camera," in done.stdout
    assert "focal length 800.0 px" in done.stdout
    assert (tmp_path / "other" / "sparse" / "0" / "images.bin").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "holds no run.json"),
        (["RUN", "--intrinsics", "PINHOLE:1,2"], "takes fx, fy, cx, cy"),
        (["RUN", "--radius", "0"], "positive numbers"),
        (["RUN", "--mapper", "fast"], "Invalid value for '--mapper'"),
        (["memory://run"], "memory://run: holds no run.json"),
        (["RUN", "--output", "http://127.0.0.1:9/out"], "out: cannot be written to; give a local"),
        (["RUN", "--scratch", "here"], "here: is no use as scratch"),
        (["RUN", "--scratch", "here", "--dry-run"], "here: is no use as scratch"),
    ],
)
def test_wrong_arguments_end_with_code_two_and_a_sentence(
    job: Command, run: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = job(*(str(run) if text == "RUN" else text for text in arguments), cwd=tmp_path)
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("eloftr reconstruct: ")
    assert message in sentence


def test_the_summary_as_json_has_every_model(job: Command, run: Path, tmp_path: Path) -> None:
    done = job(run, "--output", tmp_path / "sfm", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["output"] == str(tmp_path / "sfm")
    assert [model["images"] for model in summary["models"]] == [4]
    assert summary["database"]["verified"] == 6
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert events[0] == "imported"


def test_damaged_tables_end_with_code_two_and_the_name_of_the_file(
    job: Command, run: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(run, tmp_path / "run"))
    table = broken / "matches" / "00001.parquet"
    table.write_bytes(table.read_bytes()[:-100])
    done = job(broken, cwd=tmp_path)
    assert done.returncode == 2
    assert "00001.parquet" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_to_map_ends_with_code_one_and_a_sentence(job: Command, tmp_path: Path) -> None:
    Scene(cameras=3, outliers=1.0).write(tmp_path / "run")
    done = job("run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "nothing to map: no pair has verified matches" in done.stdout

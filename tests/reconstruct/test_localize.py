"""Photographs are localized in a model: poses, cameras and refusals against known truth."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from localizable import CUT, ELSEWHERE, Localizable, localizable, true_model
from PIL import Image, ImageOps
from rendered import FOCAL, SIZE, surface, views_of
from scipy.spatial.transform import Rotation
from test_documentation import blocks, shape, tables_of, text_of

import pipeline
from benchmarks.quality.reconstruction import load_truth
from pipeline.cli import main
from pipeline.errors import ArgumentError, EloftrError, ReconstructionError
from pipeline.photos.cameras.intrinsics import read_intrinsics
from pipeline.photos.cameras.stored import maps_to_stored
from pipeline.reconstruct.localize.place import MOST_POINTS
from pipeline.reconstruct.localize.points import KnownSurface
from pipeline.reconstruct.localize.pose import (
    FileFacts,
    QueryCamera,
    SeenPoints,
    accepted_pose,
    cameras_of_query,
    estimated_pose,
)
from pipeline.reconstruct.localize.results import doubtful
from pipeline.reconstruct.models import job
from pipeline.reconstruct.tracks.scene import ModelCamera
from pipeline.tables import POSES
from pipeline.vocabulary import QUERY_MEANINGS, CameraSource

__all__ = ["localizable"]  # a fixture
pytestmark = pytest.mark.usefixtures("kept_processes")
NUMBERS = ("qw", "qx", "qy", "qz", "tx", "ty", "tz")
KNOWN = QueryCamera(
    ModelCamera("SIMPLE_PINHOLE", 1200, 800, (900.0, 600, 400)), CameraSource.GIVEN, False
)


@pytest.fixture(scope="module", autouse=True)
def kept_process(kept_executor: Any) -> Iterator[None]:
    """COLMAP's process is one of the suite."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(job, "call", kept_executor.call)
        yield


def localize(made: Localizable, output: Path, **more: Any) -> Any:
    how = {"long_side": 320, **more}
    return pipeline.localize(made.model, made.images, made.queries, output, **how)


@pytest.fixture(scope="module")
def output(localizable: Localizable) -> Path:
    """The results of all queries."""
    folder = localizable.model.parent / "out"
    localize(localizable, folder)
    return folder


def rows_of(output: Path) -> dict[str, dict[str, Any]]:
    return {row["query"]: row for row in pq.read_table(output / "poses.parquet").to_pylist()}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def errors(row: dict[str, Any], made: Localizable) -> tuple[float, float]:
    """Degrees of the rotation, and the distance of the centre, in units of the model."""
    turn = Rotation.from_quat([row[name] for name in ("qx", "qy", "qz", "qw")]).as_matrix()
    rotation, shift = made.poses[row["query"]]
    angle = np.degrees(Rotation.from_matrix(turn @ rotation.T).magnitude())
    assert np.allclose(-turn.T @ [row[name] for name in ("tx", "ty", "tz")], row["centre"])
    return float(angle), float(np.linalg.norm(row["centre"] + rotation.T @ shift))


def test_queries_get_their_true_poses_also_where_files_are_stored_turned(
    localizable: Localizable, output: Path
) -> None:
    rows = rows_of(output)
    for name in ("1.jpg", "3.jpg", "5.jpg"):
        assert rows[name]["status"] == "localized"
        angle, away = errors(rows[name], localizable)
        assert angle < 0.1, name
        assert away < 0.01, name  # the cameras are 5 units from the scene
        assert set(rows[name]["database"]) <= {"0.jpg", "2.jpg", "4.jpg"}
        assert rows[name]["points"] >= rows[name]["inliers"] > 50
        assert sum(rows[name]["support"]) > 100
    assert (rows["3.jpg"]["width"], rows["3.jpg"]["height"]) == SIZE[::-1]


def test_another_place_is_refused_and_a_broken_file_is_a_row(output: Path) -> None:
    rows = rows_of(output)
    assert set(rows) == {"1.jpg", "3.jpg", "5.jpg", ELSEWHERE, CUT}
    assert (rows[ELSEWHERE]["status"], rows[ELSEWHERE]["reason"]) == ("refused", "no_overlap")
    assert (rows[CUT]["status"], rows[CUT]["reason"]) == ("failed", "truncated")
    assert rows[ELSEWHERE]["qw"] is None
    summary = json.loads((output / "summary.json").read_text())
    assert summary["reasons"] == {"no_overlap": 1, "truncated": 1}
    assert (summary["localized"], summary["refused"], summary["failed"]) == (3, 1, 1)


def test_the_text_is_that_of_hloc_and_the_table_says_its_units(output: Path) -> None:
    lines = [line.split(" ") for line in (output / "poses.txt").read_text().splitlines()]
    rows = rows_of(output)
    assert [name for name, *_ in lines] == ["1.jpg", "3.jpg", "5.jpg"]
    for name, *numbers in lines:
        assert list(map(float, numbers)) == [rows[name][key] for key in NUMBERS]
    schema = pq.read_schema(output / "poses.parquet")
    assert schema.metadata[b"origin"] == POSES.metadata[b"origin"]
    assert schema.metadata[b"units"] == b"pixels of the stored image"


def test_each_image_is_encoded_once_and_the_model_is_untouched(
    localizable: Localizable, output: Path
) -> None:
    matching = json.loads((output / "run" / "summary.json").read_text())
    assert matching["planned_pairs"] == 12  # the broken query has no candidates
    assert matching["encodes"] == 7
    before = contents(localizable.model)
    localize(localizable, output)
    assert contents(localizable.model) == before


def test_a_localization_goes_on_where_it_was_to_the_same_bytes(
    localizable: Localizable, output: Path, tmp_path: Path
) -> None:
    whole = contents(output)
    shutil.copytree(output, tmp_path / "again")
    for name in ("poses.parquet", "poses.txt", "placed/00000000.parquet", "summary.json"):
        (tmp_path / "again" / name).unlink()
    (tmp_path / "again" / "run" / "summary.json").unlink()
    localize(localizable, tmp_path / "again")
    found = contents(tmp_path / "again")
    for name, data in whole.items():
        assert name.endswith("summary.json") or found[name] == data, name


def test_other_thresholds_place_again_and_match_nothing_again(
    localizable: Localizable, output: Path, tmp_path: Path
) -> None:
    shutil.copytree(output, tmp_path / "strict")
    summary = localize(localizable, tmp_path / "strict", min_pose_inliers=100_000)
    assert summary["matching"]["session"]["pairs"] == 0
    assert summary["reasons"] == {"no_overlap": 1, "no_pose": 3, "truncated": 1}
    assert (tmp_path / "strict" / "poses.txt").read_text() == ""
    with pytest.raises(EloftrError, match="holds a run that does not fit"):
        localize(localizable, tmp_path / "strict", candidates=1)


def test_a_list_chooses_the_candidates_and_known_cameras_are_kept(
    localizable: Localizable, tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("1.jpg 0.jpg\n1.jpg 2.jpg\n5.jpg nothing.jpg\n")
    camera = f"SIMPLE_PINHOLE:{FOCAL},{SIZE[0] / 2},{SIZE[1] / 2}"
    known = tmp_path / "cameras.json"
    model, _, params = camera.partition(":")
    described = {"images": "1.jpg", "model": model, "params": list(map(float, params.split(",")))}
    known.write_text(json.dumps(described))
    summary = localize(localizable, tmp_path / "out", pairs=pairs, intrinsics=known)
    rows = rows_of(tmp_path / "out")
    assert summary["localized"] == 1
    assert set(rows["1.jpg"]["database"]) <= {"0.jpg", "2.jpg"}
    assert rows["1.jpg"]["camera_source"] == "given"
    assert rows["1.jpg"]["params"] == described["params"]
    assert errors(rows["1.jpg"], localizable)[0] < 0.1
    assert rows["5.jpg"]["reason"] == "no_candidates"
    assert "line 3 of pairs.txt: the database has no image nothing.jpg" in summary["notes"][0]


def test_in_one_folder_the_queries_are_what_the_model_does_not_have(
    localizable: Localizable, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(localizable.images, photos)
    shutil.copy(localizable.queries / "3.jpg", photos / "3.jpg")
    (tmp_path / "pairs.txt").write_text("3.jpg 2.jpg\n3.jpg 4.jpg\n")
    one = replace(localizable, images=photos, queries=photos)
    localize(one, tmp_path / "out", pairs=tmp_path / "pairs.txt")
    rows = rows_of(tmp_path / "out")
    assert set(rows) == {"3.jpg"}
    assert errors(rows["3.jpg"], localizable)[0] < 0.1


def test_the_command_prints_the_counts(
    localizable: Localizable, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ("model", "images", "queries")
    given = [word for name in folders for word in (f"--{name}", str(getattr(localizable, name)))]
    command = ["localize", *given, "--output", str(output), "--long-side", "320"]
    assert main([*command, "--executor", "local"]) == 0
    printed = capsys.readouterr().out.replace(str(output), "places").splitlines()
    (block,) = (one for one in blocks("console") if one.document == "localization.md")
    shown = [shape(line) for line in block.text.splitlines()]
    assert [shape(line) for line in printed if ":" in line[:13]] == [
        line for line in shown if ":" in line[:13]
    ]


def test_the_reasons_are_those_of_the_document() -> None:
    (_, reasons, *_) = tables_of(text_of("docs/localization.md"))
    assert dict(reasons) == QUERY_MEANINGS


def test_wrong_arguments_stop_before_any_work(localizable: Localizable, tmp_path: Path) -> None:
    def refused(error: type[EloftrError], match: str, **more: Any) -> None:
        with pytest.raises(error, match=match):
            localize(replace(localizable, **more.pop("folders", {})), tmp_path / "no", **more)
        assert not (tmp_path / "no").exists()

    (tmp_path / "empty").mkdir()
    empty = {"folders": {"images": tmp_path / "empty"}}
    refused(ReconstructionError, "holds no image of the model", **empty)
    refused(ReconstructionError, "holds no photograph", folders={"queries": tmp_path / "empty"})
    refused(ReconstructionError, "no images.bin", folders={"model": tmp_path / "empty"})
    refused(ReconstructionError, "no image of the run is called", intrinsics=_of_nobody(tmp_path))
    small = {"images": Path(shutil.copytree(localizable.images, tmp_path / "small"))}
    for path in small["images"].iterdir():
        Image.open(path).resize((160, 120)).save(path)
    refused(ReconstructionError, "has 160×120 pixels, and its camera", folders=small)
    refused(ArgumentError, "candidates must be at least 1", candidates=0)
    # One of the queries is stored turned, by EXIF.
    word = f"SIMPLE_PINHOLE:{FOCAL},{SIZE[0] / 2},{SIZE[1] / 2}"
    refused(ReconstructionError, "camera parameters fit one image size", intrinsics=word)
    before = contents(localizable.model)
    for inside in (localizable.model, localizable.model / "places"):
        with pytest.raises(ReconstructionError, match="is a given model or lies in one"):
            localize(localizable, inside)
    assert contents(localizable.model) == before
    refused(ArgumentError, "leave one out", pairs="a.txt", descriptors="b.npz")
    with pytest.raises(TypeError, match="masks"):
        localize(localizable, tmp_path / "no", masks="masks")


def test_a_noisy_photograph_is_localized_though_its_windows_are_not_found(
    localizable: Localizable, tmp_path: Path
) -> None:
    queries = tmp_path / "queries"
    queries.mkdir()
    noise = np.random.default_rng(0).normal(0, 30, SIZE[::-1])
    with Image.open(localizable.queries / "1.jpg") as picture:
        gray = np.asarray(picture) + noise
    Image.fromarray(gray.clip(0, 255).astype(np.uint8)).save(queries / "1.jpg", quality=95)
    localize(replace(localizable, queries=queries), tmp_path / "out", turns="off", scales="off")
    row = rows_of(tmp_path / "out")["1.jpg"]
    assert (row["status"], row["reason"]) == ("localized", None)
    rotation, distance = errors(row, localizable)
    assert rotation < 0.5
    assert distance < 0.05


def _of_nobody(folder: Path) -> Path:
    path = folder / "nobody.json"
    path.write_text('{"images": "nobody.jpg", "model": "SIMPLE_PINHOLE", "params": [1, 2, 3]}')
    return path


def test_keypoints_of_the_matcher_meet_the_surface_exactly() -> None:
    known = KnownSurface.of(true_model())
    random = np.random.default_rng(0)
    xy = random.uniform(20, np.array(SIZE) - 20, (400, 2))
    true = surface(views_of(6), 0, xy)  # view 0 is stored upright
    found = known.at(0, xy)
    seen = np.isfinite(found).all(axis=1)
    away = np.linalg.norm(found - true, axis=1)[seen & (np.abs(true[:, 0]) > 0.3)]
    assert seen.mean() > 0.1  # an observation is within 2 pixels
    assert np.quantile(away, 0.9) < 0.002  # away from the edge between the planes; 0.03 a pixel


def made_points(
    random: np.random.Generator, count: int, focal: float = 900.0, noise: float = 0.5
) -> tuple[SeenPoints, np.ndarray, np.ndarray]:
    """What a camera of 1200 × 800 pixels sees, and its true pose."""
    xyz = random.uniform([-2, -2, 4], [2, 2, 8], (count, 3))
    rotation = Rotation.from_rotvec([0.1, -0.2, 0.05]).as_matrix()
    shift = np.array([0.2, -0.1, 0.3])
    local = xyz @ rotation.T + shift
    xy = focal * local[:, :2] / local[:, 2:] + [600, 400] + random.normal(0, noise, (count, 2))
    return SeenPoints(xy, xyz, np.zeros(count, np.int64)), rotation, shift


def test_the_covariance_is_that_of_the_errors() -> None:
    """Squared errors in units of the covariance have a mean of six, the number of freedoms."""
    random = np.random.default_rng(1)
    squares = []
    for _ in range(60):
        seen, rotation, shift = made_points(random, 150)
        pose = estimated_pose(seen, KNOWN, 6.0)
        assert pose is not None
        turn = Rotation.from_matrix(pose.rotation @ rotation.T).as_rotvec()
        off = np.concatenate([turn, pose.shift - shift])
        squares.append(off @ np.linalg.solve(pose.covariance, off))
    assert 4 < np.mean(squares) < 8.5


def test_a_query_tells_its_focal_length_where_the_cameras_of_the_model_do_not_fit() -> None:
    random = np.random.default_rng(2)
    facts = FileFacts((1200, 800), np.nan, "")
    cameras = cameras_of_query("a.jpg", facts, (), [(facts, KNOWN.camera)])
    assert [one.source for one in cameras] == [CameraSource.MODEL, CameraSource.ESTIMATED]
    for focal, source in ((900.0, CameraSource.MODEL), (960.0, CameraSource.ESTIMATED)):
        seen, rotation, _ = made_points(random, 600, focal)
        pose = accepted_pose(seen, cameras, 6.0, 100)
        assert pose is not None
        assert pose.source == source
        assert pose.camera.params[0] == pytest.approx(focal, rel=0.005)
        assert Rotation.from_matrix(pose.rotation @ rotation.T).magnitude() < 0.002


def test_the_camera_of_a_query_is_the_one_that_is_known_best() -> None:
    facts = FileFacts((1200, 800), 910.0, "Maker A")
    of_model = ModelCamera("RADIAL", 1200, 800, (905.0, 600, 400, 0.01, 0.0))
    images = [(replace(facts, focal=1500.0), KNOWN.camera), (replace(facts, focal=911.0), of_model)]
    given = read_intrinsics("PINHOLE:900,901,600,400")

    def chosen(*arguments: Any) -> tuple[CameraSource, bool, tuple[float, ...]]:
        (one,) = cameras_of_query("a.jpg", *arguments)
        return one.source, one.free, one.camera.params

    assert chosen(facts, given, images) == (CameraSource.GIVEN, False, (900, 901, 600, 400))
    assert chosen(facts, (), images) == (CameraSource.MODEL, False, of_model.params)
    assert chosen(facts, (), images[:1]) == (CameraSource.EXIF, True, (910.0, 600, 400, 0))
    unknown = replace(facts, focal=np.nan)
    assert chosen(unknown, (), images) == (CameraSource.ESTIMATED, True, (1440.0, 600, 400, 0))


def test_a_turned_photograph_takes_the_turned_camera_of_the_model() -> None:
    params = (900.0, 880.0, 640.0, 380.0, 0.02, -0.01, 0.003, -0.002)
    camera = ModelCamera("OPENCV", 1200, 800, params)
    lying = FileFacts((1200, 800), np.nan, "")
    random = np.random.default_rng(4)
    points = random.uniform([-2, -1, 4], [2, 1, 8], (50, 3))
    seen = camera.made().img_from_cam(points)
    for orientation in (6, 8):  # upright, both files show the same
        facts = FileFacts((800, 1200), np.nan, "Maker without a focal length", orientation)
        turned, free = cameras_of_query("a.jpg", facts, (), [(lying, camera)])
        assert (turned.source, free.source) == (CameraSource.MODEL, CameraSource.ESTIMATED)
        stored = maps_to_stored(np.array([1200]), np.array([800]), np.array([orientation]))[0]
        there = (seen - 0.5) @ stored[:2, :2].T + stored[:2, 2]
        local = points.copy()
        local[:, :2] = points[:, :2] @ stored[:2, :2].T
        assert np.allclose(turned.camera.made().img_from_cam(local), there)
    standing = replace(lying, size=(800, 1200))  # nothing tells which way the camera was turned
    cameras = cameras_of_query("a.jpg", standing, (), [(lying, camera)])
    assert [one.source for one in cameras] == [CameraSource.MODEL] * 2 + [CameraSource.ESTIMATED]
    turned = cameras[1]
    made, rotation, _ = made_points(random, 300)
    local = made.xyz @ rotation.T + [0.2, -0.1, 0.3]
    found = accepted_pose(
        replace(made, xy=turned.camera.made().img_from_cam(local)), cameras, 6, 90
    )
    assert found is not None
    assert found.camera.params == turned.camera.params


def test_wrong_points_agree_on_no_pose() -> None:
    random = np.random.default_rng(3)
    free = replace(KNOWN, free=True, estimated=True, source=CameraSource.ESTIMATED)
    for count in (100, MOST_POINTS):
        seen, _, _ = made_points(random, count)
        wrong = replace(seen, xy=random.uniform(0, [1200, 800], (count, 2)))
        assert accepted_pose(wrong, [KNOWN, free], 6.0, max(30, 0.25 * count)) is None


def test_a_note_names_queries_whose_points_agree_only_roughly() -> None:
    row = {"status": "localized", "width": 1280, "height": 960}
    wrong, true = {"query": "crop.jpg", "error": 2.1}, {"query": "true.jpg", "error": 1.9}
    rows = [{**row, **true}, {**row, **wrong}, {"query": "none.jpg", "status": "refused"}]
    (note,) = doubtful(pa.Table.from_pylist(rows, schema=POSES), 640)
    assert note.startswith("The error of 1 of 2 localized queries is above 1 pixel of what the ")
    assert "sees, crop.jpg for one" in note
    assert doubtful(pa.Table.from_pylist(rows[:1], schema=POSES), 640) == []


def test_a_real_photograph_is_localized_and_one_of_another_place_refused(
    data: Path, tmp_path: Path
) -> None:
    """Four images of the fountain make a model, and the one between them is localized."""
    truth, (camera,) = load_truth(data / "fountain11")
    folders = {name: tmp_path / name for name in ("images", "queries")}
    for folder in folders.values():
        folder.mkdir()
    for name in ("0003.jpg", "0004.jpg", "0006.jpg", "0007.jpg"):
        shutil.copy(data / "fountain11" / "images" / name, folders["images"])
    query = "0005.jpg"
    shutil.copy(data / "fountain11" / "images" / query, folders["queries"])
    other = min((data / "door12" / "images").iterdir())
    shutil.copy(other, folders["queries"] / "other.jpg")
    with Image.open(data / "fountain11" / "images" / query) as picture:
        ImageOps.mirror(picture).save(folders["queries"] / "mirrored.jpg", quality=95)
    run = tmp_path / "run"
    how: dict[str, Any] = {"long_side": 384, "turns": "off", "scales": "off"}
    pipeline.match(folders["images"], run, **how)
    from pipeline.reconstruct.cameras.options import CameraOptions

    cameras = CameraOptions.parse(intrinsics=camera)
    pipeline.reconstruct(str(run), tmp_path / "sfm", cameras=cameras, refine="none")
    model = tmp_path / "sfm" / "sparse" / "0"
    (tmp_path / "cameras.csv").write_text(
        f"images,model,params\n{query},OPENCV,{camera.partition(':')[2].replace(',', ' ')}\n"
    )
    summary = pipeline.localize(
        model,
        *folders.values(),
        tmp_path / "out",
        long_side=384,
        intrinsics=tmp_path / "cameras.csv",
    )
    rows = rows_of(tmp_path / "out")
    assert summary["localized"] == 1
    assert rows["other.jpg"]["status"] == "refused"
    mirrored = rows["mirrored.jpg"]
    assert (mirrored["status"], mirrored["reason"]) == ("refused", "not_confirmed")
    poses = _poses(model) | {query: _pose(rows[query])}
    rotations = {name: rotation for name, (rotation, _) in poses.items()}
    for name in ("0004.jpg", "0006.jpg"):
        found = rotations[query] @ rotations[name].T
        true = truth.poses[query][0] @ truth.poses[name][0].T
        assert np.degrees(Rotation.from_matrix(found @ true.T).magnitude()) < 0.3


def _pose(row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    turn = Rotation.from_quat([row[name] for name in ("qx", "qy", "qz", "qw")]).as_matrix()
    return turn, np.array([row[name] for name in ("tx", "ty", "tz")])


def _poses(model: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    from pipeline.reconstruct.tracks.plan import read_scene

    views = read_scene(model).views
    return {name: (views.rotation[row], views.shift[row]) for row, name in enumerate(views.names)}

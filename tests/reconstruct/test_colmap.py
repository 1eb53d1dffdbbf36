from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps
from synthetic_run import LONG_SIDE, Scene, matches_table, write_shard

from pipeline import reconstruct, tables
from pipeline.errors import ReconstructionError
from pipeline.execute.worker import Worker
from pipeline.extras import import_pycolmap
from pipeline.match.options import VerificationOptions
from pipeline.match.verify import VerifyShard
from pipeline.photos.cameras.intrinsics import read_intrinsics
from pipeline.reconstruct import job
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.reconstruct.database import ImportSummary
from pipeline.reconstruct.merging import job as merging
from pipeline.reconstruct.merging import merge
from pipeline.reconstruct.merging.job import import_matches
from pipeline.reconstruct.poses.options import PoseOptions
from pipeline.reconstruct.summary import doubtful_cameras, write_summary
from pipeline.reconstruct.tracks.options import RefineOptions
from pipeline.store.folder import Folder

pytestmark = pytest.mark.usefixtures("kept_processes")

pycolmap = import_pycolmap()
ROOT = Path(__file__).resolve().parents[2]


def imported(run: Path, **options: Any) -> ImportSummary:
    return import_matches(
        Folder(str(run)), run / "sfm" / "database.db", long_side=LONG_SIDE, **options
    )


def contents(database: Path) -> dict[str, Any]:
    """Everything a mapper reads, as plain values."""
    with pycolmap.Database.open(database) as opened:
        images = opened.read_all_images()
        pairs, matches = opened.read_all_matches()
        geometries = opened.read_two_view_geometries()
        return {
            "cameras": [str(camera) for camera in opened.read_all_cameras()],
            "images": [(image.image_id, image.name, image.camera_id) for image in images],
            "keypoints": [opened.read_keypoints(image.image_id).tobytes() for image in images],
            "matches": sorted(
                (pair, match.tobytes()) for pair, match in zip(pairs, matches, strict=True)
            ),
            "geometries": sorted(
                f"{pair} {g.config} {g.E} {g.F} {g.H} {g.cam2_from_cam1} "
                f"{g.inlier_matches.tobytes()!r}"
                for pair, g in zip(*geometries, strict=True)
            ),
        }


def geometry_of(database: Path, first: int, second: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """(geometry, its inlier keypoints in both images) of two image ids."""
    with pycolmap.Database.open(database) as opened:
        geometry = opened.read_two_view_geometry(first, second)
        points = [opened.read_keypoints(image)[:, :2] for image in (first, second)]
    return (
        geometry,
        points[0][geometry.inlier_matches[:, 0]].astype(np.float64),
        points[1][geometry.inlier_matches[:, 1]].astype(np.float64),
    )


def camera_errors(sparse: Path, scene: Scene) -> tuple[float, float]:
    """After alignment: largest position error over the cameras' spread, largest rotation error in
    degrees.
    """
    model = pycolmap.Reconstruction(sparse)
    numbers = {scene.name(i): i for i in range(scene.cameras)}
    images = [model.images[image] for image in model.reg_image_ids()]
    which = [numbers[image.name] for image in images]
    centres = scene.centres()[which]
    found = np.array([image.projection_center() for image in images])
    world = pycolmap.estimate_sim3d(found, centres)
    distance = np.linalg.norm(np.array([world * point for point in found]) - centres, axis=1)
    degrees = []
    for image, i in zip(images, which, strict=True):
        turn = np.eye(3)
        turn[:2, :2] = STORED[scene.orientations.get(i, 1)]
        rotation = image.cam_from_world().rotation.matrix() @ world.rotation.matrix().T
        cosine = (np.trace(rotation @ (turn @ scene.rotations[i]).T) - 1) / 2
        degrees.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    spread = np.linalg.norm(centres[:, None] - centres, axis=-1).max()
    return float(distance.max() / spread), float(max(degrees))


STORED = {1: [[1, 0], [0, 1]], 3: [[-1, 0], [0, -1]], 6: [[0, 1], [-1, 0]], 8: [[0, -1], [1, 0]]}


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, scene: Scene) -> Path:
    """A run folder; copy it before changing it."""
    run = tmp_path_factory.mktemp("finished") / "run"
    scene.write(run)
    return run


@pytest.fixture
def run(tmp_path: Path, finished: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_database_holds_shared_keypoints_and_one_to_one_matches(run: Path, scene: Scene) -> None:
    summary = imported(run)
    assert (summary.images, summary.cameras, summary.pairs, summary.verified) == (6, 6, 15, 15)
    assert summary.resize_factor == 1.5
    observations = 2 * summary.matches
    assert summary.keypoints < 0.9 * observations
    with pycolmap.Database.open(run / "sfm" / "database.db") as database:
        names = {image.image_id: image.name for image in database.read_all_images()}
        assert list(names.values()) == sorted(names.values())
        assert database.num_keypoints() == summary.keypoints
        written = 0
        for pair, matches in zip(*database.read_all_matches(), strict=True):
            images = pycolmap.pair_id_to_image_pair(pair)
            for side, image in enumerate(images):
                assert matches[:, side].max() < database.num_keypoints_for_image(image)
                assert len(np.unique(matches[:, side])) == len(matches)
            written += len(matches)
            assert np.array_equal(database.read_two_view_geometry(*images).inlier_matches, matches)
        assert written == summary.merged_matches


def test_keypoints_table_beside_the_database_holds_the_same_keypoints(run: Path) -> None:
    imported(run)
    table = pq.read_table(run / "sfm" / "keypoints.parquet")
    assert (table.schema.names, table.schema.metadata) == (
        tables.KEYPOINTS.names,
        tables.KEYPOINTS.metadata,
    )
    assert all(min(spread, default=0) >= 0 for spread in table["spread"].to_pylist())
    with pycolmap.Database.open(run / "sfm" / "database.db") as database:
        for image, xy in zip(
            database.read_all_images(), tables.unragged(table["keypoints"]), strict=True
        ):
            assert database.read_keypoints(image.image_id)[:, :2] == pytest.approx(xy + 0.5)


def test_geometries_fit_the_keypoints_of_the_database(tmp_path: Path) -> None:
    scene = Scene(orientations={0: 6, 1: 3, 2: 8}, noise=0.3)
    scene.write(tmp_path)
    imported(tmp_path)
    for first, second in ((1, 2), (1, 4), (3, 6), (5, 6)):
        geometry, points0, points1 = geometry_of(tmp_path / "sfm" / "database.db", first, second)
        assert geometry.config == int(pycolmap.TwoViewGeometryConfiguration.CALIBRATED)
        ones = np.ones((len(points0), 1))
        lines = np.hstack([points0, ones]) @ geometry.F.T
        distance = np.abs((np.hstack([points1, ones]) * lines).sum(1)) / np.hypot(*lines.T[:2])
        assert np.median(distance) < 1
        # E and the pose describe the same motion, between cameras as stored.
        pose = geometry.cam2_from_cam1
        x, y, z = pose.translation
        essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ pose.rotation.matrix()
        cosine = (
            (essential * geometry.E).sum() / np.linalg.norm(essential) / np.linalg.norm(geometry.E)
        )
        assert abs(cosine) > 0.999
        with pycolmap.Database.open(tmp_path / "sfm" / "database.db") as database:
            cameras = [database.read_camera(image) for image in (first, second)]
        rays = [
            np.hstack([camera.cam_from_img(points), ones])
            for camera, points in zip(cameras, (points0, points1), strict=True)
        ]
        assert np.median(np.abs(((rays[1] @ geometry.E) * rays[0]).sum(1))) < 2e-3


def test_mapping_finds_the_true_cameras(run: Path, scene: Scene) -> None:
    summary = reconstruct(str(run))
    assert [model.images for model in summary.models] == [6]
    assert summary.models[0].error < 1
    assert summary.models[0].track_length > 3
    position, degrees = camera_errors(run / "sfm" / "sparse" / "0", scene)
    assert position < 0.01
    assert degrees < 0.3
    assert summary.unregistered == []
    assert (run / "sfm" / "points.ply").read_bytes().startswith(b"ply")
    assert (run / "sfm" / "report.txt").read_text() == summary.text()
    assert "6 of 6 images registered" in summary.text()
    told = json.loads((run / "sfm" / "summary.json").read_text())
    assert told["asked"]["runs"] == [str(run)]
    assert told["asked"]["refine"] == json.loads(json.dumps(asdict(RefineOptions())))
    assert told["asked"]["cameras"] == {"model": "auto", "sharing": "auto", "intrinsics": []}
    assert told["models"][0]["points"] == summary.models[0].points
    assert told["versions"]["pycolmap"] == pycolmap.__version__
    assert "output" not in told
    assert not [path for path in (run / "sfm").iterdir() if path.name.startswith(".")]


def test_global_mapper_finds_the_true_cameras_without_exif(tmp_path: Path) -> None:
    scene = Scene(prior=False)
    scene.write(tmp_path)
    summary = reconstruct(str(tmp_path), mapper="global", cameras=CameraOptions(sharing="single"))
    assert [model.images for model in summary.models] == [6]
    assert summary.models[0].focal[1] == pytest.approx(scene.focal, rel=0.02)
    position, degrees = camera_errors(tmp_path / "sfm" / "sparse" / "0", scene)
    assert position < 0.01
    assert degrees < 0.3


def test_photographs_stored_turned_are_mapped_as_stored(tmp_path: Path) -> None:
    scene = Scene(orientations={0: 3, 1: 6, 2: 8, 4: 6})
    scene.write(tmp_path)
    summary = reconstruct(str(tmp_path))
    assert [model.images for model in summary.models] == [6]
    position, degrees = camera_errors(tmp_path / "sfm" / "sparse" / "0", scene)
    assert position < 0.01
    assert degrees < 0.3
    model = pycolmap.Reconstruction(tmp_path / "sfm" / "sparse" / "0")
    sizes = {model.images[i].name: model.images[i].camera for i in model.reg_image_ids()}
    assert (sizes[scene.name(1)].width, sizes[scene.name(1)].height) == scene.size[::-1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_marked_pixel_is_found_where_the_file_stores_it(tmp_path: Path, orientation: int) -> None:
    width, height, column, row = 40, 30, 7, 22
    pixels = np.zeros((height, width), np.uint8)
    pixels[row, column] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / name, exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened))
    y, x = np.argwhere(upright == 255)[0]
    size = upright.shape[::-1]
    images = [(name, *size, width, height, orientation, None, None) for name in ("a.png", "b.png")]
    table = pa.table(
        [pa.array([r[i] for r in images], kind) for i, kind in enumerate(tables.IMAGES.types)],
        schema=tables.IMAGES,
    )
    matches = matches_table(
        [("a.png", "b.png", np.array([[[x, y]], [[x, y]]]), np.ones(1))]
    ).to_pylist()
    matches[0] |= {"geometry": "uncalibrated", "inliers": [True], "num_inliers": 1}
    write_shard(tmp_path, "0", pa.Table.from_pylist(matches, tables.MATCHES), table)
    imported(tmp_path)
    with pycolmap.Database.open(tmp_path / "sfm" / "database.db") as database:
        assert database.read_keypoints(1)[:, :2].tolist() == [[column + 0.5, row + 0.5]]
        camera = database.read_all_cameras()[0]
        assert (camera.width, camera.height) == (width, height)


def test_mirrored_files_are_kept_apart_and_said_to_be(tmp_path: Path) -> None:
    Scene(orientations={0: 2}).write(tmp_path)
    summary = reconstruct(str(tmp_path))
    assert summary.database.mirrored_pairs == 5
    assert summary.unregistered == [Scene().name(0)]
    assert "5 pairs of a mirrored with an unmirrored file" in summary.text()


def test_importing_again_gives_the_same_database(run: Path) -> None:
    imported(run)
    before = contents(run / "sfm" / "database.db")
    imported(run)
    assert contents(run / "sfm" / "database.db") == before


def test_database_does_not_depend_on_shards_and_their_order(run: Path, scene: Scene) -> None:
    imported(run)
    table = pa.concat_tables(pq.read_table(path) for path in sorted((run / "matches").iterdir()))
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    for folder in ("matches", "images"):
        shutil.rmtree(run / folder)
    before = contents(run / "sfm" / "database.db")
    for shard, rows in (("z", shuffled.slice(0, 2)), ("a", shuffled.slice(2))):
        write_shard(run, shard, rows, scene.images())
    imported(run)
    assert contents(run / "sfm" / "database.db") == before


def test_pairs_added_later_give_what_one_run_gives(run: Path) -> None:
    imported(run)
    whole = contents(run / "sfm" / "database.db")
    late = run / "matches" / "00001.parquet"
    late.rename(run / "late.parquet")
    imported(run)
    assert contents(run / "sfm" / "database.db") != whole
    (run / "late.parquet").rename(late)
    imported(run)
    assert contents(run / "sfm" / "database.db") == whole


def test_small_batches_give_the_same_database(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported(run)
    before = contents(run / "sfm" / "database.db")
    monkeypatch.setattr(merge, "BATCH", 300)
    imported(run)
    assert contents(run / "sfm" / "database.db") == before
    monkeypatch.setattr(merging, "SHARDS_A_RANGE", 0.5)  # a range for every image
    monkeypatch.setattr(merging, "SHARDS_A_TASK", 1)
    imported(run)
    assert contents(run / "sfm" / "database.db") == before


def test_failed_import_leaves_the_old_database_untouched(run: Path, scene: Scene) -> None:
    imported(run)
    before = (run / "sfm" / "database.db").read_bytes()
    rows = pq.read_table(run / "matches" / "00002.parquet").to_pylist()
    rows[0]["keypoints0"][5] = [float("nan"), 0.0]
    rows[0]["inliers"][5] = True
    write_shard(run, "00002", pa.Table.from_pylist(rows, tables.MATCHES), scene.images())
    with pytest.raises(ReconstructionError, match=r"matches/00002\.parquet: .*not finite"):
        imported(run)
    assert (run / "sfm" / "database.db").read_bytes() == before
    assert sorted(path.name for path in (run / "sfm").iterdir()) == [
        "database.db",
        "keypoints.parquet",
    ]


@pytest.mark.parametrize(
    "stage",
    [
        "deal.DealShards._read",
        "job.write_keypoints",
        "merge.MergeImages.__call__",
        "job.write_pairs",
        "merge.MergePairs.__call__",
    ],
)
def test_killed_import_leaves_the_old_database_untouched_and_the_next_one_cleans_up(
    run: Path, stage: str
) -> None:
    imported(run)
    before = (run / "sfm" / "database.db").read_bytes()
    owner, _, name = stage.rpartition(".")
    program = f"""
import os, signal
from pathlib import Path
from pipeline.reconstruct.merging import deal, job, merge
from pipeline.store.folder import Folder
merge.BATCH = 300  # several batches
job.SHARDS_A_RANGE, job.SHARDS_A_TASK = 0.5, 1  # and several ranges
step, calls = {stage}, []
def killed_at_the_second(*arguments):
    result = step(*arguments)
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
{owner}.{name} = killed_at_the_second
run = Path({str(run)!r})
target = run / "sfm" / "database.db"
job.import_matches(Folder(str(run)), target, long_side={LONG_SIDE}, radius=1.0)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, timeout=60)
    assert done.returncode == -9
    assert (run / "sfm" / "database.db").read_bytes() == before
    assert any((run / "sfm" / ".database.db.importing").iterdir())
    imported(run)
    assert not (run / "sfm" / ".database.db.importing").exists()
    assert (run / "sfm" / "database.db").read_bytes() == before


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_import_killed_between_its_files_leaves_nothing_beside_a_database_that_is_of_another(
    run: Path, moment: str
) -> None:
    imported(run)
    sfm = run / "sfm"
    before = (sfm / "database.db").read_bytes()
    (sfm / "sparse" / "0").mkdir(parents=True)
    for name in ("sparse/0/points3D.bin", "points.ply", "report.txt"):
        (sfm / name).write_text("of the old database")
    program = f"""
import os, signal
from pathlib import Path
from pipeline.reconstruct.merging.job import import_matches
from pipeline.store.folder import Folder
replace = os.replace
def killed(source, target):
    if {moment!r} == "after" or Path(target).name != "database.db":
        replace(source, target)
    if Path(target).name == "database.db":
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = killed
run = Path({str(run)!r})
import_matches(Folder(str(run)), run / "sfm" / "database.db", long_side={LONG_SIDE}, radius=1.0)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, timeout=60)
    assert done.returncode == -9
    assert ((sfm / "database.db").read_bytes() == before) == (moment == "before")
    assert {path.name for path in sfm.iterdir()} == {"database.db", ".database.db.importing"}
    imported(run)
    assert {path.name for path in sfm.iterdir()} == {"database.db", "keypoints.parquet"}
    assert (sfm / "database.db").read_bytes() == before


def test_a_journal_left_by_a_killed_reader_does_not_reach_the_new_database(run: Path) -> None:
    imported(run)
    before = contents(run / "sfm" / "database.db")
    program = f"""
import os, signal
from pipeline.match.verify import import_pycolmap
database = import_pycolmap().Database.open({str(run / "sfm" / "database.db")!r})
database.clear_all_tables()
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], env=environment, timeout=60)
    assert (run / "sfm" / "database.db-wal").exists()
    imported(run)
    assert contents(run / "sfm" / "database.db") == before


def test_repeated_pairs_and_points_outside_are_left_out_and_counted(
    run: Path, scene: Scene
) -> None:
    imported(run)
    before = contents(run / "sfm" / "database.db")
    rows = pq.read_table(run / "matches" / "00000.parquet").to_pylist()
    swapped = {"image0": rows[0]["image1"], "image1": rows[0]["image0"]}
    swapped |= {"keypoints0": rows[0]["keypoints1"][:30], "keypoints1": rows[0]["keypoints0"][:30]}
    swapped |= {"scores": rows[0]["scores"][:30], "inliers": rows[0]["inliers"][:30]}
    rows[1]["keypoints0"].append([-3.0, 5.0])
    rows[1]["keypoints1"].append([5.0, 5.0])
    rows[1]["scores"].append(0.5)
    rows[1]["inliers"].append(True)
    rows.append(rows[0] | swapped)
    write_shard(run, "00000", pa.Table.from_pylist(rows, tables.MATCHES), scene.images())
    summary = imported(run)
    assert (summary.duplicate_pairs, summary.outside) == (1, 1)
    assert contents(run / "sfm" / "database.db") == before


def test_unverified_matches_are_refused(tmp_path: Path) -> None:
    Scene(cameras=3).write(tmp_path, verify=False)
    with pytest.raises(ReconstructionError, match="not verified; run eloftr match"):
        imported(tmp_path)


def test_matches_of_unknown_images_are_refused(run: Path, scene: Scene) -> None:
    for path in (run / "images").iterdir():
        pq.write_table(scene.images().slice(0, 5), path)
    with pytest.raises(ReconstructionError, match=r"'part1/view 05\.jpg', which is not in images/"):
        imported(run)


def test_an_image_matched_with_itself_is_refused(run: Path, scene: Scene) -> None:
    rows = pq.read_table(run / "matches" / "00000.parquet").to_pylist()
    rows[0]["image1"] = rows[0]["image0"]
    write_shard(run, "00000", pa.Table.from_pylist(rows, tables.MATCHES), scene.images())
    with pytest.raises(ReconstructionError, match="matched with itself"):
        imported(run)


def test_an_image_that_changed_between_shards_is_refused(run: Path, scene: Scene) -> None:
    rows = scene.images().to_pylist()
    rows[2] |= {"width": 800, "stored_width": 800}
    pq.write_table(pa.Table.from_pylist(rows, tables.IMAGES), run / "images" / "00001.parquet")
    with pytest.raises(
        ReconstructionError, match=r"part0/view 02\.jpg: its width differs between shards"
    ):
        imported(run)


def test_sizes_that_disagree_with_the_orientation_are_refused(run: Path, scene: Scene) -> None:
    rows = scene.images().to_pylist()
    rows[2]["orientation"] = 6
    for path in (run / "images").iterdir():
        pq.write_table(pa.Table.from_pylist(rows, tables.IMAGES), path)
    with pytest.raises(ReconstructionError, match="orientation"):
        imported(run)


def test_cameras_are_shared_by_folder_and_size(tmp_path: Path) -> None:
    scene = Scene(
        orientations={1: 6}
    )  # view 01 is stored upright, the others of its folder are not
    scene.write(tmp_path)
    images = scene.images().to_pylist()
    images[0]["focal"] = 820.0
    for path in (tmp_path / "images").iterdir():
        pq.write_table(pa.Table.from_pylist(images, tables.IMAGES), path)
    counts = {
        sharing: imported(tmp_path, cameras=CameraOptions(sharing=sharing)).cameras
        for sharing in ("per-image", "per-folder", "single")
    }
    assert counts == {"per-image": 6, "per-folder": 3, "single": 2}
    with pycolmap.Database.open(tmp_path / "sfm" / "database.db") as database:
        first, second = database.read_all_cameras()
        assert (first.width, first.height, second.width, second.height) == (720, 540, 540, 720)
        assert first.focal_length == 800  # the median
        assert first.has_prior_focal_length
        assert [image.camera_id for image in database.read_all_images()] == [1, 1, 1, 2, 1, 1]


def test_known_cameras_stay_as_given(tmp_path: Path) -> None:
    scene = Scene(prior=True)
    scene.write(tmp_path)
    cameras = CameraOptions.parse(intrinsics="pinhole:800,800,360,270")
    summary = reconstruct(str(tmp_path), cameras=cameras)
    assert summary.models[0].images == 6
    assert summary.models[0].focal == (800, 800, 800)
    geometry, _, _ = geometry_of(tmp_path / "sfm" / "database.db", 1, 2)
    # E was found with another camera; F holds for any.
    assert geometry.config == int(pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED)
    assert geometry.E is None
    assert camera_errors(tmp_path / "sfm" / "sparse" / "0", scene)[0] < 0.01


def test_known_cameras_for_images_of_several_sizes_are_refused(tmp_path: Path) -> None:
    Scene(orientations={1: 6}).write(tmp_path)
    with pytest.raises(ReconstructionError, match="one image size, but the images have 2"):
        imported(tmp_path, cameras=CameraOptions.parse(intrinsics="SIMPLE_PINHOLE:800,360,270"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FOO:1", "unknown; give one of"),
        ("EQUIRECTANGULAR:1", "unknown"),
        ("PINHOLE:1,2", "takes fx, fy, cx, cy: not 2"),
        ("PINHOLE:1,2,x,4", "numbers separated by commas"),
        ("PINHOLE:-1,2,3,4", "above zero"),
        ("PINHOLE:nan,2,3,4", "finite"),
    ],
)
def test_wrong_cameras_are_refused(text: str, message: str) -> None:
    with pytest.raises(ReconstructionError, match=message):
        CameraOptions.parse(intrinsics=text)
    if "unknown" in message:
        with pytest.raises(ReconstructionError, match=message):
            CameraOptions.parse(text.partition(":")[0])


def test_wrong_sharing_is_refused() -> None:
    with pytest.raises(
        ReconstructionError, match="unknown; give auto, single, per-folder, per-image"
    ):
        CameraOptions(sharing="none")


def test_two_photographs_give_a_model(tmp_path: Path) -> None:
    Scene(cameras=2).write(tmp_path)
    summary = reconstruct(str(tmp_path))
    assert [model.images for model in summary.models] == [2]


def test_nothing_to_map_is_said_in_one_sentence(tmp_path: Path) -> None:
    scene = Scene(cameras=3, outliers=1.0)
    scene.write(tmp_path)
    (tmp_path / "sfm" / "sparse").mkdir(parents=True)  # of an earlier reconstruction
    summary = reconstruct(str(tmp_path))
    assert summary.models == []
    assert (
        "nothing to map: no pair has verified matches"
        in (tmp_path / "sfm" / "report.txt").read_text()
    )
    assert not (tmp_path / "sfm" / "sparse").exists()


def test_views_from_one_place_are_said_not_to_start_a_model(tmp_path: Path) -> None:
    scene = Scene(cameras=3, noise=0.1)
    scene.rotations = [scene.rotations[1]] * 3
    scene.translations = [scene.translations[1]] * 3
    scene.write(tmp_path)
    summary = reconstruct(str(tmp_path))
    assert summary.database.verified > 0
    assert summary.models == []
    assert "nothing to map: no two images share" in summary.text()


def test_points_take_the_colours_of_the_photographs(
    run: Path, tmp_path: Path, scene: Scene
) -> None:
    for camera in range(scene.cameras):
        path = tmp_path / "photographs" / scene.name(camera)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", scene.size, (200, 100, 50)).save(path, quality=95)
    without = reconstruct(str(run))
    assert "no colours" in without.text()
    with_colours = reconstruct(str(run), images=str(tmp_path / "photographs"))
    assert with_colours.notes == []
    model = pycolmap.Reconstruction(run / "sfm" / "sparse" / "0")
    colour = np.median([point.color for point in model.points3D.values()], axis=0)
    assert colour == pytest.approx([200, 100, 50], abs=3)


@pytest.mark.parametrize(
    ("told", "doubtful"), [(None, False), (1.0, False), (1.4, False), (1.6, True), (0.6, True)]
)
def test_a_focal_length_far_from_that_of_exif_is_told(told: float | None, doubtful: bool) -> None:
    options = pycolmap.SyntheticDatasetOptions(num_rigs=1, num_frames_per_rig=3, num_points3D=20)
    model = pycolmap.synthesize_dataset(options)
    priors = {
        number: camera.mean_focal_length() * told
        for number, camera in model.cameras.items()
        if told is not None
    }
    notes = doubtful_cameras([model], priors)
    assert len(notes) == doubtful
    for note in notes:
        assert re.search(r"model 0 is not to be trusted: .* \d+ px and EXIF says \d+ px; ", note)


def test_reconstruction_is_deterministic(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether COLMAP's process has mapped before or is new."""
    models = []
    for worker in (job.Worker, Worker):
        monkeypatch.setattr(job, "Worker", worker)
        reconstruct(str(run))
        sparse = run / "sfm" / "sparse" / "0"
        models.append([path.read_bytes() for path in sorted(sparse.iterdir())])
    assert models[0] == models[1]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReconstructionError, match=r"holds no run\.json"):
        reconstruct(str(tmp_path))
    (tmp_path / "run.json").write_text(json.dumps({"images": "photographs", "options": {}}))
    with pytest.raises(ReconstructionError, match=r"lacks images or options\.long_side"):
        reconstruct(str(tmp_path))
    (tmp_path / "run.json").write_text(json.dumps({"images": "x", "options": {"long_side": 640}}))
    with pytest.raises(ReconstructionError, match=r"holds no images/\*\.parquet"):
        reconstruct(str(tmp_path))


def test_wrong_mapper_radius_and_threads_are_refused(run: Path) -> None:
    with pytest.raises(ReconstructionError, match="0 threads"):
        reconstruct(str(run), threads=0)
    with pytest.raises(ReconstructionError, match="give incremental or global"):
        reconstruct(str(run), mapper="fast")
    with pytest.raises(ReconstructionError, match="radius"):
        reconstruct(str(run), radius=0)


def test_verification_options_do_not_leak_between_shards(scene: Scene) -> None:
    verify = VerifyShard(VerificationOptions(long_side=LONG_SIDE))
    tables = [verify(scene.matches_of([(0, 1)]), scene.images()) for _ in range(2)]
    assert tables[0].equals(tables[1])


def test_a_summary_holds_no_password_of_a_url(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Summary:
        output: str
        notes: list[str]

        def text(self) -> str:
            return "told\n"

    place = "http://user:hidden@store.example/poses.csv?key=hidden"
    asked = {
        "poses": PoseOptions(place),
        "images": Folder("s3://bucket/photos", {"secret": "hidden"}),
        "pairs": place,
    }
    write_summary(tmp_path, Summary("s3://key:hidden@bucket", ["a note"]), asked)
    told = (tmp_path / "summary.json").read_text()
    assert "hidden" not in told
    assert json.loads(told)["asked"]["poses"]["file"] == "http://store.example/poses.csv"
    assert json.loads(told)["notes"] == ["a note"]
    camera = json.dumps({"model": "PINHOLE", "params": [800, 800, 360, 270]})
    Folder("memory://user:hidden@place").publish("cameras.json", camera.encode())
    (known,) = read_intrinsics("memory://user:hidden@place/cameras.json")
    assert known.place.startswith("memory://place/cameras.json")

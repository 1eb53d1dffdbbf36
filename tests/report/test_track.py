"""The model of a run over the EXIF positions of its photographs, by the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import texture
from PIL import Image

from pipeline.cli import main
from pipeline.report.models import FRUSTUM
from pipeline.report.pictures import BAD
from pipeline.report.track import read_track
from pipeline.report.track_map import BAR, DIFFERENCE, FOOT, draw_track
from pipeline.store.folder import Folder

LATITUDE, LONGITUDE = 44.0, -71.5
RED, BLUE = (240, 20, 20), (20, 20, 240)
# Two strips of four photographs, 40 m apart, flown to the north and back: metres east, north, up.
STRIPS = np.array(
    [(0, 15 * k, 60 + k % 2) for k in range(4)] + [(40, 15 * k, 61 - k % 2) for k in (3, 2, 1, 0)],
    float,
)
NAMES = [f"DJI_{number}.jpg" for number in range(8)]


def photograph(path: Path, place: np.ndarray) -> None:
    """A drawn photograph whose EXIF data say that it was taken there, metres from the origin."""
    latitude = LATITUDE + place[1] / 111_115.0  # of a degree at this latitude, WGS 84
    longitude = -LONGITUDE - place[0] / 80_210.0
    parts = [(int(v), int(v * 60 % 60), round(v * 3600 % 60, 6)) for v in (latitude, longitude)]
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: parts[0], 3: "W", 4: parts[1], 5: b"\0", 6: float(place[2])}
    texture(64, 48, 0).save(path, exif=exif)


def write_model(folder: Path, names: list[str], centres: np.ndarray, points: np.ndarray) -> None:
    """A COLMAP model as text: cameras in the model's own frame, the first half of points red."""
    folder.mkdir(parents=True)
    (folder / "cameras.txt").write_text("1 SIMPLE_PINHOLE 64 48 60 32 24\n")
    lines = [
        f"{number} 1 0 0 0 {-x} {-y} {-z} 1 {name}\n\n"
        for number, (name, (x, y, z)) in enumerate(zip(names, centres, strict=True), start=1)
    ]
    (folder / "images.txt").write_text("".join(lines))
    colours = [RED if number < len(points) / 2 else BLUE for number in range(len(points))]
    (folder / "points3D.txt").write_text(
        "".join(
            f"{number} {x} {y} {z} {r} {g} {b} 0.5\n"
            for number, ((x, y, z), (r, g, b)) in enumerate(zip(points, colours, strict=True), 1)
        )
    )


def in_the_model(metres: np.ndarray) -> np.ndarray:
    """Metres → the frame of the model, which is turned, smaller and elsewhere."""
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    moved: np.ndarray = 0.04 * metres @ turn.T + [5, -2, 9]
    return moved


def write_survey(place: Path, off: np.ndarray | float = 0.0, registered: int = 8) -> Path:
    """`photos` and `run` with a model whose camera centres are `off` their places, metres.

    Its points lie north (red) and east (blue) of the track's middle.
    """
    (place / "photos").mkdir(parents=True)
    for name, where in zip(NAMES, STRIPS, strict=True):
        photograph(place / "photos" / name, where)
    run = place / "run"
    (run / "images").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"images": str(place / "photos")}))
    pq.write_table(pa.table({"image": NAMES}), run / "images" / "00000.parquet")
    rng = np.random.default_rng(0)
    ground = [
        rng.uniform((15, 38, 0), (25, 44, 1), (200, 3)),
        rng.uniform((30, 18, 0), (36, 26, 1), (200, 3)),
    ]
    centres = in_the_model(STRIPS + off)[:registered]
    points = in_the_model(np.concatenate(ground))
    write_model(run / "sfm" / "sparse" / "0", NAMES[:registered], centres, points)
    return run


def draw(run: Path, *arguments: object) -> int:
    return main(["draw", "--run", str(run), "--track", *map(str, arguments)])


def where(image: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """(n, 2) x, y of the pixels whose colour is near, a dim one, too."""
    pixels = np.asarray(image.convert("RGB"), float)
    length = np.linalg.norm(pixels, axis=-1)
    alike = pixels @ np.array(colour, float) / np.maximum(length * np.linalg.norm(colour), 1e-9)
    y, x = np.nonzero((alike > 0.985) & (length > 120))
    return np.stack([x, y], axis=1)


def test_a_model_that_fits_its_positions_has_no_residual(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_survey(tmp_path)
    assert draw(run, "--output", tmp_path / "new" / "track.png", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["pictures"] == [str(tmp_path / "new" / "track.png")]
    assert (summary["images"], summary["positions"], summary["missing"]) == (8, 8, [])
    assert summary["rms_metres"] < 0.02
    assert Image.open(tmp_path / "new" / "track.png").width == 1000


def test_the_residual_is_that_of_the_horizontal_distances(tmp_path: Path) -> None:
    off = np.random.default_rng(1).normal(0, 1.0, (8, 3))
    run = write_survey(tmp_path, off)
    track = read_track(Folder(str(run)), Folder(str(tmp_path / "photos")))
    most = float(np.sqrt((off[:, :2] ** 2).sum(axis=1).mean()))
    assert 0.4 * most < track.rms_metres < most
    # metres stay metres: the two strips are 40 m apart
    east = track.centres[:, 0]
    assert abs(east[4:].mean() - east[:4].mean() - 40) < 1.5


def test_north_is_up_and_east_is_on_the_right(tmp_path: Path) -> None:
    run = write_survey(tmp_path)
    picture = draw_track(read_track(Folder(str(run)), Folder(str(tmp_path / "photos"))))
    plan = picture.crop((0, BAR, 1000, picture.height - FOOT))
    cameras = where(plan, FRUSTUM)
    middle = 0.5 * (cameras.min(axis=0) + cameras.max(axis=0))
    north, east = (np.median(where(plan, colour), axis=0) for colour in (RED, BLUE))
    assert north[1] < middle[1] - 50
    assert abs(north[0] - middle[0]) < 40
    assert east[0] > middle[0] + 50
    assert abs(east[1] - middle[1]) < 40


def test_photographs_that_the_model_lacks_are_told_and_drawn_in_red(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_survey(tmp_path, registered=6)
    output = tmp_path / "track.png"
    assert draw(run, "--output", output) == 0
    assert "6 of 8 images registered, 6 of them with a position" in capsys.readouterr().out
    assert len(where(Image.open(output), BAD)) > 50
    assert draw(run, "--output", output, "--json") == 0
    assert json.loads(capsys.readouterr().out)["missing"] == NAMES[6:]


def test_differences_too_short_to_see_are_drawn_longer(tmp_path: Path) -> None:
    shapes = []
    for number, size in enumerate((0.1, 1.0)):
        off = np.random.default_rng(1).normal(0, size, (8, 3))
        run = write_survey(tmp_path / str(number), off)
        track = read_track(Folder(str(run)), Folder(str(tmp_path / str(number) / "photos")))
        picture = draw_track(track)
        plan = picture.crop((0, BAR, 1000, picture.height - FOOT))
        shapes.append(len(where(plan, DIFFERENCE)))
    assert 0.3 < shapes[0] / shapes[1] < 3  # not a tenth


def test_what_has_no_track_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, output = write_survey(tmp_path), tmp_path / "track.png"

    def refused(*arguments: object) -> str:
        assert draw(run, "--output", output, *arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert not output.exists()
        return str(line)

    for name in NAMES[3:]:
        texture(64, 48, 0).save(tmp_path / "photos" / name)
    message = refused()
    assert "3 of 8 registered images have a position" in message
    assert "its EXIF data hold no position" in message
    assert "needs 4" in message
    for number, name in enumerate(NAMES):
        photograph(tmp_path / "photos" / name, np.array([0, 10.0 * number, 60]))
    assert "all positions lie on one line" in refused()
    assert "its ending is no picture format" in refused("--output", tmp_path / "track.xyz")
    assert "holds no cameras, images" in refused("--model", tmp_path / "photos")
    (run / "sfm" / "sparse" / "0").rename(run / "sfm" / "sparse" / "1")
    assert "holds no model; run eloftr reconstruct first" in refused()
    two = [str(tmp_path / "photos" / name) for name in NAMES[:2]]
    assert main(["draw", *two, "--track", "--output", str(output)]) == 2
    assert "--track draws the model of a run" in capsys.readouterr().err


def test_another_folder_of_the_model_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_survey(tmp_path)
    (run / "sfm" / "sparse" / "0").rename(tmp_path / "model")
    output = tmp_path / "track.jpg"
    assert draw(run, "--output", output, "--model", tmp_path / "model") == 0
    assert "8 of 8 images registered" in capsys.readouterr().out
    assert Image.open(output).format == "JPEG"

"""Models in the world: every test knows where the cameras and points of its scene truly are."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation
from test_documentation import commands, shape
from test_models import made_survey, written

import pipeline
from benchmarks.scale.scenes import survey
from pipeline.cli import main
from pipeline.errors import ArgumentError, EloftrError, PairListError, ReconstructionError
from pipeline.extras import import_pycolmap
from pipeline.pairs.spatial import exif_positions, from_east_north_up, geodetic
from pipeline.photos.direction import attitude
from pipeline.photos.headings import read_headers
from pipeline.photos.source import list_images
from pipeline.reconstruct.models import job
from pipeline.reconstruct.models.job import WrittenModel
from pipeline.reconstruct.positions.fit import Anchors, Fit
from pipeline.reconstruct.positions.trusted import PositionOptions, trusted_positions
from pipeline.reconstruct.similarity import Similarity
from pipeline.reconstruct.tracks.scene import ModelViews
from pipeline.reconstruct.world.control import read_control
from pipeline.reconstruct.world.manhattan import up_by_surfaces
from pipeline.reconstruct.world.systems import System
from pipeline.store.folder import Folder

pycolmap = import_pycolmap()
SIDE = 5
PLACE = np.array([50.0865, 14.4114, 210.0])  # of the scene's origin
UTM = System.of("WGS84 UTM 33N")
TURN = Similarity(0.31, Rotation.from_rotvec([0.4, -1.1, 2]).as_matrix(), np.array([4.0, -7, 2]))
NOISE = 0.2  # metres of a coordinate


class World:
    """A survey whose model lies anywhere, with files that say where it was taken."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.scene = folder, survey(SIDE)
        model = made_survey(SIDE)
        self.model = folder / "true"
        written(model, self.model)
        self.points = np.array(sorted(model.point3D_ids()))
        self.xyz = np.array([model.points3D[int(row)].xyz for row in self.points])
        self.names = [model.images[row].name for row in sorted(model.reg_image_ids())]
        self.tracks = [
            [(one.image_id, one.point2D_idx) for one in model.points3D[int(row)].track.elements]
            for row in self.points
        ]
        self.pixels = {row: [p.xy for p in image.points2D] for row, image in model.images.items()}
        model.transform(pycolmap.Sim3d(TURN.scale, pycolmap.Rotation3d(TURN.rotation), TURN.shift))
        written(model, folder / "model")
        rng = np.random.default_rng(0)
        self.measured = self.scene.centre + rng.normal(0, NOISE, self.scene.centre.shape)

    def degrees(self, places: np.ndarray) -> np.ndarray:
        return geodetic(from_east_north_up(places, PLACE))

    def gps(self, degrees: np.ndarray | None = None, header: str = "") -> Path:
        """A table of positions, by default of measured ones."""
        rows = self.degrees(self.measured) if degrees is None else degrees
        lines = [
            f"{name},{','.join(f'{value:.9f}' for value in row)}"
            for name, row in zip(self.names, rows, strict=True)
        ]
        header = header or "image,latitude,longitude,altitude"
        (self.folder / "gps.csv").write_text("\n".join([header, *lines]) + "\n")
        return self.folder / "gps.csv"

    def marks(self, count: int = 8) -> list[tuple[int, int, np.ndarray]]:
        """Points, images and pixels: points far from each other, marked in four images each."""
        middle = self.xyz.mean(axis=0)
        often = [k for k, track in enumerate(self.tracks) if len(track) >= 5]
        chosen = [min(often, key=lambda k: np.linalg.norm(self.xyz[k] - middle))]
        while len(chosen) < count:
            apart = [min(np.linalg.norm(self.xyz[k] - self.xyz[c]) for c in chosen) for k in often]
            chosen.append(often[int(np.argmax(apart))])
        return [
            (k, image, np.asarray(self.pixels[image][row]))
            for k in chosen
            for image, row in self.tracks[k][:4]
        ]

    def control(
        self,
        kind: str = "csv",
        moved: dict[int, np.ndarray] | None = None,
        marked: dict[int, np.ndarray] | None = None,
    ) -> Path:
        """A file of control points. moved: metres by which the nth is wrong. marked: pixels of the
        nth mark.
        """
        marks = self.marks()
        order = list(dict.fromkeys(point for point, _, _ in marks))
        rng = np.random.default_rng(1)
        places = self.xyz[order] + rng.normal(0, 0.02, (len(order), 3))
        for number, off in (moved or {}).items():
            places[number] += off
        x, y, z = UTM.from_degrees(self.degrees(places)).T
        lines = []
        for number, (point, image, xy) in enumerate(marks):
            row = order.index(point)
            u, v = xy + rng.normal(0, 0.5, 2) + (marked or {}).get(number, 0)
            name = self.names[image - 1]
            if kind == "csv":
                lines.append(
                    f"p{row},{x[row]:.3f},{y[row]:.3f},{z[row]:.3f},{name},{u:.2f},{v:.2f}"
                )
            else:
                lines.append(
                    f"{x[row]:.3f} {y[row]:.3f} {z[row]:.3f} {u:.2f} {v:.2f} {name} p{row}"
                )
        first = "point,easting,northing,height,image,x,y" if kind == "csv" else "WGS84 UTM 33N"
        path = self.folder / ("gcp.csv" if kind == "csv" else "gcp_list.txt")
        path.write_text("\n".join([first, *lines]) + "\n")
        return path

    def align(self, **how: Any) -> WrittenModel:
        return pipeline.align_model(self.folder / "model", self.folder / "out", **how)

    def off(self, made: WrittenModel, points: bool = False) -> np.ndarray:
        """Metres from the cameras, or points, of what was made to their true places."""
        assert made.world is not None
        model = pycolmap.Reconstruction(str(self.folder / "out"))
        rows = sorted(model.reg_image_ids())
        found = np.array([model.images[row].projection_center() for row in rows])
        true = self.scene.centre
        if points:
            found = np.array([model.points3D[int(row)].xyz for row in self.points])
            true = self.xyz
        found = found + made.world["offset"]
        goal = from_east_north_up(true, PLACE)
        if made.world["frame"] == "ecef":
            return np.linalg.norm(found - goal, axis=1)
        if made.world["frame"] == "utm":
            return np.linalg.norm(
                found - System(made.world["epsg"]).from_degrees(geodetic(goal)), axis=1
            )
        origin = np.array([*made.world["origin"].values()])
        return np.linalg.norm(from_east_north_up(found, origin) - goal, axis=1)


@pytest.fixture(scope="module", autouse=True)
def kept_process(kept_executor: Any) -> Iterator[None]:
    """COLMAP's process is one of the suite, which has spent its seconds on imports."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(job, "call", kept_executor.call)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def test_utm_and_the_centre_of_the_earth_are_where_others_say() -> None:
    """The CN Tower as Wikipedia's article on UTM has it; others by PROJ 9."""
    tower = np.array([[43.642567, -79.387139, 7.0]])
    found = System.utm_at(43.642567, -79.387139)
    assert (found.name, found.epsg) == ("UTM 17N", 32617)
    np.testing.assert_allclose(
        found.from_degrees(tower), [[630084.3008341, 4833438.5856743, 7.0]], atol=1e-4
    )
    south = System.of("EPSG:32731")
    beside = np.array([[0.2, 5.9, 0.0], [0.21, 6.2, 0.0]])  # both north, one in the next zone
    np.testing.assert_allclose(
        south.from_degrees(beside),
        [[822834.2369953, 10022134.5475063, 0], [856264.0134140, 10023247.8037007, 0]],
        atol=1e-4,
    )
    np.testing.assert_allclose(south.to_degrees(south.from_degrees(beside)), beside, atol=1e-8)
    centre = System.of("EPSG:4978").from_degrees(np.array([[0.0, 90, 100], [90, 0, 0]]))
    np.testing.assert_allclose(centre, [[0, 6378237, 0], [0, 0, 6356752.3142]], atol=1e-3)


@pytest.mark.parametrize(
    ("text", "epsg"),
    [
        ("WGS84 UTM 11N", 32611),
        ("wgs 84 / utm zone 7s", 32707),
        ("EPSG:32760", 32760),
        ("+proj=utm +zone=10 +ellps=WGS84 +datum=WGS84 +units=m +no_defs", 32610),
        ("+proj=utm +zone=10 +south", 32710),
        ("EPSG:4326", 4326),
        ("EPSG:2056", None),
        ("UTM 61N", None),
        ("NAD27", None),
    ],
)
def test_systems_are_read_as_files_name_them(text: str, epsg: int | None) -> None:
    if epsg is None:
        with pytest.raises(ArgumentError, match="no system that is known here"):
            System.of(text)
    else:
        assert System.of(text).epsg == epsg


@pytest.mark.parametrize("frame", ["enu", "ecef", "utm"])
def test_a_model_comes_to_its_place_on_the_earth_by_gps(world: World, frame: str) -> None:
    made = world.align(gps=world.gps(), gps_error=NOISE, frame=frame)
    off = world.off(made)
    assert off.max() < 0.6
    assert np.median(off) < NOISE / 2
    assert made.world is not None
    assert made.world["scale"] == pytest.approx(1 / TURN.scale, rel=0.02)
    assert made.world == json.loads((world.folder / "out" / "world.json").read_text())
    model = pycolmap.Reconstruction(str(world.folder / "out"))
    assert max(abs(image.projection_center()).max() for image in model.images.values()) < 10_000
    if frame == "utm":
        assert made.world["epsg"] == 32633


def test_swapped_latitude_and_longitude_are_named(world: World) -> None:
    degrees = world.degrees(world.measured)
    with pytest.raises(ReconstructionError, match="as latitude and longitude are swapped"):
        world.align(gps=world.gps(degrees[:, [1, 0, 2]]), gps_error=NOISE)
    wrong = degrees.copy()
    wrong[[3, 9]] = wrong[[3, 9]][:, [1, 0, 2]]
    made = world.align(gps=world.gps(wrong), gps_error=NOISE)
    assert world.off(made).max() < 0.6
    (note,) = [note for note in made.notes if "are swapped" in note]
    assert note.startswith("of 2 images latitude and longitude are swapped: ")
    assert all(world.names[row] in note for row in (3, 9))
    west = degrees * [1, 10, 1] + [0, -20, 0]  # latitudes of over 90 degrees once they are swapped
    with pytest.raises(ReconstructionError, match="latitude and longitude look swapped"):
        world.align(gps=world.gps(west[:, [1, 0, 2]]), gps_error=NOISE)


def test_a_flat_model_that_fits_upside_down_is_noticed(world: World) -> None:
    """East for west mirrors positions, and a flat model fits them as well from below."""
    degrees = world.degrees(world.measured * [1, 1, 0] + [0, 0, 30])
    try:
        notes = world.align(gps=world.gps(degrees * [1, -1, 1]), gps_error=2.0).notes
    except ReconstructionError as error:
        notes = [str(error)]
    assert any("the longitude has the wrong sign" in note for note in notes)


def test_metres_whose_z_points_down_are_not_accused(world: World) -> None:
    """Worlds of COLMAP and of transforms.json have no up: exact positions in them are right."""
    centres = world.scene.centre * [1, -1, -1]
    for flat in (1.0, 0.0):
        table = world.gps(centres * [1, 1, flat] + [0, 0, 5.0], "image,x,y,z")
        made = world.align(gps=table, gps_error=0.02 if flat else 2.0)
        assert not any("swapped in" in note or "is upside down" in note for note in made.notes)
        (note,) = [note for note in made.notes if "z points down" in note]
        assert note.startswith("by the z of gps.csv most cameras of the model look up or stand")
    mirrored = world.gps(world.scene.centre[:, [1, 0, 2]], "image,x,y,z")
    notes = world.align(gps=mirrored, gps_error=0.02).notes
    assert "x and y are swapped in the positions of the model: it fits them far better so" in notes


def test_altitudes_of_another_reference_are_named(world: World) -> None:
    degrees = world.degrees(world.measured)
    higher = degrees.copy()
    higher[:6, 2] += 45
    made = world.align(gps=world.gps(higher), gps_error=NOISE)
    assert world.off(made).max() < 0.7
    (note,) = [note for note in made.notes if "another reference" in note]
    assert note.startswith("the altitudes of 6 images are 4")
    assert "m above the others" in note
    below = degrees.copy()
    below[:4, 2] *= -1
    notes = world.align(gps=world.gps(below), gps_error=NOISE).notes
    assert any(
        note.startswith("of 4 images the altitude has the wrong sign, below for above sea level")
        for note in notes
    ), notes
    notes = world.align(gps=world.gps(degrees * [1, 1, -1]), gps_error=NOISE).notes
    assert any("lower than nearly all land: check their sign" in note for note in notes)


def test_one_gross_outlier_is_named_and_draws_nothing(world: World) -> None:
    degrees = world.degrees(world.measured + np.eye(len(world.measured))[:, [7]] * [200, 90, 0])
    made = world.align(gps=world.gps(degrees))
    assert world.off(made).max() < 0.7
    (note,) = [note for note in made.notes if "clearly off" in note]
    assert note.startswith(f"1 image of the model is clearly off its position: {world.names[7]} (2")
    assert made.world is not None
    assert [*made.world["positions"]["wrong"]] == [world.names[7]]


def test_metres_of_a_table_are_those_of_a_system_or_of_the_table(world: World) -> None:
    metres = UTM.from_degrees(world.degrees(world.measured))
    table = world.gps(metres, "image,x,y,z")
    made = world.align(gps=table, gps_error=NOISE, crs="WGS84 UTM 33N", frame="ecef")
    assert world.off(made).max() < 0.6
    made = world.align(gps=table, gps_error=NOISE)
    assert made.world is not None
    assert (made.world["frame"], made.world["origin"]) == ("table", None)
    assert made.world["offset"] == [458000, 5548000, 0]
    with pytest.raises(ArgumentError, match="say by --crs which"):
        world.align(gps=table, gps_error=NOISE, frame="utm")
    with pytest.raises(ArgumentError, match="easting and northing look swapped"):
        world.align(gps=world.gps(metres[:, [1, 0, 2]], "image,x,y,z"), crs="UTM 33N")
    with pytest.raises(ReconstructionError, match="not in metres"):
        world.align(gps=world.gps((metres * [2, 1, 1])[:, [1, 0, 2]], "image,x,y,z"))


@pytest.mark.parametrize("kind", ["csv", "txt"])
def test_control_points_bring_a_model_to_its_place(world: World, kind: str) -> None:
    crs = "EPSG:32633" if kind == "csv" else None
    made = world.align(gcp=world.control(kind), crs=crs, frame="ecef")
    assert world.off(made, points=True).max() < 0.15
    assert made.world is not None
    control = made.world["control"]
    assert len(control["points"]) == 8
    assert all(point["marks"] == 4 and not point["wrong"] for point in control["points"])
    others = np.median([point["others"] for point in control["points"]])
    assert control["left_out_median"] <= 2.0 * others
    assert max(point["pixels"] for point in control["points"]) < 2
    assert sum(note.startswith("p") for note in made.notes) == 8


def test_a_wrong_mark_and_a_wrong_point_are_named(world: World) -> None:
    marks = world.marks()
    file = world.control(moved={2: np.array([3.0, -2, 1])}, marked={21: np.array([60.0, -40])})
    made = world.align(gcp=file, crs="UTM 33N")
    assert world.off(made, points=True).max() < 0.15
    (note,) = [note for note in made.notes if "clearly off, which does not count" in note]
    assert note.startswith("1 control point clearly off, which does not count: p2 (3.")
    (note,) = [note for note in made.notes if note.startswith("the mark of")]
    name = world.names[marks[21][1] - 1]
    assert note.startswith(f"the mark of p5 in {name} is wrong: it is ")


def test_control_points_in_degrees_and_with_other_columns_are_read(tmp_path: Path) -> None:
    file = tmp_path / "gcp.csv"
    file.write_text("Label,Lat,Lon,Altitude,Image,Column,Row\na,50,14,200,1.jpg,3.5,4\n")
    found = read_control(file)
    assert (found.names, found.system) == (["a"], System(4326))
    assert found.marks[0].xy == (3.5, 4.0)
    file = tmp_path / "gcp_list.txt"
    file.write_text("EPSG:4326\n# a comment\n14 50 200 3.5 4 1.jpg\n14 50 200 8 9 2.jpg\n")
    found = read_control(file)
    assert found.coordinates.tolist() == [[50, 14, 200]]
    assert [mark.image for mark in found.marks] == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("point,x,y,image,column,row\n", "needs the columns point, image, column and row"),
        ("point,x,y,z,image\n", "needs the columns"),
        ("point,x,y,z,image,column,row\na,1,2,3,b.jpg,4\n", "line 2: has 6 fields below a header"),
        ("point,x,y,z,image,column,row\na,1,?,3,b.jpg,4,5\n", "line 2: '?' is no number"),
        ("point,x,y,z,image,column,row\n", "holds no marks"),
        (
            "point,x,y,z,image,column,row\na,1,2,3,b.jpg,4,5\na,1,2,4,c.jpg,4,5\n",
            "line 3: a is at",
        ),
        (
            "point,x,y,z,image,column,row\na,1,2,3,b.jpg,4,5\na,1,2,3,b.jpg,4,6\n",
            "line 3: marks a in b.jpg twice",
        ),
        (
            "point,latitude,longitude,altitude,image,column,row\na,-114.2,36.1,3,b.jpg,4,5\n",
            "its latitude and longitude look swapped",
        ),
    ],
)
def test_files_of_control_points_that_cannot_be_used(
    text: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "gcp.csv").write_text(text)
    with pytest.raises(PairListError) as caught:
        read_control(tmp_path / "gcp.csv")
    assert sentence in str(caught.value)


def save_photograph(path: Path, place: np.ndarray, packet: str = "", **gps: Any) -> None:
    """A small JPEG with a position in EXIF, and XMP."""
    exif = Image.Exif()
    latitude, longitude, altitude = (
        Fraction(float(value)).limit_denominator(10**8) for value in place
    )
    tags = exif.get_ifd(0x8825)
    tags.update({1: "N", 2: (latitude, 0, 0), 3: "E", 4: (longitude, 0, 0)})
    tags.update({5: bytes([gps.get("reference", 0)]), 6: abs(altitude)})
    exif[0x8825] = tags
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 6)).save(path, exif=exif, xmp=packet.encode() if packet else b"")


def gimbal(rotation: np.ndarray) -> str:
    """DJI's words for a camera, world (east, north, up) to camera (3, 3)."""
    ned = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1.0]])
    body = ned @ rotation.T @ np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0.0]])
    yaw, pitch, roll = Rotation.from_matrix(body).as_euler("ZYX", degrees=True)
    words = {"Yaw": yaw, "Pitch": pitch, "Roll": roll}
    told = " ".join(f'drone-dji:Gimbal{word}Degree="{value:+.2f}"' for word, value in words.items())
    return f"<x:xmpmeta><rdf:Description {told}></rdf:Description></x:xmpmeta>"


@pytest.fixture(scope="module")
def photographs(world: World) -> Path:
    """Photographs of the survey, with positions and the angles of a gimbal."""
    folder, degrees = world.folder / "photos", world.degrees(world.measured)
    for row, name in enumerate(world.names):
        save_photograph(folder / name, degrees[row], gimbal(world.scene.rotation[row]))
    return folder


def test_exif_positions_and_angles_of_a_gimbal_agree_with_the_model(
    world: World, photographs: Path
) -> None:
    made = world.align(gps=photographs)
    assert world.off(made).max() < 0.7
    text = "\n".join(made.notes)
    assert "up by the pitch and roll of 25 photographs, which are 0.0" in text
    assert "headings of 25 photographs are" in text
    assert "off by more than" not in text


def test_altitudes_below_the_sea_by_their_reference_are_told(tmp_path: Path) -> None:
    for name, reference in (("a.jpg", 0), ("b.jpg", 1), ("c.jpg", 2), ("d.jpg", 3)):
        save_photograph(tmp_path / name, PLACE, reference=reference)
    Image.new("L", (8, 6)).save(tmp_path / "e.jpg")
    folder = Folder(str(tmp_path))
    found = exif_positions(folder, list_images(folder), height=True, need_height=True)
    altitudes = geodetic(found.metres)[:, 2]
    np.testing.assert_allclose(altitudes, [210, -210, 210, -210], atol=1e-4)
    assert [note.partition(" says")[0] for note in found.notes] == [
        "GPSAltitudeRef of 1 of 4 photographs" for _ in range(3)
    ]
    assert "below sea level, as of b.jpg" in found.notes[0]
    assert found.failures["image0"].to_pylist() == ["e.jpg"]


def test_gravity_turns_a_model_upright_and_to_the_north(world: World, photographs: Path) -> None:
    made = world.align(up="gravity", images=photographs)
    model = pycolmap.Reconstruction(str(world.folder / "out"))
    views = ModelViews.of(model)
    turned = np.einsum("nji,njk->nik", views.rotation, world.scene.rotation)
    angle = np.degrees(Rotation.from_matrix(turned).magnitude())
    assert angle.max() < 0.5  # the world of the model is east, north and up
    assert made.world is not None
    assert (made.world["frame"], made.world["scale"]) == ("up", pytest.approx(1))
    assert any(note.startswith("y points north by the headings of 25") for note in made.notes)


def test_pitch_and_roll_place_a_strip_that_positions_leave_free(
    world: World, photographs: Path
) -> None:
    """One strip along a line: positions do not tell how it is turned about the line."""
    strip = world.names[:SIDE]
    pipeline.crop_model(world.folder / "model", world.folder / "strip", images=strip)
    line = world.scene.centre[:SIDE].mean(axis=0) + np.outer(
        np.linspace(-1, 1, SIDE), world.scene.centre[SIDE - 1] - world.scene.centre[0]
    )
    model = pycolmap.Reconstruction(str(world.folder / "strip"))
    centres = np.array([model.images[k].projection_center() for k in sorted(model.reg_image_ids())])
    exact = Similarity(1 / TURN.scale, TURN.rotation.T, np.zeros(3))
    up = TURN.rotation @ [0, 0, 1]
    anchors = Anchors(strip, exact.inverse()(line), line, 0.5)
    assert "on one line" in str(anchors.fit())
    fit = Anchors(strip, exact.inverse()(line), line, 0.5, up).fit()
    assert isinstance(fit, Fit)
    np.testing.assert_allclose(fit.move.rotation @ TURN.rotation, np.eye(3), atol=1e-6)
    assert len(centres) == SIDE
    degrees = world.degrees(line)
    lines = [f"{name},{','.join(map(str, row))}" for name, row in zip(strip, degrees, strict=True)]
    table = world.folder / "strip.csv"
    table.write_text("\n".join(["image,latitude,longitude,altitude", *lines]))
    with pytest.raises(ReconstructionError, match="on one line"):
        pipeline.align_model(world.folder / "strip", world.folder / "o", gps=table, gps_error=2.0)
    made = pipeline.align_model(
        world.folder / "strip", world.folder / "o", gps=table, gps_error=2.0, images=photographs
    )
    assert any("pitch and roll" in note for note in made.notes)


def test_angles_of_other_makers_say_what_is_up() -> None:
    def up(**words: float) -> Any:
        told = " ".join(f'{word.replace("_", ":")}="{value}"' for word, value in words.items())
        found = attitude(f"<x:xmpmeta {told}></x:xmpmeta>".encode()).up
        return None if found is None else np.round(found, 6).tolist()

    level = {"sensefly_Heading": 70.0, "sensefly_PitchAngle": 0.0, "sensefly_RollAngle": 0.0}
    assert up(**level) == [0, 0, -1]  # the camera looks down
    nose = up(
        **{**level, "sensefly_PitchAngle": 10.0}
    )  # the top of the picture is ahead, and rises
    np.testing.assert_allclose(
        nose, [0, -np.sin(np.radians(10)), -np.cos(np.radians(10))], atol=1e-5
    )
    right = up(**{**level, "sensefly_RollAngle": 10.0})  # the right wing is down
    np.testing.assert_allclose(
        right, [-np.sin(np.radians(10)), 0, -np.cos(np.radians(10))], atol=1e-5
    )
    assert up(Camera_Pitch=0.0, Camera_Roll=0.0, Camera_Yaw=3.0) == [0, 0, -1]
    assert up(Camera_Pitch=-45.0, Camera_Roll=0.0, Camera_Yaw=3.0) is None  # of two meanings
    assert up(**{"drone-dji_GimbalPitchDegree": 0.0}) == [0, -1, 0]  # ahead
    assert up() is None


def courtyard(rng: np.random.Generator) -> np.ndarray:
    """Points on the ground and on two walls, (n, 3), z up."""
    flat = rng.uniform(0, 10, (3000, 3)) + rng.normal(0, 0.005, (3000, 3))
    flat[:1000, 2] *= 0.001
    flat[1000:2000, 0] *= 0.001
    flat[2000:, 1] *= 0.001
    return flat


def test_surfaces_at_right_angles_tell_what_is_up() -> None:
    rng = np.random.default_rng(0)
    turn = Rotation.from_rotvec([0.5, -0.4, 2.0]).as_matrix()
    found = up_by_surfaces(courtyard(rng) @ turn.T, turn @ [0.3, 0.2, 0.93])
    assert not isinstance(found, str)
    up, ahead = found
    np.testing.assert_allclose(up.direction, turn @ [0, 0, 1], atol=0.01)
    assert abs(up.direction @ ahead) < 1e-9
    assert "200 are needed" in str(up_by_surfaces(rng.uniform(0, 9, (3000, 3)), np.eye(3)[2]))
    ground = rng.uniform(0, 9, (3000, 3)) * [1, 1, 0.001]
    assert "no two directions" in str(up_by_surfaces(ground, np.eye(3)[2]))
    assert "nothing tells which of three" in str(up_by_surfaces(courtyard(rng), None))


def test_what_a_small_table_lacks_is_told_of_the_model(world: World) -> None:
    small = world.scene.centre / 1000
    table = world.gps(small, "image,x,y,z")
    with pytest.raises(ReconstructionError) as refused:
        world.align(gps=table)
    assert "error of 1 m, so that nothing" in str(refused.value)
    assert "or tell by --gps-error that they err by less." in str(refused.value)
    assert world.align(gps=table, gps_error=1e-4).world is not None
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:2], "other.jpg,1,2,3"]))
    with pytest.raises(ReconstructionError, match="positions of 1 image of the model; give 3"):
        world.align(gps=table)
    table.write_text("\n".join([*lines[:-1], lines[-1].split(",")[0] + ",1,2,nan", "o.jpg,1,2,3"]))
    notes = world.align(gps=table, gps_error=1e-4).notes
    assert "1 position of gps.csv left out, of no image of the model: o.jpg" in notes
    assert any(note.endswith(f"is no place: {world.names[-1]}") for note in notes)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "needs one way to bring the model into the world"),
        (["--gps", "gps.csv", "--up", "manhattan"], "needs one way"),
        (["--up", "gravity"], "give their folder by --images"),
        (["--up", "manhattan"], "nothing tells which way is up"),
        (["--up", "gravity", "--images", "empty"], "0 of 25 photographs hold the pitch and roll"),
        (["--up", "manhattan", "--frame", "utm"], "leave --frame and --crs out"),
        (["--gps", "gps.csv", "--gps-error", "0"], "give the metres that they err, above 0"),
        (["--gps", "gps.csv", "--gcp-error", "1"], "an error is given of what is not"),
        (["--gps", "gps.csv", "--crs", "mars"], "no system that is known here"),
        (["--gps", "gone.csv"], "cannot be read"),
        (["--gps", "empty"], "has positions of 0 images"),
        (["--gcp", "gone.csv"], "cannot be read"),
        (["--gcp", "gcp.xml"], "no file of control points by its ending"),
    ],
)
def test_what_cannot_be_aligned_is_one_sentence(
    words: list[str],
    sentence: str,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(world.folder)
    world.gps()
    (world.folder / "empty").mkdir(exist_ok=True)
    assert main(["model", "align", "model", "--output", "nothing", *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1
    assert not (world.folder / "nothing" / "images.bin").exists()


def test_a_part_of_a_model_stays_in_its_frame_and_a_moved_one_leaves_it(world: World) -> None:
    world.align(gps=world.gps(), gps_error=NOISE)
    out, part = world.folder / "out", world.folder / "part"
    made = pipeline.crop_model(out, part, percentile=5)
    assert (part / "world.json").read_bytes() == (out / "world.json").read_bytes()
    assert made.world is not None
    moved = pipeline.transform_model(out, part, scale=2)
    assert not (part / "world.json").exists()
    assert any("world.json is left out" in note for note in moved.notes)


def test_reconstruct_takes_positions_from_the_photographs(
    world: World, photographs: Path, tmp_path: Path, kept_executor: Any
) -> None:
    for row, name in enumerate(world.names):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / f"{row:06}.jpg").write_bytes((photographs / name).read_bytes())
    survey(SIDE).write(tmp_path / "survey.db")
    summary = pipeline.reconstruct(
        database=tmp_path / "survey.db",
        output=tmp_path / "made",
        images=str(tmp_path / "photos"),
        positions="exif",
        position_error=NOISE,
        refine="none",
        executor=kept_executor,
    )
    assert any("one of its units was" in note for note in summary.notes)
    record = json.loads((tmp_path / "made" / "sparse" / "0" / "world.json").read_text())
    model = pycolmap.Reconstruction(str(tmp_path / "made" / "sparse" / "0"))
    centres = np.array([model.images[k].projection_center() for k in sorted(model.reg_image_ids())])
    origin = np.array([*record["origin"].values()])
    true = from_east_north_up(world.scene.centre, PLACE)
    assert np.linalg.norm(from_east_north_up(centres, origin) - true, axis=1).max() < 1
    with pytest.raises(EloftrError, match="no photographs to read"):
        pipeline.reconstruct(
            database=tmp_path / "survey.db",
            output=tmp_path / "made",
            positions="exif",
            position_error=NOISE,
            executor=kept_executor,
        )


def test_real_photographs_tell_where_they_were_taken_and_how_they_were_held(data: Path) -> None:
    folder = Folder(str(data / "brighton18" / "images"))
    names = list_images(folder)
    positions = trusted_positions(PositionOptions("exif", None), names, photographs=folder)
    assert positions.frame.text() == (
        "metres to the east, the north and up of latitude 46.84266, longitude -91.99400, "
        "altitude 199"
    )
    assert len(positions.metres) == 18
    _, attitudes = read_headers(folder, names)
    assert max(abs(one.up[0]) + abs(one.up[1]) for one in attitudes if one.up) < 0.01
    fixed_wing = Folder(str(data / "seneca167" / "images"))
    _, attitudes = read_headers(fixed_wing, list_images(fixed_wing)[:5])
    assert all(31 < one.sea - one.ellipsoid < 34 for one in attitudes)
    control = read_control(data / "copr41" / "gcp.csv", System.of("UTM 11N"))
    assert (len(control.names), len(control.marks)) == (10, 27)


@pytest.fixture(scope="module")
def documented(world: World, photographs: Path) -> dict[str, str]:
    """What the commands of the document print, in a folder with its files."""
    degrees = world.degrees(world.measured)
    degrees[7] += [0.002, 0, 0]
    world.gps(degrees)
    world.control()
    printed = {}
    for command in commands():
        if Path(command.document).name != "world.md":
            continue
        with pytest.MonkeyPatch.context() as patched, redirect_stdout(io.StringIO()) as out:
            patched.chdir(world.folder)
            assert main(shlex.split(command.text)[1:]) == 0
        printed[command.text] = out.getvalue()
    return printed


def test_the_commands_print_what_the_document_shows(documented: dict[str, str]) -> None:
    shown = {one.text: one.output for one in commands() if Path(one.document).name == "world.md"}
    assert len(shown) >= 3
    for text, output in shown.items():
        assert shape(documented[text]) == shape(output), text


def swapped_columns(file: Path) -> None:
    head, *lines = file.read_text().splitlines()
    rows = [line.split(",") for line in lines]
    text = "\n".join([head, *(",".join([r[0], r[2], r[1], *r[3:]]) for r in rows)])
    file.write_text(text + "\n")


def test_control_points_by_which_cameras_stand_on_their_heads_are_told(world: World) -> None:
    """Exchanged columns mirror the points, and a flat scene fits them from below."""
    file = world.control()
    swapped_columns(file)
    made = world.align(gcp=file)
    (note,) = [note for note in made.notes if "stand on their heads" in note]
    assert "check the order and the signs of the columns" in note
    swapped_columns(file)
    assert not any("stand on their heads" in note for note in world.align(gcp=file).notes)


def test_three_control_points_are_enough(world: World) -> None:
    file = world.control()
    lines = file.read_text().splitlines()
    some = [line for line in lines if line.split(",")[0] in ("point", "p1", "p2", "p3")]
    file.write_text("\n".join(some) + "\n")
    made = world.align(gcp=file, crs="UTM 33N")
    assert made.world is not None
    assert len(made.world["control"]["points"]) == 3
    assert world.off(made, points=True).max() < 1

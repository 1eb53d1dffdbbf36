"""In which direction the top of a photograph points: what files say of it, and what flights do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import texture
from PIL import Image

from pipeline.photos import headings as module
from pipeline.photos.direction import attitude
from pipeline.photos.exif import HEADER_BYTES, Capture, capture
from pipeline.photos.headings import headings
from pipeline.photos.source import Folders, list_images
from pipeline.photos.track import follow
from pipeline.store.folder import Folder
from pipeline.tables import HEADINGS
from pipeline.vocabulary import HeadingSource

DJI = 'drone-dji:GimbalYawDegree="{}" drone-dji:GimbalPitchDegree="{}"'
SENSEFLY = "<sensefly:Heading>70.5</sensefly:Heading><sensefly:PitchAngle>{}</sensefly:PitchAngle>"
SKYDIO = """<drone-skydio:Yaw>5.0</drone-skydio:Yaw>
 <drone-skydio:CameraOrientationNED rdf:parseType="Resource">
  <drone-skydio:Roll>0.2</drone-skydio:Roll><drone-skydio:Pitch>-84.5</drone-skydio:Pitch>
  <drone-skydio:Yaw>127.5</drone-skydio:Yaw></drone-skydio:CameraOrientationNED>"""


def packet(words: str) -> bytes:
    """A packet of XMP of elements or of attributes."""
    inside = words if words.startswith("<") else f"<rdf:Description {words}/>"
    return f"<x:xmpmeta>{inside}</x:xmpmeta>".encode()


@pytest.mark.parametrize(
    ("words", "camera", "aircraft", "down"),
    [
        (DJI.format("+45.10", "-89.90"), 45.1, None, True),
        (DJI.format("-90.00", "-60.0"), 270.0, None, True),
        (DJI.format("+45.10", "-20.00"), None, None, False),  # it looks at the horizon
        (DJI.format("+45.10", "-89.9") + ' drone-dji:FlightYawDegree="-7.5"', 45.1, 352.5, True),
        # A gimbal that has gone over: the picture stands on its head.
        (DJI.format("+10.0", "-90.0") + ' drone-dji:GimbalRollDegree="+180.00"', 190, None, True),
        ('drone-dji:GimbalYawDegree="+45.10"', None, None, None),
        ('drone-dji:GimbalPitchDegree="-90" drone-dji:FlightYawDegree="30"', None, 30.0, True),
        (
            'drone-parrot:CameraYawDegree="17.6" drone-parrot:CameraPitchDegree="-78"',
            17.6,
            None,
            True,
        ),
        ('drone:GimbalYawDegree="17.6" drone:GimbalPitchDegree="-78"', 17.6, None, True),
        (SKYDIO, 127.7, None, True),
        ('Camera:Yaw="91.5" Camera:Pitch="-2.5" Camera:Roll="4.0"', 91.5, None, True),
        ('Camera:Yaw="91.5" Camera:Pitch="-88.0" Camera:Roll="0.0"', 91.5, None, True),
        ('Camera:Yaw="91.5" Camera:Pitch="60"', None, None, False),
        (SENSEFLY.format("2.56"), None, 70.5, True),
        (SENSEFLY.format("48"), None, None, False),
        (SENSEFLY.format("2.56") + "<Camera:Pitch>90</Camera:Pitch>", None, None, False),
        ('drone-dji:GimbalPitchDegree="-9.0e+01" drone-dji:GimbalYawDegree="9e0"', 9.0, None, True),
        ('drone-dji:GimbalPitchDegree="down"', None, None, None),
        (DJI.format("999", "-90"), None, None, True),
        (DJI.format("1e300", "-90") + ' drone-dji:FlightYawDegree="-4e9"', None, None, True),
        (DJI.format("45", "-8e9"), None, None, None),
        ("", None, None, None),
    ],
)
def test_xmp_tells_headings_where_the_camera_looks_down(
    words: str, camera: float | None, aircraft: float | None, down: bool | None
) -> None:
    for data in (packet(words), b"\xff\xd8 other bytes" + packet(words) + b"\xff\xd9"):
        found = attitude(data)
        assert found.down is down
        for angle, wanted in ((found.camera, camera), (found.aircraft, aircraft)):
            assert angle == pytest.approx(np.nan if wanted is None else wanted, nan_ok=True)


def test_bytes_without_xmp_tell_nothing() -> None:
    for data in (b"", b"no XMP at all", b"<x:xmpmeta", packet(DJI.format("9" * 400, "9" * 400))):
        assert np.isnan(attitude(data).camera)


def photograph(
    path: Path,
    place: tuple[float, float] | None = None,
    taken: str | None = None,
    words: str = "",
    orientation: int = 1,
    camera: str = "X1",
    film: int | None = None,
    **gps: Any,
) -> None:
    """A small JPEG with EXIF and XMP data. gps: `direction` and `course`, degrees.

    film: focal length on 36 × 24 mm film.
    """
    exif = Image.Exif()
    exif.update({0x010F: "Maker", 0x0110: camera, 0x0112: orientation})
    tags: dict[int, Any] = {}
    for name, number in (("course", 15), ("direction", 17)):
        if name in gps:
            tags |= {number - 1: "T", number: gps[name]}
    if place:
        for number, value, signs in ((1, place[0], "NS"), (3, place[1], "EW")):
            parts = (abs(value) // 1, abs(value) * 60 % 60 // 1, abs(value) * 3600 % 60)
            tags |= {number: signs[int(value < 0)], number + 1: parts}
    exif[0x8825] = tags
    if taken:
        whole, _, fraction = taken.partition(".")
        exif[0x8769] = {0x9003: whole} | ({0x9291: fraction} if fraction else {})
    if film:
        exif[0x8769] = {0xA405: film}
    path.parent.mkdir(parents=True, exist_ok=True)
    texture(64, 48, 0).save(path, exif=exif)
    if words:
        body = b"http://ns.adobe.com/xap/1.0/\0" + packet(words)
        data = path.read_bytes()
        segment = b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
        path.write_bytes(data[:2] + segment + data[2:])


@pytest.mark.parametrize(
    ("words", "height"),
    [
        ('drone-dji:RelativeAltitude="+39.80" drone-dji:AbsoluteAltitude="+198.31"', 39.8),
        ('drone:RelativeAltitude="60"', 60.0),
        ("<drone-skydio:RelativeAltitude>12.5</drone-skydio:RelativeAltitude>", 12.5),
        ('Camera:AboveGroundAltitude="1207/20"', 60.35),
        ('Camera:AboveGroundAltitude="7/0" drone-dji:RelativeAltitude="+39.80"', 39.8),
        ('drone-dji:RelativeAltitude="-3.10"', None),  # below the place of take-off
        ('drone-dji:AbsoluteAltitude="+198.31"', None),
        ('drone-dji:RelativeAltitude="+1000000000"', None),
        ('drone-dji:RelativeAltitude="+abc"', None),
    ],
)
def test_xmp_tells_the_height_above_the_ground(words: str, height: float | None) -> None:
    found = attitude(packet(words)).height
    assert found == pytest.approx(np.nan if height is None else height, nan_ok=True)


def test_half_the_height_or_twice_the_focal_length_shows_the_ground_twice_as_large(
    tmp_path: Path,
) -> None:
    down, ahead = 'drone-dji:GimbalPitchDegree="-90" ', 'drone-dji:GimbalPitchDegree="0" '
    height = 'drone-dji:RelativeAltitude="+{}.0"'.format
    photograph(tmp_path / "0.jpg", words=down + height(80), film=24)
    photograph(tmp_path / "1.jpg", words=down + height(40), film=24)
    photograph(tmp_path / "2.jpg", words=down + height(80), film=48)
    photograph(tmp_path / "3.jpg", words=down + height(80))  # no focal length
    photograph(tmp_path / "4.jpg", words=down, film=24)
    photograph(tmp_path / "5.jpg", words=ahead + height(80), film=24)
    table = headings(Folder(str(tmp_path)), [f"{k}.jpg" for k in range(6)]).table([*"012345"])
    first, *others = table["size"].to_pylist()
    assert [size and round(size - first, 3) for size in others] == [1, 1, None, None, None]


def strips(
    folder: Path, count: int = 3, each: int = 5, metres: float = 20, turn: float = 30, **same: Any
) -> list[float]:
    """Photographs of strips back and forth; the direction of each. turn: of the first strip."""
    directions = []
    for strip in range(count):
        angle = turn + 180 * (strip % 2)
        ahead, across = np.radians(turn), np.radians(turn + 90)
        for k in range(each):
            along = metres * (k if strip % 2 == 0 else each - 1 - k)
            north = along * np.cos(ahead) + 40 * strip * np.cos(across)
            east = along * np.sin(ahead) + 40 * strip * np.sin(across)
            place = 46 + north / 111_195, -91.9 + east / 111_195 / np.cos(np.radians(46))
            seconds = 5 * k + 40 * strip
            taken = f"2020:05:04 10:{seconds // 60:02}:{seconds % 60:02}.25"
            photograph(folder / f"{strip}{k}.jpg", place, taken, **same)
            directions.append(angle % 360)
    return directions


def said(
    folder: Folder | Folders, names: Sequence[str] | None = None
) -> dict[str, tuple[Any, str]]:
    """The heading and its source of every photograph, by name."""
    names = list_images(folder) if names is None else names
    table = headings(folder, names).table(names)
    assert table.schema.equals(HEADINGS, check_metadata=True)
    return {
        row["image"]: (row["heading"] and round(row["heading"], 2), row["source"])
        for row in table.to_pylist()
    }


def test_the_most_trusted_source_counts(tmp_path: Path) -> None:
    down = 'drone-dji:GimbalPitchDegree="-90" '
    yaw, flight = 'drone-dji:GimbalYawDegree="10" ', 'drone-dji:FlightYawDegree="20" '
    photograph(tmp_path / "a.jpg", words=down + yaw + flight, direction=30.0, course=40.0)
    photograph(tmp_path / "b.jpg", words=down + flight, direction=30.0, course=40.0)
    photograph(tmp_path / "c.jpg", words=down + flight, course=40.0)
    photograph(tmp_path / "d.jpg", words=down, course=40.0)
    photograph(tmp_path / "e.jpg", words=down)
    assert said(Folder(str(tmp_path))) == {
        "a.jpg": (10, "camera"),
        "b.jpg": (30, "direction"),
        "c.jpg": (20, "aircraft"),
        "d.jpg": (40, "track"),
        "e.jpg": (None, "unknown"),
    }


def test_a_given_heading_wins_and_saves_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jpg", "b.jpg"):
        photograph(tmp_path / name, words=DJI.format("10", "-90"))
    found = headings(Folder(str(tmp_path)), ["a.jpg", "b.jpg"], {"a.jpg": -90.0})
    assert found.degrees.tolist() == [270, 10]
    assert found.sources == [HeadingSource.TABLE, HeadingSource.CAMERA]
    monkeypatch.setattr(Folder, "read_bytes", None)
    all_given = headings(Folder(str(tmp_path)), ["a.jpg", "b.jpg"], {"a.jpg": 1.0, "b.jpg": 2.0})
    assert all_given.degrees.tolist() == [1, 2]


def test_the_compass_of_a_camera_that_is_not_said_to_look_down_counts_for_nothing(
    tmp_path: Path,
) -> None:
    """As of telephones; the files of a survey are believed, because it flew back and forth."""
    for k in range(4):
        photograph(tmp_path / "phone" / f"{k}.jpg", (46, -92 + k / 1e3), direction=90.0 * k)
    photograph(tmp_path / "horizon.jpg", words=DJI.format("1", "0"), direction=30.0, course=3.0)
    strips(tmp_path / "survey", direction=77.0)
    found = said(Folder(str(tmp_path)))
    assert {value for name, value in found.items() if "survey" not in name} == {(None, "unknown")}
    assert {value for name, value in found.items() if "survey" in name} == {(77, "direction")}


def test_the_track_of_a_survey_tells_headings_between_the_ends_of_its_strips(
    tmp_path: Path,
) -> None:
    directions = strips(tmp_path)
    names = list_images(Folder(str(tmp_path)))
    found = headings(Folder(str(tmp_path)), names)
    ends = np.array([name[1] in "04" for name in names])
    assert np.isnan(found.degrees[ends]).all()
    np.testing.assert_allclose(found.degrees[~ends], np.array(directions)[~ends], atol=0.5)
    assert set(np.array(found.sources)[~ends]) == {HeadingSource.TRACK}


@pytest.mark.parametrize(
    "change",
    [
        {"count": 1},  # one strip may be a street
        {"count": 2},
        {"metres": 3},  # positions are no better
        {"words": DJI.format("5", "-10").replace("Yaw", "Other")},  # it looks at the horizon
    ],
)
def test_what_is_no_survey_tells_no_track(tmp_path: Path, change: dict[str, Any]) -> None:
    strips(tmp_path, **change)
    assert set(said(Folder(str(tmp_path))).values()) == {(None, "unknown")}


def test_two_cameras_in_one_folder_are_two_flights(tmp_path: Path) -> None:
    strips(tmp_path / "a", camera="X1")
    directions = strips(tmp_path / "b", turn=75, camera="X2")
    for path in (tmp_path / "b").iterdir():
        path.rename(tmp_path / "a" / f"b{path.name}")
    found = said(Folder(str(tmp_path)))
    inner = {name: value for name, value in found.items() if value[1] == "track"}
    assert len(inner) == 2 * 3 * 3
    for k, name in enumerate(sorted(name for name in found if name.startswith("a/b"))):
        assert found[name][0] is None or found[name][0] == pytest.approx(directions[k], abs=0.5)


def test_lenses_that_shoot_at_once_have_one_heading() -> None:
    seconds = np.repeat(np.arange(12.0), 3) * 4
    back = np.repeat(np.tile([0, 1, 2, 3, 3, 2, 1, 0, 0, 1, 2, 3], 1), 3)
    lane = np.repeat(np.arange(3.0), 12)
    places = np.stack([50 + back * 2e-4, 14 + lane * 3e-4], axis=1)
    track = follow(np.zeros(36, int), seconds, places)
    assert track.survey.all()
    for exposure in np.split(track.direction, 12):
        assert len({*np.round(exposure, 3)} - {np.nan}) == 1 or np.isnan(exposure).all()
    assert np.isfinite(track.direction).sum() == 3 * 2 * 3


def test_the_order_of_photographs_does_not_change_a_track() -> None:
    rng = np.random.default_rng(0)
    seconds = np.arange(40) * 3.0
    strip = np.arange(40) % 10
    along = np.where(np.arange(40) // 10 % 2, 9 - strip, strip)
    places = np.stack([along * 3e-4, np.arange(40) // 10 * 3e-4], axis=1)
    track = follow(np.zeros(40, int), seconds, places)
    order = rng.permutation(40)
    again = follow(np.zeros(40, int), seconds[order], places[order])
    np.testing.assert_array_equal(again.direction, track.direction[order])
    assert np.isfinite(track.direction).sum() == 32


def test_a_track_crosses_the_180th_meridian() -> None:
    longitude = np.array([179.9996, 179.9998, -180.0, -179.9998, -179.9996])
    places = np.stack([np.zeros(5), longitude], axis=1)
    track = follow(np.zeros(5, int), np.arange(5) * 5.0, places)
    np.testing.assert_allclose(track.direction[1:4], 90)


def test_nothing_known_gives_no_track() -> None:
    for n in (0, 1, 3):
        track = follow(np.zeros(n, int), np.full(n, np.nan), np.full((n, 2), np.nan))
        assert np.isnan(track.direction).all()
        assert not track.survey.any()


@pytest.mark.parametrize(("orientation", "heading"), [(1, 50), (3, 230), (6, 320), (8, 140)])
def test_the_heading_is_that_of_the_upright_picture(
    tmp_path: Path, orientation: int, heading: float
) -> None:
    """Orientation 6 shows the left side of the stored picture at the top."""
    photograph(tmp_path / "a.jpg", words=DJI.format("50", "-90"), orientation=orientation)
    assert said(Folder(str(tmp_path))) == {"a.jpg": (heading, "camera")}


def test_files_that_cannot_be_read_have_no_heading(tmp_path: Path) -> None:
    photograph(tmp_path / "good.jpg", words=DJI.format("50", "-90"))
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])  # its header is whole
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "folder.jpg").mkdir()
    names = ["cut.jpg", "empty.jpg", "folder.jpg", "gone.jpg", "good.jpg", "text.jpg"]
    found = said(Folder(str(tmp_path)), names)
    assert {name for name, (heading, _) in found.items() if heading == 50} == {
        "cut.jpg",
        "good.jpg",
    }
    assert headings(Folder(str(tmp_path)), []).degrees.shape == (0,)


def test_only_the_first_bytes_of_a_file_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photograph(tmp_path / "a.jpg", words=DJI.format("50", "-90"))
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(bytes(4 * HEADER_BYTES))
    sizes = []
    read = Folder.read_bytes

    def counted(self: Folder, name: str, limit: int | None = None) -> bytes:
        data = read(self, name, limit)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(Folder, "read_bytes", counted)
    assert said(Folder(str(tmp_path))) == {"a.jpg": (50, "camera")}
    assert sizes == [HEADER_BYTES + 1]


def test_several_folders_and_an_object_store_tell_the_same(
    tmp_path: Path, s3: dict[str, str]
) -> None:
    strips(tmp_path / "a", words=DJI.format("33", "-90"))
    strips(tmp_path / "b")
    store = Folder("s3://bucket/survey", s3)
    for name in Folder(str(tmp_path)).list():
        store.publish(name, (tmp_path / name).read_bytes())
    here = said(Folder(str(tmp_path)))
    assert said(store) == here
    assert {source for _, source in here.values()} == {"camera", "track", "unknown"}
    parts = Folders({"a": Folder(str(tmp_path / "a")), "b": Folder("s3://bucket/survey/b", s3)})
    assert said(parts) == here


def test_long_reading_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 4)
    strips(tmp_path, count=2)
    told: list[str] = []
    names = list_images(Folder(str(tmp_path)))
    headings(Folder(str(tmp_path)), names, listen=lambda event: told.append(event.text))
    assert [text[:15] for text in told] == ["4 of 10 headers", "8 of 10 headers"]


def test_times_have_parts_of_a_second(tmp_path: Path) -> None:
    photograph(tmp_path / "a.jpg", (46, -92), "2013:06:04 13:37:29.75")
    photograph(tmp_path / "b.jpg", None, "2013:06:04 13:37:30")
    photograph(tmp_path / "c.jpg", None, "0000:00:00 00:00:00")
    first, second, none = (capture((tmp_path / f"{k}.jpg").read_bytes()) for k in "abc")
    assert second.seconds - first.seconds == 0.25
    assert np.isnan(none.seconds)
    assert (first.latitude, first.longitude, first.device) == (46, -92, "Maker X1 ")
    assert capture(b"rubbish").device == Capture().device == ""


def test_surveys_agree_with_what_their_aircraft_wrote(data: Path) -> None:
    """The track alone is near the headings that the files name, and never turned around."""
    for name, spread in (("brighton18", 8), ("seneca167", 30)):
        folder = Folder(str(data / name / "images"))
        names = list_images(folder)
        captures, attitudes = module.read_headers(folder, names)
        told = np.array([one.aircraft for one in attitudes])
        assert np.isfinite(told).all()
        columns = np.array([(one.seconds, one.latitude, one.longitude) for one in captures])
        track = follow(np.zeros(len(names), int), columns[:, 0], columns[:, 1:])
        known = np.isfinite(track.direction)
        assert known.mean() > 0.6
        assert track.survey.all()
        off = (track.direction[known] - told[known] + 180) % 360 - 180
        assert np.abs(off).max() < spread
        assert np.abs(np.median(off)) < 3
        assert HeadingSource.UNKNOWN not in headings(folder, names).sources

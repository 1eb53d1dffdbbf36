from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import texture
from PIL import Image

from pipeline.errors import PairListError
from pipeline.pairs.spatial import Positions, exif_positions, neighbours, on_earth, read_positions
from pipeline.store.folder import Folder
from pipeline.tables import FAILURES

PRAGUE = (50.0865, 14.4114, 180.0)


def degrees(value: float) -> tuple[float, float, float]:
    value = abs(value)
    return float(int(value)), float(int(value * 60 % 60)), value * 3600 % 60


def photograph(
    path: Path, latitude: float, longitude: float, altitude: float = 0, **tags: Any
) -> None:
    exif = Image.Exif()
    gps = {
        1: "NS"[latitude < 0],
        2: degrees(latitude),
        3: "EW"[longitude < 0],
        4: degrees(longitude),
    }
    gps |= {5: b"\1" if altitude < 0 else b"\0", 6: abs(altitude)}
    exif.get_ifd(0x8825).update(gps)  # what TIFF is written from
    exif[0x8825] = gps  # what the other formats are
    texture(64, 48, 0).save(path, exif=exif, **tags)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_positions_are_read_from_exif_data(tmp_path: Path, ending: str) -> None:
    places = [
        PRAGUE,
        (-33.8568, 151.2153, 5.0),
        (64.1466, -21.9426, -3.0),
        (-54.8019, -68.3030, 0.0),
    ]
    names = [f"{k}.{ending}" for k in range(4)]
    for name, place in zip(names, places, strict=True):
        photograph(tmp_path / name, *place)
    found = exif_positions(Folder(str(tmp_path)), names, height=True)
    assert found.names == names
    np.testing.assert_allclose(found.metres, on_earth(np.array(places), height=True), atol=0.5)


def test_positions_behind_a_long_header_are_found(tmp_path: Path) -> None:
    """WebP keeps its EXIF data behind its pixels; these are longer than what is read of a file at
    first.
    """
    noise = np.random.default_rng(0).integers(0, 256, (700, 700), np.uint8)
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (50.0, 0.0, 0.0), 3: "E", 4: (14.0, 0.0, 0.0)}
    Image.fromarray(noise).save(tmp_path / "a.webp", exif=exif, lossless=True)
    assert (tmp_path / "a.webp").stat().st_size > 1 << 18
    assert exif_positions(Folder(str(tmp_path)), ["a.webp"]).names == ["a.webp"]


def test_files_without_a_position_become_failures(tmp_path: Path) -> None:
    photograph(tmp_path / "good.jpg", *PRAGUE)
    photograph(tmp_path / "zero.jpg", 0, 0)
    photograph(tmp_path / "far.jpg", 95, 0)
    texture(64, 48, 0).save(tmp_path / "plain.jpg")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no image")
    names = sorted(
        ["good.jpg", "zero.jpg", "far.jpg", "plain.jpg", "empty.jpg", "text.jpg", "gone.jpg"]
    )
    found = exif_positions(Folder(str(tmp_path)), names)
    assert found.names == ["good.jpg"]
    assert found.failures.schema.equals(FAILURES, check_metadata=True)
    reasons = dict(
        zip(*(found.failures[column].to_pylist() for column in ("image0", "reason")), strict=True)
    )
    expected = dict.fromkeys(set(names) - {"good.jpg"}, "no_position") | {"gone.jpg": "unreadable"}
    assert reasons == expected


def test_metres_on_earth_are_those_of_maps() -> None:
    """A degree of latitude at 50° is 111,229 m, one of longitude 71,696 m (WGS 84)."""
    points = on_earth(
        np.array(
            [[49.5, 14, 0], [50.5, 14, 0], [50, 13.5, 0], [50, 14.5, 0], [50, 14.5, 100]], float
        ),
        True,
    )
    assert np.linalg.norm(points[0] - points[1]) == pytest.approx(111_229, abs=3)
    assert np.linalg.norm(points[2] - points[3]) == pytest.approx(71_696, abs=3)
    assert np.linalg.norm(points[3] - points[4]) == pytest.approx(100)


def test_a_table_gives_metres_or_degrees(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("image,x,y,z\nb.jpg,1,2,3\na.jpg,4,5,6\n")
    flat, high = read_positions(tmp_path / "m.csv"), read_positions(tmp_path / "m.csv", height=True)
    assert flat.names == high.names == ["a.jpg", "b.jpg"]
    assert flat.metres.tolist() == [[4, 5, 0], [1, 2, 0]]
    assert high.metres.tolist() == [[4, 5, 6], [1, 2, 3]]
    (tmp_path / "d.csv").write_text('Image,Latitude,Longitude,Altitude\n"a, b.jpg",50,14,300\n')
    assert np.array_equal(
        read_positions(tmp_path / "d.csv").metres, on_earth(np.array([[50, 14, 0]], float))
    )
    pq.write_table(pa.table({"image": ["a"], "x": [1], "y": [2]}), tmp_path / "m.parquet")
    assert read_positions(tmp_path / "m.parquet", height=True).metres.tolist() == [[1, 2, 0]]


def test_images_that_a_table_does_not_place_become_failures(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("image,latitude,longitude\na,50,14\nb,,14\nc,91,14\ne,1,1\n")
    found = read_positions(tmp_path / "d.csv", ["a", "b", "c", "d"])
    assert found.names == ["a"]
    assert found.failures.select(["image0", "reason"]).to_pylist() == [
        {"image0": name, "reason": "no_position"} for name in ("b", "c", "d")
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "", "by its ending"),
        ("p.csv", "", "needs columns"),
        ("p.csv", "image,x\na,1\n", "needs columns"),
        ("p.csv", "image,x,y\na,one,two\n", "needs columns"),
        ("p.csv", "image,x,y\na,1,2\nb,3,n/a?\n", r"row 2 has 'n/a\?' as y"),
        ("p.csv", "image,x,y\na,1,1\na,2,2\n", "has a twice"),
        ("p.parquet", "PAR1", "not whole Parquet"),
        ("nowhere/p.csv", None, "cannot be read"),
    ],
)
def test_unusable_tables_are_refused_with_a_sentence(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(PairListError, match=message):
        read_positions(tmp_path / name)


def grid(side: int, step: float = 10) -> Positions:
    x, y = np.divmod(np.arange(side * side), side)
    metres = np.stack([x * step, y * step, 0 * x], axis=1).astype(float)
    return Positions([f"{k:05}" for k in range(side * side)], metres)


@pytest.mark.parametrize(
    ("nearest", "radius"), [(None, 10), (None, 14.5), (3, None), (100, None), (3, 10), (20, 15)]
)
def test_neighbours_are_those_of_all_distances(nearest: int | None, radius: float | None) -> None:
    rng = np.random.default_rng(0)
    positions = Positions([f"{k:02}" for k in range(60)], rng.uniform(0, 60, (60, 3)))
    distances = np.linalg.norm(positions.metres[:, None] - positions.metres[None], axis=-1)
    wanted = distances <= (radius or np.inf)
    if nearest is not None:
        rank = np.argsort(np.argsort(distances, axis=1), axis=1)  # 0 is the image itself
        wanted &= rank <= nearest
    wanted |= wanted.T
    found = neighbours(positions, nearest, radius)
    assert found.pairs.tolist() == np.argwhere(np.triu(wanted, 1)).tolist()
    np.testing.assert_allclose(found.scores, -distances[tuple(found.pairs.T)], atol=1e-4)


def test_the_radius_itself_is_within() -> None:
    assert len(neighbours(grid(3), None, 10).pairs) == len(neighbours(grid(3), 8, 10).pairs) == 12


def test_images_of_one_place_are_neighbours_of_each_other() -> None:
    positions = Positions([str(k) for k in range(5)], np.zeros((5, 3)))
    assert len(neighbours(positions, 2, None).pairs) >= 5
    assert len(neighbours(positions, None, 1).pairs) == 10
    assert not (
        neighbours(positions, 2, None).pairs[:, 0] == neighbours(positions, 2, None).pairs[:, 1]
    ).any()


@pytest.mark.parametrize(
    ("nearest", "radius"), [(None, None), (0, None), (None, 0), (None, -1), (3, float("nan"))]
)
def test_limits_that_make_no_pair_are_refused(nearest: int | None, radius: float | None) -> None:
    with pytest.raises(PairListError, match="how many nearest"):
        neighbours(grid(2), nearest, radius)


def test_more_pairs_than_a_list_holds_are_refused_before_they_are_made() -> None:
    positions = Positions([f"{k:05}" for k in range(20_000)], np.zeros((20_000, 3)))
    with pytest.raises(PairListError, match="199,990,000 pairs are within 5 m"):
        neighbours(positions, None, 5)

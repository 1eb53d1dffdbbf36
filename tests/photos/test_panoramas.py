"""Panoramas: where their pixels look, their faces, their marks, and the images of a run."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.quality.spheres import gpano
from pipeline.errors import ImageError, RunError
from pipeline.photos.panoramas.faces import split_images
from pipeline.photos.panoramas.marks import FoundPanoramas, find_panoramas
from pipeline.photos.panoramas.render import face_pixels
from pipeline.photos.panoramas.source import (
    FaceFolder,
    faces_of_table,
    faces_table,
    read_picture,
    read_whole,
)
from pipeline.photos.panoramas.sphere import YAWS, Face, Panorama
from pipeline.store.folder import Folder
from pipeline.vocabulary import PanoramaMode, Reason

WHOLE = Panorama("pano.jpg", 400, 200, 400, 200)


def test_the_middle_looks_ahead_and_a_quarter_right_of_it_to_the_right() -> None:
    xy = np.array([[199.5, 99.5], [299.5, 99.5], [-0.5, 99.5], [199.5, -0.5], [199.5, 199.5]])
    expected = [[0, 0, 1], [1, 0, 0], [0, 0, -1], [0, -1, 0], [0, 1, 0]]
    assert np.allclose(WHOLE.directions(xy), expected, atol=1e-12)


def test_both_edges_of_the_seam_are_one_place() -> None:
    left, right = WHOLE.directions(np.array([[-0.5, 60.0], [399.5, 60.0]]))
    assert np.allclose(left, right)
    assert np.allclose(WHOLE.pixels(left[None]), [[-0.5, 60.0]])


@given(
    st.floats(-0.5, 399.4, allow_nan=False),
    st.floats(-0.49, 199.49, allow_nan=False),
)
def test_pixels_come_back_from_their_directions(x: float, y: float) -> None:
    there = WHOLE.pixels(WHOLE.directions(np.array([[x, y]])) * 3.0)
    assert np.allclose(there, [[x, y]], atol=1e-6)


def test_all_columns_of_a_pole_are_one_direction() -> None:
    xy = np.column_stack([np.linspace(-0.5, 399, 50), np.full(50, 199.5)])
    assert np.allclose(WHOLE.directions(xy), [0, 1, 0], atol=1e-12)
    assert np.allclose(WHOLE.pixels(np.array([[0.0, 1.0, 0.0]]))[0, 1], 199.5)


@given(
    st.sampled_from(YAWS),
    st.lists(st.tuples(st.floats(-0.5, 127.5), st.floats(-0.5, 127.5)), min_size=1, max_size=9),
)
def test_pixels_of_a_face_come_back_from_its_panorama(
    yaw: float, xy: list[tuple[float, float]]
) -> None:
    face = Face(WHOLE, yaw, WHOLE.side())
    assert face.side == 128
    there = face.to_panorama(np.array(xy))
    assert WHOLE.shows(there).all()
    assert np.allclose(face.from_panorama(there), xy, atol=1e-6)
    behind = face.from_panorama(WHOLE.pixels(-face.rotation[2:]))
    assert np.isnan(behind).all()


def test_the_middle_of_a_face_lies_at_its_yaw() -> None:
    for yaw in YAWS:
        face = Face(WHOLE, yaw, 128)
        column = (199.5 + yaw / 360 * 400 + 0.5) % 400 - 0.5
        assert np.allclose(face.to_panorama(np.array([[63.5, 63.5]])), [[column, 99.5]])


def smooth(panorama: Panorama, width: int, height: int) -> np.ndarray:
    """Pixels of a panorama whose grey level is a smooth function of the direction."""
    rows, columns = np.mgrid[:height, :width]
    scale = np.array([panorama.width / width, panorama.height / height])
    xy = (np.stack([columns, rows], -1).reshape(-1, 2) + 0.5) * scale - 0.5
    return grey(panorama.directions(xy)).reshape(height, width)


def grey(ways: np.ndarray) -> np.ndarray:
    ways = ways / np.linalg.norm(ways, axis=1, keepdims=True)
    waves = np.sin(7 * ways[:, 0]) + np.cos(5 * ways[:, 1] + 1) + np.sin(6 * ways[:, 2] + 2)
    return (128 + 40 * waves).round().astype(np.uint8)


@pytest.mark.parametrize("yaw", YAWS)
@pytest.mark.parametrize("larger", [1, 4])
def test_a_face_shows_what_its_pixels_look_at(yaw: float, larger: int) -> None:
    face = Face(WHOLE, yaw, 128)
    picture = smooth(WHOLE, 400 * larger, 200 * larger)
    for side in (128, 64):
        found = face_pixels(picture, face, side)
        rows, columns = np.mgrid[:side, :side]
        xy = (np.stack([columns, rows], -1).reshape(-1, 2) + 0.5) * (128 / side) - 0.5
        expected = grey(WHOLE.directions(face.to_panorama(xy))).reshape(side, side)
        assert np.abs(found.astype(int) - expected).max() <= 2


def test_a_face_of_a_fine_panorama_does_not_alias() -> None:
    stripes = np.zeros((1600, 3200), np.uint8)
    stripes[:, ::2] = 255  # finer than a face of 64 pixels can show
    found = face_pixels(stripes, Face(Panorama("a", 3200, 1600, 3200, 1600), 60.0, 1018), 64)
    middle = found[24:40, 24:40].astype(int)
    assert np.abs(middle - 127.5).max() < 4


def save(folder: Path, name: str, size: tuple[int, int], xmp: bytes = b"") -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(folder / name, xmp=xmp)


def found_in(folder: Path, mode: PanoramaMode = PanoramaMode.AUTO) -> FoundPanoramas:
    source = Folder(str(folder))
    return find_panoramas(source, sorted(path.name for path in folder.iterdir()), mode)


def test_marks_tell_panoramas_and_all_takes_those_of_their_shape(tmp_path: Path) -> None:
    save(tmp_path, "marked.jpg", (200, 100), gpano())
    save(tmp_path, "wide.jpg", (200, 100))
    save(tmp_path, "plain.jpg", (200, 150))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff" + gpano())
    assert found_in(tmp_path).panoramas.keys() == {"marked.jpg"}
    assert found_in(tmp_path, PanoramaMode.ALL).panoramas.keys() == {"marked.jpg", "wide.jpg"}
    assert found_in(tmp_path, PanoramaMode.OFF) == FoundPanoramas()
    assert not found_in(tmp_path, PanoramaMode.ALL).refused


def part(left: int, top: int, width: int, height: int) -> bytes:
    """The marks of a part of a panorama of 800 × 400 pixels."""
    return gpano(
        FullPanoWidthPixels=800,
        FullPanoHeightPixels=400,
        CroppedAreaLeftPixels=left,
        CroppedAreaTopPixels=top,
        CroppedAreaImageWidthPixels=width,
        CroppedAreaImageHeightPixels=height,
    )


def test_a_part_of_a_panorama_is_placed_where_its_marks_say(tmp_path: Path) -> None:
    save(tmp_path, "part.jpg", (350, 125), part(50, 80, 700, 250))  # at half of its size
    panorama = found_in(tmp_path).panoramas["part.jpg"]
    assert panorama == Panorama("part.jpg", 350, 125, 400, 200, 25, 40)
    assert np.allclose(
        panorama.directions(np.array([[10.0, 20.0]])), WHOLE.directions(np.array([[35.0, 60.0]]))
    )
    # It lacks 45 degrees around the seam, which the face behind would show.
    assert [face.yaw for face in panorama.faces()] == [0.0, 60.0, 300.0]
    picture = smooth(WHOLE, 400, 200)[40:165, 25:375]
    for face in panorama.faces():
        whole = face_pixels(smooth(WHOLE, 400, 200), Face(WHOLE, face.yaw, face.side))
        assert np.abs(face_pixels(picture, face).astype(int) - whole).max() <= 2


@pytest.mark.parametrize(
    ("size", "xmp", "words"),
    [
        ((300, 50), part(100, 150, 600, 100), "270 by 45 degrees"),
        ((300, 200), gpano(), "twice as wide as high"),
        ((200, 100), gpano(FullPanoWidthPixels=800), "only some of the numbers"),
        ((200, 100), part(0, 300, 800, 400), "not inside"),
        ((200, 100), part(0, 0, 800, 200), "shape"),
    ],
)
def test_marks_that_cannot_be_are_refused_with_a_reason(
    tmp_path: Path, size: tuple[int, int], xmp: bytes, words: str
) -> None:
    save(tmp_path, "pano.jpg", size, xmp)
    found = found_in(tmp_path)
    assert not found.panoramas
    assert found.refused["pano.jpg"].reason == Reason.PARTIAL_PANORAMA
    assert words in found.refused["pano.jpg"].detail
    folder = split_images(Folder(str(tmp_path)), found, ["pano.jpg"]).source
    with pytest.raises(ImageError, match=words):
        read_picture(pickle.loads(pickle.dumps(folder)), "pano.jpg")


def test_faces_stand_for_panoramas_in_names_and_pairs(tmp_path: Path) -> None:
    for name in ("b.jpg", "d.jpg"):
        save(tmp_path, name, (200, 100), gpano())
    save(tmp_path, "c.jpg", (200, 150))
    split = split_images(Folder(str(tmp_path)), found_in(tmp_path), ["b.jpg", "c.jpg", "d.jpg"])
    faces = len(YAWS)
    assert split.names == sorted(split.names)
    assert [*split.source.list((".jpg", ".png"))] == split.names
    assert split.names[0] == "b.jpg/yaw000_pitch00.png"
    assert len(split.names) == 2 * faces + 1
    pairs, row = split.pairs(np.array([[0, 1], [0, 2], [1, 2]]))
    assert np.bincount(row).tolist() == [faces, faces**2, faces]
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    files = [[split.source.file_of(split.names[k]) for k in pair] for pair in pairs.tolist()]
    assert all(first != second for first, second in files)


def test_a_file_with_the_name_of_a_face_is_refused(tmp_path: Path) -> None:
    found = FoundPanoramas({"pano.jpg": WHOLE})
    with pytest.raises(RunError, match="has the name that a face"):
        split_images(Folder(str(tmp_path)), found, ["pano.jpg", "pano.jpg/yaw000_pitch00.png"])


def test_a_face_is_read_as_a_pinhole_of_known_focal_length(tmp_path: Path) -> None:
    Image.fromarray(smooth(WHOLE, 400, 200)).save(tmp_path / "pano.jpg", quality=98)
    faces = {face.name: face for face in WHOLE.faces()}
    assert faces_of_table(faces_table([*faces.values()])) == faces
    folder = FaceFolder(Folder(str(tmp_path)), faces)
    name = "pano.jpg/yaw120_pitch00.png"
    pixels, row = read_picture(folder, name, long_side=128)
    assert pixels.shape == (96, 96)  # the square of the network's shapes
    assert (row["image"], row["width"], row["height"], row["focal"]) == (name, 128, 128, 64.0)
    whole = read_whole(folder, name)
    assert whole.gray.shape == (128, 128)
    assert (
        np.abs(whole.gray.astype(int) - face_pixels(smooth(WHOLE, 400, 200), faces[name])).max() < 9
    )


def test_a_panorama_of_another_size_than_planned_is_not_read(tmp_path: Path) -> None:
    save(tmp_path, "pano.jpg", (200, 100))
    folder = FaceFolder(Folder(str(tmp_path)), {face.name: face for face in WHOLE.faces()})
    with pytest.raises(ImageError, match="had 400×200 when it was planned"):
        read_picture(folder, "pano.jpg/yaw000_pitch00.png")

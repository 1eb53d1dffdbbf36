from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from containers import ENDINGS, LONG, PACKAGES, SHORT, XMP, contained, directory, phone_exif
from pictures import views
from PIL import Image, ImageOps
from rendered import render

from eloftr import ImageReadError, load_image, load_matcher
from eloftr.formats.deep import eight_bits
from eloftr.formats.kinds import Kind, kind_of
from pipeline.errors import ImageError
from pipeline.match.job import plan_run
from pipeline.match.options import RunOptions
from pipeline.pairs.spatial import exif_positions
from pipeline.photos.decode import Photograph, decode_image, decode_thumbnail
from pipeline.photos.direction import attitude
from pipeline.photos.exif import capture, gps_position
from pipeline.photos.headings import headings
from pipeline.photos.limits import ImageLimits
from pipeline.photos.panoramas.colours import colour_points
from pipeline.photos.source import list_images
from pipeline.store.folder import Folder

PROJECT = Path(__file__).resolve().parents[2]
SIZE = (320, 224)
BACK = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return views(1, SIZE)[0].convert("RGB")


def made(image: Image.Image, format: str, orientation: int = 1) -> bytes:
    """A file of the image, whose pixels are stored turned where an orientation is given."""
    if format in PACKAGES:
        pytest.importorskip(PACKAGES[format], reason="the extra is not installed")
    stored = image.transpose(BACK[orientation]) if orientation > 1 else image
    return contained(stored, format, orientation)


def decoded(data: bytes, format: str, **options: Any) -> Photograph:
    return decode_image(data, name=f"a{ENDINGS[format]}", **options)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("format", ENDINGS)
def test_a_photograph_comes_out_upright_once_with_its_sizes_and_camera(
    picture: Image.Image, format: str, orientation: int
) -> None:
    photo = decoded(made(picture, format, orientation), format)
    grey = np.asarray(picture.convert("L")).astype(float)
    assert photo.gray.shape == grey.shape
    assert np.corrcoef(photo.gray.ravel(), grey.ravel())[0, 1] > 0.97
    assert (photo.width, photo.height) == SIZE
    assert photo.camera == "Maker Model"
    assert photo.focal == pytest.approx(28 * np.hypot(*SIZE) / np.hypot(36, 24), rel=1e-6)
    by_decoder = format in ("HEIF", "DNG")
    assert photo.orientation == (1 if by_decoder else orientation)
    turned = photo.orientation in (6, 8)
    assert (photo.stored_width, photo.stored_height) == (SIZE[::-1] if turned else SIZE)


@pytest.mark.parametrize("format", ENDINGS)
def test_position_focal_length_and_direction_are_read_without_the_pixels(
    picture: Image.Image, format: str, tmp_path: Path
) -> None:
    data, name = made(picture, format, 6), f"a{ENDINGS[format]}"
    (tmp_path / name).write_bytes(data)
    folder = Folder(str(tmp_path))
    assert list_images(folder) == [name]
    assert gps_position(data, name) == pytest.approx((48.5, 9.0, 450.0))
    assert exif_positions(folder, [name]).names == [name]
    told = capture(data, name)
    assert (told.orientation, told.latitude, told.device.split()) == (6, 48.5, ["Maker", "Model"])
    assert told.focal == pytest.approx(28 * np.hypot(*SIZE) / np.hypot(36, 24) / max(SIZE))
    if format != "DNG":
        assert attitude(XMP).camera == 30.5
        found = headings(folder, [name])
        assert found.degrees.tolist() == [pytest.approx((30.5 - 90) % 360)]
        assert found.sizes.tolist() == [pytest.approx(np.log2(told.focal / 80))]


@pytest.mark.parametrize("format", ["HEIF", "AVIF", "JPEG2000", "JXL"])
def test_metadata_behind_the_first_bytes_are_found_by_reading_the_whole_file(
    picture: Image.Image, format: str, tmp_path: Path
) -> None:
    data = made(picture, format)
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    large = made(Image.fromarray(noise), format)
    assert len(data) < 1 << 18 < len(large)
    name = f"a{ENDINGS[format]}"
    (tmp_path / name).write_bytes(large)
    assert exif_positions(Folder(str(tmp_path)), [name]).names == [name]
    assert headings(Folder(str(tmp_path)), [name]).degrees.tolist() == [30.5]


@pytest.mark.parametrize("format", ENDINGS)
def test_keypoints_are_those_of_the_jpeg_of_the_same_picture(
    picture: Image.Image, format: str, tmp_path: Path
) -> None:
    data, sink = made(picture, format, 6), io.BytesIO()
    picture.transpose(BACK[6]).save(sink, "JPEG", quality=95, exif=phone_exif(6))
    both = decode_image(sink.getvalue()).gray, decoded(data, format).gray
    (found,) = load_matcher("small", "cpu").match([both[0]], [both[1]], size=320)
    assert len(found) > 100
    away = np.linalg.norm(found.keypoints0 - found.keypoints1, axis=1)
    assert np.median(away) < 1


@pytest.mark.parametrize("format", ENDINGS)
def test_two_images_of_any_format_are_loaded_upright(
    picture: Image.Image, format: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{ENDINGS[format]}"
    path.write_bytes(made(picture, format, 6))
    image = load_image(path)
    assert (image.mode, image.size) == ("RGB", SIZE)
    grey = np.asarray(picture.convert("L")).astype(float)
    assert np.corrcoef(np.asarray(image.convert("L")).ravel(), grey.ravel())[0, 1] > 0.97
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ImageReadError, match="no readable image there"):
        load_image(path)


@pytest.mark.parametrize("format", ENDINGS)
def test_a_file_that_was_cut_off_has_a_reason(picture: Image.Image, format: str) -> None:
    data = made(picture, format)
    for keep in (0.02, 0.3, 0.6, 0.95):
        with pytest.raises(ImageError) as refused:
            decoded(data[: int(len(data) * keep)], format)
        assert refused.value.reason == "truncated", keep
        assert "b'" not in refused.value.detail
        assert "0x" not in refused.value.detail  # an address, which differs from run to run


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16"])
def test_a_damaged_png_has_a_reason_wherever_the_damage_is(picture: Image.Image, mode: str) -> None:
    """Its decoder gives the pixels before the damage, whoever asks a second time."""
    if mode == "I;16":
        image = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    else:
        image = picture.convert(mode)
    file = io.BytesIO()
    image.save(file, "PNG")
    data = file.getvalue()
    for place in (0.3, 0.5, 0.8):
        broken = bytearray(data)
        broken[int(len(data) * place)] ^= 255
        with pytest.raises(ImageError) as refused:
            decode_image(bytes(broken))
        assert refused.value.reason == "truncated", place
        with pytest.raises(ImageError):
            decode_thumbnail(bytes(broken), 64)


@pytest.mark.parametrize("format", ENDINGS)
def test_random_damage_raises_nothing_but_an_image_error(picture: Image.Image, format: str) -> None:
    data = np.frombuffer(made(picture.resize((96, 64)), format), np.uint8)
    rng = np.random.default_rng(0)
    warnings.simplefilter("ignore")  # pytest puts the filters back
    for _ in range(30):
        broken = data.copy()
        broken[rng.integers(12, len(broken), 8)] = rng.integers(0, 256, 8)
        with contextlib.suppress(ImageError):
            decoded(broken.tobytes(), format)
        with contextlib.suppress(EOFError):
            capture(broken.tobytes(), f"a{ENDINGS[format]}")


@pytest.mark.parametrize("format", ENDINGS)
def test_limits_hold_before_pixels_are_decoded(picture: Image.Image, format: str) -> None:
    data = made(picture, format)
    for limits, why in (
        (ImageLimits(max_pixels=1000), "too_large"),
        (ImageLimits(max_side=100), "too_large"),
        (ImageLimits(min_side=300), "too_small"),
    ):
        with pytest.raises(ImageError) as refused:
            decoded(data, format, limits=limits)
        assert refused.value.reason == why


@pytest.mark.parametrize("format", ["HEIF", "AVIF", "JPEG2000", "JXL"])
def test_a_small_file_of_many_pixels_is_refused(format: str) -> None:
    data = made(Image.new("RGB", (4000, 3000), (90, 90, 90)), format)
    with pytest.raises(ImageError, match="more than 100 a byte") as refused:
        decoded(data, format)
    assert refused.value.reason == "too_large"


def test_a_jpeg_that_was_packed_as_jpeg_xl_is_turned_once(picture: Image.Image) -> None:
    pytest.importorskip("pillow_jxl", reason="the extra is not installed")
    data = made(picture, "JXL", 6)
    sink = io.BytesIO()
    picture.transpose(BACK[6]).save(sink, "JPEG", quality=95, exif=phone_exif(6))
    with Image.open(io.BytesIO(sink.getvalue())) as jpeg:
        jpeg.save(again := io.BytesIO(), "JXL", lossless_jpeg=True, exif=phone_exif(6).tobytes())
    for one in (data, again.getvalue()):
        photo = decoded(one, "JXL")
        assert photo.gray.shape == SIZE[::-1]
        grey = np.asarray(picture.convert("L")).astype(float)
        assert np.corrcoef(photo.gray.ravel(), grey.ravel())[0, 1] > 0.97


BLOCKED = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pillow_heif", "pillow_jxl", "rawpy"):
            raise ImportError(name)
        if name == "PIL._avif":
            raise ImportError(name)

sys.meta_path.insert(0, Without())
"""
READ = """
from pipeline.errors import ImageError
from pipeline.photos.source import read_image
from pipeline.store.folder import Folder
try:
    read_image(Folder(sys.argv[1]), sys.argv[2])
except ImageError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("format", "command"),
    [
        ("HEIF", 'pip install "eloftr-pipeline[heif]"'),
        ("JXL", 'pip install "eloftr-pipeline[jxl]"'),
        ("DNG", 'pip install "eloftr-pipeline[raw]"'),
        ("AVIF", 'pip install --upgrade "pillow>=11.3"'),
    ],
)
def test_without_its_package_a_photograph_is_a_row_with_the_command_that_installs_it(
    picture: Image.Image, format: str, command: str, tmp_path: Path
) -> None:
    name = f"a{ENDINGS[format]}"
    (tmp_path / name).write_bytes(made(picture, format))
    arguments = [sys.executable, "-c", BLOCKED + READ, str(tmp_path), name]
    done = subprocess.run(arguments, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("no_decoder: "), done.stderr
    assert done.stdout.endswith(f"; {command}\n")
    code = f"{BLOCKED}\nfrom eloftr.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    path = str(tmp_path / name)
    arguments = [sys.executable, "-c", code, path, path, "--out", str(tmp_path / "m.png")]
    done = subprocess.run(arguments, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(f"; {command}.\n"), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_kind_is_known_by_the_bytes_and_raw_files_by_their_names() -> None:
    assert kind_of(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic") is Kind.HEIF
    assert kind_of(b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif") is Kind.AVIF
    assert kind_of(b"\0\0\0\x18ftypcrx \0\0\0\1crx isom") is Kind.RAW
    assert kind_of(b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "a.mp4") is Kind.PILLOW
    assert kind_of(b"II*\0\x08\0\0\0", "a.tif") is Kind.PILLOW
    assert kind_of(b"II*\0\x08\0\0\0", "a.NEF") is Kind.RAW
    assert kind_of(b"\xff\xd8\xff\xe1", "a.dng") is Kind.PILLOW
    for data in (b"", b"ftyp", b"\0\0\0\0ftyp", b"II"):
        assert kind_of(data, "a.dng") is Kind.PILLOW


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("format", ["PNG", "TIFF", "TIFF packed"])
@pytest.mark.parametrize("channels", [3, 4])
def test_deep_colours_keep_their_contrast(
    picture: Image.Image, bits: int, format: str, channels: int
) -> None:
    cv2 = pytest.importorskip("cv2", reason="writes 16 bits of colour")
    top = 2**bits - 1
    rgb = np.asarray(picture).astype(np.uint32) * top // 255
    rgb[0, 0] = top
    deep = np.concatenate([rgb, np.full((*rgb.shape[:2], channels - 3), top, np.uint32)], axis=2)
    written = deep[..., [2, 1, 0, 3][:channels]].astype(np.uint16)
    flags = {"PNG": [], "TIFF": [cv2.IMWRITE_TIFF_COMPRESSION, 1]}.get(format, [])
    ending = ".png" if format == "PNG" else ".tif"
    _, data = cv2.imencode(ending, written, flags)
    gray = decode_image(data.tobytes()).gray.astype(int)
    near = np.abs(gray - np.asarray(picture.convert("L")).astype(int))
    assert near[1:].mean() < 1.5
    assert near[1:].max() < 6


def test_grey_of_12_bits_without_padding_keeps_its_contrast(picture: Image.Image) -> None:
    grey = np.asarray(picture.convert("L")).astype(np.uint16)
    first, second = (grey.ravel() * 16).reshape(-1, 2).T  # two pixels are three bytes
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
    pixels = packed.astype(np.uint8).tobytes()
    width, height = picture.size

    def head(at: int) -> bytes:
        sizes = [(256, LONG, [width]), (257, LONG, [height]), (278, LONG, [height])]
        kinds = [(258, SHORT, [12]), (259, SHORT, [1]), (262, SHORT, [1]), (277, SHORT, [1])]
        return directory([*sizes, *kinds, (273, LONG, [at]), (279, LONG, [len(pixels)])], 8)

    data = b"II*\0\x08\0\0\0" + head(8 + len(head(0))) + pixels
    gray = decode_image(data).gray.astype(int)
    assert np.abs(gray - grey).max() <= 1


def test_floating_point_pixels_are_scaled_by_what_they_mean() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    for values in (ramp, 255 * ramp, 65_535 * ramp, 1e6 * ramp, 1e-3 * ramp, 2 * ramp, ramp - 0.5):
        assert np.abs(eight_bits(values).astype(int) - np.arange(256)).max() <= 1
    assert eight_bits(ramp / 2).max() == 128  # half as bright, not stretched
    assert eight_bits(np.full((2, 2), np.nan, np.float32)).max() == 0
    odd = ramp.copy()
    odd[0, 100:102] = (np.nan, np.inf)
    assert eight_bits(odd)[0, 100:102].tolist() == [0, 0]


def test_a_deep_png_is_loaded_for_two_images(picture: Image.Image, tmp_path: Path) -> None:
    deep = (np.asarray(picture.convert("L")).astype(np.uint16) << 4) + 15
    Image.fromarray(deep).save(tmp_path / "deep.png", exif=phone_exif(6))
    image = load_image(tmp_path / "deep.png")
    grey = np.asarray(picture.convert("L").transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert image.size == SIZE[::-1]
    assert np.abs(np.asarray(image.convert("L")).astype(int) - grey).max() <= 1


class Noted(list[str]):
    """Collects the notes of a plan."""

    def __call__(self, event: Any) -> None:
        if event.name == "note":
            self.append(event.text)


def test_the_plan_says_once_what_is_left_out_and_which_files_have_several_pages(
    tmp_path: Path, kept_executor: Any
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    first, second, third = (view.convert("RGB") for view in views(3, (96, 64)))
    for name, compression in (("b.tif", None), ("c.TIFF", "tiff_lzw")):
        first.save(
            photos / name, "TIFF", save_all=True, append_images=[second], compression=compression
        )
    third.save(photos / "a.tif")
    (photos / "notes.txt").touch()
    (photos / "film.mp4").touch()
    (tmp_path / "elsewhere").mkdir()
    (photos / "old").mkdir()
    (photos / "old" / "more").symlink_to(tmp_path / "elsewhere")
    notes = Noted()
    run = plan_run(RunOptions(str(photos), str(tmp_path / "run")), kept_executor, listen=notes)
    assert notes == [
        "2 other files left out: no photograph by its ending",
        "1 linked folder left out (old/more): --follow-links reads them",
        "2 TIFF files have several pages: the first is used (b.tif)",
    ]
    grey = decode_image((photos / "b.tif").read_bytes()).gray
    assert np.array_equal(grey, np.asarray(first.convert("L")))
    run.begin()
    again = Noted()
    plan_run(RunOptions(str(photos), str(tmp_path / "run")), kept_executor, listen=again)
    assert again == []


def test_orientations_of_pillow_are_the_ones_that_are_tested(picture: Image.Image) -> None:
    for orientation, back in BACK.items():
        stored = picture.transpose(back)
        stored.getexif()[0x0112] = orientation
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(stored)), np.asarray(picture))


def test_points_have_the_colours_of_formats_that_colmap_cannot_read(tmp_path: Path) -> None:
    scene = render(tmp_path / "photos", 3).scene
    models = {}
    for ending in (".png", ".avif"):
        folder = tmp_path / ending
        folder.mkdir()
        for name in scene.views.names:
            with Image.open(tmp_path / "photos" / name) as grey:
                picture = Image.merge("RGB", [grey, grey.point(lambda v: v // 2), grey])
                picture.save(folder / name.replace(".png", ending), quality=95)
        names = [name.replace(".png", ending) for name in scene.views.names]
        model = replace(scene, views=replace(scene.views, names=names)).made()
        colour_points(model, folder)
        models[ending] = np.array([p.color for _, p in sorted(model.points3D.items())], float)
    assert (models[".avif"] > 0).any(axis=1).all()
    assert np.median(np.abs(models[".avif"] - models[".png"])) < 8
    assert np.median(models[".avif"][:, 1] / models[".avif"][:, 0]) == pytest.approx(0.5, abs=0.05)


def test_a_file_that_is_no_image_is_told_in_words_for_people(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<html>")
    with pytest.raises(ImageReadError, match=r"image there \(its bytes are of no known format\)"):
        load_image(tmp_path / "page.jpg")

from __future__ import annotations

import contextlib
import io
import math
import os
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw, ImageFilter

from eloftr.matching.resizing import resize, to_original
from pipeline.errors import ImageError
from pipeline.photos.decode import decode_image
from pipeline.photos.limits import ImageLimits
from pipeline.photos.sizes import bucket, buckets
from pipeline.photos.source import list_images, read_image
from pipeline.store.folder import Folder
from pipeline.tables import IMAGES
from pipeline.vocabulary import IMAGE_MEANINGS


def scene(width: int = 240, height: int = 160) -> Image.Image:
    """A smooth picture that no flip or rotation maps to itself."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    wave = np.sin(17 * x + 5 * y * y) + np.cos(11 * y - 6 * x * x)
    rgb = np.stack([120 + 40 * wave, 90 + 80 * x, 60 + 120 * y], axis=-1)
    return Image.fromarray(rgb.astype(np.uint8))


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def exif(tags: dict[int, Any], photo_tags: dict[int, Any] | None = None) -> Image.Exif:
    made = Image.Exif()
    made.update(tags)
    made.get_ifd(0x8769).update(photo_tags or {})
    return made


def reason(data: bytes, limits: ImageLimits | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, limits or ImageLimits())
    assert caught.value.reason in IMAGE_MEANINGS
    assert caught.value.detail
    return caught.value.reason


GRAY = np.asarray(scene().convert("L")).astype(int)


def near(gray: np.ndarray, tolerance: float, reference: np.ndarray = GRAY) -> bool:
    return (
        gray.dtype == np.uint8
        and gray.shape == reference.shape
        and bool(np.abs(gray.astype(int) - reference).mean() <= tolerance)
    )


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF"])
def test_every_format_gives_the_same_grey(format: str) -> None:
    options = {"quality": 95} if format in ("JPEG", "WEBP") else {}
    photo = decode_image(encoded(scene(), format, **options))
    assert near(photo.gray, 6 if format == "GIF" else 1.5)
    assert (photo.width, photo.height, photo.orientation) == (240, 160, 1)
    assert (photo.stored_width, photo.stored_height) == (240, 160)
    assert photo.focal is None
    assert photo.camera is None


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied_and_the_stored_size_kept(
    format: str, orientation: int
) -> None:
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = scene().transpose(back[orientation]) if orientation > 1 else scene()
    for compression in ("tiff_lzw", None) if format == "TIFF" else (None,):
        options: dict[str, Any] = {"compression": compression} if compression else {"quality": 95}
        data = encoded(stored, format, exif=exif({0x0112: orientation}), **options)
        photo = decode_image(data)
        assert near(photo.gray, 1.5)
        assert (photo.width, photo.height) == (240, 160)
        assert (photo.stored_width, photo.stored_height) == stored.size
        assert photo.orientation == orientation


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"])
def test_every_mode_becomes_the_same_grey(mode: str) -> None:
    if mode == "LAB":
        image = Image.merge("LAB", [scene().convert("L"), *[Image.new("L", (240, 160), 128)] * 2])
    elif mode == "PA":
        image = scene().quantize(256).convert("PA")
    else:
        image = scene().quantize(256) if mode == "P" else scene().convert(mode)
    format = {"CMYK": "JPEG", "YCbCr": "JPEG", "LAB": "TIFF", "PA": "TIFF"}.get(mode, "PNG")
    if mode == "HSV":
        image, format = image.convert("RGB"), "PNG"
    photo = decode_image(encoded(image, format, **({"quality": 95} if format == "JPEG" else {})))
    assert near(photo.gray, 6 if mode in ("P", "PA") else 2)


def test_one_bit_images_become_black_and_white() -> None:
    image = scene().convert("1")
    assert set(np.unique(decode_image(encoded(image, "PNG")).gray)) == {0, 255}


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_deep_images_keep_their_contrast(bits: int, format: str) -> None:
    top = 2**bits - 1
    deep = (GRAY * top // 255).astype(np.uint16)
    deep[0, 0] = top
    assert near(decode_image(encoded(Image.fromarray(deep), format)).gray, 1)


def test_integer_and_float_images_are_scaled_and_odd_values_are_black() -> None:
    assert near(
        decode_image(encoded(Image.fromarray((GRAY * 65536).astype(np.int32)), "TIFF")).gray, 64
    )
    for top in (1.0, 255.0):
        values = (GRAY / 255 * top).astype(np.float32)
        values[0, :3] = (top, np.nan, -np.inf)
        photo = decode_image(encoded(Image.fromarray(values), "TIFF"))
        assert near(photo.gray, 1)
        assert list(photo.gray[0, :3]) == [255, 0, 0]


def test_transparent_pixels_do_not_show_what_lies_under_them() -> None:
    image = scene().convert("RGBA")
    mask = Image.new("L", image.size, 255)
    ImageDraw.Draw(mask).rectangle((0, 0, 119, 159), fill=0)
    image.putalpha(mask)
    gray = decode_image(encoded(image, "PNG")).gray
    assert set(np.unique(gray[:, :120])) == {128}
    assert near(gray[:, 120:], 1, GRAY[:, 120:])


def test_a_short_or_damaged_file_is_told_apart_from_what_is_no_image() -> None:
    jpeg = encoded(scene(), "JPEG", quality=95)
    assert reason(b"") == "empty"
    assert reason(b"Dear diary, today I matched images.\n" * 50) == "not_an_image"
    assert (
        reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\nshowpage\n") == "not_an_image"
    )
    for format in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM"):
        data = encoded(scene(), format)
        for keep in (0.1, 0.5, 0.9):
            assert reason(data[: int(len(data) * keep)]) == "truncated", (format, keep)
    assert reason(jpeg[:30]) == "truncated"


def test_random_damage_never_raises_anything_but_an_image_error() -> None:
    rng = np.random.default_rng(0)
    tags = exif({0x0112: 6, 0x010F: "Make"}, {0xA405: 28})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for format in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM"):
            data = np.frombuffer(encoded(scene(96, 64), format, exif=tags), np.uint8)
            for _ in range(60):
                broken = data.copy()
                where = rng.integers(0, min(len(broken), 600), 8)
                broken[where] = rng.integers(0, 256, 8)
                with contextlib.suppress(ImageError):
                    decode_image(broken.tobytes())


def test_sizes_outside_the_limits_are_refused_from_the_header() -> None:
    assert reason(encoded(Image.new("L", (1, 1)), "PNG")) == "too_small"
    assert reason(encoded(Image.new("L", (400, 20)), "PNG")) == "too_small"
    assert reason(encoded(Image.new("L", (20_000, 1500)), "JPEG")) == "too_large"
    assert reason(encoded(Image.new("L", (600, 100)), "PNG")) == "too_elongated"
    assert reason(encoded(scene(), "PNG"), ImageLimits(max_pixels=1000)) == "too_large"
    assert reason(encoded(scene(), "PNG"), ImageLimits(max_bytes=1000)) == "too_large"
    wide = decode_image(encoded(Image.new("L", (600, 100)), "PNG"), ImageLimits(max_aspect=6))
    assert wide.gray.shape == (100, 600)
    with pytest.raises(ValueError, match="limits must be positive"):
        ImageLimits(min_side=0)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [15_000, 60_000])
def test_a_decompression_bomb_is_refused_without_being_decoded(side: int) -> None:
    header = b"P5 %d %d 255\n" % (side, side)
    assert reason(header + bytes(1000)) == "too_large"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason(header + bytes(1000)) == "too_large"


def test_the_focal_length_and_camera_come_from_exif() -> None:
    def photo(
        tags: dict[int, Any], photo_tags: dict[int, Any], size: tuple[int, int] = (4000, 3000)
    ) -> Any:
        return decode_image(
            encoded(Image.new("L", size), "JPEG", exif=exif(tags, photo_tags)), long_side=64
        )

    assert photo({}, {0xA405: 28}).focal == pytest.approx(3235.5, rel=2e-4)  # what COLMAP 4 infers
    turned = photo({0x0112: 6}, {0xA405: 28})
    assert turned.focal == pytest.approx(3235.5, rel=2e-4)
    assert (turned.width, turned.height, turned.stored_width) == (3000, 4000, 4000)
    sensor = {0x920A: 5.0, 0xA20E: 16000.0, 0xA210: 2}
    assert photo({}, sensor).focal == pytest.approx(5 * 16000 / 25.4)
    assert photo({}, sensor | {0xA002: 8000, 0xA003: 6000}).focal == pytest.approx(
        5 * 16000 / 25.4 / 2
    )
    for odd in (
        {},
        {0xA405: 0},
        {0xA405: 1},
        {0x920A: 5.0},
        sensor | {0xA210: 1},
        {0x920A: 0.0, 0xA20E: 1.0},
    ):
        assert photo({}, odd).focal is None
    assert photo({0x010F: "Canon\0", 0x0110: "Canon EOS 5D"}, {}).camera == "Canon EOS 5D"
    assert photo({0x010F: "Apple", 0x0110: "iPhone 12"}, {}).camera == "Apple iPhone 12"
    assert photo({0x0112: 9}, {}).orientation == 1


def test_there_are_seven_shapes_and_the_nearest_aspect_is_taken() -> None:
    assert buckets(640) == [
        (480, 640),
        (416, 640),
        (352, 640),
        (544, 544),
        (640, 480),
        (640, 416),
        (640, 352),
    ]
    assert bucket(4000, 3000, 640) == (480, 640)
    assert bucket(1536, 1024, 640) == (416, 640)
    assert bucket(1080, 1920, 640) == (640, 352)
    assert bucket(1000, 1040, 640) == (544, 544)
    assert bucket(1000, 200, 640) == (352, 640)
    for long_side in (32, 64, 100, 333, 1152, 1600):
        shapes = buckets(long_side)
        assert all(side % 32 == 0 and side >= 32 for shape in shapes for side in shape)
        assert max(map(max, shapes)) == max(32, round(long_side / 32) * 32)
    with pytest.raises(ValueError, match="at least 32"):
        buckets(31)


def blob(width: int, height: int, x: float, y: float, sigma: float) -> np.ndarray:
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    return (255 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2))).astype(np.uint8)


def centre(gray: np.ndarray) -> np.ndarray:
    v, u = np.mgrid[: gray.shape[0], : gray.shape[1]]
    weight = gray.astype(float)
    return np.array([[(u * weight).sum(), (v * weight).sum()]]) / weight.sum()


@pytest.mark.parametrize("size", [(1600, 1200), (1603, 1201), (4032, 3024), (300, 200)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_point_found_in_the_resized_image_maps_back_to_the_original(
    size: tuple[int, int], orientation: int
) -> None:
    width, height = size
    x, y, sigma = 0.71 * width, 0.32 * height, 0.04 * width
    data = encoded(
        Image.fromarray(blob(width, height, x, y, sigma)),
        "JPEG",
        quality=98,
        exif=exif({0x0112: orientation}),
    )
    photo = decode_image(data, long_side=256)
    upright = (x, y) if orientation == 1 else (height - 1 - y, x)
    shape = bucket(photo.width, photo.height, 256)
    found = to_original(centre(resize(photo.gray, shape)), shape, (photo.height, photo.width))
    assert found.dtype == np.float32
    assert np.abs(found - upright).max() < 0.1
    assert to_original(np.zeros((0, 2)), shape, size[::-1]).shape == (0, 2)


def test_a_large_jpeg_is_decoded_small_only_where_the_division_is_exact() -> None:
    smooth = scene(2048, 1536).filter(ImageFilter.GaussianBlur(2))
    data = encoded(smooth, "JPEG", quality=95)
    assert decode_image(data).gray.shape == (1536, 2048)
    assert decode_image(data, long_side=640).gray.shape == (1536, 2048)
    assert decode_image(data, long_side=256).gray.shape == (384, 512)
    small, full = (
        resize(decode_image(data, long_side=side).gray, (192, 256)) for side in (256, None)
    )
    assert near(small, 0.5, full.astype(int))
    odd = encoded(smooth.crop((0, 0, 2047, 1536)), "JPEG")
    assert decode_image(odd, long_side=256).gray.shape == (1536, 2047)
    assert decode_image(encoded(smooth, "PNG"), long_side=256).gray.shape == (1536, 2048)


def test_a_photograph_is_read_with_its_row_of_the_table(tmp_path: Path) -> None:
    tags = exif({0x0112: 8, 0x010F: "Apple"}, {0xA405: 26})
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.JPG").write_bytes(encoded(scene(), "JPEG", exif=tags))
    pixels, row = read_image(Folder(str(tmp_path)), "a/one.JPG", long_side=320)
    assert pixels.shape == (320, 224)
    assert pixels.dtype == np.uint8
    table = pa.Table.from_pylist([row], schema=IMAGES)
    assert table.to_pylist()[0] | {"focal": 0} == {
        "image": "a/one.JPG",
        "width": 160,
        "height": 240,
        "stored_width": 240,
        "stored_height": 160,
        "orientation": 8,
        "focal": 0,
        "camera": "Apple",
    }
    assert row["focal"] == pytest.approx(26 / math.hypot(36, 24) * math.hypot(240, 160))


def test_files_that_cannot_be_read_have_a_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "secret.jpg").symlink_to("/etc/hostname")
    os.truncate(os.open(tmp_path / "huge.jpg", os.O_CREAT | os.O_WRONLY), 1 << 40)
    expected = {
        "empty.jpg": "empty",
        "folder.jpg": "unreadable",
        "gone.jpg": "missing",
        "none.jpg": "missing",
    }
    expected |= {"secret.jpg": "unreadable", "../a.jpg": "unreadable", "huge.jpg": "too_large"}
    for name, why in expected.items():
        with pytest.raises(ImageError) as caught:
            read_image(Folder(str(tmp_path)), name, ImageLimits(max_bytes=1000))
        assert caught.value.reason == why, name


def test_only_visible_images_are_listed(tmp_path: Path) -> None:
    for name in (
        "b.JPEG",
        "a.png",
        "c.Tif",
        ".d.jpg",
        "e.txt",
        "sub/f.webp",
        ".cache/g.jpg",
        "sub/.h/i.jpg",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.touch()
    assert list_images(Folder(str(tmp_path))) == ["a.png", "b.JPEG", "c.Tif", "sub/f.webp"]


def test_decoding_in_threads_gives_the_same_pixels() -> None:
    data = encoded(scene(640, 480), "JPEG")
    reference = decode_image(data).gray
    same: list[bool] = []
    threads = [
        threading.Thread(
            target=lambda: same.append(np.array_equal(decode_image(data).gray, reference))
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 8


def test_real_photographs_decode_to_their_shapes(data: Path) -> None:
    folder = Folder(str(data / "sacre_coeur17" / "images"))
    names = list_images(folder)
    assert len(names) == 17
    for name in names:
        pixels, row = read_image(folder, name, long_side=640)
        assert pixels.shape in buckets(640)
        assert (pixels.shape[0] > pixels.shape[1]) == (row["height"] > 1.08 * row["width"])
        assert pixels.std() > 10

"""Files of masks: which photograph has which, every kind of PNG, and every orientation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.errors import ImageError, StorageError
from pipeline.masks.folder import check_apart, find_masks, mask_note, masks_line
from pipeline.masks.mask import AROUND, Mask, read_pixels
from pipeline.photos.source import Folders
from pipeline.photos.turns import View, turned
from pipeline.store.folder import Folder
from pipeline.vocabulary import Reason

ORIENTATION = 0x0112
SIZE = 40, 28


def drawn(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Kept pixels (H, W) without any symmetry."""
    return np.random.default_rng(seed).random(size[::-1]) < 0.6


def as_mode(kept: np.ndarray, mode: str) -> Image.Image:
    """A picture of this mode that keeps these pixels, by faint values."""
    grey = Image.fromarray(kept.astype(np.uint8))
    if mode == "1":
        return Image.fromarray(kept)
    if mode == "I;16":
        return Image.fromarray(kept.astype(np.uint16))
    if mode.startswith("P"):
        image = Image.fromarray((~kept).astype(np.uint8), "L")
        image.putpalette([0, 0, 7, 0, 0, 0])
        if mode == "P with transparency":
            image.info["transparency"] = b"\0\xff"
        return image
    if mode in ("LA", "RGBA"):  # kept places are transparent, and ignored ones are not
        image = grey.convert(mode)
        image.putalpha(Image.fromarray((~kept * 255).astype(np.uint8)))
        return image
    if mode == "RGB":
        none = Image.new("L", grey.size)
        return Image.merge("RGB", (none, none, grey))
    return grey


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "P with transparency", "RGB", "RGBA", "I;16"]
)
def test_every_kind_of_png_keeps_all_that_is_not_zero(tmp_path: Path, mode: str) -> None:
    kept = drawn()
    as_mode(kept, mode).save(tmp_path / "mask.png")
    found = read_pixels((tmp_path / "mask.png").read_bytes(), "mask.png", SIZE)
    assert np.array_equal(found, kept)


def stored(upright: Image.Image, orientation: int) -> Image.Image:
    """The pixels that a file of this orientation holds, so that EXIF makes them upright."""
    for turn in (None, *Image.Transpose):
        image = upright.copy() if turn is None else upright.transpose(turn)
        image.getexif()[ORIENTATION] = orientation
        if np.array_equal(np.asarray(ImageOps.exif_transpose(image)), np.asarray(upright)):
            return image
    raise AssertionError(orientation)


@pytest.mark.parametrize("size", [SIZE, (28, 28)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_as_its_photograph(
    tmp_path: Path, orientation: int, size: tuple[int, int]
) -> None:
    kept = drawn(1, size)
    picture = stored(Image.fromarray((kept * 255).astype(np.uint8)), orientation)
    photograph = Image.new("L", picture.size, 128)
    photograph.getexif()[ORIENTATION] = orientation
    photograph.save(tmp_path / "a.jpg", exif=photograph.getexif())
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.asarray(picture)).save(tmp_path / "masks" / "a.jpg.png")
    masks = find_masks(Folder(str(tmp_path / "masks")), ["a.jpg"])
    found = masks.upright("a.jpg", picture.size, orientation)
    assert found is not None
    rows, columns = np.indices(kept.shape)
    points = np.stack([columns.ravel(), rows.ravel()], axis=1)
    assert np.array_equal(found.keeps(points), kept.ravel())
    over = masks.stored("a.jpg", picture.size, None)
    assert over == Mask.of(np.asarray(picture) > 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_that_fits_only_the_upright_picture_is_one_of_it(
    tmp_path: Path, orientation: int
) -> None:
    upright = drawn(2)
    picture = stored(Image.fromarray((upright * 255).astype(np.uint8)), orientation)
    size = SIZE[::-1]  # as it is stored, while the mask is 40×28
    (tmp_path / "masks").mkdir()
    Image.fromarray(upright).save(tmp_path / "masks" / "a.png")
    photograph = Image.new("L", size)
    photograph.getexif()[ORIENTATION] = orientation
    photograph.save(tmp_path / "a.jpg", exif=photograph.getexif())
    masks, photographs = (
        find_masks(Folder(str(tmp_path / "masks")), ["a.jpg"]),
        Folder(str(tmp_path)),
    )
    if orientation < 5:
        for read in (
            lambda: masks.upright("a.jpg", size, orientation),
            lambda: masks.stored("a.jpg", size, photographs),
        ):
            with pytest.raises(ImageError, match=r"a\.png has 40×28 pixels, and the photograph 28"):
                read()
        return
    assert picture.size == size
    assert masks.upright("a.jpg", size, orientation) == Mask.of(upright)
    assert masks.stored("a.jpg", size, photographs) == Mask.of(np.asarray(picture) > 0)
    with pytest.raises(ImageError):  # nobody tells how it is turned
        masks.stored("a.jpg", size, None)


def test_a_point_has_the_pixel_that_is_nearest() -> None:
    kept = np.zeros((3, 10), bool)
    kept[1, 9] = True
    points = np.array([(9, 1), (8.51, 0.51), (9.6, 1.4), (8.49, 1), (9, 1.51), (30, 1)], np.float32)
    assert Mask.of(kept).keeps(points).tolist() == [True, True, True, False, False, True]
    assert len(Mask.of(kept).keeps(np.empty((0, 2)))) == 0


@pytest.mark.parametrize("view", [View(), View(90), View(180), View(30), View(270, 0.5)])
def test_a_cell_is_left_out_where_all_of_its_places_are_masked(view: View) -> None:
    shape, original = (96, 128), (192, 256)
    kept = np.zeros(original, bool)
    kept[40:90, 30:110] = kept[150, 200] = True
    cells = Mask.of(kept).cells(view, shape)
    # The same by pictures: 2 pixels of the original a pixel here.
    small = Image.fromarray((kept * 255).astype(np.uint8)).resize(shape[::-1], Image.Resampling.BOX)
    shown = turned(np.asarray(small), view.turn)
    assert cells.shape == (shown.shape[0] // 8, shown.shape[1] // 8)
    assert cells.any()
    assert not cells.all()
    for (row, column), there in np.ndenumerate(cells):
        window = np.s_[
            max(0, 8 * row - AROUND) : 8 * row + AROUND + 1,
            max(0, 8 * column - AROUND) : 8 * column + AROUND + 1,
        ]
        if (shown[window] == 255).any():
            assert there
        if view.turn % 90 == 0 and not shown[window].any():
            assert not there


def write(folder: Path, *names: str) -> Folder:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn()).save(folder / name, format="PNG")
    return Folder(str(folder))


def test_the_exact_name_wins_and_the_stem_counts_else(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "masks",
        *("a/b.jpg.png", "a/b.png", "c.png", "d.jpg.png", "e.f.png", "x.png"),
    )
    images = ["a/b.jpg", "b.jpg", "c.JPG", "d.jpg", "e.f.jpg", "e.jpg"]
    masks = find_masks(folder, images)
    assert masks.of == {
        "a/b.jpg": "a/b.jpg.png",
        "c.JPG": "c.png",
        "d.jpg": "d.jpg.png",
        "e.f.jpg": "e.f.png",
    }
    assert masks.counts == {"masked": 4, "unmasked": 2, "unused": 2}
    assert masks_line(masks.counts) == "4 of 6 images masked, 2 masks of no image"
    assert find_masks(folder, images, ["d.jpg", "b.jpg"]).of == {"d.jpg": "d.jpg.png"}


def test_endings_may_be_in_capitals_and_images_that_are_no_png_are_of_no_image(
    tmp_path: Path,
) -> None:
    folder = write(tmp_path / "masks", "a.jpg.PNG", "b.PNG", "c.PNG", "c.png")
    for name in ("d.jpg", "e.jpg.jpg", "f.bmp"):
        Image.fromarray(drawn()).save(tmp_path / "masks" / name)
    (tmp_path / "masks" / "notes.txt").touch()
    masks = find_masks(folder, [f"{letter}.jpg" for letter in "abcdef"])
    assert masks.of == {"a.jpg": "a.jpg.PNG", "b.jpg": "b.PNG", "c.jpg": "c.png"}
    assert masks.counts == {"masked": 3, "unmasked": 3, "unused": 4}
    assert masks.stray == "c.PNG"
    (tmp_path / "masks" / "c.PNG").unlink()
    assert find_masks(folder, ["a.jpg", "b.jpg", "c.jpg"]).stray == "d.jpg"


def test_masks_that_leave_out_nothing_or_everything_are_told(tmp_path: Path) -> None:
    images = ["a.jpg", "b.jpg", "c.jpg"]
    folder = write(tmp_path, *(f"{name}.png" for name in images))
    assert mask_note(find_masks(folder, images)) == ""
    cause = "a pixel is ignored where it is 0"
    for value, note in (
        (0, f"everything is left out by 2 of the first 3 masks: {cause}"),
        (1, ""),
    ):
        for name in images[:2]:
            Image.new("L", SIZE, value).save(tmp_path / f"{name}.png")
        assert mask_note(find_masks(folder, images)) == note
    Image.new("L", SIZE, 255).save(tmp_path / "c.jpg.png")
    told = f"nothing is left out by the first 3 masks: {cause}"
    assert mask_note(find_masks(folder, images)) == told
    (tmp_path / "c.jpg.png").write_bytes(b"no picture")
    assert "the first 2 masks" in mask_note(find_masks(folder, images))


def test_masks_are_told_by_what_they_hold(tmp_path: Path) -> None:
    folder = write(tmp_path, "a.jpg.png", "b.jpg.png")
    images = ["a.jpg", "b.jpg"]
    before = find_masks(folder, images).files
    (tmp_path / "a.jpg.png").touch()
    (tmp_path / "b.jpg.png").rename(tmp_path / "b.png")
    assert find_masks(folder, images).files == before
    Image.fromarray(drawn(5)).save(tmp_path / "b.png")
    changed = find_masks(folder, images).files
    assert changed != before
    assert (
        find_masks(folder, images, ["a.jpg"]).files != find_masks(folder, images, ["b.jpg"]).files
    )
    (tmp_path / "b.png").unlink()
    assert find_masks(folder, images).files not in (before, changed)


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    masks = write(tmp_path / "photos" / "masks", "other.png")
    with pytest.raises(
        StorageError, match=r"holds 1 PNG file and no mask .* a\.jpg is a\.jpg\.png"
    ):
        find_masks(masks, ["a.jpg"])
    with pytest.raises(StorageError, match="no such folder"):
        find_masks(Folder(str(tmp_path / "absent")), ["a.jpg"])
    photos = Folder(str(tmp_path / "photos"))
    for inner in (masks, photos):
        with pytest.raises(StorageError, match="lies in the folder of the images"):
            check_apart(inner, Folders({"query": Folder(str(tmp_path / "q")), "database": photos}))
    check_apart(photos, masks)


@pytest.mark.parametrize("harm", ["size", "cut", "no png", "empty", "large", "gone"])
def test_a_mask_that_cannot_be_used_is_told(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "a.jpg.png"
    masks = find_masks(write(tmp_path, "a.jpg.png"), ["a.jpg"])
    if harm == "size":
        Image.new("L", (41, 28)).save(path)
    elif harm == "no png":
        Image.new("L", SIZE).save(path, format="JPEG")
    elif harm == "gone":
        path.unlink()
    elif harm == "large":  # a header that asks for gigabytes
        Image.new("1", (20_000, 20_000)).save(path)
    else:
        path.write_bytes(path.read_bytes()[: 60 if harm == "cut" else 0])
    with pytest.raises(ImageError, match=r"its mask a\.jpg\.png ") as raised:
        masks.upright("a.jpg", SIZE, 1)
    assert raised.value.reason is Reason.MASK

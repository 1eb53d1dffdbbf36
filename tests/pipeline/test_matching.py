from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pictures import SIZE, views, write_views
from PIL import Image

from eloftr import EfficientLoFTRForKeypointMatching
from eloftr.checkpoint import load_model
from pipeline.images import ImageLimits
from pipeline.matching import MatchedShard, MatchingOptions, MatchShard, ReadShard
from pipeline.pairs import exhaustive
from pipeline.schemas import FAILURES, IMAGES, MATCHES, unragged
from pipeline.storage import Folder

LONG_SIDE = 320
BROKEN = {"broken.jpg": "truncated", "gone.jpg": "missing", "notes.jpg": "not_an_image"}


@pytest.fixture(scope="module")
def model() -> EfficientLoFTRForKeypointMatching:
    return load_model("small")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three lying views, one upright, and three files that cannot be used."""
    folder = tmp_path_factory.mktemp("photos")
    names = write_views(folder, 4)
    Image.open(folder / names[3]).crop((60, 0, 240, 240)).save(folder / names[3], quality=92)
    (folder / "broken.jpg").write_bytes((folder / names[0]).read_bytes()[:3000])
    (folder / "notes.jpg").write_text("no photograph")
    return folder


def match(
    model: EfficientLoFTRForKeypointMatching, folder: Path, names: list[str], pairs: np.ndarray, batch_size: int = 4
) -> MatchedShard:
    read = ReadShard(Folder(str(folder)), ImageLimits(), LONG_SIDE)
    stage = MatchShard(model, MatchingOptions(LONG_SIDE, batch_size=batch_size))
    return stage(read("00000007", names, pairs))


@pytest.fixture(scope="module")
def mixed(model: EfficientLoFTRForKeypointMatching, photos: Path) -> MatchedShard:
    """All pairs of four views and three broken files, in an order of their own."""
    pairs = np.random.default_rng(0).permutation(exhaustive(7))
    return match(model, photos, sorted([*BROKEN, *(f"view {k}.jpg" for k in range(4))]), pairs)


def test_every_pair_has_a_row_in_the_order_of_the_plan(mixed: MatchedShard) -> None:
    names = sorted([*BROKEN, *(f"view {k}.jpg" for k in range(4))])
    pairs = np.random.default_rng(0).permutation(exhaustive(7))
    found = zip(mixed.matches["image0"].to_pylist(), mixed.matches["image1"].to_pylist(), strict=True)
    assert list(found) == [(names[i], names[j]) for i, j in pairs]
    assert mixed.shard == "00000007"


def test_pairs_of_unusable_images_fail_with_the_reason_and_all_others_match(mixed: MatchedShard) -> None:
    for row in mixed.matches.to_pylist():
        reasons = {BROKEN[name] for name in (row["image0"], row["image1"]) if name in BROKEN}
        if reasons:
            assert row["status"] == "failed"
            assert row["reason"] in reasons
            assert row["keypoints0"] == row["keypoints1"] == row["scores"] == []
        else:
            assert (row["status"], row["reason"]) == ("matched", None)
            assert len(row["keypoints0"]) == len(row["keypoints1"]) == len(row["scores"]) > 0
    found = {row["image0"]: (row["image1"], row["stage"], row["reason"]) for row in mixed.failures.to_pylist()}
    assert found == {name: (None, "read", reason) for name, reason in BROKEN.items()}
    assert all(mixed.failures["detail"].to_pylist())


def test_tables_have_the_declared_schemas(mixed: MatchedShard) -> None:
    for table, schema in ((mixed.matches, MATCHES), (mixed.images, IMAGES), (mixed.failures, FAILURES)):
        assert table.schema.equals(schema, check_metadata=True)
        table.validate(full=True)
    assert mixed.images["image"].to_pylist() == [f"view {k}.jpg" for k in range(4)]
    assert mixed.images["width"].to_pylist() == [320, 320, 320, 180]
    assert mixed.images["height"].to_pylist() == [240] * 4
    assert mixed.matches["geometry"].null_count == mixed.matches.num_rows


def test_pairs_that_share_nothing_are_unmatched(model: EfficientLoFTRForKeypointMatching, tmp_path: Path) -> None:
    Image.new("L", SIZE, 90).save(tmp_path / "grey.png")
    Image.new("L", SIZE, 200).save(tmp_path / "light.png")
    found = match(model, tmp_path, ["grey.png", "light.png"], exhaustive(2)).matches.to_pylist()
    assert [(row["status"], row["reason"], row["scores"]) for row in found] == [("unmatched", None, [])]


def test_a_shard_of_unusable_images_alone_has_its_rows(model: EfficientLoFTRForKeypointMatching, photos: Path) -> None:
    found = match(model, photos, sorted(BROKEN), exhaustive(3))
    assert found.matches["status"].to_pylist() == ["failed"] * 3
    assert found.images.num_rows == found.encodes == 0
    assert found.failures.num_rows == 3


def test_every_image_is_encoded_once(
    model: EfficientLoFTRForKeypointMatching, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"view {k}.jpg" for k in range(4)]
    stage = MatchShard(model, MatchingOptions(LONG_SIDE, batch_size=2))
    batches: list[int] = []
    encode = stage.matcher.encode
    monkeypatch.setattr(stage.matcher, "encode", lambda images: (batches.append(len(images)), encode(images))[1])
    found = stage(ReadShard(Folder(str(photos)), ImageLimits(), LONG_SIDE)("a", names, exhaustive(4)))
    assert sum(batches) == found.encodes == 4
    assert max(batches) == 2
    assert found.matches.num_rows == 6


def rows(shard: MatchedShard) -> Iterator[tuple[str, str, np.ndarray]]:
    columns = [unragged(shard.matches[name]) for name in ("keypoints0", "keypoints1", "scores")]
    names = [shard.matches[name].to_pylist() for name in ("image0", "image1")]
    for name0, name1, points0, points1, scores in zip(*names, *columns, strict=True):
        together = np.column_stack([points0, points1, scores])
        yield name0, name1, together[np.lexsort(together.T)]


def test_batch_size_and_order_of_the_pairs_do_not_change_a_pair(
    model: EfficientLoFTRForKeypointMatching, photos: Path
) -> None:
    names = [f"view {k}.jpg" for k in range(4)]
    alone = {row[:2]: row[2] for row in rows(match(model, photos, names, exhaustive(4), batch_size=1))}
    together = {row[:2]: row[2] for row in rows(match(model, photos, names, exhaustive(4)[::-1], batch_size=5))}
    assert alone.keys() == together.keys()
    for pair, found in alone.items():
        assert found.shape == together[pair].shape
        np.testing.assert_allclose(together[pair], found, atol=1e-3)


def test_coordinates_are_pixels_of_each_original(model: EfficientLoFTRForKeypointMatching, tmp_path: Path) -> None:
    (view,) = views(1)
    view.save(tmp_path / "a.png")
    view.resize((640, 480), Image.Resampling.BICUBIC).save(tmp_path / "b twice.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # stored lying on its left side; a viewer turns it a quarter clockwise
    view.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "c turned.png", exif=turned)
    found = match(model, tmp_path, ["a.png", "b twice.png", "c turned.png"], np.array([[0, 1], [0, 2]]))
    (_, _, twice), (_, _, upright) = rows(found)
    assert len(twice) > 100
    assert len(upright) > 100
    # centre of the top-left pixel is (0, 0): x of the copy = 2 x + 0.5
    assert np.abs(np.median(twice[:, 2:4] - (2 * twice[:, :2] + 0.5), axis=0)).max() < 0.15
    assert np.abs(np.median(upright[:, 2:4] - upright[:, :2], axis=0)).max() < 0.1
    assert twice[:, 2].max() > 400
    assert found.images["width"].to_pylist() == [320, 640, 320]
    assert found.images["stored_width"].to_pylist() == [320, 640, 240]


@pytest.mark.parametrize("wrong", [{"long_side": 31}, {"batch_size": 0}, {"dtype": "float64"}])
def test_wrong_options_are_refused_with_a_sentence(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"(must be|choose) .*\.$"):
        MatchingOptions(**wrong)

from __future__ import annotations

import os
import subprocess
import sys
from ast import literal_eval
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import SIZE, views, write_views
from PIL import Image

from eloftr import EfficientLoFTRForKeypointMatching, Matches, load_model
from eloftr.model import ImageFeatures
from pipeline.match.match import MatchedShard, MatchShard, set_aside
from pipeline.match.options import MatchingOptions
from pipeline.match.read import TRIES, ReadShard
from pipeline.match.shards import PlannedShard
from pipeline.pairs.pair_list import exhaustive
from pipeline.photos.limits import ImageLimits
from pipeline.store.folder import Folder
from pipeline.tables import FAILURES, IMAGES, MATCHES, unragged

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
    model: EfficientLoFTRForKeypointMatching,
    folder: Path,
    names: list[str],
    pairs: np.ndarray,
    batch_size: int = 4,
) -> MatchedShard:
    read = ReadShard(Folder(str(folder)), ImageLimits(), LONG_SIDE)
    stage = MatchShard(model, MatchingOptions(LONG_SIDE, batch_size=batch_size))
    return stage(read(PlannedShard("00000007", names, pairs)))


@pytest.fixture(scope="module")
def mixed(model: EfficientLoFTRForKeypointMatching, photos: Path) -> MatchedShard:
    """All pairs of four views and three broken files, in an order of their own."""
    pairs = np.random.default_rng(0).permutation(exhaustive(7))
    return match(model, photos, sorted([*BROKEN, *(f"view {k}.jpg" for k in range(4))]), pairs)


def test_every_pair_has_a_row_in_the_order_of_the_plan(mixed: MatchedShard) -> None:
    names = sorted([*BROKEN, *(f"view {k}.jpg" for k in range(4))])
    pairs = np.random.default_rng(0).permutation(exhaustive(7))
    found = zip(
        mixed.matches["image0"].to_pylist(), mixed.matches["image1"].to_pylist(), strict=True
    )
    assert list(found) == [(names[i], names[j]) for i, j in pairs]
    assert mixed.shard == "00000007"


def test_pairs_of_unusable_images_fail_with_the_reason_and_all_others_match(
    mixed: MatchedShard,
) -> None:
    for row in mixed.matches.to_pylist():
        reasons = {BROKEN[name] for name in (row["image0"], row["image1"]) if name in BROKEN}
        if reasons:
            assert row["status"] == "failed"
            assert row["reason"] in reasons
            assert row["keypoints0"] == row["keypoints1"] == row["scores"] == []
        else:
            assert (row["status"], row["reason"]) == ("matched", None)
            assert len(row["keypoints0"]) == len(row["keypoints1"]) == len(row["scores"]) > 0
    found = {
        row["image0"]: (row["image1"], row["stage"], row["reason"])
        for row in mixed.failures.to_pylist()
    }
    assert found == {name: (None, "read", reason) for name, reason in BROKEN.items()}
    assert all(mixed.failures["detail"].to_pylist())


def test_tables_have_the_declared_schemas(mixed: MatchedShard) -> None:
    for table, schema in (
        (mixed.matches, MATCHES),
        (mixed.images, IMAGES),
        (mixed.failures, FAILURES),
    ):
        assert table.schema.equals(schema, check_metadata=True)
        table.validate(full=True)
    assert mixed.images["image"].to_pylist() == [f"view {k}.jpg" for k in range(4)]
    assert mixed.images["width"].to_pylist() == [320, 320, 320, 180]
    assert mixed.images["height"].to_pylist() == [240] * 4
    assert mixed.matches["geometry"].null_count == mixed.matches.num_rows


def test_pairs_that_share_nothing_are_unmatched(
    model: EfficientLoFTRForKeypointMatching, tmp_path: Path
) -> None:
    Image.new("L", SIZE, 90).save(tmp_path / "grey.png")
    Image.new("L", SIZE, 200).save(tmp_path / "light.png")
    found = match(model, tmp_path, ["grey.png", "light.png"], exhaustive(2)).matches.to_pylist()
    assert [(row["status"], row["reason"], row["scores"]) for row in found] == [
        ("unmatched", None, [])
    ]


def test_a_shard_of_unusable_images_alone_has_its_rows(
    model: EfficientLoFTRForKeypointMatching, photos: Path
) -> None:
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
    monkeypatch.setattr(
        stage.matcher, "encode", lambda images: (batches.append(len(images)), encode(images))[1]
    )
    found = stage(
        ReadShard(Folder(str(photos)), ImageLimits(), LONG_SIDE)(
            PlannedShard("a", names, exhaustive(4))
        )
    )
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
    alone = {
        row[:2]: row[2] for row in rows(match(model, photos, names, exhaustive(4), batch_size=1))
    }
    together = {
        row[:2]: row[2]
        for row in rows(match(model, photos, names, exhaustive(4)[::-1], batch_size=5))
    }
    assert alone.keys() == together.keys()
    for pair, found in alone.items():
        assert found.shape == together[pair].shape
        np.testing.assert_allclose(together[pair], found, atol=1e-3)


def test_coordinates_are_pixels_of_each_original(
    model: EfficientLoFTRForKeypointMatching, tmp_path: Path
) -> None:
    (view,) = views(1)
    view.save(tmp_path / "a.png")
    view.resize((640, 480), Image.Resampling.BICUBIC).save(tmp_path / "b twice.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # stored lying on its left side; a viewer turns it a quarter clockwise
    view.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "c turned.png", exif=turned)
    found = match(
        model, tmp_path, ["a.png", "b twice.png", "c turned.png"], np.array([[0, 1], [0, 2]])
    )
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


SHORT_OF_MEMORY = """
import resource, sys
import numpy as np, pyarrow as pa, torch
sys.path.insert(0, sys.argv[1])
from pictures import views
from eloftr import load_model
from pipeline.match.match import DecodedShard, MatchingOptions, MatchShard
from pipeline.photos.turns import View
from pipeline.tables import FAILURES, IMAGES

def shard(pixels, pairs):
    names = [f"view {k:02}.jpg" for k in range(len(pixels))]
    of_size = [{"width": image.shape[1], "height": image.shape[0]} for image in pixels]
    rows = [{"image": name, **size} for name, size in zip(names, of_size)]
    images = pa.Table.from_pylist(rows, schema=IMAGES)
    views, read = (View(),) * len(names), list(range(len(names)))
    shapes, failures = [image.shape for image in pixels], FAILURES.empty_table()
    return DecodedShard("0", names, np.array(pairs), views, read, images, pixels, shapes, failures)

torch.set_num_threads(1)
stage = MatchShard(load_model("small"), MatchingOptions(640))
pixels = [np.asarray(view) for view in views(8, (320, 256))]  # 5 MB of features each
many = shard(pixels, [*((k, k + 1) for k in range(0, 8, 2)), (0, 7)])
large = np.zeros((2048, 2048), np.uint8)
mixed = shard([pixels[0], pixels[1], large, large], [(0, 1), (2, 3), (0, 2)])
for first, second in ((0, 1), (2, 3), (4, 5), (6, 7), (0, 7)):
    stage(shard([pixels[first], pixels[second]], [(0, 1)]))
# what any pair needs
peak = next(line for line in open("/proc/self/status") if line.startswith("VmPeak"))
resource.setrlimit(resource.RLIMIT_AS, (int(peak.split()[1]) * 1024 + (10 << 20), -1))
short = stage(many)
failing = stage(mixed)
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
enough = stage(many)
assert short.matches.equals(enough.matches), short.matches["reason"].to_pylist()
assert enough.matches["status"].to_pylist() == ["matched"] * 5
print(enough.encodes, short.encodes)
print(failing.matches["status"].to_pylist(), failing.matches["reason"].to_pylist())
print(failing.failures.select(["image0", "image1", "stage", "reason"]).to_pylist())
"""


def test_a_shard_that_memory_cannot_hold_is_split_and_a_pair_that_it_cannot_hold_is_set_aside() -> (
    None
):
    command = [sys.executable, "-c", SHORT_OF_MEMORY, str(Path(__file__).resolve().parents[1])]
    mapped = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "1000000",
    }  # else the limit counts what the heap has free, too
    done = subprocess.run(
        command, env=mapped, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    encodes, pairs, failures = done.stdout.splitlines()
    enough, short = map(int, encodes.split())
    assert enough == 8 < short
    assert pairs == "['matched', 'failed', 'failed'] [None, 'out_of_memory', 'out_of_memory']"
    found = [
        (row["image0"], row["image1"], row["stage"], row["reason"])
        for row in literal_eval(failures)
    ]
    assert found == [
        ("view 02.jpg", "view 03.jpg", "match", "out_of_memory"),
        ("view 00.jpg", "view 02.jpg", "match", "out_of_memory"),
    ]


def test_batches_that_memory_cannot_hold_are_made_smaller(
    model: EfficientLoFTRForKeypointMatching, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"view {k}.jpg" for k in range(4)]
    shard = ReadShard(Folder(str(photos)), ImageLimits(), LONG_SIDE)(
        PlannedShard("a", names, exhaustive(4))
    )
    stage = MatchShard(model, MatchingOptions(LONG_SIDE, batch_size=6))
    enough = stage(shard)
    sizes: list[int] = []
    whole = stage.matcher.match_features

    def limited(
        features0: ImageFeatures, features1: ImageFeatures, **options: object
    ) -> list[Matches]:
        sizes.append(len(features0))
        if len(features0) > 2:
            raise MemoryError
        return whole(features0, features1, **options)

    monkeypatch.setattr(stage.matcher, "match_features", limited)
    for _ in range(2):  # the next shard may have smaller images
        sizes.clear()
        short = stage(shard)
        assert sizes == [3, 3, *[1] * 6]  # three of one shape and three of two
        assert short.matches["status"].equals(enough.matches["status"])
        assert short.encodes == enough.encodes


def test_later_attempts_match_fewer_pairs_at_once_and_the_last_sets_them_aside(
    model: EfficientLoFTRForKeypointMatching, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [*(f"view {k}.jpg" for k in range(4)), "gone.jpg"]
    shard = ReadShard(Folder(str(photos)), ImageLimits(), LONG_SIDE)(
        PlannedShard("a", names, exhaustive(5))
    )
    stage = MatchShard(model, MatchingOptions(LONG_SIDE, batch_size=1))
    counts: list[int] = []
    plain = stage._match
    monkeypatch.setattr(
        stage,
        "_match",
        lambda part, seconds: (counts.append(len(part.pairs)), plain(part, seconds))[1],
    )
    once = stage(shard, 1)
    again = stage(shard, 2)
    assert counts == [10, *[1] * 10]
    assert again.matches.equals(once.matches)
    assert again.failures.equals(once.failures)
    given_up = stage(shard, TRIES + 1)
    assert len(counts) == 11
    reasons = Counter(given_up.matches["reason"].to_pylist())
    assert reasons == {"missing": 4, "worker_died": 6}
    assert given_up.matches.select(["image0", "image1"]).equals(
        once.matches.select(["image0", "image1"])
    )
    assert given_up.failures.num_rows == 1 + 6


def test_a_shard_that_cannot_be_verified_keeps_its_rows(mixed: MatchedShard) -> None:
    aside = set_aside(mixed)
    assert aside.matches.schema.equals(MATCHES, check_metadata=True)
    assert aside.matches.select(["image0", "image1"]).equals(
        mixed.matches.select(["image0", "image1"])
    )
    before, after = mixed.matches["reason"].to_pylist(), aside.matches["reason"].to_pylist()
    assert after == [reason or "worker_died" for reason in before]
    assert Counter(aside.failures["stage"].to_pylist()) == {"read": 3, "verify": 6}


def test_a_later_attempt_reads_every_image_in_a_process_of_its_own(photos: Path) -> None:
    names = ["view 0.jpg", "broken.jpg"]
    read = ReadShard(Folder(str(photos)), ImageLimits(), LONG_SIDE)
    first, second = (read(PlannedShard("a", names, exhaustive(2)), attempt) for attempt in (1, 2))
    assert second.images.equals(first.images)
    assert second.failures.equals(first.failures)
    assert np.array_equal(second.pixels[0], first.pixels[0])
    third = read(PlannedShard("a", names, exhaustive(2)), TRIES + 1)
    assert third.failures["reason"].to_pylist() == ["crash", "crash"]


GIVEN_BACK = """
import sys
import numpy as np
import pyarrow as pa
import torch
from eloftr import load_model
from pipeline.match.match import DecodedShard, MatchingOptions, MatchShard
from pipeline.photos.turns import View
from pipeline.tables import FAILURES, IMAGES

def anonymous():
    return int(open("/proc/self/smaps_rollup").read().partition("Anonymous:")[2].split()[0]) * 1024

torch.set_num_threads(1)
match = MatchShard(load_model("small"), MatchingOptions())
names = [f"{n}.jpg" for n in range(12)]
size = {"width": 640, "height": 480}
rows = [{f.name: None for f in IMAGES} | {"image": name, **size} for name in names]
pixels = list(np.random.default_rng(0).integers(0, 256, (12, 480, 640), dtype=np.uint8))
table = pa.Table.from_pylist(rows, schema=IMAGES)
pairs, views, read = np.array([[0, 1]]), (View(),) * 12, list(range(12))
shapes, failures = [(480, 640)] * 12, FAILURES.empty_table()
shard = DecodedShard("s", names, pairs, views, read, table, pixels, shapes, failures)
before = anonymous()
for _ in range(2):
    assert match(shard).encodes == 12
print(anonymous() - before)
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="encodings are on the GPU")
def test_the_memory_of_a_shard_is_given_back() -> None:
    """Twelve encodings are 220 MB; of two shards glibc would keep 90."""
    done = subprocess.run(
        [sys.executable, "-c", GIVEN_BACK],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert int(done.stdout) < 40e6

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from pipeline.match.shards import Shard, encodes, plan_shards, shard_name, shards_table
from pipeline.pairs.pair_list import exhaustive
from pipeline.tables import SHARDS, unragged


def canonical(first: np.ndarray, second: np.ndarray, n: int) -> np.ndarray:
    low, high = np.minimum(first, second).astype(np.int64), np.maximum(first, second)
    keys = np.unique((low * n + high)[low != high])
    return np.stack(np.divmod(keys, n), axis=1).astype(np.int32)


def sequential(n: int, window: int) -> np.ndarray:
    first = np.repeat(np.arange(n), window)
    second = first + np.tile(np.arange(1, window + 1), n)
    return canonical(first[second < n], second[second < n], n)


def renamed(pairs: np.ndarray, n: int) -> np.ndarray:
    names = np.random.default_rng(1).permutation(n)
    return canonical(names[pairs[:, 0]], names[pairs[:, 1]], n)


def retrieved(n: int, k: int, scene: int, wrong: float) -> np.ndarray:
    """The k best of every image: of its own scene of `scene` images, or wrong ones."""
    rng = np.random.default_rng(0)
    first = np.repeat(np.arange(n), k)
    second = np.minimum(first // scene * scene + rng.integers(0, scene, n * k), n - 1)
    second = np.where(rng.random(n * k) < wrong, rng.integers(0, n, n * k), second)
    return renamed(canonical(first, second, n), n)


def chunked(pairs: np.ndarray, max_images: int, max_pairs: int) -> int:
    """Encodes of the naive plan: the pairs as given, a new shard whenever a bound is reached."""
    total, images, count = 0, set[int](), 0
    for pair in pairs.tolist():
        if len(images.union(pair)) > max_images or count == max_pairs:
            total, images, count = total + len(images), set(), 0
        images.update(pair)
        count += 1
    return total + len(images)


def joined(shards: list[Shard]) -> np.ndarray:
    return np.concatenate([shard.images[shard.pairs] for shard in shards])


LISTS = {
    "exhaustive": exhaustive(150),
    "sequential": sequential(1500, 10),
    "sequential, random names": renamed(sequential(1500, 10), 1500),
    "retrieved, clean": retrieved(1500, 20, 100, 0.0),
    "retrieved, noisy": retrieved(1500, 20, 100, 0.2),
    "random": retrieved(1500, 20, 1500, 1.0),
    "star": canonical(np.zeros(900, int), np.arange(900), 900),
    "two images": np.array([[5, 7]], np.int32),
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(("max_images", "max_pairs"), [(128, 1024), (16, 1000), (2, 1), (50, 7)])
def test_every_pair_is_in_one_shard_and_no_shard_exceeds_a_bound(
    name: str, max_images: int, max_pairs: int
) -> None:
    pairs = LISTS[name][::7] if max_images < 128 else LISTS[name]
    shards = plan_shards(pairs, max_images, max_pairs)
    found = joined(shards)
    assert np.array_equal(found[np.lexsort((found[:, 1], found[:, 0]))], pairs)
    for images, local in shards:
        assert images.dtype == local.dtype == np.int32
        assert 2 <= len(images) <= max_images
        assert 1 <= len(local) <= max_pairs
        assert np.all(np.diff(images) > 0)
        assert np.array_equal(np.unique(local), np.arange(len(images)))
        assert np.all(local[:, 0] < local[:, 1])
        assert np.array_equal(local, local[np.lexsort((local[:, 1], local[:, 0]))])


@pytest.mark.parametrize("name", LISTS)
def test_the_plan_does_not_depend_on_the_order_of_the_list(name: str) -> None:
    rng = np.random.default_rng(3)
    pairs = LISTS[name]
    mixed = rng.permuted(rng.permutation(pairs), axis=1)
    for first, second in zip(plan_shards(pairs), plan_shards(mixed), strict=True):
        assert np.array_equal(first.images, second.images)
        assert np.array_equal(first.pairs, second.pairs)


@pytest.mark.parametrize(
    ("name", "per_image", "saving"),
    [
        ("exhaustive", 5.0, 5),  # 4.5 would be cliques without any overlap
        ("sequential", 1.11, 1.0),
        ("sequential, random names", 1.4, 7.0),
        ("retrieved, clean", 2.3, 7.0),
        ("retrieved, noisy", 8.6, 2.0),
        ("random", 20.5, 1.0),  # without any structure a pair costs an encode
        ("star", 1.01, 1.0),
    ],
)
def test_images_are_encoded_about_as_rarely_as_the_list_allows(
    name: str, per_image: float, saving: float
) -> None:
    pairs = LISTS[name]
    cost = encodes(plan_shards(pairs, 128, 1024))
    assert cost / len(np.unique(pairs)) < per_image
    assert chunked(pairs, 128, 1024) >= saving * cost


def test_an_exhaustive_list_is_tiled_in_squares() -> None:
    shards = plan_shards(exhaustive(640), 128, 1024)
    assert encodes(shards) / 640 < 640 / 32 * 1.05
    assert encodes(plan_shards(exhaustive(640), 128, 4096)) / 640 < 640 / 64 * 1.2


@pytest.mark.parametrize("bad", [[[0, 0]], [[-1, 2]], [[0, 1], [1, 0]], [[0, 1], [0, 1]]])
def test_pairs_that_are_no_pairs_are_refused(bad: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="pairs must be"):
        plan_shards(np.array(bad))


@pytest.mark.parametrize(("max_images", "max_pairs"), [(1, 10), (10, 0)])
def test_bounds_that_hold_no_pair_are_refused(max_images: int, max_pairs: int) -> None:
    with pytest.raises(ValueError, match="at least 2 images and 1 pair"):
        plan_shards(exhaustive(3), max_images, max_pairs)


def test_no_pairs_are_no_shards() -> None:
    assert plan_shards(np.empty((0, 2), np.int32)) == []
    table = shards_table([], [])
    assert table.schema.equals(SHARDS, check_metadata=True)
    assert table.num_rows == 0


def test_the_table_of_shards_holds_names_and_local_pairs() -> None:
    names = [f"{k}.jpg" for k in range(10)]
    shards = plan_shards(exhaustive(10), max_images=4, max_pairs=100)
    table = shards_table(names, shards)
    table.validate(full=True)
    assert table.schema.equals(SHARDS, check_metadata=True)
    assert (
        table["shard"].to_pylist()[:2] == ["00000000", "00000001"] == [shard_name(0), shard_name(1)]
    )
    found = {
        (images[i], images[j])
        for images, local in zip(table["images"].to_pylist(), unragged(table["pairs"]), strict=True)
        for i, j in local
    }
    assert found == {(names[i], names[j]) for i, j in exhaustive(10)}
    assert isinstance(table, pa.Table)


def test_two_hundred_thousand_pairs_are_planned_in_seconds_and_little_memory() -> None:
    pairs = sequential(20_000, 10)
    tracemalloc.start()
    start = time.process_time()
    shards = plan_shards(pairs)
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert encodes(shards) / 20_000 < 1.1
    assert seconds < 5
    assert peak < 100e6

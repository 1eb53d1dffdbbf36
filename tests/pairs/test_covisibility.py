from __future__ import annotations

import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from synthetic_run import Scene

from pipeline import tables
from pipeline.errors import PairListError
from pipeline.extras import import_pycolmap
from pipeline.pairs.covisibility import shared_points, transitive
from pipeline.store.folder import Folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic COLMAP model of 8 images whose points are each seen by few of them."""
    pycolmap = import_pycolmap()
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=2, num_cameras_per_rig=1, num_frames_per_rig=4
    )
    options.num_points3D, options.track_length = 400, 3
    pycolmap.set_random_seed(0)
    folder = tmp_path_factory.mktemp("model") / "0"
    folder.mkdir()
    pycolmap.synthesize_dataset(options).write(str(folder))
    return folder


def counts_of(model: Path) -> dict[tuple[str, str], int]:
    """Shared points of every pair of names, the slow way."""
    reconstruction = import_pycolmap().Reconstruction(str(model))
    seen = {
        image.name: {point.point3D_id for point in image.points2D if point.has_point3D()}
        for image in reconstruction.images.values()
    }
    return {(a, b): len(seen[a] & seen[b]) for a, b in combinations(sorted(seen), 2)}


def test_pairs_share_as_many_points_as_the_model_says(model: Path) -> None:
    names, found = shared_points(Folder(str(model)), min_shared=1, top_k=None)
    pairs = {
        (names[i], names[j]): score
        for (i, j), score in zip(found.pairs.tolist(), found.scores, strict=True)
    }
    assert pairs == {pair: count for pair, count in counts_of(model).items() if count}


def test_few_shared_points_make_no_pair(model: Path) -> None:
    counts = counts_of(model)
    least = int(np.median(list(counts.values())))
    _, found = shared_points(Folder(str(model)), min_shared=least, top_k=None)
    assert len(found.pairs) == sum(count >= least for count in counts.values())


def test_each_image_keeps_those_it_shares_most_points_with(model: Path) -> None:
    names, found = shared_points(Folder(str(model)), min_shared=1, top_k=2)
    counts = counts_of(model)
    wanted = set()
    for name in names:
        mine = sorted(
            (-count, *sorted(pair)) for pair, count in counts.items() if name in pair and count
        )
        least = -mine[1][0]
        wanted |= {pair for pair, count in counts.items() if name in pair and count > least}
    pairs = {(names[i], names[j]) for i, j in found.pairs.tolist()}
    assert wanted <= pairs
    assert len(pairs) <= 2 * len(names)
    assert all(sum(name in pair for pair in pairs) >= 2 for name in names)


def test_a_model_in_an_object_store_or_in_text_is_read(model: Path, tmp_path: Path) -> None:
    _, expected = shared_points(Folder(str(model)))
    remote = Folder("memory://models/0")
    for path in model.iterdir():
        remote.publish(path.name, path.read_bytes())
    import_pycolmap().Reconstruction(str(model)).write_text(str(tmp_path))
    for folder in (remote, Folder(str(tmp_path))):
        _, found = shared_points(folder)
        assert np.array_equal(found.pairs, expected.pairs)


def test_unusable_models_are_refused_with_a_sentence(model: Path, tmp_path: Path) -> None:
    with pytest.raises(PairListError, match="holds no cameras, images and points3D"):
        shared_points(Folder(str(tmp_path)))
    with pytest.raises(PairListError, match="no such folder"):
        shared_points(Folder(str(tmp_path / "nowhere")))
    with pytest.raises(PairListError, match="1 or more"):
        shared_points(Folder(str(model)), top_k=0)
    for name in ("images.bin", "points3D.bin"):
        broken = Path(shutil.copytree(model, tmp_path / name))
        data = (model / name).read_bytes()
        (broken / name).write_bytes(data[: len(data) * 2 // 3])
        with pytest.raises(PairListError, match="damaged"):
            shared_points(Folder(str(broken)))


def test_a_model_without_images_is_refused(tmp_path: Path) -> None:
    import_pycolmap().Reconstruction().write(str(tmp_path))
    with pytest.raises(PairListError, match="0 registered images"):
        shared_points(Folder(str(tmp_path)))


def run_of(
    folder: Path, verified: list[tuple[str, str]], refused: list[tuple[str, str]], shards: int = 2
) -> Folder:
    """A run folder with matches of these pairs; only what `transitive` reads is filled in."""
    rows = [(pair, "uncalibrated") for pair in verified] + [
        (pair, "degenerate") for pair in refused
    ]
    run = Folder(str(folder))
    for shard in range(shards):
        part = rows[shard::shards]
        columns = {f.name: pa.nulls(len(part), f.type) for f in tables.MATCHES}
        columns |= {
            "image0": pa.array([pair[0] for pair, _ in part], pa.string()),
            "image1": pa.array([pair[1] for pair, _ in part], pa.string()),
            "geometry": pa.array([geometry for _, geometry in part], pa.string()),
        }
        run.publish_table(f"matches/{shard:05}.parquet", pa.table(columns, schema=tables.MATCHES))
    return run


CHAIN = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("x", "y")]


def test_pairs_that_two_verified_pairs_connect_are_proposed(tmp_path: Path) -> None:
    run = run_of(tmp_path, [*CHAIN, ("a", "f"), ("c", "f")], [("b", "d"), ("a", "e")])
    names, found = transitive(run)
    assert [names[i] + names[j] for i, j in found.pairs.tolist()] == [
        "ac",
        "bf",
        "ce",
        "df",
    ]  # bd is tried
    assert found.scores.tolist() == [2, 2, 1, 1]


def test_longer_chains_propose_more_until_all_is_connected(tmp_path: Path) -> None:
    run = run_of(tmp_path, CHAIN, [("a", "e")])
    sizes = [len(transitive(run, steps)[1].pairs) for steps in (2, 3, 4, 9)]
    assert sizes == [3, 5, 5, 5]  # a and e were tried
    names, found = transitive(run, None)
    assert [names[i] + names[j] for i, j in found.pairs.tolist()] == ["ac", "ad", "bd", "be", "ce"]
    assert found.scores.tolist() == [1, 0, 1, 0, 1]


def test_a_finished_exhaustive_run_leaves_nothing_to_propose(tmp_path: Path) -> None:
    Scene(cameras=4).write(tmp_path / "run")
    names, found = transitive(Folder(str(tmp_path / "run")))
    assert len(names) == 4
    assert found.pairs.shape == (0, 2)


def test_unusable_runs_are_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PairListError, match=r"holds no matches/\*.parquet"):
        transitive(Folder(str(tmp_path)))
    with pytest.raises(PairListError, match="give 2 or more"):
        transitive(run_of(tmp_path, CHAIN, []), 1)

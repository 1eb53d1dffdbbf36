from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import write_views

from eloftr import EfficientLoFTRForKeypointMatching, load_model
from pipeline.errors import DescriptorError
from pipeline.pairs.descriptors import (
    Descriptors,
    describe_images,
    nearest,
    read_descriptors,
    reduced,
    unit,
    write_descriptors,
)
from pipeline.store.folder import Folder
from pipeline.tables import FAILURES


@pytest.fixture(scope="module")
def model() -> EfficientLoFTRForKeypointMatching:
    return load_model("small")


def vectors(count: int, dimensions: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)


def test_every_photograph_of_a_folder_is_described(
    tmp_path: Path, model: EfficientLoFTRForKeypointMatching
) -> None:
    names = write_views(tmp_path / "a", 3, (320, 240)) + write_views(
        tmp_path / "b", 2, (240, 320), seed=1
    )
    (tmp_path / "b" / "cut.jpg").write_bytes((tmp_path / "a" / names[0]).read_bytes()[:4000])
    (tmp_path / "empty.png").write_bytes(b"")
    done: list[tuple[int, int]] = []
    found = describe_images(
        Folder(str(tmp_path)), model, progress=lambda *counts: done.append(counts)
    )
    assert found.names == [
        "a/view 0.jpg",
        "a/view 1.jpg",
        "a/view 2.jpg",
        "b/view 0.jpg",
        "b/view 1.jpg",
    ]
    assert found.vectors.shape == (5, 2080)
    assert found.vectors.dtype == np.float32
    assert found.failures.schema.equals(FAILURES, check_metadata=True)
    assert found.failures["image0"].to_pylist() == ["b/cut.jpg", "empty.png"]
    assert found.failures["reason"].to_pylist() == ["truncated", "empty"]
    assert done == [(7, 2)]
    similar = found.vectors @ found.vectors.T
    assert similar[:3, :3].min() > similar[:3, 3:].max()


def test_describing_leaves_the_model_as_it_is(
    tmp_path: Path, model: EfficientLoFTRForKeypointMatching
) -> None:
    write_views(tmp_path, 1)
    before = set(model.state_dict())
    describe_images(Folder(str(tmp_path)), model)
    assert set(model.state_dict()) == before


def test_the_order_of_the_images_does_not_matter(
    tmp_path: Path, model: EfficientLoFTRForKeypointMatching
) -> None:
    names = write_views(tmp_path, 3)
    folder = Folder(str(tmp_path))
    together = describe_images(folder, model)
    alone = [describe_images(folder, model, [name]).vectors[0] for name in names]
    np.testing.assert_allclose(together.vectors, alone, atol=1e-5)


@pytest.mark.parametrize("block", [(1024, 8192), (7, 11), (1, 1), (50, 3)])
@pytest.mark.parametrize("k", [1, 5, 39, 1000])
def test_the_nearest_are_those_of_the_whole_matrix(block: tuple[int, int], k: int) -> None:
    known = vectors(40)
    cosines = unit(known) @ unit(known).T
    np.fill_diagonal(cosines, -np.inf)
    expected = np.argsort(-cosines, axis=1)[:, : min(k, 39)]
    index, similarity = nearest(known, None, k, block)
    assert np.array_equal(index, expected)
    np.testing.assert_allclose(similarity, np.take_along_axis(cosines, expected, axis=1), atol=1e-6)


def test_queries_are_searched_in_a_database() -> None:
    queries, known = vectors(5), vectors(30, seed=1)
    known[7] = 3 * queries[2]
    index, similarity = nearest(queries, known, 4, (2, 9))
    assert np.array_equal(index, np.argsort(-(unit(queries) @ unit(known).T), axis=1)[:, :4])
    assert index[2, 0] == 7
    assert similarity[2, 0] == pytest.approx(1)


@pytest.mark.parametrize(("count", "k"), [(0, 3), (1, 3), (3, 0)])
def test_where_nothing_is_near_nothing_is_found(count: int, k: int) -> None:
    index, similarity = nearest(vectors(count), None, k)
    assert index.shape == similarity.shape == (count, 0)


def test_memory_of_a_search_is_that_of_vectors_and_one_block() -> None:
    known = vectors(6000, 8)
    tracemalloc.start()
    nearest(known, None, 5, (64, 512))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6000 * 6000 * 4 / 20


def test_reduced_vectors_keep_the_neighbours_of_clusters() -> None:
    centres = vectors(10, 64)
    known = np.repeat(centres, 8, axis=0) + 0.1 * vectors(80, 64, seed=1)
    for count in (80, 24):  # more and fewer vectors than dimensions
        small = reduced(known[:count], 8)
        assert small.shape == (count, 8)
        index, _ = nearest(small, None, 7)
        assert (index // 8 == np.arange(count)[:, None] // 8).all()


def test_few_or_equal_vectors_can_be_reduced() -> None:
    assert np.isfinite(reduced(vectors(2), 8)).all()
    assert np.isfinite(reduced(np.ones((5, 4), np.float32), 8)).all()


@pytest.mark.parametrize("ending", ["parquet", "npz", "npy"])
def test_written_descriptors_are_read_again(tmp_path: Path, ending: str) -> None:
    found = Descriptors(["a b.jpg", "sub/ü.jpg"], vectors(2))
    write_descriptors(tmp_path / f"d.{ending}", found)
    again = read_descriptors(tmp_path / f"d.{ending}", found.names)
    assert again.names == found.names
    assert np.array_equal(again.vectors, found.vectors)
    assert len(again.failures) == 0
    if ending != "npy":
        assert read_descriptors(tmp_path / f"d.{ending}").names == found.names


@pytest.mark.parametrize("ending", ["parquet", "npz"])
def test_rows_follow_the_names_and_missing_ones_are_failures(tmp_path: Path, ending: str) -> None:
    write_descriptors(tmp_path / f"d.{ending}", Descriptors(["c", "a", "d"], vectors(3)))
    found = read_descriptors(tmp_path / f"d.{ending}", ["a", "b", "c"])
    assert found.names == ["a", "c"]
    assert np.array_equal(found.vectors, vectors(3)[[1, 0]])
    assert found.failures.select(["image0", "reason"]).to_pylist() == [
        {"image0": "b", "reason": "no_descriptor"}
    ]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.list_(pa.float16(), 3), pa.large_list(pa.float32())]
)
def test_other_list_types_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    rows = np.array([[1, 2, 3], [4, 5, 6]], np.float16)
    column = pa.array(list(rows), pa.list_(pa.float16())).cast(kind)
    pq.write_table(pa.table({"image": ["a", "b"], "descriptor": column}), tmp_path / "d.parquet")
    assert read_descriptors(tmp_path / "d.parquet").vectors.tolist() == rows.tolist()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def table(**columns: object) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("d.h5", b"", "by its ending"),
        ("d.npz", npz(vectors=vectors(2)), "needs arrays names"),
        (
            "d.npz",
            npz(names=np.array(["a"]), descriptors=vectors(2)),
            "a vector of numbers for each name",
        ),
        ("d.npz", npz(names=np.array(["a", "a"]), descriptors=vectors(2)), "has a twice"),
        ("d.npz", b"PK\3\4 no archive", "without objects"),
        ("d.npy", npy(np.array([{"a": 1}])), "without objects"),
        ("d.npy", npy(vectors(3)), "has 3 rows for 2 images"),
        ("d.npy", npy(np.array([[1, 2], [3, np.nan]])), "vector of b is not finite"),
        ("d.npy", npy(np.array(["x", "y"])), "a vector of numbers"),
        ("d.npy", b"", "without objects"),
        ("d.parquet", b"PAR1", "not whole Parquet"),
        ("d.parquet", table(name=["a"], descriptor=[[1.0]]), "needs columns image"),
        (
            "d.parquet",
            table(image=["a", "b"], descriptor=[[1.0], [1.0, 2.0]]),
            "one length in every row",
        ),
        ("d.parquet", table(image=["a", "b"], descriptor=[[1.0], None]), "one length in every row"),
        ("d.parquet", table(image=["a", "b"], descriptor=["x", "y"]), "needs columns image"),
    ],
)
def test_unusable_files_are_refused_with_a_sentence(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DescriptorError, match=message):
        read_descriptors(tmp_path / name, ["a", "b"])


def test_a_missing_file_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(DescriptorError, match=r"nowhere.npz: cannot be read"):
        read_descriptors(tmp_path / "nowhere.npz")
    write_descriptors(tmp_path / "d.npy", Descriptors(["a"], vectors(1)))
    with pytest.raises(DescriptorError, match="holds no names"):
        read_descriptors(tmp_path / "d.npy")

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictures import write_views

from pipeline.errors import PairListError
from pipeline.pairs.candidates import Candidates
from pipeline.pairs.descriptors import Descriptors, nearest, unit, write_descriptors
from pipeline.pairs.retrieval import candidates_of, compared, plan_retrieval, similar


def described(count: int = 30, dimensions: int = 8) -> Descriptors:
    vectors = np.random.default_rng(0).normal(size=(count, dimensions)).astype(np.float32)
    return Descriptors([f"{number:02}.jpg" for number in range(count)], vectors)


def test_similar_images_are_paired_whoever_finds_the_other() -> None:
    images = described()
    index, _ = nearest(images.vectors, None, 3)
    found = similar(images, 3)
    wanted = {
        tuple(sorted((row, int(other)))) for row, others in enumerate(index) for other in others
    }
    assert {tuple(pair) for pair in found.pairs.tolist()} == wanted
    cosines = unit(images.vectors) @ unit(images.vectors).T
    np.testing.assert_allclose(found.scores, cosines[tuple(found.pairs.T)], atol=1e-6)


def test_mutual_pairs_are_found_from_both_sides() -> None:
    images = described()
    index, _ = nearest(images.vectors, None, 3)
    near = [{*others.tolist()} for others in index]
    found = similar(images, 3, mutual=True)
    wanted = [[i, j] for i in range(30) for j in range(i + 1, 30) if j in near[i] and i in near[j]]
    assert found.pairs.tolist() == wanted
    assert 0 < len(wanted) < len(similar(images, 3).pairs)


def test_no_pair_is_below_the_lowest_cosine() -> None:
    images = described()
    every = similar(images, 29)
    assert len(every.pairs) == 435
    assert every.scores is not None
    above = every.pairs[every.scores >= 0.5]
    found = similar(images, 29, min_score=0.5)
    assert found.pairs.tolist() == above.tolist()
    assert len(similar(images, 29, min_score=1.1).pairs) == 0


def test_a_file_s_descriptors_are_compared_as_they_are(tmp_path: Path) -> None:
    names = write_views(tmp_path / "photos", 6)
    images = Descriptors(names, described(6).vectors)
    write_descriptors(tmp_path / "d.npy", images)
    listed, found = plan_retrieval(str(tmp_path / "photos"), {}, str(tmp_path / "d.npy"), top_k=2)
    assert listed == names
    assert found.pairs.tolist() == similar(images, 2).pairs.tolist()


def test_too_few_described_images_are_refused_with_the_first_reason(tmp_path: Path) -> None:
    write_views(tmp_path / "photos", 2)
    write_descriptors(tmp_path / "d.npz", Descriptors(["view 0.jpg"], described(1).vectors))
    with pytest.raises(
        PairListError,
        match=r"photos: 1 of 2 images have a descriptor \(view 1.jpg: d.npz has none\)",
    ):
        plan_retrieval(str(tmp_path / "photos"), {}, str(tmp_path / "d.npz"))


def rows(found: Candidates) -> list[tuple[str, str, float, int]]:
    columns = (
        found.query.to_pylist(),
        found.candidate.to_pylist(),
        found.score.to_pylist(),
        found.rank.tolist(),
    )
    return list(zip(*columns, strict=True))


def test_candidates_are_the_nearest_of_each_query_without_itself() -> None:
    images = described()
    found = candidates_of(images, images, np.arange(30), 3)
    index, cosines = nearest(images.vectors, None, 3)
    wanted = [
        (
            images.names[row],
            images.names[k],
            pytest.approx(float(cosines[row, place]), abs=1e-6),
            place + 1,
        )
        for row, ks in enumerate(index)
        for place, k in enumerate(ks)
    ]
    assert rows(found) == wanted
    both = {(query, candidate) for query, candidate, *_ in rows(found)}
    assert any(pair[::-1] in both for pair in both)  # both directions stay
    assert len(both) == 90 > len(similar(images, 3).pairs)


def test_a_query_is_left_out_by_what_it_is_and_not_by_its_cosine() -> None:
    """Five copies of one photograph: whichever of them come first, none is its own candidate."""
    images = Descriptors([f"{k}.jpg" for k in range(5)], np.ones((5, 4), np.float32))
    found = rows(candidates_of(images, images, np.arange(5), 2))
    assert len(found) == 10
    assert all(query != candidate for query, candidate, *_ in found)
    strangers = rows(candidates_of(images, images, np.full(5, -1), 5))
    assert len(strangers) == 25


def test_a_query_may_have_fewer_candidates_or_none() -> None:
    images = described()
    assert len(candidates_of(images, images, np.arange(30), 1000).rank) == 30 * 29
    cosines = unit(images.vectors) @ unit(images.vectors).T - 2 * np.eye(30)
    found = candidates_of(images, images, np.arange(30), 29, min_score=0.6)
    assert len(found.rank) == (cosines >= 0.6).sum()
    assert len(found.starts) - 1 == (cosines >= 0.6).any(axis=1).sum() < 30
    assert len(candidates_of(images, images, np.arange(30), 29, min_score=1.1).starts) == 1


def test_more_candidates_than_a_list_can_hold_are_refused() -> None:
    long = Descriptors([f"{k}{'a' * 50_000}" for k in range(250)], np.ones((250, 2), np.float32))
    with pytest.raises(PairListError, match="too many for one list"):
        candidates_of(long, long, np.arange(250), 249)


def test_queries_of_another_folder_have_their_own_file_or_share_one(tmp_path: Path) -> None:
    names, vectors = write_views(tmp_path / "photos", 4), described(6).vectors
    (tmp_path / "queries").mkdir()
    for number, name in enumerate(("q.jpg", "view 0.jpg")):
        (tmp_path / "queries" / name).write_bytes(
            (tmp_path / "photos" / names[number]).read_bytes()
        )
    folders = {
        "images": str(tmp_path / "photos"),
        "queries": str(tmp_path / "queries"),
        "storage": {},
    }
    write_descriptors(tmp_path / "d.npz", Descriptors(names, vectors[:4]))
    write_descriptors(tmp_path / "q.npy", Descriptors(["q.jpg", "view 0.jpg"], vectors[4:]))
    files = {"descriptors": str(tmp_path / "d.npz"), "query_descriptors": str(tmp_path / "q.npy")}
    asked, found = plan_retrieval(**folders, **files, top_k=4)
    assert asked == ["q.jpg", "view 0.jpg"]
    cosines = unit(vectors[4:]) @ unit(vectors[:4]).T
    assert [row[1] for row in rows(found)] == [
        names[k] for order in np.argsort(-cosines) for k in order
    ]
    # The same name in another folder is another photograph; one without a descriptor is a failure
    # with its side.
    write_descriptors(tmp_path / "all.npz", Descriptors(["q.jpg", *names[1:]], vectors[:4]))
    _, found = plan_retrieval(**folders, descriptors=str(tmp_path / "all.npz"), top_k=4)
    assert {row[0] for row in rows(found)} == {"q.jpg"}
    assert found.failures["image0"].to_pylist() == ["query/view 0.jpg", "database/view 0.jpg"]


def test_a_folder_of_queries_below_the_images_knows_its_own_files(tmp_path: Path) -> None:
    write_views(tmp_path / "photos" / "new", 2)
    write_views(tmp_path / "photos" / "old", 2, seed=1)
    (tmp_path / "link").symlink_to(tmp_path / "photos" / "new")
    _, found = plan_retrieval(str(tmp_path / "photos"), {}, queries=str(tmp_path / "link"), top_k=3)
    assert [(query, rank) for query, _, _, rank in rows(found)] == [
        (query, rank) for query in ("view 0.jpg", "view 1.jpg") for rank in (1, 2, 3)
    ]
    assert all(candidate != f"new/{query}" for query, candidate, *_ in rows(found))
    assert [row[1] for row in rows(found) if row[3] == 1] == ["new/view 1.jpg", "new/view 0.jpg"]


def test_queries_and_images_are_reduced_together(tmp_path: Path) -> None:
    names = write_views(tmp_path / "photos", 6)
    write_descriptors(tmp_path / "d.npz", Descriptors(names, described(6, 20).vectors))
    both = (str(tmp_path / "photos"), str(tmp_path / "d.npz"))
    one, other = compared([both, both], {}, reduce=4)
    assert one.vectors.shape == (6, 4)
    np.testing.assert_array_equal(one.vectors, other.vectors)


def test_descriptors_of_two_models_are_not_compared(tmp_path: Path) -> None:
    names = write_views(tmp_path / "photos", 3)
    for file, dimensions in (("one.npz", 4), ("two.npz", 5)):
        write_descriptors(tmp_path / file, Descriptors(names, described(3, dimensions).vectors))
    files = {
        "descriptors": str(tmp_path / "one.npz"),
        "query_descriptors": str(tmp_path / "two.npz"),
    }
    photos = str(tmp_path / "photos")
    with pytest.raises(
        PairListError, match="5 and 4 numbers cannot be compared; give those of one model"
    ):
        plan_retrieval(photos, {}, queries=photos, **files)

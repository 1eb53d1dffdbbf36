from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pictures import write_views
from stages import match_here

from eloftr import CheckpointError, load_model, save_model
from pipeline.errors import ArgumentError, PairListError, RunError, StorageError
from pipeline.match.finish import FinishShard
from pipeline.match.match import MatchedShard
from pipeline.match.options import MatchingOptions, RunOptions, VerificationOptions
from pipeline.match.plan import cost_line, make_plan, plan_line, timed_cost
from pipeline.match.run import Run, Session
from pipeline.photos.limits import ImageLimits
from pipeline.photos.source import image_source
from pipeline.store.folder import Folder
from pipeline.store.weights import weights_digest
from pipeline.tables import FAILURES, IMAGES, MATCHES, unragged

LONG_SIDE = 160
MATCHING = MatchingOptions(LONG_SIDE)
SESSION = Session(pairs=6, seconds=2.0, start_seconds=0.0, pairs_per_second=3.0, executor="local")
SENTENCE = r"^[^\n]*\.$"
LIST = """# two photographs a line
view 0.jpg\tview 1.jpg
view 1.jpg\tview 0.jpg
view 1.jpg\tview 2.jpg\t0.5
view 2.jpg\tview 2.jpg
view 0.jpg\tabsent.jpg
alone.jpg
view 1.jpg\tview 2.jpg
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input") / "photos"
    write_views(folder, 4, (160, 120))
    return folder


def asked(photos: Path | str, output: Path | str, **other: Any) -> RunOptions:
    verification = VerificationOptions(long_side=LONG_SIDE)
    return RunOptions(
        str(photos), str(output), **{"matching": MATCHING, "verification": verification, **other}
    )


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with all six pairs of four views, in shards of two pairs."""
    output = tmp_path_factory.mktemp("finished") / "run"
    run = Run(asked(photos, output, max_pairs=2), "cpu")
    match_here(run)
    run.finish(SESSION)
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_run_folder_holds_plan_tables_markers_and_summary(finished: Path) -> None:
    shards = pq.read_table(finished / "plan" / "shards.parquet")["shard"].to_pylist()
    assert len(shards) == 3
    assert set(contents(finished)) == {
        *("run.json", "summary.json", "failures/plan.parquet"),
        *("plan/shards.parquet", "plan/headings.parquet"),
        *(f"{kind}/{shard}.parquet" for kind in ("matches", "images", "turns") for shard in shards),
        *(f"done/{shard}.json" for shard in shards),
    }
    matches = pa.concat_tables(
        pq.read_table(finished / "matches" / f"{shard}.parquet") for shard in shards
    )
    assert matches.schema.equals(MATCHES, check_metadata=True)
    pairs = list(zip(matches["image0"].to_pylist(), matches["image1"].to_pylist(), strict=True))
    assert len(set(pairs)) == len(pairs) == 6
    summary = json.loads((finished / "summary.json").read_text())
    assert (summary["images"], summary["pairs"], summary["planned_pairs"], summary["shards"]) == (
        4,
        6,
        6,
        3,
    )
    assert summary["matched"] + summary["unmatched"] == 6
    assert summary["matches"] == sum(len(scores) for scores in matches["scores"].to_pylist()) > 0
    assert summary["inliers"] == sum(matches["num_inliers"].to_pylist())
    assert summary["stage_seconds"].keys() == {"read", "encode", "match", "verify", "write"}
    assert (summary["failed"], summary["failed_images"]) == ({}, {})


def test_making_a_run_writes_nothing(photos: Path, tmp_path: Path) -> None:
    run = Run(asked(photos, tmp_path / "run"), "cpu")
    assert "4 images, 6 pairs in 1 shard" in plan_line(run.counts())
    cost = timed_cost(run.model, "float32", LONG_SIDE)
    assert "6 pairs to do: about" in cost_line(cost, LONG_SIDE, run.pending())
    assert not (tmp_path / "run").exists()


def test_the_same_options_resume(photos: Path, finished: Path) -> None:
    before = contents(finished)
    run = Run(
        asked(photos, finished), "cuda"
    )  # sized for another device: the plan stays the one that was written
    assert run.resumed
    assert run.plan.shards.num_rows == 3
    assert run.pending().num_rows == 0
    assert "3 shards done" in plan_line(run.counts())
    run.begin()
    assert contents(finished) == before


@pytest.mark.parametrize(("images", "shards"), [(12, 3), (94, 64), (600, 180)])
def test_a_short_list_on_a_gpu_has_shards_for_many_cpus(
    tmp_path: Path, images: int, shards: int
) -> None:
    for n in range(images):
        (tmp_path / f"{n}.jpg").touch()
    plan = make_plan(
        RunOptions(str(tmp_path), str(tmp_path / "run")),
        image_source(str(tmp_path), {}, False),
        "cuda",
    )
    sizes = [len(pairs) for pairs in unragged(plan.shards["pairs"])]
    assert sum(sizes) == images * (images - 1) // 2
    assert max(sizes) <= 1024
    assert shards <= len(sizes) < 1.6 * shards


def test_a_run_goes_on_with_the_shards_that_have_no_marker(photos: Path, tmp_path: Path) -> None:
    run = Run(asked(photos, tmp_path / "run", max_pairs=2), "cpu")
    match_here(run)
    before = contents(tmp_path / "run")
    (tmp_path / "run" / "done" / "00000001.json").unlink()
    (tmp_path / "run" / "matches" / "00000001.parquet").unlink()
    killed = tmp_path / "run" / "matches" / f".00000001.parquet.{uuid.uuid4().hex}.tmp"
    killed.write_bytes(b"PAR1 half of it")
    again = Run(asked(photos, tmp_path / "run"), "cpu")
    assert again.pending()["shard"].to_pylist() == ["00000001"]
    match_here(again)
    after = contents(tmp_path / "run")
    assert after.keys() == before.keys()  # also: no temporary file
    assert all(after[name] == before[name] for name in before if name.endswith(".parquet"))


@pytest.mark.parametrize("folder", ["matches", "images"])
def test_a_shard_whose_table_was_removed_is_matched_again(
    photos: Path, finished: Path, tmp_path: Path, folder: str
) -> None:
    output = tmp_path / "run"
    shutil.copytree(finished, output)
    (output / folder / "00000001.parquet").unlink()
    run = Run(asked(photos, output), "cpu")
    assert run.pending()["shard"].to_pylist() == ["00000001"]
    match_here(run)
    table = f"{folder}/00000001.parquet"
    assert (output / table).read_bytes() == (finished / table).read_bytes()


def test_the_folder_of_a_reranking_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ranking.parquet").touch()
    with pytest.raises(RunError, match="run: holds a reranking; give another --output"):
        Run(asked(photos, tmp_path / "run"), "cpu")


def test_a_shard_that_was_lost_is_not_passed_over(photos: Path, tmp_path: Path) -> None:
    run = Run(asked(photos, tmp_path / "run", max_pairs=2), "cpu")
    match_here(run, part=0, parts=2)
    with pytest.raises(
        RunError,
        match="run: 1 shard of 3 not done, though the work has ended; run the same command",
    ):
        run.finish(SESSION)
    assert not (tmp_path / "run" / "summary.json").exists()


def test_what_a_killed_worker_left_half_written_is_gone_at_the_end(
    photos: Path, tmp_path: Path
) -> None:
    run = Run(asked(photos, tmp_path / "run", max_pairs=2), "cpu")
    match_here(run)
    left = tmp_path / "run" / "done" / f".00000001.json.{uuid.uuid4().hex}.tmp"
    left.write_text("half of a mark")
    run.finish(SESSION)
    assert not left.exists()


def test_failures_that_passed_leave_no_trace(tmp_path: Path) -> None:
    finish = FinishShard(Folder(str(tmp_path)), VerificationOptions())
    row = {
        "image0": "a.jpg",
        "image1": None,
        "stage": "read",
        "reason": "unreadable",
        "detail": "no answer",
    }
    for failures, left in (
        (pa.Table.from_pylist([row], schema=FAILURES), True),
        (FAILURES.empty_table(), False),
    ):
        finish(MatchedShard("00000000", IMAGES.empty_table(), MATCHES.empty_table(), failures, 0))
        assert (tmp_path / "failures" / "00000000.parquet").exists() == left


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ({"matching": MatchingOptions(192)}, "long_side was 160, now 192"),
        (
            {"matching": MatchingOptions(LONG_SIDE, dtype="bfloat16")},
            "dtype was float32, now bfloat16",
        ),
        ({"matching": MatchingOptions(LONG_SIDE, looks=2)}, "looks was 3, now 2"),
        ({"variant": "opt"}, "skip_softmax was False, now True"),
        ({"threshold": 0.5}, "threshold was 0.2, now 0.5"),
        ({"least_squares": 0}, "least_squares was 5, now 0"),
        ({"limits": ImageLimits(max_side=500)}, "limits.max_side was 16384, now 500"),
        (
            {"verification": VerificationOptions(long_side=LONG_SIDE, max_error=3.0)},
            "max_error was 2.0, now 3.0",
        ),
    ],
)
def test_other_options_on_a_run_folder_are_refused(
    photos: Path, finished: Path, other: dict[str, Any], differs: str
) -> None:
    before = contents(finished)
    with pytest.raises(RunError, match=SENTENCE) as refused:
        Run(asked(photos, finished, **other), "cpu")
    assert differs in str(refused.value)
    assert contents(finished) == before


def test_other_images_pairs_or_weights_on_a_run_folder_are_refused(
    photos: Path, finished: Path, tmp_path: Path
) -> None:
    elsewhere, more = tmp_path / "elsewhere", tmp_path / "more"
    write_views(elsewhere, 4, (160, 120), seed=1)
    with pytest.raises(RunError, match=f"its images were {photos}") as refused:
        Run(asked(elsewhere, finished), "cpu")
    assert "\n" not in str(refused.value)

    write_views(more, 4, (160, 120))
    run = Run(asked(more, tmp_path / "run"), "cpu")
    run.begin()
    write_views(more, 5, (160, 120))
    with pytest.raises(RunError, match="its images or pairs were others"):
        Run(asked(more, tmp_path / "run"), "cpu")

    (tmp_path / "pairs.txt").write_text(LIST)
    with pytest.raises(RunError, match="its images or pairs were others"):
        Run(asked(photos, finished, pairs=str(tmp_path / "pairs.txt")), "cpu")

    model = load_model("small")
    with torch.no_grad():
        next(model.parameters()).mul_(1.001)
    save_model(model, tmp_path / "weights")
    with pytest.raises(RunError, match="its weights were others"):
        Run(asked(photos, finished, weights=str(tmp_path / "weights")), "cpu")


def test_the_same_weights_in_another_file_are_the_same(
    photos: Path, finished: Path, tmp_path: Path
) -> None:
    model = load_model("small")
    save_model(model, tmp_path / "copy")
    assert weights_digest(load_model(tmp_path / "copy")) == weights_digest(model)
    alone = tmp_path / "alone.safetensors"  # as behind a URL: without its folder
    alone.write_bytes((tmp_path / "copy" / "model.safetensors").read_bytes())
    assert load_model(alone).config == model.config
    assert Run(asked(photos, finished, weights=f"file://{alone}"), "cpu").resumed
    other = load_model("small", fine_matching_centered=not model.config.fine_matching_centered)
    assert weights_digest(other) != weights_digest(model)  # the same values of another function
    assert Run(asked(photos, finished, weights=str(tmp_path / "copy")), "cpu").resumed
    assert Run(
        asked(photos, finished, weights=f"file://{tmp_path}/copy/model.safetensors"), "cpu"
    ).resumed


def test_finished_shards_without_a_description_are_refused(photos: Path, tmp_path: Path) -> None:
    run = Run(asked(photos, tmp_path / "run"), "cpu")
    match_here(run)
    (
        tmp_path / "run" / "run.json"
    ).unlink()  # or else the other options' matches would count as this run's
    with pytest.raises(RunError, match=r"no run\.json"):
        Run(asked(photos, tmp_path / "run", matching=MatchingOptions(192)), "cpu")


def test_a_damaged_run_folder_is_explained(photos: Path, tmp_path: Path) -> None:
    run = Run(asked(photos, tmp_path / "run"), "cpu")
    run.begin()
    (tmp_path / "run" / "plan" / "shards.parquet").unlink()
    with pytest.raises(RunError, match=r"cannot be read .*shards\.parquet"):
        Run(asked(photos, tmp_path / "run"), "cpu")
    (tmp_path / "run" / "run.json").write_text('{"images": ')
    with pytest.raises(StorageError, match=r"run\.json: is not JSON"):
        Run(asked(photos, tmp_path / "run"), "cpu")


def test_an_output_inside_the_images_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(photos)
    inside = [
        photos,
        f"{photos}/run",
        f"file://{photos}/a/run",
        f"{photos}/../photos/run",
        tmp_path / "link" / "run",
    ]
    for output in inside:
        with pytest.raises(RunError, match="lies inside the folder of the images"):
            Run(asked(photos, output), "cpu")
    with pytest.raises(RunError, match="lies inside"):
        Run(asked("memory://photos/", "memory://photos/run"), "cpu")
    assert not Run(asked(photos, f"{photos}-run"), "cpu").resumed


def test_fewer_than_two_photographs_are_refused(photos: Path, tmp_path: Path) -> None:
    empty = tmp_path / "photos"
    empty.mkdir()
    (empty / "notes.txt").write_text("no photograph")
    (tmp_path / "pairs.txt").write_text(LIST)
    for pairs in (None, str(tmp_path / "pairs.txt")):
        with pytest.raises(RunError, match="holds 0 photographs, and a pair needs two") as refused:
            Run(asked(empty, tmp_path / "run", pairs=pairs), "cpu")
        assert str(empty) in str(refused.value)
    with pytest.raises(RunError, match=r"; 1 other file left out: no photograph by its ending\.$"):
        Run(asked(empty, tmp_path / "run"), "cpu")
    (empty / "one.jpg").write_bytes((photos / "view 0.jpg").read_bytes())
    with pytest.raises(RunError, match="holds 1 photographs"):
        Run(asked(empty, tmp_path / "run"), "cpu")
    (empty / "trip").symlink_to(photos)
    with pytest.raises(RunError, match="; trip is a link to a folder, which --follow-links foll"):
        Run(asked(empty, tmp_path / "run"), "cpu")
    with pytest.raises(StorageError, match="no such folder"):
        Run(asked(tmp_path / "nowhere", tmp_path / "run"), "cpu")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("pairs.yaml", "- a", r"give a \.txt, \.csv or \.parquet"),
        ("pairs.parquet", "no table", "is not whole Parquet"),
        ("pairs.txt", "", "names no pair of photographs in .* \\(it is empty\\)"),
        (
            "pairs.txt",
            "x.jpg y.jpg\n",
            "names no pair .*line 1 of pairs.txt: there is no image x.jpg",
        ),
    ],
)
def test_a_pair_list_of_no_use_is_refused(
    photos: Path, tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises((RunError, PairListError), match=message) as refused:
        Run(asked(photos, tmp_path / "run", pairs=str(tmp_path / name)), "cpu")
    assert "\n" not in str(refused.value)
    with pytest.raises(PairListError, match=r"absent\.txt: cannot be read"):
        Run(asked(photos, tmp_path / "run", pairs=str(tmp_path / "absent.txt")), "cpu")


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        ({"weights": "large-and-unknown"}, CheckpointError, "no such file, folder or bundled name"),
        ({"weights": "memory://nowhere/x.safetensors"}, RunError, "the weights cannot be read"),
        ({"variant": "half"}, ValueError, "choose full or opt"),
        ({"max_pairs": 0}, ValueError, "at least 2 images and 1 pair"),
        ({"max_images": 1}, ValueError, "at least 2 images and 1 pair"),
        ({"images": "nosuch://bucket/photos"}, StorageError, "nosuch"),
        ({"output": "nosuch://bucket/run"}, StorageError, "nosuch"),
        ({"output": ""}, ArgumentError, "a path is empty"),
        ({"images": ""}, ArgumentError, "a path is empty"),
        ({"pairs": ""}, ArgumentError, "a path is empty"),
        ({"threshold": float("nan")}, ArgumentError, "threshold must be a number"),
    ],
)
def test_whatever_would_stop_the_work_later_is_refused_at_once(
    photos: Path, tmp_path: Path, other: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Run(replace(asked(photos, tmp_path / "run"), **other), "cpu")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"long_side": 31}, "long_side must be at least 32 pixels and at most 8192, not 31"),
        ({"long_side": 1_000_000}, "long_side must be at least 32 pixels and at most 8192"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
    ],
)
def test_sizes_that_nothing_can_be_matched_at_are_refused(
    given: dict[str, int], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        MatchingOptions(**{"long_side": LONG_SIDE, **given})


def test_what_is_wrong_with_a_pair_list_becomes_rows_and_counts(
    photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "pairs.txt").write_text(LIST)
    run = Run(asked(photos, tmp_path / "run", pairs=str(tmp_path / "pairs.txt")), "cpu")
    assert (
        "2 pairs in 1 shard; 2 duplicates dropped; 3 lines of the list cannot be matched"
        in plan_line(run.counts())
    )
    match_here(run)
    failures = pq.read_table(tmp_path / "run" / "failures" / "plan.parquet")
    assert failures.schema.equals(FAILURES, check_metadata=True)
    found = [
        (row["image0"], row["image1"], row["reason"], row["stage"]) for row in failures.to_pylist()
    ]
    assert found[:2] == [
        ("view 2.jpg", "view 2.jpg", "self_pair", "plan"),
        ("view 0.jpg", "absent.jpg", "unknown_image", "plan"),
    ]
    assert found[2][2:] == ("malformed_line", "plan")
    assert "line 7 of pairs.txt" in failures["detail"][2].as_py()
    for _ in range(2):  # the counts are those of the plan, however often it is finished
        summary = run.finish(SESSION)
        assert summary["failed"] == {"malformed_line": 1, "self_pair": 1, "unknown_image": 1}
        assert (summary["duplicate_pairs"], summary["planned_pairs"], summary["pairs"]) == (2, 2, 2)
        assert summary["failed_images"] == {}


def test_credentials_are_written_nowhere(photos: Path, s3: dict[str, Any], tmp_path: Path) -> None:
    source, output = Folder("s3://bucket/photos", s3), Folder("s3://bucket/run", s3)
    for path in photos.iterdir():
        source.publish(path.name, path.read_bytes())
    (tmp_path / "pairs.txt").write_text(LIST)
    source.publish("lists/pairs.txt", (tmp_path / "pairs.txt").read_bytes())
    options = asked(source.url, output.url, pairs="s3://bucket/photos/lists/pairs.txt", storage=s3)
    run = Run(options, "cpu")
    match_here(run)
    run.finish(SESSION)
    written = {name: output.read_bytes(name) for name in output.list()}
    assert {
        "run.json",
        "summary.json",
        "matches/00000000.parquet",
        "done/00000000.json",
    } <= written.keys()
    assert not [name for name, data in written.items() if b"hidden" in data]
    assert "hidden" not in repr(options) + repr(run.description) + plan_line(run.counts())
    other = replace(options, matching=MatchingOptions(192))
    with pytest.raises(RunError) as refused:
        Run(other, "cpu")
    assert "hidden" not in str(refused.value)
    with pytest.raises(StorageError, match="no such folder"):
        Run(replace(options, images="s3://absent/photos"), "cpu")


def test_a_signed_url_of_weights_is_not_shown(photos: Path, tmp_path: Path) -> None:
    signed = "memory://nowhere/x.safetensors?signature=hidden"
    with pytest.raises(RunError, match=r"^memory://nowhere/x\.safetensors: the weights") as refused:
        Run(asked(photos, tmp_path / "run", weights=signed), "cpu")
    assert "hidden" not in str(refused.value)


def test_a_run_that_another_command_began_meanwhile_is_not_overwritten(
    photos: Path, tmp_path: Path
) -> None:
    first, second = (
        Run(asked(photos, tmp_path / "run", max_pairs=pairs), "cpu") for pairs in (2, 3)
    )
    first.begin()
    before = contents(tmp_path / "run")
    with pytest.raises(
        RunError, match="another command has begun here meanwhile; run this one again"
    ):
        second.begin()
    assert contents(tmp_path / "run") == before

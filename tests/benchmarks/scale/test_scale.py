"""The benchmarks of scale: what importing.py writes is a run, and results/scale.md says what
scale_plan.py computes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.scale import (
    importing,
    mapping,
    planning,
    reconstruction_plan,
    report_page,
    scale_plan,
    streaming,
)
from benchmarks.scale.scenes import survey
from pipeline.reconstruct.merging.keypoints import merge_keypoints
from pipeline.store.folder import Folder
from pipeline.tables import IMAGES, MATCHES, unragged


def test_a_made_up_run_is_imported_whole_and_measured(tmp_path: Path) -> None:
    alone, two = importing.measure(200, 40, tmp_path, [0, 2], None)
    assert (alone["processes"], two["processes"]) == (0, 2)
    assert alone["rows"] == two["rows"]
    row = alone
    assert row["cpu_seconds"] > 0
    assert row["rows"]["pairs"] == row["summary"]["verified"] == 200
    assert 0.9 * 200 * 40 < row["rows"]["matches"] <= 200 * 40
    assert row["anonymous_bytes"] > 0
    assert row["disk_bytes"] > row["database_bytes"] / 2
    assert list(tmp_path.iterdir()) == []


def test_the_report_of_a_made_up_run_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_page, "SIZE", (400, 300))
    row = report_page.measure(200, 40, 5, tmp_path)
    assert (row["pairs"], row["images"]) == (200, 54)
    assert row["bytes"] > 5_000_000  # plotly.js alone
    assert min(row["seconds"], row["cpu_seconds"], row["memory_bytes"]) > 0
    assert list(tmp_path.iterdir()) == []


def test_a_made_up_run_has_points_that_recur_and_points_that_do_not(tmp_path: Path) -> None:
    importing.write_run(tmp_path, 5050, 80)
    run = Folder(str(tmp_path))
    tables = [run.read_table(name) for name in run.names("matches")]
    assert all(table.schema.equals(MATCHES) for table in tables)
    assert run.read_table(run.names("images")[0]).schema.equals(IMAGES)
    image = tables[0]["image0"][0].as_py()
    seen = [
        points
        for table in tables
        for side in (0, 1)
        for name, points in zip(
            table[f"image{side}"].to_pylist(), unragged(table[f"keypoints{side}"]), strict=True
        )
        if name == image
    ]
    assert len(seen) == 2 * importing.NEXT
    keypoints = []
    for half in (slice(0, 40), slice(40, 80)):
        xy = np.concatenate([points[half] for points in seen])
        keypoints.append(
            len(merge_keypoints(np.zeros(len(xy)), xy, np.ones(len(xy)), np.array([5.0])).xy)
        )
    assert keypoints[0] < 0.75 * keypoints[1]


def test_a_database_that_lost_a_row_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = importing.count_rows

    def one_less(database: Path) -> dict[str, int]:
        rows = counted(database)
        return rows | {"pairs": rows["pairs"] - 1}

    monkeypatch.setattr(importing, "count_rows", one_less)
    with pytest.raises(SystemExit, match="200 pairs became 199 rows"):
        next(importing.measure(200, 20, tmp_path, [0], None))


def test_rows_that_are_lost_or_doubled_are_counted(tmp_path: Path) -> None:
    planned = pa.table(
        {"image0": ["a", "a", "b"], "image1": ["b", "c", "c"], "score": [None, None, 0.5]}
    )
    run = Folder(str(tmp_path))
    run.publish_table("matches/0.parquet", planned)
    assert streaming.count_rows(planned, tmp_path) == {
        "expected": 3,
        "present": 3,
        "doubled": 0,
        "lost": 0,
    }
    run.publish_table("matches/0.parquet", planned.slice(0, 1))
    run.publish_table("matches/1.parquet", planned.slice(0, 2))
    assert streaming.count_rows(planned, tmp_path) == {
        "expected": 3,
        "present": 3,
        "doubled": 1,
        "lost": 1,
    }


def test_plans_are_checked_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = planning.exhaustive(40)
    row: dict[str, Any] = planning.measure("exhaustive", 40, pairs)
    assert (row["pairs"], row["shards"], row["planned"], row["bound"]) == (780, 1, 1.0, 1.0)
    shards = planning.plan_shards(pairs, planning.MAX_IMAGES, planning.MAX_PAIRS)
    with pytest.raises(AssertionError, match="other pairs"):
        planning.check(np.concatenate([pairs, [[0, 99]]]), shards)
    monkeypatch.setattr(planning, "MAX_IMAGES", 3)
    # 0-1, 0-2 and 1-2 fill a shard; 2-3 needs a fourth image, and so does 4-5 after it.
    assert planning.as_given(np.array([[0, 1], [0, 2], [1, 2], [2, 3], [4, 5]])) == 3 + 2 + 2


def test_retrieval_lists_hold_each_pair_once() -> None:
    pairs = planning.retrieval(300)
    assert len(np.unique(np.sort(pairs, axis=1), axis=0)) == len(pairs) > 300 * planning.TOP_K / 2
    assert (pairs[:, 0] != pairs[:, 1]).all()


def test_every_pair_that_is_streamed_has_one_row(tmp_path: Path) -> None:
    row = streaming.measure(1_100, "local", tmp_path)
    assert (row["expected"], row["present"], row["doubled"], row["lost"]) == (1_100, 1_100, 0, 0)
    assert (row["executor"], row["shards"]) == ("local", 2)
    assert row["driver_bytes_peak"] > row["driver_bytes_before"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [100, 5000, 20_000])
def test_a_list_to_stream_has_the_pairs_that_were_asked_for(tmp_path: Path, count: int) -> None:
    streaming.make_input(tmp_path, count)
    pairs = Folder(str(tmp_path)).read_table("pairs.parquet")
    assert pairs.num_rows == count == pairs.group_by(["image0", "image1"]).aggregate([]).num_rows
    photos = {path.name for path in (tmp_path / "photos").iterdir()}
    assert {*pairs["image0"].to_pylist(), *pairs["image1"].to_pylist()} <= photos


def test_the_document_has_the_tables_that_the_script_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert scale_plan.main([]) == 0
    document = (scale_plan.RESULTS / "scale.md").read_text(encoding="utf-8")
    for line in capsys.readouterr().out.splitlines():
        assert line in document.splitlines(), line


def test_the_document_is_what_the_script_writes() -> None:
    assert scale_plan.document() == scale_plan.DOCUMENT.read_text(encoding="utf-8")


def test_the_document_has_the_imports_that_were_measured() -> None:
    document = (scale_plan.RESULTS / "scale.md").read_text(encoding="utf-8").splitlines()
    for line in importing.table(json.loads(scale_plan.IMPORTING.read_text())["rows"]).splitlines():
        assert line in document, line


def test_the_document_has_the_streams_that_were_measured() -> None:
    document = (scale_plan.RESULTS / "scale.md").read_text(encoding="utf-8").splitlines()
    rows = json.loads((scale_plan.RESULTS / "streaming.json").read_text())["rows"]
    for line in streaming.table(rows).splitlines():
        assert line in document, line
    for row in rows:
        assert (row["present"], row["doubled"], row["lost"]) == (row["expected"], 0, 0)
        assert row["driver_bytes_peak"] < 2e9


def test_the_plan_follows_from_its_unit_costs() -> None:
    units = scale_plan.all_units()
    before = {what: result for what, _, result in scale_plan.plan(units, scale_plan.ASSUMED)}
    half: dict[str, Any] = scale_plan.ASSUMED | {"effective TFLOP/s of a GPU": 20.0}
    after = {what: result for what, _, result in scale_plan.plan(units, half)}
    assert {what for what in before if before[what] != after[what]} == {
        *("**GPU hours**", "days on 100 GPUs", "CPU cores beside a GPU"),
    }
    hours = [
        float(found["**GPU hours**"].removesuffix(" h").replace(",", ""))
        for found in (before, after)
    ]
    assert hours[1] == pytest.approx(2 * hours[0], rel=0.01)


@pytest.mark.parametrize(
    ("value", "text"),
    [(2e9, "2,000,000,000"), (12345, "12,300"), (999.6, "1,000"), (0.12345, "0.123")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert scale_plan.number(value) == text


def made_row(images: int) -> dict[str, Any]:
    """A row of mapping.json whose costs follow laws."""
    colmap = {
        "joins": images / 100,
        "adjustment": (images / 100) ** 1.5,
        "report": 1 + images / 100,
    }
    cpu = {stage: {"driver": 0.0, "colmap": value} for stage, value in colmap.items()}
    cpu["blocks"] = {"driver": 0.1 + images / 1e4, "colmap": 0.0, "workers": images / 10}
    memory = {stage: {"driver": 300, "colmap": 300 + images / 10} for stage in colmap}
    memory["blocks"] = {"driver": 300 + images / 100, "colmap": 300, "workers": 200}
    counts = {"registered": images, "observations": 2_000 * images}
    return {"images": images, "blocks": "200", "cpu": cpu, "memory": memory, **counts}


REFINING = {"rows": [{"measuring": 10.0, "adjusting": 5.0, "observations": 34_000, "peak_mb": 500}]}


def planned(images: int, sizes: list[int], **assumed: float) -> dict[str, Any]:
    """The stages of a plan by their names."""
    rows = [made_row(size) for size in sizes]
    made = reconstruction_plan.stages(
        images,
        scale_plan.all_units(),
        {"rows": [*rows, {"images": 9, "blocks": "off"}]},
        REFINING,
        reconstruction_plan.ASSUMED | assumed,
    )
    return {stage.name: stage for stage in made}


def test_stages_of_a_reconstruction_follow_the_laws_of_what_was_measured() -> None:
    made = planned(100_000, [1_000, 4_000, 10_000])
    assert made["merging, final adjustment"].hours * 3600 == pytest.approx(1000**1.5)
    assert made["merging, final adjustment"].gigabytes == pytest.approx(10.3)
    assert made["joining"].hours * 3600 == pytest.approx(1000)
    assert made["publishing, report"].hours * 3600 == pytest.approx(1001)
    assert made["blocks"].hours * 3600 == pytest.approx(10_000 / 64)
    assert made["refinement, measuring"].hours * 3600 == pytest.approx(20 * 10_000 / 64)
    assert made["refinement, adjusting"].hours * 3600 == pytest.approx(5 * 10_000)


def test_the_driver_limits_blocks_where_there_are_many_machines() -> None:
    few, many = (
        planned(100_000, [1_000, 10_000], **{"CPU machines": count}) for count in (8, 8_000)
    )
    assert few["blocks"].limit == "cores"
    assert "the driver" in many["blocks"].limit
    assert many["blocks"].hours == few["cutting into blocks"].hours


def test_every_measured_size_is_predicted_from_the_others() -> None:
    rows = [made_row(size) for size in (1_000, 4_000, 10_000)]
    found = reconstruction_plan.checks({"rows": rows})
    assert {size for size, *_ in found} == {1_000, 4_000, 10_000}
    assert all(predicted == pytest.approx(measured) for _, _, measured, predicted in found)
    rows[-1]["cpu"]["blocks"]["workers"] *= 2
    wrong = {
        (size, name): predicted / measured
        for size, name, measured, predicted in reconstruction_plan.checks({"rows": rows})
        if predicted != pytest.approx(measured)
    }
    assert {name for _, name in wrong} == {"blocks, CPU s"}
    assert wrong[10_000, "blocks, CPU s"] == pytest.approx(0.5)
    assert reconstruction_plan.checks({"rows": rows[:1]}) == []


def test_what_mapping_a_survey_takes_is_measured_by_stage_and_planned_with(tmp_path: Path) -> None:
    scene = survey(6).write(tmp_path / "database.db")
    found = mapping.measured(scene, tmp_path, "15", "auto", 1)
    stages = {"import", "blocks", "joins", "adjustment", "report"}
    assert found["stages"].keys() == found["cpu"].keys() == found["memory"].keys() == stages
    assert found["cpu"]["blocks"]["workers"] > 0 == found["cpu"]["joins"]["workers"]
    assert found["cpu"]["adjustment"]["colmap"] > 0
    assert 50 < found["memory"]["blocks"]["workers"] <= found["megabytes"]
    row = {"images": len(scene), "blocks": "15", **found}
    (tmp_path / "mapping.json").write_text(json.dumps({"rows": [row]}))
    text = scale_plan.document(tmp_path / "mapping.json")
    for images in ("10,000", "100,000", "1,000,000"):
        assert f"**{images} images**, a head of " in text

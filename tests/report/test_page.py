"""The report page in a real browser: what it shows, that it is safe, and that it is legible."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import texture, write_places
from PIL import Image
from quiet_run import match_plainly
from synthetic_run import Scene, matches_table, write_shard

import pipeline
from pipeline import tables
from pipeline.errors import ArgumentError, RunError
from pipeline.match.options import MatchingOptions, RunOptions, VerificationOptions
from pipeline.match.shards import Shard, shards_table
from pipeline.photos.panoramas.source import FaceFolder
from pipeline.photos.panoramas.sphere import Panorama
from pipeline.report.page import pairs
from pipeline.report.page.models import registered_table
from pipeline.report.page.overview import asked_of
from pipeline.report.page.page import embedded_json, page_of
from pipeline.report.page.pairs import compared_pairs, pair_rows
from pipeline.report.page.tables import report_tables
from pipeline.report.page.thumbnails import read_pictures
from pipeline.rerank.job import rerank_with
from pipeline.rerank.options import RerankOptions
from pipeline.store.folder import Folder
from pipeline.store.lease import Lease

WAIT = 60  # seconds; the machine may be busy
ALL_DRAWN = (
    "[...document.querySelectorAll('[data-plot]')]"
    ".every(p => p.dataset.drawn || p.classList.contains('empty'))"
    " && Boolean(document.querySelector('#viewer svg'))"
)
EVIL = "<img src=x onerror=alert(1)>.jpg"
BREAKING = "</script><script>alert(2)</script>\u2028.jpg"


class Evil(Scene):
    """A scene in which two photographs have names that try to become markup."""

    def name(self, camera: int) -> str:
        return {0: EVIL, 1: BREAKING}.get(camera, f"view {camera:02}.jpg")


def write_run(run: Path, done: int = 3, noise: float = 0.6, photographs: bool = True) -> None:
    """A run of three shards of a synthetic scene, of which some are done, with its photographs."""
    scene = Evil(cameras=7, noise=noise, matches=120)
    scene.write(run, shards=3)
    names = [scene.name(k) for k in range(7)]
    described = {
        "images": str(run.parent / "photographs"),
        "options": {"long_side": 480},
        "versions": {"python": "3.11"},
    }
    (run / "run.json").write_text(json.dumps(described))
    folder = Folder(str(run))
    images = np.arange(8, dtype=np.int32)
    pairs = np.array([(a, b) for a in range(8) for b in range(a + 1, 8)], np.int32)
    shards = [Shard(images, pairs[k::3]) for k in range(3)]
    planned = shards_table([*names, "cut.jpg"], shards)
    folder.publish_table("plan/shards.parquet", planned)
    # A photograph is cut off, and one pair found nothing that verification believes.
    rng = np.random.default_rng(0)
    points, scores = rng.uniform(0, 500, (2, 30, 2)), rng.uniform(0.2, 1, 30)
    loose = matches_table([(names[2], "lonely.jpg", points, scores)]).to_pylist()[0]
    loose |= {"geometry": "degenerate", "num_inliers": 0, "inliers": [False] * 30}
    empty = {name: [] for name in ("keypoints0", "keypoints1", "scores", "inliers")}
    bad = dict.fromkeys(tables.MATCHES.names) | empty | {"image0": names[2], "image1": "cut.jpg"}
    bad |= {"status": "failed", "reason": "truncated", "geometry": "none", "num_inliers": 0}
    rows = [loose, bad]
    lonely = {"image": "lonely.jpg", "width": 720, "height": 540, "stored_width": 720}
    read = pa.Table.from_pylist([lonely | {"stored_height": 540, "orientation": 1}], tables.IMAGES)
    write_shard(run, "x", pa.Table.from_pylist(rows, tables.MATCHES), read)
    failure = {"image0": "cut.jpg", "stage": "read", "reason": "truncated", "detail": f"of {EVIL}"}
    folder.publish_table("failures/x.parquet", pa.Table.from_pylist([failure], tables.FAILURES))
    for number, name in enumerate(planned["shard"].to_pylist()):
        for kind in ("matches", "images"):
            (run / kind / f"{number:05}.parquet").rename(run / kind / f"{name}.parquet")
    shown = [*planned["shard"].to_pylist()[:done], *(["x"] if done == 3 else [])]
    for shard in {*planned["shard"].to_pylist(), "x"} - {*shown}:
        for kind in ("matches", "images", "failures"):
            (run / kind / f"{shard}.parquet").unlink(missing_ok=True)
    for shard in shown:
        rows = pq.read_table(run / "matches" / f"{shard}.parquet")
        seconds = {"match": 2.5, "read": 0.5}
        folder.mark_done(
            shard, {"counts": {"pairs": rows.num_rows}, "failed": {}, "seconds": seconds}
        )
    if done == 3:
        session = {"pairs": 23, "seconds": 9.0, "pairs_per_second": 2.5}
        folder.publish_json("summary.json", {"images": 9, "session": session})
    if photographs:
        picture = texture(72, 54, 0).convert("RGB")
        for name in [*names, "lonely.jpg"]:
            path = run.parent / "photographs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs: whole, another one, stopped in half, without photographs; a reranking."""
    place = tmp_path_factory.mktemp("runs")
    write_run(place / "whole")
    write_run(place / "other", noise=1.5)
    for name in ("whole", "other"):
        pipeline.reconstruct(str(place / name), refine="none", executor="local")
    write_run(place / "half", done=1)
    (place / "away").mkdir()
    write_run(place / "away" / "gone", photographs=False)
    write_places(place / "places", (160, 120))
    images = {
        name: str(place / "places" / folder)
        for name, folder in (("query", "queries"), ("database", "database"))
    }
    asked = RunOptions(
        images,
        str(place / "reranked"),
        matching=MatchingOptions(160),
        verification=VerificationOptions(long_side=160),
    )
    lists = str(place / "places" / "candidates.trec"), str(place / "places" / "truth.json")
    assert rerank_with(RerankOptions(asked, *lists), match_plainly)
    return place


class Opened:
    """A page from disk, and everything that went wrong in it."""

    def __init__(self, browser: Any, path: Path, **how: Any) -> None:
        self.context = browser.new_context(offline=True, **how)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.faults.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]")
        # What is out of sight is drawn when the browser is idle.
        self.until(ALL_DRAWN)

    def until(self, met: str) -> None:
        """Wait until an expression is true; Playwright's own way needs `eval` in the page."""
        deadline = time.monotonic() + WAIT
        while not self.page.evaluate(met):
            assert time.monotonic() < deadline, met
            self.page.wait_for_timeout(50)

    def _heard(self, message: Any) -> None:
        if message.type != "warning":  # Chromium warns that WebGL without a GPU is slow
            self.faults.append(message.text)

    def data(self) -> Any:
        return json.loads(self.page.text_content("#data"))

    def texts(self, selector: str) -> list[str]:
        return [one.inner_text() for one in self.page.query_selector_all(selector)]

    def check(self) -> None:
        """Nothing was logged, and nothing but the file and pictures in it was asked for."""
        assert self.faults == []
        assert [url for url in self.asked if not url.startswith(("data:", "blob:"))] == self.asked[
            :1
        ]
        assert self.asked[0].startswith("file:")


@pytest.fixture(scope="module")
def whole(runs: Path, browser: Any) -> Iterator[Opened]:
    summary = pipeline.report(runs / "whole")
    assert summary["output"] == str(runs / "whole" / "report.html")
    opened = Opened(browser, runs / "whole" / "report.html")
    yield opened
    opened.context.close()


def test_every_section_is_shown_without_a_fault_or_a_request(whole: Opened) -> None:
    whole.check()
    assert whole.texts("h2") == ["The run", "Model", "Graph", "Pairs", "Details"]
    tiles = dict(
        zip(whole.texts(".tiles dt"), whole.texts(".tiles dd:nth-of-type(1)"), strict=True)
    )
    counts = whole.data()["counts"]
    assert (tiles["Images"], tiles["Pairs"], tiles["Unusable"]) == ("9", "23", "1")
    assert tiles["Verified"] == str(counts["verified"])
    assert counts["verified"] + counts["unverified"] + counts["failed"] == 23
    assert "truncated" in whole.page.inner_text("#details")
    assert whole.page.locator("#viewer svg line").count() > 20
    assert whole.page.locator("#viewer svg image").count() == 2
    whole.until("Boolean(document.querySelector('#model-view canvas'))")
    assert whole.page.evaluate("scrollY") == 0


def test_a_printed_page_holds_a_picture_of_the_view_in_3d(whole: Opened) -> None:
    painted = """dispatchEvent(new Event('beforeprint')) && (still => new Set(new Uint32Array(
        still.getContext('2d').getImageData(0, 0, still.width, still.height).data.buffer
    )).size)(document.querySelector('#model-view .es-still'))"""
    assert whole.page.evaluate(painted) > 2  # its ground, points and cameras


def test_images_outside_the_model_are_listed_with_the_reason(whole: Opened) -> None:
    section = whole.page.inner_text("#model")
    assert section.startswith("Model\n\n7 of 9 images are registered. The others:")
    unusable = "unusable, truncated: the file starts as an image but its pixels cannot all"
    assert whole.texts("#model details li") == ["cut.jpg", "lonely.jpg"]
    assert unusable in section
    assert "1 in no verified pair" in section
    assert "not registered: 1 image: lonely.jpg" in whole.page.inner_text("#details .told")
    # A photograph that cannot be used is not counted among those that found no pair.
    warnings = whole.texts(".warnings strong")
    assert warnings[:2] == ["1 image cannot be used.", "1 image is in no verified pair."]
    assert "of the last matching command" in whole.page.inner_text(".tiles")


def test_reasons_of_images_outside_the_models() -> None:
    images = {
        "name": ["a", "b", "c", "d", "e", "f"],
        "part": [0, 0, 0, 1, 1, 2],
        "verified": [2, 2, 2, 1, 1, 0],
        "unusable": [None, None, None, None, None, "empty"],
    }
    found = registered_table(images, {"listed_images": 7}, {"a", "b"})
    assert (found["images"], found["of"]) == (2, 7)
    assert [(one["why"], one["names"]) for one in found["missing"]] == [
        ("have verified pairs, but were not placed", ["c (2 verified pairs)"]),
        (
            "in a part of 2 images that no verified pair connects with a model",
            ["d (1 verified pair)", "e (1 verified pair)"],
        ),
        ("unusable, empty: the file has no bytes", ["f"]),
    ]


def test_a_name_that_is_markup_is_shown_as_text(whole: Opened) -> None:
    assert EVIL in whole.page.inner_text("#pairs")
    assert f"of {EVIL}" in whole.page.inner_text("#details")
    assert BREAKING in whole.data()["images"]["name"]
    assert whole.page.locator("img[src='x']").count() == 0
    assert whole.page.locator("script").count() == 1 + 10  # data, plotly and our own
    assert "dialog" not in whole.faults


def test_the_policy_of_the_page_refuses_what_is_not_in_it(whole: Opened) -> None:
    policy = whole.page.get_attribute("meta[http-equiv]", "content")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    ran = whole.page.evaluate(
        """() => { const script = document.createElement("script");
        script.textContent = "window.broken = true"; document.body.append(script);
        script.remove(); return window.broken === true; }"""
    )
    assert not ran
    assert whole.page.evaluate("fetch('data:,x').then(() => 'sent', () => 'refused')") == "refused"
    assert len(whole.faults) >= 2  # the browser says what it refused
    whole.faults.clear()


def test_pairs_are_sorted_filtered_and_opened(whole: Opened) -> None:
    page, rows = whole.page, "#pair-table tbody tr"

    def column(number: int) -> list[float]:
        return [float(t.rstrip("%° ")) for t in whole.texts(f"{rows} td:nth-child({number})")]

    assert column(4) == sorted(column(4), reverse=True)
    page.click("#pair-table th:nth-child(3) button")
    assert column(3) == sorted(column(3), reverse=True)
    page.click("#pair-table th:nth-child(3) button")
    assert column(3) == sorted(column(3))
    assert page.get_attribute("#pair-table th:nth-child(3)", "aria-sort") == "ascending"
    page.fill("input[name=search]", "onerror")
    assert all(EVIL in text for text in whole.texts(rows))
    assert page.inner_text("#pair-count").startswith("6 of 23")
    page.click("#pair-filters button")
    whole.until("document.getElementById('pair-count').textContent.startsWith('23')")
    page.select_option("select[name=kind]", label="failed")
    assert whole.texts(f"{rows} td:nth-child(2)") == ["failed\ntruncated"]
    page.click(f"{rows} button")
    cut_off = "truncated (the file starts as an image but its pixels cannot all be decoded)"
    assert page.get_attribute(f"{rows} td:nth-child(2)", "title") == cut_off
    assert f"reason: {cut_off}" in page.inner_text("#viewer")
    page.click("#pair-filters button")
    page.click("[data-group=best]")
    assert page.inner_text("#pair-count") == (
        "12 of 21 verified pairs, those with most inliers, drawn with photographs; "
        "choose status verified for all"
    )
    page.select_option("select[name=kind]", label="verified")
    assert page.inner_text("#pair-count") == "21 of 23 pairs"
    page.click("[data-group=unverified]")
    assert "reason: degenerate (too few matches agree)" in page.inner_text("#viewer")
    assert "lonely.jpg" in page.inner_text("#viewer h3")
    lines = page.locator("#viewer line").count()
    assert lines == 30
    page.locator("#viewer input[type=range]").fill("0.8")
    assert 0 < page.locator("#viewer line").count() < lines
    page.locator("#viewer input[type=range]").fill("0")
    before = page.get_attribute("#viewer svg", "viewBox")
    page.click("[aria-label='Zoom in']")
    assert page.get_attribute("#viewer svg", "viewBox") != before
    page.click("[data-group=all]")
    page.focus(f"{rows} button")
    page.keyboard.press("ArrowDown")
    assert page.get_attribute(f"{rows}:nth-child(2)", "aria-selected") == "true"


def test_the_matrix_is_read_and_opened_by_keys(whole: Opened) -> None:
    page = whole.page
    page.select_option("#matrix-order", "name")
    page.focus("#matrix")
    names = whole.data()["images"]["name"]
    for _ in range(names.index(EVIL)):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert EVIL in page.inner_text("#matrix-said")
    page.focus("#matrix")
    page.keyboard.press("Enter")


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_no_serious_fault_of_accessibility_is_found(
    runs: Path, browser: Any, whole: Opened, mode: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    # axe is a script of its own, which the policy of the page would refuse.
    how = {"color_scheme": mode, "bypass_csp": True, "viewport": {"width": 360, "height": 740}}
    opened = Opened(browser, runs / "whole" / "report.html", **how)
    found = axe.Axe().run(opened.page).response["violations"]
    grave = [
        (one["id"], [node["html"][:120] for node in one["nodes"]][:3])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    width = opened.page.evaluate("document.documentElement.scrollWidth")
    inner = opened.page.evaluate(
        "['.bar nav', '#pairs .scroll'].map(place => document.querySelector(place))"
        ".map(place => place.scrollWidth - place.clientWidth)"
    )
    opened.context.close()
    assert grave == []
    assert width == 360
    assert inner == [0, 0]  # the menu and the columns of the list are whole


def test_two_runs_are_compared_pair_by_pair(runs: Path, browser: Any) -> None:
    output = runs / "both.html"
    pipeline.report(runs / "whole", runs / "other", output)
    opened = Opened(browser, output)
    found = opened.data()["comparison"]
    rows = opened.texts("#comparison-rows tbody tr")
    opened.page.locator("#model-comparison").scroll_into_view_if_needed()
    opened.page.wait_for_selector("#model-comparison .plot, #model-comparison table")
    opened.check()
    opened.context.close()
    first, second = (pair_rows([Folder(str(runs / name))]) for name in ("whole", "other"))
    assert found["common"] == 23
    assert found["inliers"] == [int(first.inliers.sum()), int(second.inliers.sum())]
    assert found["inliers"][1] < found["inliers"][0]  # its keypoints are less exact
    assert len(rows) == 15
    same = compared_pairs(first, first)
    assert (same["common"], same["more"], same["rows"]) == (23, 0, [])
    differences = [abs(row["inliers"][1] - row["inliers"][0]) for row in found["rows"]]
    assert differences == sorted(differences, reverse=True)
    assert all(differences)


def test_a_reranking_shows_what_moved_and_the_measures(runs: Path, browser: Any) -> None:
    pipeline.report(runs / "reranked")
    opened = Opened(browser, runs / "reranked" / "report.html")
    page, found = opened.page, opened.data()["ranking"]
    assert "Reranking" in opened.texts("h2")
    assert page.locator(".query").count() == 3
    assert page.locator(".query img").count() > 10
    assert page.locator(".place.true").count() >= 3
    evaluation = json.loads((runs / "reranked" / "evaluation.json").read_text())
    assert found["measures"] == evaluation["measures"]
    page.fill("#ranking-search", "1.jpg")
    assert "of 3 queries" in page.inner_text("#ranking-count")
    opened.check()
    opened.context.close()


def test_json_has_the_numbers_of_the_page(runs: Path, whole: Opened) -> None:
    pipeline.report(runs / "whole", format="json")
    found = json.loads((runs / "whole" / "report.json").read_text())
    shown = whole.data()
    same = found.keys() - {"made", "notes"}
    assert {"counts", "pairs", "failures", "histograms", "graph", "time", "warnings"} <= same
    for name in same - {"images"}:
        assert found[name] == shown[name], name
    assert found["images"].items() <= shown["images"].items()  # and when they were taken


def test_a_run_that_was_stopped_or_still_goes_on_says_so(runs: Path, browser: Any) -> None:
    run = runs / "half"
    assert pipeline.report(run)["state"] == "stopped"
    with Lease(Folder(str(run))):
        assert pipeline.report(run, output=runs / "going.html")["state"] == "going"
    for path, state in ((run / "report.html", "stopped"), (runs / "going.html", "going")):
        opened = Opened(browser, path)
        assert opened.texts(".state") == [state]
        assert "1 of 3 shards are done" in opened.page.inner_text(".warnings")
        for of_whole_runs in ("verified pair connects", "in no verified pair"):
            assert of_whole_runs not in opened.page.inner_text(".warnings")
        opened.check()
        opened.context.close()


def test_photographs_that_are_gone_are_told(runs: Path, browser: Any) -> None:
    summary = pipeline.report(runs / "away" / "gone")
    (note,) = summary["notes"]
    assert note.startswith("8 of 8 photographs could not be read from ")
    opened = Opened(browser, runs / "away" / "gone" / "report.html")
    assert "no picture" in opened.page.inner_text("#graph")
    opened.check()
    opened.page.reload()
    opened.page.wait_for_selector("html[data-ready]")
    assert opened.page.evaluate(f"dispatchEvent(new Event('beforeprint')) && {ALL_DRAWN}")
    opened.context.close()


def test_a_run_and_photographs_at_urls_are_reported(runs: Path, s3: dict[str, str]) -> None:
    run, photographs = (Folder(f"s3://bucket/{name}", s3) for name in ("run", "photographs"))
    for path in sorted((runs / "whole").rglob("*")):
        if path.is_file() and path.suffix != ".html":
            run.publish(path.relative_to(runs / "whole").as_posix(), path.read_bytes())
    for path in sorted((runs / "photographs").glob("view*")):
        photographs.publish(path.name, path.read_bytes())
    images = "s3://bucket/photographs"
    summary = pipeline.report("s3://bucket/run", images=images, storage=s3)
    assert summary["output"] == "s3://bucket/run/report.html"
    assert summary["notes"][0].startswith("The photographs are at a URL, so only those of")
    page = run.read_bytes("report.html").decode()
    assert "hidden-password" not in page
    assert page.count("/9j/") >= 5  # JPEG in base64


def test_photographs_and_faces_of_panoramas_become_small_pictures(tmp_path: Path) -> None:
    texture(400, 200, 0).save(tmp_path / "pano.jpg")
    turned = Image.Exif()
    turned[0x0112], turned[0x0132] = 6, "2024:05:01 12:30:00"
    turned.get_ifd(0x8769)[0x9003] = "2024:05:01 12:30:00"
    texture(600, 300, 1).convert("RGB").save(tmp_path / "turned.jpg", exif=turned)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "turned.jpg").read_bytes()[:700])
    faces = {face.name: face for face in Panorama("pano.jpg", 400, 200, 400, 200).faces()}
    names = ["turned.jpg", "pano.jpg/yaw120_pitch00.png", "cut.jpg"]
    folder = FaceFolder(Folder(str(tmp_path)), faces)
    found = read_pictures(folder, names[:2], names)
    sizes = [
        [Image.open(io.BytesIO(base64.b64decode(of[name]))).size for name in names[:2]]
        for of in (found.large, found.small)
    ]
    assert sizes == [[(240, 480), (416, 416)], [(64, 128), (128, 128)]]
    assert found.taken == {"turned.jpg": "2024-05-01 12:30:00"}
    assert found.missing == ["cut.jpg"]


def test_what_is_no_run_is_refused_by_a_sentence(tmp_path: Path, runs: Path) -> None:
    with pytest.raises(RunError, match=r"holds no run.json; give the output folder"):
        pipeline.report(tmp_path)
    with pytest.raises(ArgumentError, match="format 'pdf'"):
        pipeline.report(runs / "whole", format="pdf")


def test_nothing_in_the_data_can_end_their_element() -> None:
    text = embedded_json({"name": BREAKING + "<!--&"})
    assert not {"<", ">", "&", "\u2028"} & {*text}
    assert json.loads(text)["name"] == BREAKING + "<!--&"


def test_many_pairs_are_sampled_and_said(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {"best": 2, "worst": 2, "random": 2, "unverified": 1}
    monkeypatch.setattr(pairs, "MOST_PAIRS", 22)
    monkeypatch.setattr(pairs, "GROUPS", groups)
    found = report_tables(Folder(str(runs / "whole"))).tables
    assert (found["pairs"]["total"], len(found["pairs"]["first"])) == (23, 22)
    assert any(note.startswith("22 of 23 pairs are listed") for note in found["notes"])
    assert found["counts"]["pairs"] == 23
    assert sum(found["histograms"]["matches"]["counts"]) == 22


def test_the_page_is_made_of_its_tables_alone(runs: Path) -> None:
    page = page_of(report_tables(Folder(str(runs / "whole")), pictured=False)).decode()
    assert "<script>alert(2)" not in page
    assert page.count("</script>") == 10


def test_what_was_asked_reads_as_text() -> None:
    asked = {"runs": ["a", "b"], "refine": {"rounds": 2}, "versions": {"torch": "2"}}
    assert asked_of(asked) == [["runs", "a, b"], ["refine.rounds", "2"]]

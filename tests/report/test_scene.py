"""The models of a report page: their data, and what a browser shows of them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.photos.cameras.stored import maps_to_stored
from pipeline.reconstruct.tracks.scene import ModelCamera, ModelViews, SparseModel
from pipeline.report.page import scene as room
from pipeline.report.page.scene import compared_data, scene_data
from tests.rendered import Rendered, render

ASSETS = Path(room.__file__).parents[1] / "assets"
EVIL = "<img src=x onerror=alert(1)>.png"
KINDS = {"f4": "<f4", "u1": "u1", "u2": "<u2", "i2": "<i2", "i4": "<i4"}


def unpacked(array: dict[str, Any]) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(array["base64"]), KINDS[array["type"]])
    return values.reshape(array["shape"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """Photographs and a scene in which one image has a name that would be a tag."""
    found = render(tmp_path_factory.mktemp("scene") / "images", count=5, points=150)
    views = found.scene.views
    (found.images / views.names[2]).rename(found.images / EVIL)
    names = [EVIL if row == 2 else name for row, name in enumerate(views.names)]
    colour = np.random.default_rng(1).integers(0, 256, (150, 3)).astype(np.uint8)
    scene = replace(found.scene, views=replace(views, names=names), colour=colour)
    return Rendered(found.images, scene)


@pytest.fixture(scope="module")
def folders(made: Rendered, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The model, and the same moved, turned and twice as large, with one image out of place."""
    pycolmap = pytest.importorskip("pycolmap")
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    made.scene.made().write_binary(first)
    views = made.scene.views
    shift = views.shift.copy()
    shift[3] += [0.2, 0, 0]
    moved = replace(made.scene, views=replace(views, shift=shift)).made()
    turn = pycolmap.Rotation3d(np.array([0.0, np.sin(0.3), 0.0, np.cos(0.3)]))
    moved.transform(pycolmap.Sim3d(2.0, turn, np.array([1.0, 2.0, 3.0])))
    moved.write_binary(second)
    return first, second


# ---------- the data ----------


def test_the_view_has_the_points_and_cameras_of_the_model(made: Rendered) -> None:
    scene = made.scene
    (model,) = scene_data({"one": scene})["models"]
    rotation, centre = (np.array(model["axes"][key]) for key in ("rotation", "centre"))
    xyz = unpacked(model["shown"]["xyz"])
    np.testing.assert_allclose(xyz @ rotation + centre, scene.xyz, atol=1e-4)
    places = unpacked(model["views"]["centre"]) @ rotation + centre
    np.testing.assert_allclose(places, scene.views.centres(), atol=1e-4)
    # Up are the cameras' own up directions, and they look ahead.
    looks = np.einsum("ij,vj->vi", rotation, scene.views.rotation[:, 2])
    assert (looks[:, 1] > 0.85).all()
    assert (-scene.views.rotation[:, 1] @ rotation[2] > 0.95).all()
    assert (unpacked(model["shown"]["colour"]) == scene.colour).all()
    lengths = np.bincount(scene.point)
    assert (unpacked(model["shown"]["length"]) == lengths).all()
    assert model["tracks"] == np.bincount(lengths).tolist()


def test_residuals_are_those_of_the_model(made: Rendered) -> None:
    scene = made.scene
    (model,) = scene_data([scene])["models"]
    error = scene.errors()
    for row in range(len(scene.views)):
        mine = error[scene.view == row]
        assert model["views"]["residual"][row] == pytest.approx(np.median(mine), rel=1e-2)
        assert model["views"]["points"][row] == len(mine)
    drawn = np.linalg.norm(unpacked(model["seen"]["residual"]) / model["seen"]["steps"], axis=1)
    assert drawn.mean() == pytest.approx(error.mean(), rel=1e-2)
    assert model["error"] == pytest.approx(scene.made().compute_mean_reprojection_error(), abs=5e-4)


def test_a_residual_leads_from_where_a_point_is_seen_to_where_it_should_be(made: Rendered) -> None:
    scene = made.scene
    off = np.zeros_like(scene.xy)
    off[0] = [3.0, -2.0]
    exact = room.data.residuals(scene)
    (model,) = scene_data([replace(scene, xy=scene.xy + exact - off)])["models"]
    found = unpacked(model["seen"]["residual"]) / model["seen"]["steps"]
    assert sorted(found.tolist())[-1] == pytest.approx([3.0, -2.0], abs=0.02)
    assert np.count_nonzero(np.abs(found).max(axis=1) > 0.02) == 1


def test_more_points_than_a_page_holds_are_sampled_the_same_at_every_call(made: Rendered) -> None:
    few, again = (scene_data([made.scene], most_points=40) for _ in range(2))
    assert few == again
    assert unpacked(few["models"][0]["shown"]["xyz"]).shape == (40, 3)
    assert few["models"][0]["points"] == 150


@pytest.mark.parametrize(
    ("orientation", "ending"), [*((turn, "jpg") for turn in range(1, 9)), (6, "tif"), (8, "png")]
)
def test_points_lie_on_upright_thumbnails_where_they_were_seen(
    orientation: int, ending: str, tmp_path: Path
) -> None:
    # A dot in the stored image, which is 160 × 120 pixels, and the model's point on it.
    stored = np.zeros((120, 160, 3), np.uint8)
    stored[26:34, 116:124] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / f"a.{ending}", exif=exif, quality=95)
    camera = ModelCamera("SIMPLE_PINHOLE", 160, 120, (150.0, 80.0, 60.0))
    eye = np.eye(3)[None].repeat(2, axis=0)
    shift = np.array([[0.0, 0, 0], [-1.0, 0, 0]])
    views = ModelViews(
        [f"a.{ending}", "b.jpg"], *np.array([[1, 2], [1, 1]]), eye, shift, {1: camera}
    )
    xyz = np.array([[40 / 150 * 5, -30 / 150 * 5, 5.0]])
    xy = np.array([[120.0, 30.0], [120.0 - 30, 30.0]]) - [[4.0, 0.0], [0.0, 0.0]]
    scene = SparseModel(views, xyz, np.zeros((1, 3), np.uint8), *np.array([[0, 0], [0, 1]]), xy)
    data = scene_data([scene], tmp_path)
    (model,) = data["models"]
    data_uri = data["photographs"][f"a.{ending}"]
    upright = np.asarray(Image.open(io.BytesIO(base64.b64decode(data_uri.partition(",")[2]))))
    width, height = model["views"]["size"][0]
    assert upright.shape[:2] == (height, width)
    # From four pixels beside the dot, the residual leads to its middle.
    seen = unpacked(model["seen"]["xy"])[0] / 65535 * [width, height]
    found = seen + unpacked(model["seen"]["residual"])[0] / 100
    rows, columns = np.nonzero(upright.mean(axis=2) > 128)
    assert found == pytest.approx([columns.mean() + 0.5, rows.mean() + 0.5], abs=0.3)
    corner = unpacked(model["views"]["corners"])[0, 0] @ np.array(model["axes"]["rotation"])
    top_left = maps_to_stored(*np.array([[width], [height], [orientation]]))[0] @ [-0.5, -0.5, 1]
    assert corner[:2] * 150 + [80, 60] == pytest.approx(top_left[:2], abs=0.01)
    assert "b.jpg: missing" in data["notes"][0]


def test_photographs_keep_to_their_bytes_and_the_page_says_what_is_left_out(made: Rendered) -> None:
    whole = scene_data([made.scene], made.images)
    assert len(whole["photographs"]) == 5
    assert whole["notes"] == []
    sizes = [len(uri) * 3 // 4 for uri in whole["photographs"].values()]
    small = scene_data([made.scene], made.images, photograph_bytes=sum(sizes) // 2)
    assert len(small["photographs"]) == 5  # smaller ones
    assert sum(len(uri) * 3 // 4 for uri in small["photographs"].values()) < sum(sizes) // 2
    few = scene_data([made.scene], made.images, photograph_bytes=3000)
    assert 0 < len(few["photographs"]) < 5
    assert re.fullmatch(r"[1-4] of 5 photographs are left out.*without them\.", few["notes"][0])


def test_blocks_have_colours_and_points_are_of_the_block_that_sees_them_first(
    made: Rendered,
) -> None:
    blocks = {number: int(number > 3) for number in made.scene.views.numbers.tolist()[:4]}
    (model,) = scene_data([made.scene], blocks=blocks)["models"]
    assert model["views"]["block"] == [0, 0, 0, 1, -1]
    assert len({*model["blocks"].values()}) == 3
    first = [made.scene.view[made.scene.point == row].min() for row in range(150)]
    assert unpacked(model["shown"]["block"]).tolist() == [[0, 0, 0, 1, -1][row] for row in first]


def test_parameters_of_cameras_are_summed_up_by_their_model(made: Rendered) -> None:
    views = made.scene.views
    focal = [300.0, 310.0, 305.0, 295.0, 300.0]
    cameras = {
        row + 1: replace(views.cameras[1], params=(f, 160.0, 120.0, 0.0))
        for row, f in enumerate(focal)
    }
    scene = replace(made.scene, views=replace(views, camera=np.arange(1, 6), cameras=cameras))
    ((group,),) = [model["cameras"] for model in scene_data([scene])["models"]]
    assert (group["model"], group["names"][0], group["number"]) == (
        "SIMPLE_RADIAL",
        "f",
        [1, 2, 3, 4, 5],
    )
    assert (group["least"][0], group["median"][0], group["largest"][0]) == (295.0, 300.0, 310.0)
    assert group["deviation"][0] == pytest.approx(np.std(focal, ddof=1), abs=0.01)


def test_two_models_are_compared_after_their_alignment(folders: tuple[Path, Path]) -> None:
    data = compared_data(folders[1], folders[0], ("moved", "true"))
    assert data["name"][0] == "3.png"
    assert data["positions"][0] == pytest.approx(0.2, abs=0.02)
    assert data["similarity"][0] == pytest.approx(0.5, abs=0.02)
    assert data["titles"] == ["moved", "true"]
    apart = np.linalg.norm(unpacked(data["moved"]) - unpacked(data["centre"]), axis=1)
    np.testing.assert_allclose(apart, data["positions"], atol=1e-3)
    assert json.dumps(data, allow_nan=False)


# ---------- the browser ----------

Opener = Callable[..., Any]


def page_of(views: dict[str, dict[str, Any]]) -> str:
    """A page as that of a report: one file, whose policy allows its own scripts alone.

    views: the data of functions of scene.js.
    """
    text = json.dumps(views, allow_nan=False).replace("<", "\\u003c")
    scripts = [(ASSETS / name).read_text() for name in ("plotly-strict.min.js", "scene.js")]
    scripts.append(
        "for (const [view, its] of Object.entries(JSON.parse(data.textContent)))"
        " window[view](document.body.appendChild(document.createElement('div')), its);"
    )
    hashes = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts]
    sources = " ".join(f"'sha256-{one}'" for one in hashes)
    policy = (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Model</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<style>{(ASSETS / 'scene.css').read_text()}</style>"
        f'<body><script id="data" type="application/json">{text}</script>'
        + "".join(f"<script>{one}</script>" for one in scripts)
    )


@pytest.fixture(scope="module")
def opened(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    """Open a page from disk; at the end, no page may have had an error or asked for anything."""
    folder, troubles, pages = tmp_path_factory.mktemp("pages"), [], []

    def open_page(views: dict[str, dict[str, Any]], width: int = 1200) -> Any:
        path = folder / f"{len(pages)}.html"
        path.write_text(page_of(views))
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("console", lambda one: troubles.append(one.text) if one.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda asked: (
                None
                if asked.url.startswith(("data:", "blob:", path.as_uri()))
                else troubles.append(asked.url)
            ),
        )
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield open_page
    assert troubles == []


@pytest.fixture(scope="module")
def data(made: Rendered) -> dict[str, Any]:
    blocks = {number: number % 2 for number in made.scene.views.numbers.tolist()}
    other = made.scene.keep(made.scene.view < 3)
    return scene_data({"first": made.scene, "<b>second</b>": other}, made.images, blocks)


@pytest.fixture(scope="module")
def page(opened: Opener, data: dict[str, Any]) -> Any:
    """The view of two models with photographs."""
    return opened({"eloftrScene": data})


@pytest.fixture(scope="module")
def narrow(opened: Opener, made: Rendered, folders: tuple[Path, Path]) -> Any:
    """A model without photographs, and a comparison, on a narrow screen."""
    compared = compared_data(folders[1], folders[0], ("moved", "true"))
    views = {"eloftrScene": scene_data([made.scene]), "eloftrModelComparison": compared}
    return opened(views, width=360)


PLOT = "document.querySelector('.es-space .es-plot')"


def wait_until(page: Any, expression: str) -> None:
    """Until an expression holds: what Playwright has for this evaluates text in the page."""
    for _ in range(500):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"{expression} does not become true")


def test_a_chosen_camera_shows_its_photograph_and_its_numbers(
    page: Any, data: dict[str, Any]
) -> None:
    page.select_option("select[aria-label='Camera']", label="0.png")
    side = page.locator(".es-side")
    assert side.locator("h3").inner_text() == "0.png"
    photograph = side.locator("img")
    assert photograph.get_attribute("src") == data["photographs"]["0.png"]
    assert photograph.evaluate("(image) => image.naturalWidth") == 320
    points = data["models"][0]["views"]["points"][0]
    assert side.locator("circle").count() == points
    assert f"Points\n{points}" in side.inner_text()
    assert re.search(rf"{points} points, with their residuals drawn \d+ times", side.inner_text())


def test_a_name_that_would_be_a_tag_stays_a_text(page: Any) -> None:
    page.select_option("select[aria-label='Camera']", label=EVIL)
    assert page.locator(".es-side h3").inner_text() == EVIL
    assert page.locator("th button", has_text=EVIL).inner_text() == EVIL
    assert page.locator("img").count() == 1
    assert page.locator("b").count() == 0


def test_the_table_is_sorted_and_chooses_by_the_keyboard(page: Any) -> None:
    page.get_by_role("button", name="Image", exact=True).click()
    rows = page.locator("[aria-label='Images of the model'] tbody tr")
    names = [text.split("\t")[0] for text in rows.all_inner_texts()]
    assert names == [EVIL, "0.png", "1.png", "3.png", "4.png"]
    rows.nth(3).get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert page.locator(".es-side h3").inner_text() == "3.png"
    assert rows.nth(3).get_attribute("class") == "es-chosen"


def test_arrow_keys_turn_the_view_and_0_brings_the_first_one_back(page: Any) -> None:
    eye = f"{PLOT}._fullLayout.scene._scene.getCamera().eye.x"
    first = page.evaluate(eye)
    page.locator(".es-space .es-plot").focus()
    page.keyboard.press("ArrowRight")
    wait_until(page, f"Math.abs({eye} - {first}) > 1e-3")
    page.keyboard.press("0")
    wait_until(page, f"Math.abs({eye} - {first}) < 1e-6")


def test_points_are_coloured_by_what_a_reader_asks_for(page: Any) -> None:
    colour = page.locator("select[aria-label='Colour of points']")
    assert colour.locator("option").all_inner_texts() == [
        "Photographs",
        "Residual",
        "Track length",
        "Block",
    ]
    # Cividis and viridis end in these yellows.
    for value, end in (("error", "#fee838"), ("length", "#fde725"), ("block", "listed")):
        colour.select_option(value)
        last = f"{PLOT}.data[0].marker.colorscale?.at(-1).at(-1) ?? 'listed'"
        wait_until(page, f"({last}) === '{end}'")


def test_another_model_is_shown_and_its_title_is_a_text(page: Any) -> None:
    page.select_option("select[aria-label='Model']", label="<b>second</b> · 5 images")
    shown = page.locator(".es-facts").first.inner_text()
    assert "Points\n150" not in shown
    assert page.locator(".es-side h3").count() == 0
    page.select_option("select[aria-label='Model']", label="first · 5 images")
    assert "Points\n150" in page.locator(".es-facts").first.inner_text()


SPOT = """() => {
      const area = document.querySelector(".es-space .es-plot");
      const { glplot, dataScale } = area._fullLayout.scene._scene;
      const { model, view, projection } = glplot.cameraParams, axes = [0, 1, 2, 3];
      const by = (m, v) => axes.map((r) => axes.reduce((s, c) => s + m[4 * c + r] * v[c], 0));
      const { x, y, z } = area.data.find((one) => one.name === "cameras");
      const place = [x[1] * dataScale[0], y[1] * dataScale[1], z[1] * dataScale[2], 1];
      const at = by(projection, by(view, by(model, place)));
      const { left, top, width, height } = area.getBoundingClientRect();
      const [across, down] = [0.5 + (0.5 * at[0]) / at[3], 0.5 - (0.5 * at[1]) / at[3]];
      return [left + across * width, top + down * height];
    }"""


def place_of_second_camera(page: Any) -> tuple[float, float]:
    """Where Plotly draws it, by its own matrices, once the view is at rest: page pixels."""
    last, here = None, page.evaluate(SPOT)
    while last != here:
        page.wait_for_timeout(100)
        last, here = here, page.evaluate(SPOT)
    return here[0], here[1]


def test_a_click_on_a_camera_in_the_view_chooses_it(page: Any) -> None:
    page.locator(".es-space").scroll_into_view_if_needed()
    tip, named = page.locator(".es-space .es-tip strong"), page.locator(".es-side h3")
    for _ in range(10):  # a redrawing that is under way forgets what lies under the mouse
        x, y = place_of_second_camera(page)
        page.mouse.move(x - 40, y)
        page.mouse.move(x, y, steps=4)
        page.wait_for_timeout(200)
        page.mouse.down()
        page.mouse.up()
        page.wait_for_timeout(200)
        if named.count():
            break
    assert tip.text_content() == named.text_content() == "1.png"


def test_the_view_stays_where_a_reader_has_turned_it(page: Any) -> None:
    eye = f"{PLOT}._fullLayout.scene._scene.getCamera().eye.x"
    first = page.evaluate(eye)
    box = page.locator(".es-space .es-plot").bounding_box()
    middle = box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"]
    for _ in range(10):  # a redrawing that is under way ends a drag
        page.mouse.move(*middle)
        page.mouse.down()
        page.mouse.move(middle[0] + 150, middle[1], steps=4)
        page.mouse.up()
        place_of_second_camera(page)
        if abs(page.evaluate(eye) - first) > 0.05:
            break
    turned = page.evaluate(eye)
    assert abs(turned - first) > 0.05
    page.select_option("select[aria-label='Colour of points']", "length")
    wait_until(page, f"{PLOT}.data[0].marker.colorscale !== undefined")
    assert page.evaluate(eye) == pytest.approx(turned, abs=0.03)  # it comes to rest slowly


def test_a_model_without_photographs_fits_a_narrow_screen(narrow: Any) -> None:
    narrow.get_by_role("button", name="The next camera").click()
    side = narrow.locator(".es-side")
    assert side.locator("img").count() == 0
    assert side.locator("circle").count() > 0
    assert "The photograph is not in this page." in side.inner_text()
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 360


def test_two_models_are_compared_image_by_image(narrow: Any) -> None:
    table = narrow.locator("[aria-label='Differences by image']")
    rows = table.locator("tbody tr")
    assert rows.first.inner_text().startswith("3.png\t0.")
    table.get_by_role("button", name="Image").click()
    assert rows.first.inner_text().startswith(EVIL)
    rows.first.get_by_role("button").click()
    assert rows.first.get_attribute("class") == "es-chosen"
    assert narrow.locator("img").count() == 0

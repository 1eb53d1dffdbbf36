"""Make the pictures of docs/report.md: reports of the demo and of a run with broken files.

    python docs/screenshots.py [--work FOLDER] [--sets fountain11 sacre_coeur17]

The demo's photographs are drawn, so its pictures may be published; they go to docs/images. Those of
sets in the folder ELOFTR_DATA are for looking at, and stay in the folder of the work. A command
that was stopped goes on where it was. It needs Chromium and the packages of the extra `test`.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

import pipeline
from pipeline.cli import main as eloftr

IMAGES = Path(__file__).parent / "images"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
COLOURS = 200  # of a PNG file, which is a third as large with a palette


def broken_photographs(source: Path, target: Path) -> Path:
    """Photographs of which some are cut off, empty, or no images, and one has a strange name."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    names = sorted(path.name for path in source.iterdir())
    whole = (source / names[0]).read_bytes()
    (target / "cut_off.jpg").write_bytes(whole[: len(whole) // 3])
    (target / "empty.jpg").touch()
    (target / "notes.jpg").write_text("no image")
    (target / names[-1]).rename(target / "<img src=x onerror=alert(1)>.jpg")
    return target


def matched(images: Path, run: Path) -> Path:
    """The report of a run, which is matched where it is not there yet."""
    eloftr(["match", "--images", str(images), "--output", str(run), "--executor", "local"])
    return run / "report.html"


class Camera:
    """A browser that takes pictures of a page."""

    def __init__(self, browser: Any, page: Path, width: int = 1280, dark: bool = False) -> None:
        scheme = "dark" if dark else "light"
        size = {"width": width, "height": 900}
        self.tab = browser.new_page(viewport=size, color_scheme=scheme, device_scale_factor=1)
        self.tab.goto(page.as_uri())
        self.tab.wait_for_selector("html[data-ready]")
        for place in self.tab.query_selector_all("[data-plot], #viewer, #model-view"):
            place.scroll_into_view_if_needed()
            self.tab.wait_for_timeout(150)
        self.tab.evaluate("window.scrollTo(0, 0)")
        # The folder of this machine is nobody's business.
        folder = f"/home/you/{page.parent.name}"
        self.tab.evaluate("f => document.querySelector('.head p .name').textContent = f", folder)

    def take(self, path: Path, section: str | None = None, most: int = 1000) -> None:
        """A picture of the page from its top, or of a section, at most so many pixels high."""
        place = "document.querySelector({!r}).getBoundingClientRect()".format(section or "body")
        top, height = self.tab.evaluate(f"(({{y, height}}) => [y + scrollY, height])({place})")
        width = self.tab.viewport_size["width"]
        clip = {"x": 0, "y": top, "width": width, "height": min(height, most)}
        data = self.tab.screenshot(full_page=True, clip=clip)
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.quantize(COLOURS).save(path, optimize=True)
        print(path, path.stat().st_size)


def main() -> None:
    """Make the runs that are missing, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("screenshots"))
    parser.add_argument("--sets", nargs="*", default=[])
    given = parser.parse_args()
    work = given.work.absolute()
    if not (work / "demo" / "reconstruction.png").exists():  # what the demo writes last
        eloftr(["demo", "--output", str(work / "demo"), "--executor", "local"])
    pipeline.report(work / "demo" / "run")
    failed = work / "failed"
    if not failed.exists():
        broken_photographs(work / "demo" / "scene" / "images", work / "broken")
    pages = {"failed": matched(work / "broken", failed)}
    for name in given.sets:
        images = Path(os.environ["ELOFTR_DATA"]) / name / "images"
        pages[name] = matched(images, work / name)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        demo = Camera(browser, work / "demo" / "run" / "report.html")
        demo.take(IMAGES / "report_run.png")
        demo.take(IMAGES / "report_model.png", "#model", 760)
        demo.tab.click("[data-group=worst]")
        demo.take(IMAGES / "report_pairs.png", "#pairs", 760)
        Camera(browser, pages["failed"], dark=True).take(IMAGES / "report_failed.png", most=620)
        for name in given.sets:
            Camera(browser, pages[name]).take(work / f"{name}.png")
            Camera(browser, pages[name]).take(work / f"{name}_pairs.png", "#pairs")
        browser.close()


if __name__ == "__main__":
    main()

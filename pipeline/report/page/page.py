"""The report as one HTML file: templates, styles, scripts, data and pictures in one page.

The page loads nothing. Its Content-Security-Policy allows the scripts and styles that it was
written with, by their hashes, and pictures that stand in the page. The data are JSON in a script
element that no browser runs.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, TypedDict

from pipeline.events import duration
from pipeline.extras import missing
from pipeline.report.page.tables import ReportData, report_tables
from pipeline.store.folder import Folder

ASSETS = Path(__file__).parent / "assets"
TEMPLATE = "page.html.j2"
STYLES = ("page.css",)
# In the order in which they run. plotly comes first, because the others draw with it.
SCRIPTS = (
    "plotly-strict.min.js",
    "common.js",
    "plots.js",
    "matrix.js",
    "viewer.js",
    "pairs.js",
    "ranking.js",
    "comparison.js",
)
SCENE = "scene"  # of .js and .css, which draw models
START = "main.js"
# Hashes of the styles that plotly.js adds when it starts: an empty one, which it fills by rules,
# and that of its maps, which are not used.
PLOTLY_STYLES = (
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='",
    "'sha256-ji27qzEtxXZW+7dun6UwjHXJ18e6WAin1VvNtkzIE/o='",
)
# What could end a script element or begin a comment in it. JSON in ASCII holds no other characters
# that mean something to HTML or JavaScript, as U+2028.
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def page_of(report: ReportData) -> bytes:
    """The page, UTF-8. Raises MissingExtraError where jinja2 is not installed."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise missing("jinja2", error) from error
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "short": _short, "seconds": duration}
    compared = report.tables.get("comparison", {})
    modelled = "models" in report.tables or "models" in compared
    scripts = [_asset(name) for name in [*SCRIPTS, *([f"{SCENE}.js"] if modelled else []), START]]
    styles = [_asset(name) for name in [*STYLES, *([f"{SCENE}.css"] if modelled else [])]]
    page = environment.get_template(TEMPLATE).render(
        report=report.tables,
        small=report.pictures.get("small", {}),
        policy=policy_of(scripts, styles),
        scripts=[Markup(script) for script in scripts],
        styles=[Markup(style) for style in styles],
        data=Markup(embedded_json({**report.tables, "pictures": report.pictures})),
    )
    return page.encode(errors="replace")  # a path may hold bytes that are no UTF-8


def policy_of(scripts: list[str], styles: list[str]) -> str:
    """The Content-Security-Policy of a page with these inline scripts and styles."""
    rules = {
        "default-src": "'none'",
        "script-src": " ".join(map(_hash, scripts)),
        "style-src": " ".join([*map(_hash, styles), *PLOTLY_STYLES]),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def embedded_json(value: Any) -> str:
    """JSON for a script element: no name in it can end the element. Raises ValueError for NaN."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character, escape in ESCAPES.items():
        text = text.replace(character, escape)
    return text


def json_of(report: ReportData) -> bytes:
    """The tables of the report as a JSON file, UTF-8."""
    return (json.dumps(report.tables, allow_nan=False, indent=1) + "\n").encode()


class ReportSummary(TypedDict):
    """What a report came to. output: its file. bytes: of it. notes: what it shows a part of."""

    output: str
    bytes: int
    images: int
    pairs: int
    state: str
    notes: list[str]


def write_report(
    folder: Folder,
    target: Folder,
    name: str,
    *,
    other: Folder | None = None,
    photographs: Folder | None = None,
    results: Folder | None = None,
    as_json: bool = False,
) -> ReportSummary:
    """Write the report of a run, a reranking or two runs as the file `name` of a folder.

    The other arguments are those of `report_tables`. Raises RunError for a folder without a run,
    StorageError where the file cannot be written, and MissingExtraError where jinja2 is missing.
    """
    report = report_tables(folder, other, photographs, results, pictured=not as_json)
    data = json_of(report) if as_json else page_of(report)
    target.publish(name, data)
    tables = report.tables
    return {
        "output": f"{target.shown.rstrip('/')}/{name}",
        "bytes": len(data),
        "images": len(tables["images"]["name"]),
        "pairs": tables["pairs"]["total"],
        "state": tables["state"]["state"],
        "notes": tables["notes"],
    }


def _asset(name: str) -> str:
    """A style or script as it stands in the page, with the line ends that browsers hash."""
    text = (ASSETS / name).read_text(encoding="utf-8")
    if "</script" in text.lower() or "</style" in text.lower() or "<!--" in text:
        raise ValueError(f"{name}: ends its own element in the page.")
    return text


def _number(value: float) -> str:
    return f"{value:,}"


def _short(value: float) -> str:
    """A number for a tile: 1,234 and 12.3 k and 4.56 M."""
    for size, unit in ((1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g} {unit}"
    return f"{value:,}"

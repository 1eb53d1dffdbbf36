"""All numbers of the report: one dictionary, which the page shows and which is the JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import numpy as np

from eloftr import __version__
from pipeline.errors import EloftrError, RunError
from pipeline.match.run import RUN_FILE, SUMMARY_FILE
from pipeline.photos.panoramas.source import FaceFolder, faces_of_runs
from pipeline.report.page import overview
from pipeline.report.page.graph import graph_table, image_table
from pipeline.report.page.models import (
    compared_models_table,
    model_tables,
    reconstruction_asked,
    reconstruction_text,
    registered_names,
    registered_table,
    results_of,
)
from pipeline.report.page.pairs import (
    MOST_DRAWN,
    PairRows,
    compared_pairs,
    drawn_rows,
    pair_points,
    pair_rows,
    pair_table,
    picked_rows,
    shown_rows,
)
from pipeline.report.page.ranking import ranking_tables
from pipeline.report.page.thumbnails import (
    MOST_SMALL,
    PhotoSource,
    Pictures,
    photographs_of_run,
    read_pictures,
)
from pipeline.store.folder import Folder

MOST_ROUNDS = 32  # of a reranking, each twice as long as the one before


@dataclass(frozen=True)
class ReportData:
    """tables: everything that is counted, ready for JSON. pictures: what the page shows besides.

    pictures: `small` and `large` photographs by the number of their image, JPEG as base64, and
    `points` of pairs by their place in the list of pairs, see `pair_points`.
    """

    tables: dict[str, Any]
    pictures: dict[str, Any] = field(default_factory=dict)


def runs_in(folder: Folder) -> list[Folder]:
    """The run folders of an output: itself, or the rounds of a reranking.

    Raises RunError for a folder that holds neither.
    """
    if folder.exists(RUN_FILE):
        return [folder]
    rounds = [f"rounds/{number:02}" for number in range(MOST_ROUNDS)]
    runs = [
        Folder(folder.url_of(one), folder.options)
        for one in rounds
        if folder.exists(f"{one}/{RUN_FILE}")
    ]
    if runs:
        return runs
    cure = "give the output folder of eloftr match or eloftr rerank"
    raise RunError(f"{folder.shown}: holds no {RUN_FILE}; {cure}.")


def report_tables(
    folder: Folder,
    other: Folder | None = None,
    photographs: Folder | None = None,
    results: Folder | None = None,
    pictured: bool = True,
) -> ReportData:
    """Read a run, or a reranking, and count everything that the report shows.

    other: a second run, whose pairs are compared with those of the first. photographs: their
    folder, where it is not the one that the run names. results: the output of a reconstruction,
    where it is not in the run. pictured: whether photographs, models and matches are read for the
    page.

    Raises RunError for a folder that holds no run.
    """
    runs = runs_in(folder)
    described = _described(runs)
    state = overview.run_state(runs, folder)
    sizes = overview.images_read(runs)
    pairs = pair_rows(runs, sorted(overview.planned_images(runs) | {*sizes}))
    failures = overview.failure_tables(runs, pairs)
    shown, images = shown_rows(pairs), image_table(pairs)
    picked = picked_rows(pairs)
    place = {int(row): k for k, row in enumerate(shown)}
    summary = folder.read_json(SUMMARY_FILE) if folder.exists(SUMMARY_FILE) else {}
    markers = overview.markers_of(runs)
    unusable = overview.unusable_images(runs)
    images |= {
        "unusable": [unusable.get(name) for name in pairs.names],
        "camera": [sizes.get(name, {}).get("camera") for name in pairs.names],
        "size": [_size(sizes.get(name)) for name in pairs.names],
    }
    tables: dict[str, Any] = {
        "eloftr": __version__,
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "folder": folder.shown,
        "state": state,
        "counts": {**overview.counts_of(pairs, failures), **_more_counts(summary, images)},
        "asked": overview.asked_of(described),
        "versions": described.get("versions", {}),
        "session": summary.get("session", {}),
        "time": overview.time_tables(markers, overview.began_at(runs)),
        "failures": failures,
        "histograms": overview.histograms(pairs),
        "images": images,
        "graph": graph_table(images),
        "pairs": pair_table(pairs, shown),
        "picked": {name: [place[row] for row in rows] for name, rows in picked.items()},
        "notes": [],
    }
    if (ranking := ranking_tables(folder)) is not None:
        tables["ranking"] = ranking
    if other is not None:
        tables["comparison"] = _comparison(tables, pairs, other)
    results = results or results_of(folder)
    if (told := reconstruction_text(results)) is not None:
        tables["reconstruction"] = told
        tables["reconstruction_asked"] = overview.asked_of(reconstruction_asked(results))
    pictures: dict[str, Any] = {}
    if pictured:
        source = _photographs(runs, photographs)
        pictures = _pictures(tables, pairs, source, picked, shown, sizes)
        _add_models(tables, results, other, source, sizes)
    tables["notes"] += _notes(tables)
    tables["warnings"] = overview.warnings_of(tables, sizes)
    return ReportData(tables, pictures)


def _described(runs: Sequence[Folder]) -> dict[str, Any]:
    """run.json of the first run that has one."""
    found = [run.read_json(RUN_FILE) for run in runs if run.exists(RUN_FILE)]
    return found[0] if found else {}


def _size(row: Mapping[str, Any] | None) -> list[int] | None:
    return None if row is None else [row["width"], row["height"]]


def _more_counts(summary: Mapping[str, Any], images: Mapping[str, Any]) -> dict[str, int]:
    """Numbers that the pairs do not tell: images that were listed, and those that pairs connect."""
    connected = sum(count > 0 for count in images["verified"])
    listed = summary.get("images", len(images["name"]))
    return {"listed_images": listed, "connected_images": connected}


def _comparison(tables: Mapping[str, Any], pairs: PairRows, other: Folder) -> dict[str, Any]:
    """The pairs of both runs, and the numbers of the second as those of the first."""
    runs = runs_in(other)
    second = pair_rows(runs)
    described = _described(runs)
    asked = overview.asked_of(described), tables["asked"]
    theirs, mine = (dict(rows) for rows in asked)
    markers = overview.markers_of(runs)
    return {
        "folder": other.shown,
        "counts": overview.counts_of(second, overview.failure_tables(runs, second)),
        "seconds": overview.time_tables(markers, None)["seconds"],
        "differing": [
            [name, mine.get(name), theirs.get(name)]
            for name in sorted({*mine, *theirs})
            if mine.get(name) != theirs.get(name)
        ],
        **compared_pairs(pairs, second),
    }


def _pictures(
    tables: dict[str, Any],
    pairs: PairRows,
    photographs: PhotoSource | None,
    picked: Mapping[str, Sequence[int]],
    shown: np.ndarray,
    sizes: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """PhotoSource and points for the page; what is left out is said in the notes of the tables."""
    number = {name: k for k, name in enumerate(pairs.names)}
    rows = [row for group in picked.values() for row in group]
    ends = [*pairs.first[rows], *pairs.second[rows]]
    large = [pairs.names[k] for k in ends if pairs.names[k] in sizes]
    notes = tables["notes"]
    found = Pictures()
    if photographs is None:
        notes.append("The run does not say where its photographs are; give them by --images.")
    else:
        found = _read(photographs, large, _wanted_small(tables, list(sizes)), notes)
        tables["images"]["taken"] = [found.taken.get(name) for name in pairs.names]
    both = {name: (row["width"], row["height"]) for name, row in sizes.items()}
    points = pair_points(pairs, drawn_rows(pairs, picked, shown), both)
    place = {int(row): k for k, row in enumerate(shown)}
    return {
        "small": {str(number[name]): one for name, one in found.small.items()},
        "large": {str(number[name]): one for name, one in found.large.items()},
        "points": {str(place[row]): one for row, one in points.items()},
    }


def _add_models(
    tables: dict[str, Any],
    results: Folder,
    other: Folder | None,
    photographs: PhotoSource | None,
    sizes: Mapping[str, Mapping[str, Any]],
) -> None:
    """Add `models` to the tables, and to those of the comparison, where there are any."""
    turns = {name: int(row["orientation"]) for name, row in sizes.items()}
    models = model_tables(results, photographs, turns, tables["notes"])
    if models is not None:
        tables["models"] = models
        names = registered_names(results, models, tables["notes"])
        tables["registered"] = registered_table(tables["images"], tables["counts"], names)
    if other is not None:
        compared = compared_models_table(results, results_of(other), tables["notes"])
        if compared is not None:
            tables["comparison"]["models"] = compared


def _photographs(runs: Sequence[Folder], given: Folder | None) -> PhotoSource | None:
    """Where the photographs are: the folder that is given, or the one of run.json."""
    shown = _described(runs).get("images")
    if given is None and not shown:
        return None
    try:
        source = given or photographs_of_run(str(shown), runs[0].options)
        faces = faces_of_runs(runs)
        return FaceFolder(source, faces) if faces and isinstance(source, Folder) else source
    except EloftrError:  # of another machine, or a URL without its options
        return None


def _wanted_small(tables: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Of the images that were read, those that get a small picture.

    They are those that nothing matched, those of queries, and the others by name.
    """
    alone = [tables["images"]["name"][k] for k in tables["graph"]["alone"]["first"]]
    queries = tables.get("ranking", {}).get("queries", [])
    first = [f"query/{row['query']}" for row in queries]
    first += [f"database/{one['candidate']}" for row in queries for one in row["list"]]
    known = {*names}
    ordered = dict.fromkeys([*alone, *first, *sorted(names)])
    return [name for name in ordered if name in known][:MOST_SMALL]


def _read(
    photographs: PhotoSource, large: Sequence[str], small: Sequence[str], notes: list[str]
) -> Pictures:
    inner = photographs.folder if isinstance(photographs, FaceFolder) else photographs
    if isinstance(inner, Folder) and not inner.local:
        small = ()
        notes.append(
            "The photographs are at a URL, so only those of the drawn pairs stand in this page."
        )
    found = read_pictures(photographs, large, small)
    if found.missing:
        wanted = len({*large, *small})
        notes.append(
            f"{len(found.missing):,} of {wanted:,} photographs could not be read from "
            f"{photographs.shown}; give their folder by --images."
        )
    return found


def _notes(tables: Mapping[str, Any]) -> list[str]:
    """Sentences on what the page shows a part of."""
    notes = []
    pairs, count = tables["pairs"], len(tables["pairs"]["first"])
    if count < pairs["total"]:
        notes.append(
            f"{count:,} of {pairs['total']:,} pairs are listed, an even sample; the counts and the "
            "distributions are of all pairs."
        )
    if pairs["total"] > MOST_DRAWN:
        notes.append(
            "The matches of some pairs stand in this page; eloftr draw --run draws those of "
            "any other."
        )
    if len(tables["images"]["name"]) > MOST_SMALL:
        notes.append(f"Small pictures of {MOST_SMALL:,} images stand in this page.")
    return notes

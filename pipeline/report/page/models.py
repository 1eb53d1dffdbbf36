"""The models of a run for the page: the first ones in 3D, and the largest of two runs compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from pipeline.errors import EloftrError
from pipeline.events import counted
from pipeline.match.run import SUMMARY_FILE
from pipeline.reconstruct.database import REPORT_FILE
from pipeline.reconstruct.models.files import ModelFiles
from pipeline.reconstruct.models.job import ask_of_models
from pipeline.report.block_map import blocks_of_images
from pipeline.report.page.scene import compared_data, scene_data
from pipeline.report.page.thumbnails import PhotoSource
from pipeline.store.folder import Folder
from pipeline.vocabulary import MEANINGS

RESULTS = "sfm"  # where eloftr reconstruct writes in a run folder
MOST_LISTED = 200  # names of images of a reason
MOST_MODELS = 5  # of a run
PHOTOGRAPH_BYTES = 2_000_000  # of the photographs of models


def model_folders(results: Folder) -> list[Folder]:
    """The models of the results of a reconstruction, the largest first."""
    names = (f"sparse/{number}" for number in count())
    there = takewhile(lambda name: results.exists(f"{name}/images.bin"), names)
    return [Folder(results.url_of(name), results.options) for name in there]


def reconstructed(results: Folder) -> bool:
    """Whether eloftr reconstruct wrote into the folder, be it that nothing could be mapped."""
    return results.exists(REPORT_FILE) or bool(model_folders(results))


def results_of(run: Folder) -> Folder:
    """Where eloftr reconstruct writes unless told otherwise."""
    return Folder(run.url_of(RESULTS), run.options)


def model_tables(
    results: Folder,
    photographs: PhotoSource | None,
    orientation: Mapping[str, int],
    notes: list[str],
) -> dict[str, Any] | None:
    """What the page shows of the models of a run, see `scene_data`; None where there is none.

    orientation: EXIF orientation of images, by name. A model that cannot be read is told in the
    notes.
    """
    folders = model_folders(results)
    if not folders:
        return None
    if len(folders) > MOST_MODELS:
        notes.append(f"The {MOST_MODELS} largest of {len(folders):,} models are shown.")
    blocks = blocks_of_images(Path(results.path())) if results.local else {}
    try:
        how = {"photograph_bytes": PHOTOGRAPH_BYTES}
        return scene_data(folders[:MOST_MODELS], photographs, blocks, orientation, **how)
    except EloftrError as error:
        notes.append(f"The models are not shown: {error}")
        return None


def reconstruction_text(results: Folder) -> str | None:
    """What reconstruct wrote of its work for a person; None where it has not ended."""
    if not results.exists(REPORT_FILE):
        return None
    return results.read_bytes(REPORT_FILE).decode(errors="replace")


def reconstruction_asked(results: Folder) -> dict[str, Any]:
    """What reconstruct was asked, by name; empty where it has not ended."""
    if not results.exists(SUMMARY_FILE):
        return {}
    asked: dict[str, Any] = results.read_json(SUMMARY_FILE).get("asked", {})
    return {name: value for name, value in asked.items() if value is not None}


def registered_names(results: Folder, models: Mapping[str, Any], notes: list[str]) -> set[str]:
    """Names of the images in a model of the results.

    models: of `model_tables`. Those that the page does not show are read here.
    """
    names = {name for model in models["models"] for name in model["views"]["name"]}
    try:
        for folder in model_folders(results)[MOST_MODELS:]:
            names |= ask_of_models(_names, [folder])
    except EloftrError as error:
        notes.append(f"Images of a model are not known: {error}")
    return names


def _names(files: ModelFiles) -> set[str]:
    model = files.read()
    return {model.images[number].name for number in model.reg_image_ids()}


def registered_table(
    images: Mapping[str, list[Any]], counts: Mapping[str, int], registered: Set[str]
) -> dict[str, Any]:
    """How many images are in a model, and of the others why not as far as it is known.

    images: of `image_table`, with the reasons of unusable ones. counts: of the run. Returns
    `images`, `of`, and `missing`: reasons `why` with `count` and the first MOST_LISTED `names`. A
    name has the number of its verified pairs after it, where there are any.
    """
    names = images["name"]
    inside = {part for name, part in zip(names, images["part"], strict=True) if name in registered}
    sizes = Counter(images["part"])
    missing: dict[str, list[str]] = {}
    for k, name in enumerate(names):
        if name in registered:
            continue
        reason, pairs, part = images["unusable"][k], images["verified"][k], images["part"][k]
        if reason is not None:
            why = f"unusable, {reason}: {MEANINGS.get(reason, '')}"
        elif not pairs:
            why = "in no verified pair"
        elif part not in inside:
            why = f"in a part of {sizes[part]:,} images that no verified pair connects with a model"
        else:
            why = "have verified pairs, but were not placed"
        shown = f"{name} ({counted(pairs, 'verified pair')})" if pairs else name
        missing.setdefault(why, []).append(shown)
    return {
        "images": len(registered),
        "of": max(counts["listed_images"], len({*names, *registered})),
        "missing": [
            {"why": why, "count": len(those), "names": those[:MOST_LISTED]}
            for why, those in missing.items()
        ],
    }


def compared_models_table(
    results: Folder, others: Folder, notes: list[str]
) -> dict[str, Any] | None:
    """The largest model of other results brought to that of these; None where one has no model."""
    mine, theirs = model_folders(results), model_folders(others)
    if not mine or not theirs:
        return None
    try:
        return compared_data(theirs[0], mine[0], ("B", "A"))
    except EloftrError as error:
        notes.append(f"The models are not compared: {error}")
        return None

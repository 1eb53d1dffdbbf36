"""What `jobs/plan_pairs.py` can be asked: its commands and their options, as argparse takes them."""

from __future__ import annotations

from typing import Any

from pipeline.pairs.formats import FORMATS

OWN = "--images --descriptors --weights --reduce"
WRITTEN = "--output --format --failures --dry-run --storage-options"
COMMANDS = {  # name: what it lists, its options; ! marks those it needs
    "exhaustive": ("all pairs", f"!--images {WRITTEN}"),
    "sequential": (
        "images taken one after another, and places seen again",
        f"!{OWN} --window --quadratic --across-folders --loop-closure --loop-every --loop-gap {WRITTEN}",
    ),
    "retrieval": (
        "images that look most alike; given queries, the candidates of each, best first, for rerank.py",
        f"!{OWN} --queries --query-descriptors --top-k --min-score --mutual {WRITTEN}",
    ),
    "spatial": (
        "images taken near each other",
        f"--images --positions --nearest --radius --height {WRITTEN}",
    ),
    "covisibility": (
        "images that see the same points of a model",
        f"!--model --min-shared --top-k {WRITTEN}",
    ),
    "transitive": ("images that verified pairs of a run connect", f"!--run --steps {WRITTEN}"),
    "union": ("the pairs of any of several lists", f"lists --images {WRITTEN}"),
    "minus": ("the pairs of the first list that no other has", f"lists --images {WRITTEN}"),
    "sample": ("some pairs of a list", f"list !--count --seed --best --images {WRITTEN}"),
    "describe": (
        "no pairs: global descriptors, a stopgap",
        "!--images !--output --weights --failures --storage-options",
    ),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "lists": {"nargs": "+", "help": "pair lists (.parquet, .csv, .txt)"},
    "list": {"help": "pair list (.parquet, .csv, .txt)"},
    "--images": {"help": "folder of photographs; a path or an fsspec URL"},
    "--descriptors": {"help": ".parquet, .npz or .npy; default made with the weights: a stopgap"},
    "--weights": {
        "default": "small",
        "help": "of the matcher, where descriptors are made (%(default)s)",
    },
    "--reduce": {
        "type": int,
        "help": "dimensions of the descriptors; default a file's own, else 256",
    },
    "--queries": {
        "help": "folder: list for each of its images those of --images that look most like it"
    },
    "--query-descriptors": {"help": "of the queries; default the file of --descriptors"},
    "--window": {"type": int, "default": 10, "help": "images that follow each (%(default)s)"},
    "--quadratic": {
        "action": "store_true",
        "help": "also those 1, 2, 4, … 2^(window − 1) images on",
    },
    "--across-folders": {"action": "store_true", "help": "one sequence, not one a folder"},
    "--loop-closure": {
        "type": int,
        "default": 0,
        "help": "similar images from elsewhere, for some of the images (%(default)s)",
    },
    "--loop-every": {
        "type": int,
        "default": 10,
        "help": "which have them: every n-th (%(default)s)",
    },
    "--loop-gap": {
        "type": int,
        "default": 50,
        "help": "images before and after that are not elsewhere (%(default)s)",
    },
    "--top-k": {"type": int, "default": 20, "help": "images paired with each (%(default)s)"},
    "--min-score": {"type": float, "help": "lowest cosine"},
    "--mutual": {
        "action": "store_true",
        "help": "only where each is among the most similar of the other",
    },
    "--positions": {
        "help": ".csv or .parquet: image, x, y[, z] or image, latitude, longitude[, altitude]; default EXIF"
    },
    "--nearest": {"type": int, "help": "images paired with each"},
    "--radius": {"type": float, "help": "metres between two images, at most"},
    "--height": {"action": "store_true", "help": "use z or the altitude, too"},
    "--model": {"help": "folder of a COLMAP model"},
    "--min-shared": {
        "type": int,
        "default": 15,
        "help": "points that two images see (%(default)s)",
    },
    "--run": {"help": "output folder of match_dataset.py"},
    "--steps": {
        "type": int,
        "default": 2,
        "help": "verified pairs from one image to the other, 0 for any number (%(default)s)",
    },
    "--count": {"type": int, "help": "pairs"},
    "--seed": {"type": int, "default": 0, "help": "of the random choice (%(default)s)"},
    "--best": {"action": "store_true", "help": "the best scored, not random ones"},
    "--output": {"help": "file to write; a path or an fsspec URL"},
    "--format": {
        "choices": FORMATS,
        "help": "of the list; default by its ending, .txt is hloc's; trec for --queries",
    },
    "--failures": {"help": "write what cannot be used, and why, as .parquet"},
    "--dry-run": {"action": "store_true", "help": "count the pairs, write nothing"},
    "--storage-options": {"default": "{}", "help": "JSON for the fsspec filesystems (endpoint, …)"},
}

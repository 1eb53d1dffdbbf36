"""A COLMAP database of some images out of one of all images."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np

from pipeline.reconstruct.blocks.graph import ViewGraph, address

# What the rows of each table that belong to the chosen images or pairs are. Mapping needs neither
# descriptors nor matches that verification refused.
BELONGING = {
    "cameras": "camera_id IN (SELECT camera_id FROM source.images WHERE image_id IN chosen)",
    "images": "image_id IN chosen",
    "keypoints": "image_id IN chosen",
    "pose_priors": "corr_data_id IN chosen",
    "two_view_geometries": "pair_id IN pairs",
}


def extract(database: Path, target: Path, images: np.ndarray, graph: ViewGraph) -> None:
    """Write the database of some images, and of the graph's pairs between them.

    images: COLMAP's numbers. Rigs and frames are left out: the mapper makes one for every image.
    """
    target.unlink(missing_ok=True)
    inside = np.isin(graph.images, images)
    pairs = graph.only(inside[graph.first] & inside[graph.second]).pair_numbers()
    with closing(sqlite3.connect(target, uri=True)) as made:
        made.execute("PRAGMA journal_mode = OFF")
        made.execute("PRAGMA synchronous = OFF")
        made.execute("ATTACH ? AS source", (address(database),))
        version = made.execute("PRAGMA source.user_version").fetchone()[0]
        made.execute(f"PRAGMA user_version = {version}")
        schema = made.execute(
            "SELECT sql FROM source.sqlite_master WHERE sql NOT NULL AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        for (statement,) in schema:
            made.execute(statement)
        for name, numbers in (("chosen", images), ("pairs", pairs)):
            made.execute(f"CREATE TEMP TABLE {name} (number INTEGER PRIMARY KEY)")
            made.executemany(f"INSERT INTO {name} VALUES (?)", ((int(n),) for n in numbers))
        tables = {name for (name,) in made.execute("SELECT name FROM source.sqlite_master")}
        for table, condition in BELONGING.items():
            if table in tables:
                made.execute(f"INSERT INTO {table} SELECT * FROM source.{table} WHERE {condition}")
        made.commit()

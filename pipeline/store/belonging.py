"""Files that belong to what they were made of: others are removed before work begins."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from typing import Any

from pipeline.errors import FolderAbsentError
from pipeline.store.folder import Folder


def keep_what_belongs(files: Folder, marker: str, made_of: Mapping[str, Any]) -> None:
    """Empty a folder whose files were made of something else, and say what of now.

    marker: name of the JSON file that says so. made_of: options, digests of inputs, a version.
    """
    text = (json.dumps(made_of, indent=1, sort_keys=True) + "\n").encode()
    if files.exists(marker) and files.read_bytes(marker) == text:
        return
    files.remove(marker)  # first, so that what is left where this is stopped belongs to nothing
    remove_all(files)
    files.publish(marker, text)


def remove_all(files: Folder) -> None:
    """Remove a folder with everything in it; nothing happens where there is none."""
    if files.local:
        shutil.rmtree(files.path(), ignore_errors=True)
        return
    try:
        names = files.list()
    except FolderAbsentError:
        return
    for name in names:
        files.remove(name)

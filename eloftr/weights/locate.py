"""From what a user names (a bundled name, a folder, a file, a hub id) to files on this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eloftr.config import CONFIG_FILE
from eloftr.errors import CheckpointError

WEIGHTS_FILE = "model.safetensors"
PICKLED = (".ckpt", ".pth", ".pt", ".bin")  # files of other kinds
BUNDLED = Path(__file__).parent


@dataclass(frozen=True)
class Hub:
    """How the files of a hub id are had, under the names of transformers.

    revision: branch, tag or commit. token: of a user; True takes the one of the hub client, as None
    does where there is one. cache_dir: where downloads are kept. force_download: download again.
    local_files_only: take what was downloaded before, without a connection.
    """

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool = False


ANY_HUB = Hub()


def bundled_names() -> list[str]:
    """Names of the checkpoints that ship with the package."""
    return sorted(folder.name for folder in BUNDLED.glob("*") if (folder / WEIGHTS_FILE).exists())


def resolve(
    name_or_path: str | Path,
    files: Sequence[str] = (CONFIG_FILE, WEIGHTS_FILE),
    hub: Hub = ANY_HUB,
) -> Path:
    """A bundled name, a folder, a file or a hub id → a local folder or file.

    files: those of a hub id that are downloaded. Raises CheckpointError where there is nothing of
    that name.
    """
    path, name = Path(name_or_path), str(name_or_path)
    if name and path.exists():  # no name is not the current folder
        return path
    if name in bundled_names():
        return BUNDLED / name
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not path.suffix:
        return _from_hub(name, files, hub)
    raise CheckpointError(
        f"{name}: no such file, folder or bundled name; bundled are "
        f"{', '.join(bundled_names()) or 'none'}."
    )


def find_file(name_or_path: str | Path, file: str, hub: Hub = ANY_HUB) -> Path:
    """One file of what a name stands for, `config.json` of a hub id for example.

    Nothing else is downloaded. The name of a file stands for that file. Raises CheckpointError
    where there is none.
    """
    path = resolve(name_or_path, [file], hub)
    if path.is_dir():
        path = path / file
    if not path.exists():
        raise CheckpointError(
            f"{name_or_path}: holds no {file}; give a folder that has one, or the file."
        )
    return path


def _from_hub(repository: str, files: Sequence[str], hub: Hub) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"{repository}: no such folder, and the hub client is not installed; "
            'pip install "eloftr-pipeline[hub]".'
        ) from error
    try:
        return Path(snapshot_download(repository, allow_patterns=list(files), **asdict(hub)))
    # The client raises many types; all mean that nothing came.
    except Exception as error:
        if hub.local_files_only:
            raise CheckpointError(
                f"{repository}: no such folder, and nothing that was downloaded before; give its "
                "cache_dir, or leave out local_files_only."
            ) from error
        raise CheckpointError(
            f"{repository}: no such folder, and the hub did not give it ({type(error).__name__}); "
            "check the name and the connection, or download the weights and pass their path."
        ) from error


def find_weights(name_or_path: str | Path, hub: Hub = ANY_HUB) -> Path:
    """The file of the weights that a name stands for.

    Raises CheckpointError where there is none.
    """
    path = resolve(name_or_path, hub=hub)
    if not path.is_dir():
        return path
    file = path / WEIGHTS_FILE
    if not file.exists():
        raise CheckpointError(
            f"{path}: holds no {WEIGHTS_FILE}; give the folder or file of the weights."
        )
    return file


def read_json(file: Path) -> dict[str, Any]:
    """The dictionary that a JSON file holds. Raises CheckpointError for anything else."""
    try:
        values = json.loads(file.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{file}: no readable JSON ({error}); copy the file again."
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{file}: holds no parameters by name; give a file that transformers or this one wrote."
        )
    return values

"""Weights of the matcher from a bundled name, a file, a folder, a hub id or an fsspec URL."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from eloftr.config import CONFIG_FILE, NetworkConfig
from pipeline.errors import RunError
from pipeline.store.folder import Folder
from pipeline.store.retries import redacted

if TYPE_CHECKING:  # at run time torch is imported only where a model is used
    from eloftr import EfficientLoFTRForKeypointMatching

# Parameters of a model that a run sets.
CHOSEN = (
    "coarse_matching_threshold",
    "coarse_matching_skip_softmax",
    "fine_matching_least_squares_radius",
)


def load_weights(name_or_url: str, storage: dict[str, Any]) -> EfficientLoFTRForKeypointMatching:
    """A model from a bundled name, a local file or folder, a hub id, or one at an fsspec URL.

    Raises RunError where the URL cannot be read, and what `eloftr.load_model` raises.
    """
    from eloftr import load_model

    with weights_here(name_or_url, storage) as here:
        return load_model(here)


@contextmanager
def weights_here(name_or_url: str, storage: dict[str, Any]) -> Iterator[str]:
    """What `eloftr` takes for weights: the name itself, or a copy of those at an fsspec URL.

    A URL is of a folder, unless its last name ends as a file of weights does. The `config.json` of
    a folder at a URL counts as that of a local one. The copy lasts as long as the context.

    Raises RunError where the URL cannot be read.
    """
    if "://" not in name_or_url:
        yield name_or_url
        return
    from eloftr.weights.locate import PICKLED, WEIGHTS_FILE

    parts = urlsplit(name_or_url)
    if not parts.path.endswith((Path(WEIGHTS_FILE).suffix, *PICKLED)):
        inside = f"{parts.path.rstrip('/')}/{WEIGHTS_FILE}"
        name_or_url = parts._replace(path=inside).geturl()  # what signs a URL stays behind the path
    folder, name = Folder.of_file(name_or_url, storage)
    shown = redacted(name_or_url)  # a signed URL holds a key behind the name
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / shown.rpartition("/")[2]
        try:
            path.write_bytes(folder.read_bytes(name))
        except OSError as error:
            cause = error.strerror or type(error).__name__
            raise RunError(
                f"{shown}: the weights cannot be read ({cause}); check the URL."
            ) from error
        if path.name == WEIGHTS_FILE:  # a file of another name has none
            # A store without the right to list refuses what is not there.
            with suppress(FileNotFoundError, PermissionError):
                path.with_name(CONFIG_FILE).write_bytes(folder.read_bytes(CONFIG_FILE))
        yield str(path)


def weights_digest(model: EfficientLoFTRForKeypointMatching) -> str:
    """SHA-256 over the names and values of all parameters and over the configuration.

    The digest is the same for every file format. CHOSEN are left out, because they are options of
    the run and stand in its own description.
    """
    parameters = NetworkConfig.to_dict(model.config)  # without what else a file may hold
    config = {k: v for k, v in parameters.items() if k not in CHOSEN}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()

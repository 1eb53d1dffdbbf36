"""The documented configuration: the network's, with reading and writing of `config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eloftr.config import CONFIG_FILE, NetworkConfig
from eloftr.weights.locate import find_file, read_json

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class EfficientLoFTRConfig(NetworkConfig):
    """Every parameter of the model, under the published names and with the published defaults.

    Raises ArgumentError (a ValueError), which names the parameter, where a combination cannot be
    built.
    """

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **overrides: Any) -> Self:
        """Read `config.json` of a folder, a bundled name or a hub id, or a configuration file.

        overrides: parameters that take precedence. Raises CheckpointError (a ValueError) where
        there is none.
        """
        return cls.from_dict(read_json(find_file(name_or_path, CONFIG_FILE)), **overrides)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` into `folder`, which is made where it is missing."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / CONFIG_FILE).write_text(self.to_json_string())

"""The documented configuration: the network's, with the forms in which transformers keeps one."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from eloftr.config import (
    ARCHITECTURE,
    CONFIG_FILE,
    FLAT_ROPE,
    MODEL_TYPE,
    NetworkConfig,
    rope_parameters,
)
from eloftr.errors import ArgumentError
from eloftr.weights.locate import Hub, find_file, read_json

if TYPE_CHECKING:
    from typing_extensions import Self

# Entries of files that follow from others here: sizes of layers, the type that the weights have,
# who wrote the file.
DERIVED = {
    *("model_type", "architectures", "transformers_version", "_name_or_path", "name_or_path"),
    *("dtype", "torch_dtype", "rope_scaling", *FLAT_ROPE),
    *("stage_in_channels", "stage_block_stride", "stage_block_in_channels"),
    *("stage_block_out_channels", "num_key_value_heads", "fine_fusion_dims", "intermediate_size"),
    "embedding_size",
}
OF_THE_PROCESS = ("dtype", "name_or_path")  # of a loaded model; no file holds them


class EfficientLoFTRConfig(NetworkConfig):
    """Every parameter of the model, under the published names and with the published defaults.

    Other names are kept as attributes, and saved, but mean nothing to the model.
    Raises ArgumentError (a ValueError), which names the parameter, where a combination cannot be
    built.
    """

    model_type: ClassVar[str] = MODEL_TYPE
    sub_configs: ClassVar[dict[str, Any]] = {}  # the automatic classes of transformers ask for it
    architectures: Any = (ARCHITECTURE,)
    # What a model was loaded as, and from.
    dtype: Any = None
    name_or_path: str = ""

    def __init__(self, **parameters: Any) -> None:
        known = {k: v for k, v in parameters.items() if k in self.__dataclass_fields__}
        known["rope_parameters"] = rope_parameters(parameters)
        if known.get("attn_implementation", "") is None:
            del known["attn_implementation"]
        super().__init__(**known)
        named = {"rope_scaling", *FLAT_ROPE, *self.__dataclass_fields__}
        self.update({name: parameters[name] for name in parameters if name not in named})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.to_dict() == other.to_dict()

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    @property
    def _attn_implementation(self) -> str:
        """The name under which transformers has `attn_implementation`."""
        return self.attn_implementation

    @_attn_implementation.setter
    def _attn_implementation(self, name: str | None) -> None:
        checked = self.replace(attn_implementation=name or "sdpa")
        self.attn_implementation = checked.attn_implementation

    def update(self, values: Mapping[str, Any]) -> None:
        """Set parameters, and keep others as attributes.

        Raises ArgumentError for a name that means something else here, as that of a method.
        """
        known = {name: values[name] for name in values.keys() & self.__dataclass_fields__.keys()}
        if known:
            vars(self).update(vars(self.replace(**known)))
        for name in values.keys() - known.keys():
            if hasattr(type(self), name) and name not in ("architectures", *OF_THE_PROCESS):
                raise ArgumentError(f"{name}: a name of the configuration's own; use another one.")
            setattr(self, name, values[name])

    def replace(self, **values: Any) -> Self:
        """A copy with other values. Raises ArgumentError for a name that it does not have."""
        unknown = sorted(name for name in values if name not in vars(self))
        if unknown:
            raise ArgumentError(f"{', '.join(unknown)}: no such parameter of EfficientLoFTRConfig.")
        return type(self)(**{**vars(self), **values})

    def to_dict(self) -> dict[str, Any]:
        """Parameters and whatever else was given, with what transformers looks for in a file."""
        fields = self.__dataclass_fields__
        given = vars(self).items()
        others = {k: v for k, v in given if k not in fields and k not in OF_THE_PROCESS}
        return copy.deepcopy({**super().to_dict(), **others})

    def to_diff_dict(self) -> dict[str, Any]:
        """Those entries of `to_dict` that differ from the defaults, and the type of the model."""
        default = type(self)().to_dict()
        values = self.to_dict()
        differing = {k: v for k, v in values.items() if k not in default or default[k] != v}
        return {"model_type": self.model_type, **differing}

    def to_json_string(self, use_diff: bool = False) -> str:
        """The text of `config.json`; with use_diff, only what differs from the defaults."""
        values = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(values, indent=2, sort_keys=True) + "\n"

    def to_json_file(self, file: str | Path, use_diff: bool = False) -> None:
        """Write `to_json_string` to a file."""
        Path(file).write_text(self.to_json_string(use_diff))

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], return_unused_kwargs: bool = False, **overrides: Any
    ) -> Self:
        """From the dictionary of a `config.json`, ours or any that transformers has written.

        Entries that follow from others (`stage_in_channels`, `embedding_size` …) and those that are
        null are skipped; entries that mean nothing to the model are kept. Older files name the
        rotary parameters `rope_scaling`, `rope_theta` and `partial_rotary_factor`.
        overrides: parameters that take precedence. return_unused_kwargs: return a pair, the
        configuration and those overrides that it does not have; without it, they are an error.
        Raises ArgumentError, also for the configuration of another model.
        """
        kind = values.get("model_type") or cls.model_type
        if kind != cls.model_type:
            raise ArgumentError(
                f"model_type={kind!r}: this is the configuration of another model; give one of "
                f"{cls.model_type}."
            )
        rope = rope_parameters(values)
        kept = {k: v for k, v in values.items() if v is not None and k not in DERIVED}
        config = cls(**{**kept, "rope_parameters": rope})
        private = {k for k in overrides if k in ("name_or_path", "_from_auto", "_from_pipeline")}
        config.name_or_path = overrides.get("name_or_path", "")
        asked = {k: v for k, v in overrides.items() if k not in private}
        if not return_unused_kwargs:
            return config.replace(**asked)
        unused = {name: value for name, value in asked.items() if name not in vars(config)}
        used = {name: value for name, value in asked.items() if name in vars(config)}
        return cast("Self", (config.replace(**used), unused))

    @classmethod
    def from_json_file(cls, file: str | Path) -> Self:
        """Read a configuration file. Raises CheckpointError where there is none."""
        return cls.from_dict(read_json(Path(file)))

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> Self:
        """Read `config.json` of a folder, a bundled name or a hub id, or a configuration file.

        revision, token, cache_dir, force_download, local_files_only: of a hub id. overrides,
        return_unused_kwargs: see `from_dict`. Raises CheckpointError (a ValueError) where there is
        no configuration.
        """
        hub = Hub(revision, token, cache_dir, force_download, local_files_only)
        file = find_file(name_or_path, CONFIG_FILE, hub)
        return cls.from_dict(read_json(file), name_or_path=str(name_or_path), **overrides)

    def save_pretrained(self, folder: str | Path, push_to_hub: bool = False) -> None:
        """Write `config.json` into `folder`, which is made where it is missing."""
        refuse_push(push_to_hub)
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.to_json_file(Path(folder) / CONFIG_FILE)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> None:
        """Not offered. Raises ArgumentError, which says what to do."""
        refuse_push()


def refuse_push(asked: bool = True) -> None:
    """Raise ArgumentError where something is to be uploaded."""
    if asked:
        raise ArgumentError(
            "push_to_hub: nothing is uploaded from here; save_pretrained(folder), and upload the "
            "folder with huggingface_hub's upload_folder."
        )

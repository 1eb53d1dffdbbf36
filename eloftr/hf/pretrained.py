"""What both documented models share: loading, saving, and the calls that transformers' models have.

`from_pretrained` and `save_pretrained` take the arguments of transformers that mean something here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from eloftr.errors import ArgumentError, CheckpointError
from eloftr.hf.configuration import EfficientLoFTRConfig, refuse_push
from eloftr.model import Network
from eloftr.transformer import Attention
from eloftr.weights.key_map import infer_sizes
from eloftr.weights.locate import Hub, find_weights
from eloftr.weights.placing import Dtype, asked_dtype, saved_dtype, weights_device
from eloftr.weights.reading import read_state, saved_config
from eloftr.weights.writing import save_model

if TYPE_CHECKING:
    from typing_extensions import Self

# Arguments of transformers that choose how a model is loaded and not what is loaded. Nothing here
# depends on them: memory is as low as it can be, and no code of a repository is run.
WITHOUT_EFFECT = ("low_cpu_mem_usage", "trust_remote_code", "adapter_kwargs", "_from_auto")
# Arguments of transformers with the one value that they can have here.
ALWAYS = {"weights_only": True, "ignore_mismatched_sizes": False}


class PretrainedModule(Network):
    """What both documented models share: loading, saving, and what they tell of themselves."""

    config_class = EfficientLoFTRConfig
    base_model_prefix = "efficientloftr"
    main_input_name = "pixel_values"
    config: EfficientLoFTRConfig

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        config: Any = None,
        dtype: Dtype | None = None,
        torch_dtype: Dtype | None = None,
        device_map: Any = None,
        output_loading_info: bool = False,
        use_safetensors: bool | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> Self:
        """A model with its weights, in evaluation mode.

        name_or_path: a hub id, a folder, a file (original or Hugging Face keys) or a bundled name
        ("small"). `EfficientLoFTRModel` takes weights of the whole model, too.
        config: in place of the one that comes with the weights; a configuration, of transformers
        too, or what `EfficientLoFTRConfig.from_pretrained` takes.
        dtype, or torch_dtype, its older name: of the weights; a type or its name. By default, and
        for "auto", they keep the one that they were saved in.
        device_map: "auto", a device or `{"": device}`; default the CPU.
        output_loading_info: return a pair, the model and a dictionary of the keys that did not fit.
        Loading is strict, so its collections are empty.
        use_safetensors: True refuses other files; False is refused, because folders have no others.
        revision, token, cache_dir, force_download, local_files_only: of a hub id.
        overrides: parameters of the configuration, as in `from_pretrained(name,
        coarse_matching_threshold=0.3)`, among them `attn_implementation`, "eager" or "sdpa".
        `low_cpu_mem_usage` and `trust_remote_code` are accepted and change nothing.
        Raises CheckpointError where the weights cannot be read or do not fit, ArgumentError for
        arguments.
        """
        asked, device = asked_dtype(dtype, torch_dtype), weights_device(device_map)
        parameters = _parameters(overrides)
        hub = Hub(revision, token, cache_dir, force_download, local_files_only)
        file = find_weights(name_or_path, hub)
        if use_safetensors is False or (use_safetensors and file.suffix != ".safetensors"):
            raise CheckpointError(
                f"{file}: use_safetensors={use_safetensors} does not fit this file; leave it out."
            )
        state, saved = read_state(file), saved_config(file)
        chosen = _configuration(config, state, saved, str(file)).replace(**parameters)
        model = cls._with_weights(state, chosen, file).eval()
        model = model.to(device, asked or saved_dtype(state, saved))
        model.config.dtype, model.config.name_or_path = model.dtype, str(name_or_path)
        if not output_loading_info:
            return model
        unfit: dict[str, Any] = {
            name: set() for name in ("missing_keys", "unexpected_keys", "mismatched_keys")
        }
        return cast("Self", (model, {**unfit, "error_msgs": []}))

    @classmethod
    def _with_weights(
        cls, state: Mapping[str, Tensor], config: EfficientLoFTRConfig, file: Path
    ) -> Self:
        """A model of this class that holds the tensors of a file."""
        raise NotImplementedError

    @classmethod
    def from_config(
        cls,
        config: EfficientLoFTRConfig,
        dtype: Dtype | None = None,
        torch_dtype: Dtype | None = None,
        **overrides: Any,
    ) -> Self:
        """A model with random weights, float32 by default.

        dtype, torch_dtype, overrides: see `from_pretrained`. Raises ArgumentError.
        """
        model = cls(config.replace(**_parameters(overrides)))
        return model.to(asked_dtype(dtype, torch_dtype) or model.dtype)

    _from_config = from_config  # what the automatic classes of transformers call

    def save_pretrained(self, folder: str | Path, push_to_hub: bool = False) -> None:
        """Write `config.json` and `model.safetensors`; transformers loads the folder too.

        Raises CheckpointError for a fused model.
        """
        refuse_push(push_to_hub)
        save_model(self, folder)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> None:
        """Not offered. Raises ArgumentError, which says what to do."""
        refuse_push()

    @property
    def base_model(self) -> nn.Module:
        """Backbone and transformer: `EfficientLoFTRModel`."""
        base: nn.Module = getattr(self, self.base_model_prefix, self)
        return base

    @property
    def name_or_path(self) -> str:
        """What it was loaded from; empty for random weights."""
        return self.config.name_or_path

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """The number of weights. There are no embeddings that could be excluded."""
        counted = (p for p in self.parameters() if p.requires_grad or not only_trainable)
        return sum(p.numel() for p in counted)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the weights, and of the buffers."""
        buffers = list(self.buffers()) if return_buffers else []
        return sum(t.numel() * t.element_size() for t in [*self.parameters(), *buffers])

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Compute attention by "eager" or "sdpa" from now on. Raises ArgumentError for others."""
        self.config._attn_implementation = attn_implementation
        for module in self.modules():
            if isinstance(module, Attention):
                module.eager = attn_implementation == "eager"

    def get_input_embeddings(self) -> nn.Module:
        """An image matcher embeds no tokens. Raises NotImplementedError, as in transformers."""
        raise NotImplementedError(f"{type(self).__name__} reads images; it embeds no tokens.")

    def get_output_embeddings(self) -> None:
        """None: there are none."""

    def can_generate(self) -> bool:
        """False: it generates no text."""
        return False

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Not offered. Raises ArgumentError, which says what to do."""
        raise ArgumentError(
            "gradient_checkpointing_enable: this model has no gradient checkpointing; train on "
            "smaller images or batches."
        )


def _parameters(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the configuration among the further arguments of `from_pretrained`."""
    for name, only in ALWAYS.items():
        if overrides.get(name, only) not in (None, only):
            raise ArgumentError(
                f"{name}={overrides[name]!r}: only {only} is done here; leave it out."
            )
    parameters = {
        name: value
        for name, value in overrides.items()
        if name not in ALWAYS and name not in WITHOUT_EFFECT
    }
    if parameters.get("attn_implementation", "") is None:
        del parameters["attn_implementation"]
    return parameters


def _configuration(
    given: Any, state: Mapping[str, Tensor], saved: Mapping[str, Any] | None, file: str
) -> EfficientLoFTRConfig:
    """A copy of the configuration that was given, or the one that belongs to the weights."""
    if isinstance(given, EfficientLoFTRConfig):
        return copy.deepcopy(given)
    if given is None:
        values = infer_sizes(state, file) if saved is None else saved
    elif isinstance(given, str | Path):
        return EfficientLoFTRConfig.from_pretrained(given)
    elif hasattr(given, "to_dict"):  # of the network alone, or of transformers
        values = given.to_dict()
    else:
        raise ArgumentError(
            f"config is a {type(given).__name__}: give an EfficientLoFTRConfig, or where it lies."
        )
    return EfficientLoFTRConfig.from_dict(values)

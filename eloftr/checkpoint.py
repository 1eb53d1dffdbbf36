"""Reading and writing weights: the original repository's keys, Hugging Face's keys, and the bundled weights by name.

Our parameter names are Hugging Face's, so one explicit table is all: original → ours. Loading is strict; every missing,
unexpected or misshapen parameter is named. Pickled files are read with `weights_only`, never executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from eloftr.config import CONFIG_FILE, EfficientLoFTRConfig
from eloftr.model import EfficientLoFTRForKeypointMatching, EfficientLoFTRModel, PretrainedModule

WEIGHTS_FILE = "model.safetensors"
BUNDLED = Path(__file__).parent / "weights"
POSITIONS = ".rope_pos_enc."  # tables of positions, derived from sizes alone; some forks of the original store them
PICKLED = (".ckpt", ".pth", ".pt", ".bin")

# (original, ours); {i} and {j} are indices. Layers of the original transformer alternate self, cross.
BACKBONE_KEYS = [
    ("rbr_dense.conv", "conv1.conv"),
    ("rbr_dense.bn", "conv1.norm"),
    ("rbr_1x1.conv", "conv2.conv"),
    ("rbr_1x1.bn", "conv2.norm"),
    ("rbr_identity", "identity"),
]
ATTENTION_KEYS = [
    ("aggregate", "aggregation.q_aggregation"),
    ("norm1", "aggregation.norm"),
    ("q_proj", "attention.q_proj"),
    ("k_proj", "attention.k_proj"),
    ("v_proj", "attention.v_proj"),
    ("merge", "attention.o_proj"),
    ("mlp.0", "mlp.fc1"),
    ("mlp.2", "mlp.fc2"),
    ("norm2", "mlp.layer_norm"),
]
FUSION_KEYS = [
    ("layer3_outconv", "out_conv"),
    ("layer2_outconv", "out_conv_layers.0.out_conv1"),
    ("layer2_outconv2.0", "out_conv_layers.0.out_conv2"),
    ("layer2_outconv2.1", "out_conv_layers.0.batch_norm"),
    ("layer2_outconv2.3", "out_conv_layers.0.out_conv3"),
    ("layer1_outconv", "out_conv_layers.1.out_conv1"),
    ("layer1_outconv2.0", "out_conv_layers.1.out_conv2"),
    ("layer1_outconv2.1", "out_conv_layers.1.batch_norm"),
    ("layer1_outconv2.3", "out_conv_layers.1.out_conv3"),
]


class CheckpointError(ValueError):
    """Weights that cannot be read or do not fit; the message says what, where and how to cure it."""


def original_keys(config: EfficientLoFTRConfig) -> dict[str, str]:
    """Module names of the original repository → ours, for a model of this configuration."""
    table: dict[str, str] = {}
    for stage, blocks in enumerate(config.stage_num_blocks):
        for block in range(blocks):
            source = f"backbone.layer{stage}" + ("" if stage == 0 else f".{block}")
            target = f"efficientloftr.backbone.stages.{stage}.blocks.{block}"
            table |= {f"{source}.{a}": f"{target}.{b}" for a, b in BACKBONE_KEYS}
    for layer in range(2 * config.num_attention_layers):
        kind = "cross_attention" if layer % 2 else "self_attention"
        target = f"efficientloftr.local_feature_transformer.layers.{layer // 2}.{kind}"
        table |= {f"loftr_coarse.layers.{layer}.{a}": f"{target}.{b}" for a, b in ATTENTION_KEYS}
    table |= {f"fine_preprocess.{a}": f"refinement_layer.{b}" for a, b in FUSION_KEYS}
    return table


def _renamed(state: Mapping[str, Tensor], table: Mapping[str, str]) -> dict[str, Tensor]:
    """Rename by module; a name the table lacks stays as it is, for the strict check to report."""
    renamed = {}
    for name, value in state.items():
        module, _, parameter = name.rpartition(".")
        renamed[f"{table[module]}.{parameter}" if module in table else name] = value
    return renamed


def from_original(state: Mapping[str, Tensor], config: EfficientLoFTRConfig) -> dict[str, Tensor]:
    """A state dict in the original repository's keys → ours (Hugging Face's)."""
    return _renamed(state, original_keys(config))


def to_original(state: Mapping[str, Tensor], config: EfficientLoFTRConfig) -> dict[str, Tensor]:
    """A state dict in our (Hugging Face's) keys → the original repository's."""
    return _renamed(state, {ours: original for original, ours in original_keys(config).items()})


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or a pickled checkpoint, without the wrappers around them.

    Those are `state_dict` and `matcher.`, in which the authors and those who trained on their code (MatchAnything,
    MINIMA) save, and the `module.` of a parallel run.
    """
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        elif path.suffix in PICKLED:
            content = torch.load(path, map_location="cpu", weights_only=True)
            state = content.get("state_dict", content)
        else:
            raise CheckpointError(f"{path}: unknown kind of file; give a .safetensors or one of {', '.join(PICKLED)}.")
    except CheckpointError:
        raise
    except Exception as error:  # safetensors and pickle raise types of their own
        cause = str(error).partition("\n")[0]
        if type(error).__name__ == "UnpicklingError":  # torch's own message goes on to say how to run it all the same
            cause = "it is damaged, or holds more than tensors and plain values, of which nothing is executed"
        raise CheckpointError(f"{path}: not a readable checkpoint ({cause}); copy it again.") from error
    state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{path}: holds no tensors; is it a checkpoint of EfficientLoFTR?")
    state = {name.removeprefix("module.").removeprefix("matcher."): value for name, value in state.items()}
    return {name: value for name, value in state.items() if POSITIONS not in name}


def _is_original(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(("backbone.layer", "loftr_coarse.", "fine_preprocess.")) for name in state)


def infer_config(state: Mapping[str, Tensor], source: str) -> EfficientLoFTRConfig:
    """The sizes of the model that a state dict, in either key format, belongs to; the rest is default."""
    original = _is_original(state)
    stage_pattern = (
        r"backbone\.layer(\d)(?:\.(\d+))?\." if original else r"efficientloftr\.backbone\.stages\.(\d)\.blocks\.(\d+)\."
    )
    layer_pattern = (
        r"loftr_coarse\.layers\.(\d+)\." if original else r"efficientloftr\.local_feature_transformer\.layers\.(\d+)\."
    )
    blocks = [0, 0, 0, 0]
    widths = [0, 0, 0, 0]
    layers = 0
    for name, value in state.items():
        if found := re.match(stage_pattern, name):
            stage = min(int(found[1]), 3)
            blocks[stage] = max(blocks[stage], int(found[2] or 0) + 1)
            if value.ndim == 4:
                widths[stage] = value.shape[0]
        elif found := re.match(layer_pattern, name):
            layers = max(layers, int(found[1]) + 1)
    if 0 in blocks or 0 in widths or layers == 0:
        raise CheckpointError(f"{source}: its names are neither the original's nor Hugging Face's for EfficientLoFTR.")
    return EfficientLoFTRConfig(
        stage_num_blocks=blocks,
        out_features=widths,
        hidden_size=widths[-1],
        num_attention_layers=layers // 2 if original else layers,
        attention_bias=any(name.endswith("q_proj.bias") for name in state),
    )


def load_strictly(model: EfficientLoFTRForKeypointMatching, state: Mapping[str, Tensor], source: str) -> None:
    """Copy `state` (either key format) into `model`; raise CheckpointError naming every parameter that does not fit."""
    if _is_original(state):
        state = from_original(state, model.config)
    expected = model.state_dict()
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in expected]
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    problems = [
        f"{len(names)} parameters {what}: {', '.join(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if names
    ]
    if problems:
        cure = "give the configuration that the weights were trained with, or weights of this architecture"
        if any("rbr_reparam" in name for name in unexpected):
            cure = "this checkpoint is already fused; give the one it was fused from"
        raise CheckpointError(f"{source}: {'; '.join(problems)}. To cure it, {cure}.")
    model.load_state_dict({**{name: expected[name] for name in expected if name not in state}, **state})


def bundled_names() -> list[str]:
    """Names of the checkpoints that ship with the package."""
    return sorted(folder.name for folder in BUNDLED.glob("*") if (folder / WEIGHTS_FILE).exists())


def resolve(name_or_path: str | Path, files: Sequence[str] = (CONFIG_FILE, WEIGHTS_FILE)) -> Path:
    """A bundled name, a folder, a file or a hub id, of which `files` are downloaded → a local folder or file."""
    path = Path(name_or_path)
    if path.exists():
        return path
    name = str(name_or_path)
    if name in bundled_names():
        return BUNDLED / name
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not path.suffix:
        return _from_hub(name, files)
    raise CheckpointError(
        f"{name}: no such file, folder or bundled name; bundled are {', '.join(bundled_names()) or 'none'}."
    )


def find_file(name_or_path: str | Path, file: str) -> Path:
    """One file of what a name stands for, and no other download: `config.json` of a hub id, say; a file is itself."""
    path = resolve(name_or_path, [file])
    if path.is_dir():
        path = path / file
    if not path.exists():
        raise CheckpointError(f"{name_or_path}: holds no {file}; give a folder that has one, or the file.")
    return path


def _from_hub(repository: str, files: Sequence[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"{repository}: no such folder, and the hub client is not installed; pip install huggingface-hub."
        ) from error
    try:
        return Path(snapshot_download(repository, allow_patterns=list(files)))
    except Exception as error:  # the client raises many kinds, all meaning that the weights did not come
        raise CheckpointError(
            f"{repository}: no such folder, and the hub did not give it ({type(error).__name__}); "
            "check the name and the connection, or download the weights and pass their path."
        ) from error


def _locate(name_or_path: str | Path, config: EfficientLoFTRConfig | None) -> tuple[Path, EfficientLoFTRConfig | None]:
    """The file of the weights, and the configuration that was given, is in the file or lies beside it."""
    path = resolve(name_or_path)
    if not path.is_dir() and path.name != WEIGHTS_FILE:
        return path, config or _saved_config(path)
    path = path if path.is_dir() else path.parent
    file = path / WEIGHTS_FILE
    if not file.exists():
        raise CheckpointError(f"{path}: holds no {WEIGHTS_FILE}; give the folder or file of the weights.")
    if config is None and (path / CONFIG_FILE).exists():
        config = EfficientLoFTRConfig.from_pretrained(path)
    return file, config or _saved_config(file)


def _saved_config(file: Path) -> EfficientLoFTRConfig | None:
    """What `save_model` wrote into the file, which may have lost its folder, as behind a URL."""
    try:
        with safe_open(file, "pt") as opened:
            text = (opened.metadata() or {}).get("config")
    except Exception:  # another format, or damaged: `read_state` says which
        return None
    return EfficientLoFTRConfig.from_dict(json.loads(text)) if text else None


def _build(
    state: Mapping[str, Tensor], config: EfficientLoFTRConfig | None, overrides: dict[str, Any], source: str
) -> EfficientLoFTRForKeypointMatching:
    """A model of random weights, of the configuration or else of the shapes of `state`."""
    config = config or infer_config(state, source)
    return EfficientLoFTRForKeypointMatching(config.replace(**overrides) if overrides else config)


def load_model(
    name_or_path: str | Path, config: EfficientLoFTRConfig | None = None, **overrides: Any
) -> EfficientLoFTRForKeypointMatching:
    """A model in evaluation mode with its weights, float32, on the CPU.

    name_or_path: a bundled name, a folder (`config.json`, `model.safetensors`), a `.safetensors`, `.ckpt`,
    `.pth` or `.pt` file in either key format, or a hub id. Without `config`, it is read from the folder or the file, or
    inferred from the shapes. overrides: parameters of the configuration that take precedence over it.
    """
    file, config = _locate(name_or_path, config)
    state = read_state(file)
    model = _build(state, config, overrides, str(file))
    load_strictly(model, state, str(file))
    return model.eval()


def load_base_model(
    name_or_path: str | Path, config: EfficientLoFTRConfig | None = None, **overrides: Any
) -> EfficientLoFTRModel:
    """Backbone and transformer of what `load_model` reads, or of weights that hold no more than these."""
    file, config = _locate(name_or_path, config)
    state = read_state(file)
    base_alone = any(name.startswith("backbone.stages.") for name in state)
    if base_alone:
        state = {f"efficientloftr.{name}": value for name, value in state.items()}
    model = _build(state, config, overrides, str(file))
    if base_alone:
        state |= {name: value for name, value in model.state_dict().items() if name.startswith("refinement_layer.")}
    load_strictly(model, state, str(file))
    return model.eval().efficientloftr


def save_model(model: PretrainedModule, folder: str | Path) -> None:
    """Write `config.json` and `model.safetensors` in Hugging Face's format; transformers loads the folder.

    Raises CheckpointError for a fused model, whose branches are gone.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if not any(".conv1." in name for name in state):
        raise CheckpointError(f"{folder}: a fused model cannot be saved; save before fuse().")
    model.config.save_pretrained(folder)
    save_file(state, Path(folder) / WEIGHTS_FILE, metadata={"format": "pt", "config": model.config.to_json_string()})

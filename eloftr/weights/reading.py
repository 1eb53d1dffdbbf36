"""Reading weights. Loading is strict: every missing, unexpected or misshapen parameter is named.

Pickled files are read with `weights_only`, so nothing in them is executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from eloftr.config import CONFIG_FILE
from eloftr.errors import CheckpointError
from eloftr.model import Network
from eloftr.weights.key_map import from_original_keys, is_original
from eloftr.weights.locate import PICKLED, WEIGHTS_FILE, read_json

# Tables of positions, derived from sizes alone; some forks of the original store them.
POSITIONS = ".rope_pos_enc."


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or a pickled checkpoint, without the wrappers around them.

    Wrappers are `state_dict` and `matcher.`, in which the authors and those who trained on their
    code (MatchAnything, MINIMA) save, and the `module.` of a parallel run.
    Raises CheckpointError for a file that cannot be read.
    """
    if path.suffix not in (".safetensors", *PICKLED):
        raise CheckpointError(
            f"{path}: unknown kind of file; give a .safetensors or one of {', '.join(PICKLED)}."
        )
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
            state = content.get("state_dict", content)
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    # Safetensors, pickle and torch raise types of their own for a damaged file.
    except Exception as error:
        cause = str(error).partition("\n")[0]
        # The message of torch would go on to say how to run what the file holds.
        if type(error).__name__ == "UnpicklingError":
            cause = (
                "it is damaged, or holds more than tensors and plain values; nothing is executed"
            )
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({cause}); copy it again."
        ) from error
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors; is it a checkpoint of EfficientLoFTR?")
    plain = {
        name.removeprefix("module.").removeprefix("matcher."): value
        for name, value in tensors.items()
    }
    return {name: value for name, value in plain.items() if POSITIONS not in name}


def saved_config(file: Path) -> dict[str, Any] | None:
    """The parameters that belong to a file of weights, or None.

    They are those of the `config.json` beside the file, or those in it: `save_model` writes them
    into the file too, because a file may lose its folder, as behind a URL.
    """
    beside = file.parent / CONFIG_FILE
    if file.name == WEIGHTS_FILE and beside.exists():
        return read_json(beside)
    try:
        with safe_open(file, "pt") as opened:
            text = (opened.metadata() or {}).get("config")
    # Safetensors raises types of its own for another format; `read_state` says what the file is.
    except Exception:
        return None
    values: dict[str, Any] | None = json.loads(text) if text else None
    return values


def load_strictly(network: Network, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy `state`, in either key format, into `network`.

    Raises CheckpointError, which names every parameter that does not fit.
    """
    if is_original(state):
        state = from_original_keys(state, network.config)
    expected = network.state_dict()
    missing = [
        name for name in expected if name not in state and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in state if name not in expected]
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    problems = [
        f"{len(names)} parameters {what}: {', '.join(names)}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshapen),
        )
        if names
    ]
    if problems:
        cure = "give the weights' own configuration, or weights of this architecture"
        if any("rbr_reparam" in name for name in unexpected):
            cure = "this checkpoint is already fused; give the one it was fused from"
        raise CheckpointError(f"{source}: {'; '.join(problems)}. To cure it, {cure}.")
    counters = {
        name: torch.zeros_like(value) for name, value in expected.items() if name not in state
    }
    network.load_state_dict({**counters, **state})

"""Writing weights in Hugging Face's format."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from eloftr.config import CONFIG_FILE
from eloftr.errors import CheckpointError
from eloftr.model import Network
from eloftr.weights.locate import WEIGHTS_FILE


def save_model(model: Network, folder: str | Path) -> None:
    """Write `config.json` and `model.safetensors` into `folder`, which is made where it is missing.

    transformers loads the folder. Raises CheckpointError for a fused model, whose branches are
    gone.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if not any(".conv1." in name for name in state):
        raise CheckpointError(f"{folder}: a fused model cannot be saved; save before fuse().")
    folder, text = Path(folder), model.config.to_json_string()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(text)
    save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt", "config": text})

"""EfficientLoFTR: detector-free, semi-dense image matching (Wang et al., CVPR 2024, arXiv 2403.04765)."""

from importlib import import_module
from typing import Any

# Imported on first use: a process that only resizes images must not pay for torch.
_HOME = {
    "CheckpointError": "checkpoint",
    "EfficientLoFTRConfig": "config",
    "EfficientLoFTRForKeypointMatching": "model",
    "EfficientLoFTRModel": "model",
    "Matcher": "matcher",
    "Matches": "matcher",
    "load_matcher": "matcher",
    "load_model": "checkpoint",
    "save_model": "checkpoint",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'eloftr' has no attribute {name!r}")
    return getattr(import_module(f"eloftr.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__

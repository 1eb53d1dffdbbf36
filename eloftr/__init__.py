"""EfficientLoFTR: detector-free, semi-dense image matching (Wang et al., CVPR 2024, arXiv 2403.04765)."""

from importlib import import_module
from typing import Any

# Imported on first use: a process that only resizes images must not pay for torch.
_HOME = {
    "BackboneOutput": "outputs",
    "BatchFeature": "image_processing",
    "CheckpointError": "checkpoint",
    "EfficientLoFTRConfig": "config",
    "EfficientLoFTRForKeypointMatching": "model",
    "EfficientLoFTRImageProcessor": "image_processing",
    "EfficientLoFTRImageProcessorFast": "image_processing_fast",
    "EfficientLoFTRKeypointMatchingOutput": "outputs",
    "EfficientLoFTRModel": "model",
    "KeypointMatchingPipeline": "keypoint_pipeline",
    "Matcher": "matcher",
    "Matches": "matcher",
    "load_image": "image_loading",
    "load_matcher": "matcher",
    "load_model": "checkpoint",
    "match": "matcher",
    "pipeline": "keypoint_pipeline",
    "save_model": "checkpoint",
}
# What the documentation of the Hugging Face port calls them; there is one architecture here.
_AUTO = {
    "AutoConfig": "EfficientLoFTRConfig",
    "AutoImageProcessor": "EfficientLoFTRImageProcessor",
    "AutoModel": "EfficientLoFTRModel",
    "AutoModelForKeypointMatching": "EfficientLoFTRForKeypointMatching",
}
__all__ = sorted([*_HOME, *_AUTO])


def __getattr__(name: str) -> Any:
    name = _AUTO.get(name, name)
    if name not in _HOME:
        raise AttributeError(f"module 'eloftr' has no attribute {name!r}")
    return getattr(import_module(f"eloftr.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__

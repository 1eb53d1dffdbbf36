"""EfficientLoFTR: detector-free, semi-dense image matching.

Wang et al., "Efficient LoFTR: Semi-Dense Local Feature Matching with Sparse-Like Speed", CVPR 2024,
arXiv 2403.04765.
"""

from importlib import import_module
from typing import Any

# Imported on first use: a process that only resizes images must not pay for torch.
_HOME = {
    "ArgumentError": "errors",
    "AutoImageProcessor": "hf.image_processing_fast",
    "BackboneOutput": "hf.outputs",
    "BatchFeature": "hf.outputs",
    "CheckpointError": "errors",
    "DecoderMissingError": "errors",
    "EfficientLoFTRConfig": "hf.configuration",
    "EfficientLoFTRForKeypointMatching": "hf.modeling",
    "EfficientLoFTRImageProcessor": "hf.image_processing",
    "EfficientLoFTRImageProcessorFast": "hf.image_processing_fast",
    "EfficientLoFTRKeypointMatchingOutput": "hf.outputs",
    "EfficientLoFTRModel": "hf.modeling",
    "EloftrError": "errors",
    "ExportError": "errors",
    "ImageReadError": "errors",
    "KeypointMatchingPipeline": "hf.keypoint_pipeline",
    "Matcher": "matching.matcher",
    "Matches": "matching.matches",
    "load_image": "hf.image_loading",
    "load_matcher": "matching.loading",
    "load_model": "hf.modeling",
    "match": "matching.loading",
    "match_probabilities": "matching.probability",
    "pipeline": "hf.keypoint_pipeline",
    "register_with_transformers": "hf",
    "save_model": "weights.writing",
}
# What the documentation of the Hugging Face port calls them; there is one architecture here.
_AUTO = {
    "AutoConfig": "EfficientLoFTRConfig",
    "AutoModel": "EfficientLoFTRModel",
    "AutoModelForKeypointMatching": "EfficientLoFTRForKeypointMatching",
}
__all__ = sorted([*_HOME, *_AUTO, "__version__"])


def _version() -> str:
    """The version of the installed distribution."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("eloftr-pipeline")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    name = _AUTO.get(name, name)
    if name not in _HOME:
        raise AttributeError(f"module 'eloftr' has no attribute {name!r}")
    return getattr(import_module(f"eloftr.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__

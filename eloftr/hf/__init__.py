"""What users of transformers expect: configuration, models, image processors, outputs, pipeline."""

from __future__ import annotations

from types import ModuleType
from typing import Any


def register_with_transformers(transformers: ModuleType) -> None:
    """Let the automatic classes of transformers give the classes of this package.

    transformers: the module, as imported by the caller. Afterwards `AutoConfig`, `AutoModel`,
    `AutoModelForKeypointMatching` and `AutoImageProcessor` of this process answer with the classes
    here for folders and hub ids of EfficientLoFTR. Its own classes stay where they are, and other
    architectures are not touched. It may be called again.
    """
    from eloftr.hf.configuration import EfficientLoFTRConfig
    from eloftr.hf.image_processing import EfficientLoFTRImageProcessor
    from eloftr.hf.image_processing_fast import EfficientLoFTRImageProcessorFast
    from eloftr.hf.modeling import EfficientLoFTRForKeypointMatching, EfficientLoFTRModel

    transformers.AutoConfig.register(
        EfficientLoFTRConfig.model_type, EfficientLoFTRConfig, exist_ok=True
    )
    transformers.AutoModel.register(EfficientLoFTRConfig, EfficientLoFTRModel, exist_ok=True)
    transformers.AutoModelForKeypointMatching.register(
        EfficientLoFTRConfig, EfficientLoFTRForKeypointMatching, exist_ok=True
    )
    # These answer with classes of transformers' own base class alone.
    image_processors = {
        backend: type(
            ours.__name__,
            (ours, transformers.BaseImageProcessor),
            {"__module__": ours.__module__, "__doc__": ours.__doc__, "__reduce__": _plain},
        )
        for backend, ours in (
            ("pil", EfficientLoFTRImageProcessor),
            ("torchvision", EfficientLoFTRImageProcessorFast),
        )
    }
    transformers.AutoImageProcessor.register(
        EfficientLoFTRConfig, image_processor_classes=image_processors, exist_ok=True
    )


def _plain(processor: Any) -> tuple[Any, ...]:
    """For pickle: the processor without the base class of transformers."""
    ours: Any = type(processor).__bases__[0]
    return ours.from_dict, (processor.to_dict(),)

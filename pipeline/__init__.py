"""Match, rerank and reconstruct photographs: what the commands do, as functions.

    summary = pipeline.match("photos", "run", progress=lambda event: print(event.text))
    pipeline.reconstruct("run")

Nothing is printed by the functions themselves. They report progress to a callback and return a
summary. Every expected error is a `pipeline.errors.PipelineError` or another `eloftr.EloftrError`.
The functions work in any thread, also several at once.
"""

from __future__ import annotations

# The rooms are loaded before the functions of the same names are. A later import of a room
# therefore does not replace a function.
import pipeline.match
import pipeline.reconstruct
import pipeline.report
import pipeline.rerank  # noqa: F401
from pipeline.events import Event
from pipeline.front.exports import export_model
from pipeline.front.growing import grow
from pipeline.front.localizing import localize
from pipeline.front.matching import estimate, match, panorama_matches, rerank
from pipeline.front.models import (
    align_model,
    compare_models,
    crop_model,
    merge_models,
    model_info,
    transform_model,
)
from pipeline.front.reconstructing import plan_blocks, reconstruct, refine, write_faces
from pipeline.front.reporting import report

__all__ = [
    "Event",
    "align_model",
    "compare_models",
    "crop_model",
    "estimate",
    "export_model",
    "grow",
    "localize",
    "match",
    "merge_models",
    "model_info",
    "panorama_matches",
    "plan_blocks",
    "reconstruct",
    "refine",
    "report",
    "rerank",
    "transform_model",
    "write_faces",
]

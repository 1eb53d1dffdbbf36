"""Every error that the pipeline raises on purpose. All of them are `eloftr.EloftrError`s.

Each message is one sentence for a person: what is wrong, where, and how to cure it. Commands catch
this tree and nothing else, so that a bug keeps its traceback.
"""

from __future__ import annotations

from eloftr.errors import ArgumentError, CheckpointError, EloftrError
from pipeline.vocabulary import Reason

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "DescriptorError",
    "EloftrError",
    "ExecutorError",
    "FolderAbsentError",
    "ImageError",
    "LeaseError",
    "MissingExtraError",
    "PairListError",
    "PipelineError",
    "ReconstructionError",
    "RunError",
    "StorageError",
]


class PipelineError(EloftrError):
    """The root of the pipeline's own errors."""


class StorageError(PipelineError):
    """A folder or file cannot be used."""


class FolderAbsentError(StorageError):
    """The folder does not exist."""


class ImageError(PipelineError):
    """A photograph cannot be used.

    reason: a word of the vocabulary. detail: one sentence for a person.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class PairListError(PipelineError):
    """A list of pairs, candidates, positions, poses, headings or true images cannot be used."""


class DescriptorError(PipelineError):
    """Global descriptors cannot be used."""


class RunError(PipelineError):
    """A run cannot start or cannot go on."""


class LeaseError(PipelineError):
    """Another command is working on the run folder."""


class ExecutorError(PipelineError):
    """The machine or the cluster cannot carry out the work as asked."""


class ReconstructionError(PipelineError):
    """The matches, the cameras or the options do not allow a reconstruction."""


class MissingExtraError(PipelineError, ImportError):
    """A package that an optional part needs is not installed."""

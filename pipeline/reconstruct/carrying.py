"""What carries out the work of a reconstruction."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.events import Listener, nobody
from pipeline.execute.executor import DEFAULT_ACTORS, Actors, Executor
from pipeline.execute.worker import Worker


@dataclass(frozen=True)
class Carrying:
    """What carries out the work.

    executor, actors: merge keypoints, map blocks and measure tracks. colmap: one process, which
    calls COLMAP. listen: is told.
    """

    executor: Executor
    colmap: Worker
    actors: Actors = DEFAULT_ACTORS
    listen: Listener = nobody

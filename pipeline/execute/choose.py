"""Which executor carries out the work."""

from __future__ import annotations

import os

from pipeline.errors import ArgumentError
from pipeline.execute.executor import CLUSTER, Executor, local_capacity
from pipeline.execute.local import LocalExecutor

EXECUTORS = ("auto", "local", "ray")


def make_executor(name: str = "auto", quiet: bool = False) -> Executor:
    """The executor of that name.

    `auto` is Ray where a cluster's address is given, as inside a Ray job, and where this machine
    has several GPUs; else `local`.

    quiet: see `RayExecutor`. Raises ArgumentError for another name, MissingExtraError where Ray is
    wanted and not there.
    """
    if name not in EXECUTORS:
        raise ArgumentError(f"executor {name!r} is unknown; give {', '.join(EXECUTORS)}.")
    if name == "ray" or (name == "auto" and (os.environ.get(CLUSTER) or local_capacity().gpus > 1)):
        from pipeline.execute.on_ray import RayExecutor  # Ray takes seconds to import

        return RayExecutor(quiet=quiet)
    return LocalExecutor()

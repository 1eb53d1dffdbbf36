"""Attempts at the stages of tasks, counted by an actor of Ray.

The class stands alone, because its process would need another second for what `on_ray` imports.
"""

from __future__ import annotations

from collections import Counter


class Attempts:
    """How often a stage of a task was begun in processes that died before its end.

    Every run begins with new counts. Ray's own count of retries is not used, because it counts
    every task that waited for an actor that died.
    """

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()

    def begin(self, key: str) -> int:
        """Count one attempt more; returns its number, 1 for the first."""
        self.begun[key] += 1
        return self.begun[key]

    def end(self, key: str) -> None:
        """Forget the attempts at what is done."""
        self.begun.pop(key, None)

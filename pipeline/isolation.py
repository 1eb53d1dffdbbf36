"""A call in a process of its own, so that the caller outlives what kills it.

call(read_image, folder, "poison.jpg") → its result, or `Died`
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any


class Died(Exception):
    """The process ended without an answer; the message says of what."""


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns or raises. Everything must be picklable. Raises `Died` where its process dies."""
    child = subprocess.run(
        [sys.executable, "-m", "pipeline.isolation"],
        input=pickle.dumps((function, arguments)),  # not the command line: a folder holds credentials
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        check=False,
    )
    if child.returncode < 0:
        raise Died(f"killed by {signal.Signals(-child.returncode).name}")
    if child.returncode:
        raise Died(f"ended with exit code {child.returncode}")
    result, error = pickle.loads(child.stdout)
    if error is not None:
        raise error
    return result


def main() -> None:
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get into the answer
    function, arguments = pickle.load(sys.stdin.buffer)
    try:
        answer.write(pickle.dumps((function(*arguments), None)))
    except Exception as error:
        answer.write(pickle.dumps((None, error)))
    answer.close()


if __name__ == "__main__":
    main()

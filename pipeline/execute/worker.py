"""A process of this machine that carries out calls, and whose death is an answer too.

    call(function, *arguments)                  → the result, or `Died` is raised
    with Worker() as worker:                    several calls of one process
        worker.ask(function, *arguments)
        worker.ask_watched(…, listen=)          the events that the function reports reach `listen`
                                                in the calling process

The process is started by `subprocess` and talks over a socket pair. It does not import the caller's
main module again, so a script or notebook needs no guard. It ends by itself when the caller is
gone.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from pipeline.events import Listener, nobody

# With `-m` the module would exist twice, and this process could not read what the other pickles.
# A program given by -c finds modules in the working directory first, and its caller does not.
PROGRAM = """import sys
if sys.path[0] == "":
    del sys.path[0]
from pipeline.execute.worker import main
main()"""
FATAL = "3"  # COLMAP's level of logging; what matters also comes as an exception


class Died(Exception):
    """The process ended without an answer. The message says what ended it."""


class Answer(NamedTuple):
    """What a call led to: a result, or an exception and its trace as text."""

    result: Any
    error: BaseException | None = None
    trace: str = ""

    def unpacked(self) -> Any:
        """The result.

        Raises the exception, with the trace of the process that raised it as its cause.
        """
        if self.error is None:
            return self.result
        raise self.error from RemoteTrace(self.trace)


class RemoteTrace(Exception):
    """The trace of an exception in another process, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Worker:
    """One process.

    number: its number among other processes.
    gpu: the only GPU that it may see. With None it sees all of them.
    """

    def __init__(self, number: int = 0, gpu: int | None = None) -> None:
        self.number, self.gpu = number, gpu
        mine, theirs = socket.socketpair()
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environment = {**os.environ, "PYTHONPATH": paths, "GLOG_minloglevel": FATAL}
        if gpu is not None:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        self.connection = Connection(mine.detach())
        self.busy = False

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of one call. Raises what the call raised, and Died where the process dies."""
        self.send(function, *arguments)
        return self.receive()

    def ask_watched(self, function: Callable[..., Any], *arguments: Any, listen: Listener) -> Any:
        """As `ask`, for a function that reports events to an argument named `listen`."""
        self.send(_watched, function, arguments)
        return self.receive(listen)

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Begin a call; everything must be picklable. Raises Died where the process is gone."""
        message = pickle.dumps((function, arguments), protocol=5)
        try:
            self.connection.send_bytes(message)
        except OSError as error:
            raise self._death() from error
        self.busy = True

    def receive(self, listen: Listener = nobody) -> Any:
        """Wait for the call's result; events that arrive before it go to `listen`.

        Raises what the call raised, and Died where the process is gone.
        """
        while True:
            try:
                message = pickle.loads(self.connection.recv_bytes())
            except (EOFError, OSError) as error:
                raise self._death() from error
            if isinstance(message, Answer):
                self.busy = False
                return message.unpacked()
            listen(message)

    def close(self) -> None:
        """End the process: kill it where it is at work, otherwise let it end by itself."""
        self.connection.close()
        if self.busy:
            self.process.kill()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _death(self) -> Died:
        code = self.process.wait()
        self.busy = False
        self.connection.close()
        if code < 0:
            known = {number.value: number.name for number in signal.Signals}
            return Died(f"killed by {known.get(-code, f'signal {-code}')}")
        return Died(f"ended with exit code {code}")


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns or raises in a process of its own.

    Raises Died where that process dies.
    """
    with Worker() as worker:
        return worker.ask(function, *arguments)


def _watched(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments, listen=lambda event: _caller[-1].send_bytes(pickle.dumps(event)))


_caller: list[Connection] = []  # in a worker process: the one connection to its caller


def _answered(message: bytes) -> bytes:
    """The pickled answer to a pickled call."""
    try:
        function, arguments = pickle.loads(message)
        return pickle.dumps(Answer(function(*arguments)), protocol=5)
    except Exception as error:  # the caller raises it, whatever its type
        trace = traceback.format_exc()
        try:
            return pickle.dumps(Answer(None, error, trace), protocol=5)
        except Exception:  # an exception that cannot be pickled is sent as its text
            return pickle.dumps(
                Answer(None, RuntimeError(f"{type(error).__name__}: {error}"), trace), protocol=5
            )


def main() -> None:
    """Answer calls until the caller is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller handles a terminal's Ctrl-C
    connection = Connection(int(sys.argv[1]))
    _caller.append(connection)
    while True:
        try:
            message = connection.recv_bytes()
            connection.send_bytes(_answered(message))
        except (EOFError, OSError):
            break
    # Libraries that hold threads or handlers have nothing left to do, and may crash at exit.
    os._exit(0)

"""Around the start of Ray: what listens at an address, and what Ray changes in its process."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# What a client of gRPC says first, with no settings of its own (RFC 9113, section 3.4), and how an
# answer begins: three bytes of length, and the kind of its frame.
HTTP2_BEGINS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
FRAME_HEAD, SETTINGS = 9, b"\x04"
ANSWER = 10.0  # seconds to wait for it


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Put the handler of SIGTERM back, because Ray installs its own when it starts.

    What Ray's handler raises can be lost, in a callback of Ray's core for one. A SIGTERM that came
    meanwhile therefore goes to the handler that is put back.
    """
    kept = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or kept is None:
        yield
        return
    came, writer = socket.socketpair()
    came.setblocking(False)
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGTERM, kept)
        writer.close()
        with came:
            numbers = came.recv(1 << 16)  # of signals, a byte each; empty where none came
        if signal.SIGTERM in numbers:
            signal.raise_signal(signal.SIGTERM)


@contextmanager
def silence(quiet: bool) -> Iterator[None]:
    """Close standard error where `quiet`.

    Ray's core otherwise says there, in its own format, that it was told to keep quiet.
    """
    if not quiet:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def knock(address: str) -> None:
    """Raise OSError where no server of gRPC listens at `host:port`; Ray would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        return
    with socket.create_connection((host, int(port)), timeout=30) as door:
        if os.environ.get("RAY_USE_TLS", "0").lower() not in ("", "0", "false"):
            return  # it speaks after a handshake only
        door.settimeout(ANSWER)
        door.sendall(HTTP2_BEGINS)
        if door.recv(FRAME_HEAD)[3:4] != SETTINGS:
            raise OSError("what answers there is no Ray")

"""An object store in trouble: a proxy on loopback that answers some requests badly and hands the
others on.
"""

from __future__ import annotations

import http.client
import http.server
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO
from urllib.parse import urlsplit

# What may go wrong with a request. Requests for one path and method are numbered from 1.
Trouble = Callable[[str, str, int], str]  # method, path, number → "" or one of the words below
SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def _trickle(stream: BinaryIO, data: bytes, ended: threading.Event) -> None:
    """A byte every tenth of a second."""
    for k in range(len(data)):
        stream.write(data[k : k + 1])
        stream.flush()
        if ended.wait(0.1):
            return


@contextmanager
def flaky_store(endpoint: str, trouble: Trouble) -> Iterator[tuple[str, Counter[str]]]:
    """Its address, and how often each trouble was made.

    throttle: 503. refuse: 403. reset: the connection is closed without an answer. hang: no answer
    for a minute. cut: half of the body. slow: a byte every tenth of a second. lost: the store does
    what is asked, and its answer does not arrive.
    """
    made: Counter[str] = Counter()
    asked: Counter[tuple[str, str]] = Counter()
    guard = threading.Lock()
    upstream = urlsplit(endpoint)
    ended = threading.Event()

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            with guard:
                asked[self.command, path] += 1
                word = trouble(self.command, path, asked[self.command, path])
                made.update([word] if word else [])
            if word in ("throttle", "refuse"):
                status, error = (503, SLOW_DOWN) if word == "throttle" else (403, DENIED)
                self.send_response(status)
                self.send_header("Content-Length", str(len(error)))
                self.end_headers()
                self.wfile.write(error if self.command != "HEAD" else b"")
                return
            if word in ("reset", "hang"):
                ended.wait(60 if word == "hang" else 0)
                self.close_connection = True
                return
            connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port)
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            data = response.read()
            connection.close()
            if word == "lost":
                self.close_connection = True
                return
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            length = (
                response.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
            )
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            if word == "slow":
                _trickle(self.wfile, data, ended)
            else:
                self.wfile.write(data[: len(data) // 2] if word == "cut" else data)
                self.close_connection = word == "cut" or self.close_connection

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

        def log_message(self, format: str, *arguments: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(OSError):  # the client may have gone
                super().handle()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", made
        finally:
            ended.set()
            server.shutdown()

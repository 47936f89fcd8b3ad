"""A small real HTTP server in a thread, whose one answer a test sets."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answering = Callable[[str], bytes]  # from the path that was asked for


@dataclass
class Pages:
    """What is answered, and what was asked.

    Attributes:
        key: the bearer token that callers must show; empty lets everybody in.
    """

    body: bytes | Answering = b""
    status: int = 200
    key: str = ""
    url: str = ""
    paths: list[str] = field(default_factory=list)


@contextmanager
def pages(body: bytes | Answering = b"", *, tls: ssl.SSLContext | None = None, port: int = 0) -> Iterator[Pages]:
    told = Pages(body)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            told.paths.append(self.path)
            locked = bool(told.key) and self.headers.get("authorization") != f"Bearer {told.key}"
            body = b"" if locked else told.body(self.path) if callable(told.body) else told.body
            self.send_response(401 if locked else told.status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    told.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

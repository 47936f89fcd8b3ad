"""Stands for Jaeger, which cannot be had here: takes OTLP over HTTP, and tells what it was sent at GET /spans."""

from __future__ import annotations

import gzip
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.telemetry.telling import Collector, attributes

PORT = 14318
TAKEN = Collector()


class Handler(BaseHTTPRequestHandler):
    """OTLP in, JSON out."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        TAKEN.take(self.path, gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
        self._answer(b"")

    def do_GET(self) -> None:
        spans = [{"name": span.name, **attributes(span)} for span in TAKEN.spans]
        self._answer(json.dumps({"spans": spans, "resources": TAKEN.resources}).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", PORT), Handler).serve_forever()

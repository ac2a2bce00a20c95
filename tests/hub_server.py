"""A loopback server that speaks the part of the Hub's HTTP contract that downloads use.

``/org/name/resolve/REVISION/FILE`` answers HEAD and GET with ``X-Repo-Commit``, ``ETag`` and
ranges; a missing repository or file answers 404 with the Hub's ``X-Error-Code``.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server holds and what it was asked."""

    url: str = ""
    repositories: dict[str, Path] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    largest_body_bytes: int | None = None  # bodies break off here


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a Hub on a free port of 127.0.0.1 until the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            return

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def refuse(self, code: str) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def answer(self, body: bool) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", unquote(self.path))
            if match is None or match[1] not in hub.repositories:
                return self.refuse("RepoNotFound")
            if match[2] not in ("main", COMMIT):
                return self.refuse("RevisionNotFound")
            path = hub.repositories[match[1]] / match[3]
            if not path.is_file():
                return self.refuse("EntryNotFound")
            data = path.read_bytes()
            first = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(data) - first))
            self.end_headers()
            if body:
                self.wfile.write(data[first:][: hub.largest_body_bytes])
                self.close_connection = hub.largest_body_bytes is not None
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""A loopback server that speaks the Hub's HTTP contract as huggingface_hub's client uses it.

Two servers on 127.0.0.1, as the real one has two hosts: the Hub, which answers questions and takes
commits (its interface is in ``hub_api``), and the store of large files, to which it sends
clients by an absolute redirect and which must never see a token. Small files are answered by way
of a relative redirect. What clients asked, and how answers are to go wrong, is in :class:`Hub`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".pt")  # kept as large files, as .gitattributes has it


def etag(name: str, data: bytes) -> str:
    """The Hub's name for a content: sha256 of large files, git object id of small ones."""
    if name.endswith(LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class Repository:
    """Commits of one repository, by sha, and where its branches are."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Mapping[str, bytes], branch: str = "main", message: str = "") -> str:
        """Make ``files`` the whole content of a branch."""
        self.messages.append(message)
        parts = [f"{len(self.messages)} {message}"]
        parts += [f"{name} {etag(name, data)}" for name, data in sorted(files.items())]
        text = "\n".join(parts).encode()
        sha = hashlib.sha1(text, usedforsecurity=False).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha

    def sha(self, revision: str) -> str | None:
        """Full sha of a branch or commit, or None."""
        sha = self.branches.get(revision, revision)
        return sha if sha in self.commits else None


@dataclass
class Faults:
    """How answers go wrong; each may be changed at any time."""

    status: int = 0  # instead of an answer about a file
    break_off: int = 0  # so many bodies break off in the middle
    short: bool = False  # bodies end early, and say so: a proxy's 200
    ignore_range: bool = False
    flip: bool = False  # the last byte of bodies is another
    hold: threading.Event | None = None  # bodies wait in the middle for this
    silent: threading.Event | None = None  # answers about files wait for this
    upload_status: int = 0  # instead of taking a large file


@dataclass
class Hub:
    """What the server holds, what it was asked, and how it misbehaves."""

    url: str = ""
    store_url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)  # large files, by sha256
    tokens: dict[str, str] = field(default_factory=lambda: {"hf_r": "read", "hf_w": "write"})
    faults: Faults = field(default_factory=Faults)
    requests: list[str] = field(default_factory=list)
    store_saw_token: bool = False
    unknown: list[str] = field(default_factory=list)  # what this server should learn to answer
    half_sent: threading.Event = field(default_factory=threading.Event)

    def add(self, name: str, folder: Path, **options: bool) -> str:
        """Hold a folder as the first commit of a repository."""
        repository = self.repositories[name] = Repository(**options)
        files = [path for path in folder.rglob("*") if path.is_file()]
        return repository.commit({p.relative_to(folder).as_posix(): p.read_bytes() for p in files})

    def downloads(self, name: str) -> int:
        """How often the body of a file was asked for."""
        return sum(
            line.startswith(("GET /store/", "GET /api/resolve-cache/")) and line.endswith(name)
            for line in self.requests
        )


class HubHandler(BaseHTTPRequestHandler):
    """Answers of both hosts; ``hub`` is set by :func:`serve`."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        return

    def do_HEAD(self) -> None:
        self.route()

    def do_GET(self) -> None:
        self.route()

    def do_POST(self) -> None:
        self.route()

    def do_PUT(self) -> None:
        self.route()

    def route(self) -> None:
        """Answer by path; absolute addresses are what a client sends to a proxy."""
        self.where = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {self.where}")
        length = int(self.headers.get("Content-Length") or 0)
        self.content = self.rfile.read(length)
        if match := re.fullmatch(r"/store/([0-9a-f]{64})(/.*)?", self.where):
            return self.answer_store(match[1])
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.where):
            return self.answer_file(match[1], match[2], match[3], direct=False)
        direct = r"/api/resolve-cache/models/([^/]+/[^/]+)/([^/]+)/(.+)"
        if match := re.fullmatch(direct, self.where):
            return self.answer_file(match[1], match[2], match[3], direct=True)
        from hub_api import answer_api

        return answer_api(self)

    # Answers --------------------------------------------------------------------------------

    def send(self, status: int, body: bytes = b"", **headers: object) -> None:
        """Send a whole answer; underscores in names of headers stand for hyphens."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, values: object, status: int = 200) -> None:
        self.send(status, json.dumps(values).encode(), Content_Type="application/json")

    def refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X_Error_Message": message, **({"X_Error_Code": code} if code else {})}
        body = json.dumps({"error": message}).encode()
        self.send(status, body, Content_Type="application/json", **headers)

    def allowed(self, name: str, right: str = "read") -> Repository | None:
        """Return the repository if who asks may use it; else refuse as the Hub does."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        rights = self.hub.tokens.get(token, "")
        if token and not rights:
            self.refuse(401, "", "Invalid credentials in Authorization header")
            return None
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not rights):
            self.refuse(404 if rights else 401, "RepoNotFound", "Repository not found")
            return None
        if repository.gated and not rights:
            self.refuse(403, "GatedRepo", f"Access to model {name} is restricted")
            return None
        if right == "write" and rights != "write":
            self.refuse(403 if rights else 401, "", "You don't have the rights to write")
            return None
        return repository

    # Files ----------------------------------------------------------------------------------

    def answer_file(self, name: str, revision: str, file: str, direct: bool) -> None:
        """Answer ``/org/name/resolve/REVISION/FILE`` and what small files are redirected to."""
        faults = self.hub.faults
        if faults.silent is not None:
            faults.silent.wait(30)
        if faults.status:
            return self.refuse(faults.status, "", "made to fail")
        repository = self.allowed(name)
        if repository is None:
            return None
        sha = repository.sha(revision)
        if sha is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        data = repository.commits[sha].get(file)
        if data is None:
            self.send_response(404)
            for key, value in {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        facts = {"X_Repo_Commit": sha, "ETag": f'"{etag(file, data)}"'}
        if file.endswith(LARGE):
            address = f"{self.hub.store_url}/store/{etag(file, data)}/{file}"
            self.hub.stored[etag(file, data)] = data
            linked = {"X_Linked_ETag": facts["ETag"], "X_Linked_Size": len(data)}
            return self.send(302, Location=address, Accept_Ranges="bytes", **linked, **facts)
        if not direct:
            address = f"/api/resolve-cache/models/{name}/{sha}/{file}"
            return self.send(307, Location=address, **facts)
        return self.send_body(data, **facts)

    def answer_store(self, sha: str) -> None:
        """Give or take a large file, by its sha256."""
        self.hub.store_saw_token |= "Authorization" in self.headers
        if self.command != "PUT":
            data = self.hub.stored.get(sha)
            return self.send(404) if data is None else self.send_body(data)
        if self.hub.faults.upload_status:
            return self.send(self.hub.faults.upload_status)
        if hashlib.sha256(self.content).hexdigest() != sha:
            return self.send(400)
        self.hub.stored[sha] = self.content
        return self.send(200)

    def send_body(self, data: bytes, **headers: object) -> None:
        """Send a file or the rest of one, as far as the faults let it come."""
        faults = self.hub.faults
        if faults.flip:
            data = data[:-1] + bytes([data[-1] ^ 1])
        asked = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(asked[1]) if asked and not faults.ignore_range else 0
        body = data[first:-10] if faults.short else data[first:]
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        for name, value in {**headers, "Accept_Ranges": "bytes"}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        middle = len(body) // 2
        self.wfile.write(body[:middle])
        if faults.hold is not None:
            self.wfile.flush()
            self.hub.half_sent.set()
            faults.hold.wait(30)
        if faults.break_off:
            faults.break_off -= 1
            self.close_connection = True
            return
        self.wfile.write(body[middle:])


class QuietServer(ThreadingHTTPServer):
    """Says nothing about clients that go away, as killed ones do."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        return


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a Hub and its store on free ports of 127.0.0.1 until the block ends."""
    hub = Hub()
    handler = type("Handler", (HubHandler,), {"hub": hub})
    with ExitStack() as stack:
        for attribute in ("url", "store_url"):
            server = stack.enter_context(QuietServer(("127.0.0.1", 0), handler))
            setattr(hub, attribute, f"http://127.0.0.1:{server.server_port}")
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
        yield hub
    assert not hub.unknown, f"requests that hub_api should learn to answer: {hub.unknown}"
    assert not hub.store_saw_token, "a token must never reach the store of large files"

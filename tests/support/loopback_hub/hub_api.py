"""The part of the loopback Hub that answers questions about repositories and takes commits."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from urllib.parse import parse_qs, unquote

from hub_server import LARGE, HubHandler, Repository, etag


def answer_api(handler: HubHandler) -> None:
    """Answer by method and path, or note that this is not known here."""
    for method, pattern, answer in ROUTES:
        match = re.fullmatch(pattern, handler.where)
        if match and handler.command == method:
            return answer(handler, *match.groups())
    if "/api/" in handler.where or ".git/" in handler.where:
        handler.hub.unknown.append(f"{handler.command} {handler.where}")
    return handler.send(404)


def create(handler: HubHandler) -> None:
    """Make a repository, as ``create_repo`` asks."""
    token = handler.headers.get("Authorization", "").removeprefix("Bearer ")
    rights = handler.hub.tokens.get(token, "")
    if rights != "write":
        return handler.refuse(403 if rights else 401, "", "You don't have the rights to create")
    asked = json.loads(handler.content)
    name = f"{asked['organization']}/{asked['name']}"
    answer = {"url": f"{handler.hub.url}/{name}", "name": name}
    if name in handler.hub.repositories:
        return handler.send_json({**answer, "error": "You already created this model repo"}, 409)
    private = bool(asked.get("private")) or asked.get("visibility") == "private"
    repository = handler.hub.repositories[name] = Repository(private=private)
    repository.commit({".gitattributes": b"*.safetensors filter=lfs\n"}, message="initial commit")
    return handler.send_json(answer)


def validate_card(handler: HubHandler) -> None:
    """Check the metadata of a card, about as far as the Hub does."""
    text = json.loads(handler.content)["content"]
    if text.startswith("---\n") and re.search(r"^license: *\S", text, re.MULTILINE):
        return handler.send_json({"errors": [], "warnings": []})
    return handler.send_json({"errors": [{"message": "license is missing"}]}, 400)


def found(handler: HubHandler, name: str, revision: str, right: str = "read"):
    """Return repository and commit, or refuse."""
    repository = handler.allowed(name, right)
    if repository is None:
        return None
    sha = repository.sha(unquote(revision))
    if sha is None:
        handler.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None
    return repository, sha


def describe(name: str, data: bytes) -> dict[str, object]:
    """One file, as listings have it."""
    facts: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
    if name.endswith(LARGE):
        facts["lfs"] = {"oid": etag(name, data), "size": len(data), "pointerSize": 130}
    else:
        facts["oid"] = etag(name, data)
    return facts


def info(handler: HubHandler, name: str, revision: str | None = None) -> None:
    if (place := found(handler, name, revision or "main")) is None:
        return None
    repository, sha = place
    siblings = [{"rfilename": file} for file in repository.commits[sha]]
    facts = {"id": name, "sha": sha, "private": repository.private, "gated": repository.gated}
    return handler.send_json({**facts, "siblings": siblings, "tags": []})


def tree(handler: HubHandler, name: str, revision: str) -> None:
    if (place := found(handler, name, revision)) is None:
        return None
    repository, sha = place
    return handler.send_json([describe(*item) for item in repository.commits[sha].items()])


def paths_info(handler: HubHandler, name: str, revision: str) -> None:
    if (place := found(handler, name, revision)) is None:
        return None
    repository, sha = place
    wanted = parse_qs(handler.content.decode())["paths"]
    files = repository.commits[sha]
    return handler.send_json([describe(p, files[p]) for p in wanted if p in files])


def create_branch(handler: HubHandler, name: str, branch: str) -> None:
    repository = handler.allowed(name, "write")
    if repository is None:
        return None
    if branch in repository.branches:
        return handler.refuse(409, "", "Reference already exists")
    repository.branches[branch] = repository.branches["main"]
    return handler.send_json({})


def preupload(handler: HubHandler, name: str, revision: str) -> None:
    """Say of each file whether it goes into the commit or to the store of large files."""
    if (place := found(handler, name, revision, "write")) is None:
        return None
    repository, sha = place
    files = []
    for file in json.loads(handler.content)["files"]:
        path = file["path"]
        there = repository.commits[sha].get(path)
        mode = "lfs" if path.endswith(LARGE) else "regular"
        oid = None if there is None else etag(path, there)
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return handler.send_json({"files": files})


def lfs_batch(handler: HubHandler, name: str) -> None:
    """Say where to put large files, those that are not there yet."""
    if handler.allowed(name, "write") is None:
        return None
    objects = []
    for item in json.loads(handler.content)["objects"]:
        one = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] not in handler.hub.stored:
            one["actions"] = {
                "upload": {"href": f"{handler.hub.store_url}/store/{item['oid']}", "header": {}},
                "verify": {"href": f"{handler.hub.url}/{name}.git/verify", "header": {}},
            }
        objects.append(one)
    return handler.send_json({"transfer": "basic", "objects": objects})


def lfs_verify(handler: HubHandler, name: str) -> None:
    asked = json.loads(handler.content)
    data = handler.hub.stored.get(asked["oid"])
    there = data is not None and len(data) == asked["size"]
    return handler.send(200 if there and handler.allowed(name, "write") else 404)


def commit(handler: HubHandler, name: str, revision: str) -> None:
    """Take a commit: one JSON object a line, the header first."""
    if (place := found(handler, name, revision, "write")) is None:
        return None
    repository, sha = place
    files, message = dict(repository.commits[sha]), ""
    for line in handler.content.splitlines():
        item = json.loads(line)
        key, value = item["key"], item["value"]
        if key == "header":
            message = value["summary"]
        elif key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            if value["oid"] not in handler.hub.stored:
                return handler.refuse(400, "", f"no large file {value['oid']}")
            files[value["path"]] = handler.hub.stored[value["oid"]]
        elif key == "deletedFile":
            del files[value["path"]]
        else:
            return handler.refuse(400, "", f"unknown operation {key}")
    oid = repository.commit(files, unquote(revision), message)
    address = f"{handler.hub.url}/{name}/commit/{oid}"
    return handler.send_json({"commitUrl": address, "commitOid": oid, "success": True})


REPO = r"([^/]+/[^/]+?)"
MODELS = rf"/api/models/{REPO}"
ROUTES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("POST", r"/api/repos/create", create),
    ("POST", r"/api/validate-yaml", validate_card),
    ("GET", MODELS, info),
    ("GET", rf"{MODELS}/revision/(.+)", info),
    ("GET", rf"{MODELS}/tree/([^/]+)", tree),
    ("POST", rf"{MODELS}/paths-info/([^/]+)", paths_info),
    ("POST", rf"{MODELS}/branch/(.+)", create_branch),
    ("POST", rf"{MODELS}/preupload/([^/]+)", preupload),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", lfs_batch),
    ("POST", rf"/{REPO}\.git/verify", lfs_verify),
    ("POST", rf"{MODELS}/commit/([^/]+)", commit),
)

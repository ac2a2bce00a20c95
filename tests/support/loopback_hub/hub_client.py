"""Fresh processes that talk to the loopback Hub, as a user's would.

huggingface_hub reads its settings when it is imported, so each call is a process of its own. They
are forked from one that has imported torch but not huggingface_hub, which saves seconds each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hub_server import Hub

from ccl_hub import CCLModel
from ccl_hub.errors import CCLError
from ccl_hub.network import model_files
from ccl_hub.registry import REGISTRY, RegistryEntry

FOREIGN = ("HF_", "HUGGING", "CCL_", "HTTP_", "HTTPS_", "ALL_", "NO_")


def environment(hub: Hub, cache: Path, **changes: str) -> dict[str, str]:
    """Settings of a process that uses the loopback Hub and its own cache, and gives up soon."""
    clean = {k: v for k, v in os.environ.items() if not k.upper().startswith(FOREIGN)}
    ours = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",  # the loopback Hub speaks plain HTTP
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_ETAG_TIMEOUT": "5",
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
    }
    return {**clean, **ours, **changes}


class Client:
    """Runs functions in fresh processes that share one cache.

    Args:
        hub: The loopback Hub.
        cache: What ``HF_HOME`` is.
    """

    def __init__(self, hub: Hub, cache: Path) -> None:
        self.hub, self.cache = hub, cache
        self.context = multiprocessing.get_context("spawn" if os.name == "nt" else "forkserver")
        if os.name != "nt":
            _start_forkserver()

    def start(self, function: Callable[..., Any], *arguments: Any, **changes: str) -> Running:
        """Start ``function(*arguments)`` in a process with changed settings."""
        ours, theirs = self.context.Pipe(duplex=False)
        settings = environment(self.hub, self.cache, **changes)
        process = self.context.Process(
            target=_child, args=(theirs, settings, function, arguments), daemon=True
        )
        process.start()
        theirs.close()
        return Running(process, ours)

    def run(self, function: Callable[..., Any], *arguments: Any, **changes: str) -> Any:
        """Start, wait, and return what the function returned."""
        return self.start(function, *arguments, **changes).result()

    def load(self, *arguments: Any, **changes: str) -> tuple[str, Any]:
        """:func:`load` in a fresh process."""
        return self.run(load, *arguments, **changes)

    def cached(self, name: str) -> list[Path]:
        """Files of this name in the cache, one for each commit."""
        return sorted(self.cache.rglob(f"snapshots/*/{name}"))


def _start_forkserver() -> None:
    """Start the process that the others are forked from, able to import what this one can."""
    from multiprocessing import forkserver

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        forkserver.set_forkserver_preload(["hub_preload"])
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


class Running:
    """A process under way."""

    def __init__(self, process: Any, connection: Connection) -> None:
        self.process, self.connection = process, connection

    def result(self) -> Any:
        """Wait for what it returns; a traceback there fails the test here."""
        try:
            failed, value = self.connection.recv()
        finally:
            self.process.join(60)
            self.connection.close()
        assert not failed, value
        return value

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        self.process.kill()
        self.process.join(60)
        self.connection.close()


def _child(
    connection: Connection,
    settings: Mapping[str, str],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    assert "huggingface_hub" not in sys.modules, "it would have read other settings"
    os.environ.clear()
    os.environ.update(settings)
    pause = time.sleep
    time.sleep = lambda seconds: pause(min(seconds, 0.02))  # the client waits between attempts
    try:
        connection.send((False, function(*arguments)))
    except BaseException:
        connection.send((True, traceback.format_exc()))


# What the processes do ---------------------------------------------------------------------------


def content(model: CCLModel) -> str:
    """One hash of every tensor that was loaded; nothing is computed, which saves time."""
    whole = hashlib.sha256(model.config.fingerprint().encode())
    for name, tensor in model.state_dict().items():
        whole.update(name.encode() + tensor.numpy().tobytes())
    return whole.hexdigest()


def load(
    name: str,
    revision: str | None = None,
    entries: tuple[RegistryEntry, ...] = (),
    sockets: bool = True,
    keywords: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[str, Any]:
    """Return ``("loaded", content)`` or the name and text of the error.

    Args:
        name: For ``from_pretrained``.
        revision: Likewise.
        entries: Added to the registry.
        sockets: False: making one ends the call with an error of its own.
        keywords: For ``from_pretrained``.
    """
    REGISTRY.update({entry.name: entry for entry in entries})
    if not sockets:
        sys.addaudithook(_no_sockets)
    try:
        model = CCLModel.from_pretrained(name, revision=revision, **keywords)
    except CCLError as error:
        return type(error).__name__, str(error)
    return "loaded", content(model)


def _no_sockets(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith("socket."):
        raise AssertionError(f"{event} {arguments}")


def entry(hub: Hub, organisation: str, **changes: object) -> RegistryEntry:
    """A published entry of a registry, as the Hub holds it."""
    repository = hub.repositories[f"{organisation}/ccl_tiny"]
    sha = repository.branches["main"]
    data = repository.commits[sha][model_files.WEIGHTS_NAME]
    published = RegistryEntry(
        name="ccl_tiny",
        trained_on="nothing",
        revision=sha,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
    )
    return dataclasses.replace(published, **changes)

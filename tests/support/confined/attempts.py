"""A stand-in for the decoder that tries to leave its process, by the name of its video.

A folder with :data:`SITE_CUSTOMIZE` in it, put on ``sys.path``, makes decoding processes run
:func:`install`. A video named ``list-x.mp4`` then lists a folder. What is tried harms nothing
where it succeeds; each video holds, as JSON, what it needs for that.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SITE_CUSTOMIZE = """
from attempts import install
install()
"""

_NEW_USER_NAMESPACE = 0x10000000


def _start_program(facts: dict[str, Any]) -> None:
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)


def _become_program(facts: dict[str, Any]) -> None:
    """There is none of this name, which only who may try finds out."""
    try:
        os.execv("/no/such/program", ["program"])  # noqa: S606
    except FileNotFoundError:
        return


def _fork(facts: dict[str, Any]) -> None:
    if not (child := os.fork()):
        os._exit(0)
    os.waitpid(child, 0)


def _new_namespace(facts: dict[str, Any]) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_USER_NAMESPACE):
        raise OSError(ctypes.get_errno(), "unshare")


def _new_code(facts: dict[str, Any]) -> None:
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()


def _thread(facts: dict[str, Any]) -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


def _connect(facts: dict[str, Any]) -> None:
    with socket.socket() as one:
        one.connect(("127.0.0.1", facts["port"]))


ATTEMPTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "read": lambda facts: Path(facts["file"]).read_bytes(),
    "list": lambda facts: os.listdir(facts["folder"]),  # noqa: PTH208
    "look": lambda facts: os.stat(facts["file"]),  # noqa: PTH116
    "write": lambda facts: Path(facts["new"]).write_text("here"),
    "connect": _connect,
    "datagram": lambda facts: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
    "spawn": _start_program,
    "exec": _become_program,
    "fork": _fork,
    "signal": lambda facts: os.kill(facts["parent"], signal.SIGWINCH),  # which it ignores
    "watch": lambda facts: os.close(os.pidfd_open(facts["parent"])),
    "namespace": _new_namespace,
    "code": _new_code,
}
"""What a decoder has no reason to do."""

ALLOWED: dict[str, Callable[[dict[str, Any]], object]] = {
    "nothing": lambda facts: None,
    "thread": _thread,
}
"""What it may do."""


def _say(data: bytes, length: int | None = None) -> None:
    """Write a message to the pool, past the worker."""
    head = (len(data) if length is None else length).to_bytes(4, "big")
    os.write(int(sys.argv[1]), head + data)


LIES: dict[str, Callable[[], object]] = {
    "garbage": lambda: _say(b"\xff" * 64),
    "huge": lambda: _say(b"", 2**31 - 1),
    "half": lambda: _say(b"[", 1000),
    "pickle": lambda: _say(b"\x80\x04K\x01."),
    "end": lambda: _say(b'["Ended", 0, 1, 1, 1.0, "complete", "", 64, 36]\n'),
    "frames": lambda: _say(b'["Decoded", 0, 0, 16]\n'),
    "ready": lambda: _say(b'["Ready", 7, true, false]\n'),
    "other": lambda: _say(b'["Failed", 77, "damaged", ""]\n'),
}
"""What a worker never says."""


def install() -> None:
    """Let decoding processes do what the name of a video says, in place of decoding it."""
    from ccl_hub.errors import NoVideoError
    from ccl_hub.video import VideoReader
    from ccl_hub.video.file import MediaFile

    def init(self: VideoReader, path: str | Path | MediaFile, **options: Any) -> None:
        media = path if isinstance(path, MediaFile) else MediaFile(Path(path))
        words = media.path.name.split("-")[:-1]
        if words[0] in LIES:
            LIES[words[0]]()
            time.sleep(3600)
        with media.open() as file:  # the one that it is given
            facts = json.load(file)
        for word in words:
            {**ATTEMPTS, **ALLOWED}[word](facts)
        raise NoVideoError("it could.")  # after which there is no second attempt

    VideoReader.__init__ = init  # type: ignore[method-assign]

"""Videos that do something to the process that decodes them, by their name.

A folder with :data:`SITE_CUSTOMIZE` in it, put on ``sys.path``, makes decoding processes run
:func:`install`; the product knows nothing of it. A video named ``abort-20-x.mp4`` then aborts its
process after 20 frames, and ``abort-open-x.mp4`` before it is opened.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

SITE_CUSTOMIZE = """
from faults import install
install()
"""


def _spin() -> NoReturn:
    while True:
        pass


def _eat() -> NoReturn:
    held = []
    while True:
        held.append(bytearray(32 << 20))


def _raise(error: BaseException) -> Callable[[], NoReturn]:
    def act() -> NoReturn:
        raise error

    return act


def _damaged() -> NoReturn:
    from ccl_hub.errors import DecodeError

    raise DecodeError("frame cannot be decoded.")


FAULTS: dict[str, Callable[[], object]] = {
    "abort": os.abort,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segv": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(3),
    "systemexit": _raise(SystemExit(5)),
    "spin": _spin,
    "sleep": lambda: time.sleep(3600),
    "eat": _eat,
    "runtime": _raise(RuntimeError("no such luck")),
    "key": _raise(KeyError("colour")),
    "unicode": _raise(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")),
    "recursion": _raise(RecursionError("too deep")),
    "disk": _raise(OSError(5, "Input/output error")),
    "damaged": _damaged,
}


def install() -> None:
    """Give every :class:`ccl_hub.video.VideoReader` of this process the faults of its file."""
    from ccl_hub.video import VideoReader
    from ccl_hub.video.file import MediaFile

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    opened, decoded = VideoReader.__init__, VideoReader.frames

    def init(self: VideoReader, path: str | Path | MediaFile, **options: Any) -> None:
        name = path.path.name if isinstance(path, MediaFile) else Path(path).name
        self.fault, _, rest = name.partition("-")
        self.place = rest.partition("-")[0]
        if self.fault in FAULTS and self.place == "open":
            FAULTS[self.fault]()
        opened(self, path, **options)

    def frames(self: VideoReader, indices: Any, **options: Any) -> Iterator[Any]:
        for count, pair in enumerate(decoded(self, indices, **options)):
            if self.fault in FAULTS and self.place == str(count):
                FAULTS[self.fault]()
            if self.fault == "slow":  # slow-20-x.mp4: 20 ms a frame
                time.sleep(int(self.place) / 1000)
            yield pair

    VideoReader.__init__, VideoReader.frames = init, frames  # type: ignore[method-assign]

"""A search that runs ahead of the job, so that the number of videos is soon known."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

from .find import VideoInput


def searched_ahead(
    videos: Iterator[VideoInput], tell_total: Callable[[int], None]
) -> Iterator[VideoInput]:
    """Yield videos that a thread finds as fast as it can.

    Those that wait to be taken are held, with about 300 bytes each.

    Args:
        videos: Read in that thread.
        tell_total: Called there, once, with the number of videos, unless finding them fails.

    Raises:
        Exception: What finding the videos raised, after those in front of it.
    """
    waiting: SimpleQueue[tuple[str, str] | Exception | None] = SimpleQueue()
    closed = threading.Event()

    def search() -> None:
        count = 0
        try:
            for video in videos:
                if closed.is_set():
                    return
                waiting.put((video.id, str(video.path)))
                count += 1
            tell_total(count)
            waiting.put(None)
        except Exception as error:
            waiting.put(error)

    threading.Thread(target=search, name="ccl-search", daemon=True).start()
    try:
        while (message := waiting.get()) is not None:
            if isinstance(message, Exception):
                raise message
            yield VideoInput(message[0], Path(message[1]))
    finally:
        closed.set()

"""Work done in threads before its results are asked for, in order and bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

SOON_SECONDS = 0.05


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int,
    ahead: int,
    when_ready: bool = False,
    name: str = "",
) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in order, computed in threads ahead of time.

    An error of ``function`` or ``items`` is raised in its turn. Closing the iterator drops the
    calls that have not begun and waits for those that have.

    Args:
        function: Called in several threads at once.
        items: Taken one by one, in the caller's thread, as results are taken.
        threads: How many; 0 calls ``function`` in the caller's thread, nothing ahead.
        ahead: Results, finished or under way, that may wait behind the one that is taken.
        when_ready: Yield a result that is ready before the next item is taken, for items that come
            slowly; fewer calls are then under way.
        name: Name of the threads, for debuggers.
    """
    if threads == 0:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    call = None
    pool = ThreadPoolExecutor(threads, name)
    try:
        for call in _calls(pool, function, items):
            waiting.append(call)
            # While the next item is sought, the only one so far must not wait for it.
            if when_ready and len(waiting) == 1:
                wait(waiting, SOON_SECONDS)
            while len(waiting) > ahead or (when_ready and waiting and waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        call = None  # an error's traceback knows this frame, and would keep what holds the error
        pool.shutdown(cancel_futures=True)


def _calls(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Future[Result]]:
    """Begin the calls; an error of ``items`` becomes the last of them, and fails in its turn."""
    try:
        for item in items:
            yield pool.submit(function, item)
    except Exception as error:
        yield _failed(error)


def _failed(error: Exception) -> Future[Result]:
    call: Future[Result] = Future()
    call.set_exception(error)
    return call

"""Work done in threads ahead of whoever takes the results, in order and bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["in_order"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int,
    ahead: int,
    name: str = "",
) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in order, computed in threads ahead of time.

    An error of ``function`` is raised in its turn. Closing the iterator drops the calls that have
    not begun and waits for those that have.

    Args:
        function: Called in several threads at once.
        items: Taken one by one, in the caller's thread, as results are taken.
        threads: How many; 0 calls ``function`` in the caller's thread, nothing ahead.
        ahead: Results, finished or under way, that may wait behind the one that is taken.
        name: Of the threads, for debuggers.
    """
    if threads == 0:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads, name)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)

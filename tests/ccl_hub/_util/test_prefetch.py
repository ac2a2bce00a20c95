"""Results come in order, few wait, and an iterator that is closed leaves no work behind."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from ccl_hub._util.prefetch import in_order


def test_results_come_in_order_though_later_ones_are_ready_first() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.05 if number == 0 else 0)
        return number

    assert list(in_order(slow_first, range(20), threads=4, ahead=4)) == list(range(20))


def test_items_are_taken_only_so_far_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = in_order(lambda number: number, items(), threads=2, ahead=3)
    for number in range(5):
        assert next(results) == number
        assert taken == list(range(number + 4))  # the one that is taken, and three behind it


def test_no_threads_call_where_the_results_are_taken() -> None:
    here = threading.get_ident()
    assert set(in_order(lambda _: threading.get_ident(), range(3), threads=0, ahead=9)) == {here}


def test_an_error_comes_in_its_turn() -> None:
    results = in_order(lambda number: 1 // number, [1, 1, 0, 1], threads=2, ahead=4)
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_error_of_the_items_comes_after_the_results_before_it() -> None:
    def items() -> Iterator[int]:
        yield from range(2)
        raise LookupError("the list ends here")

    results = in_order(lambda number: number, items(), threads=2, ahead=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(LookupError, match="ends here"):
        next(results)


@pytest.mark.parametrize("of", ["items", "function"])
def test_what_failed_keeps_nothing_alive(of: str) -> None:
    """A reader that fails closes its file, also where nobody collects garbage."""

    class Held:
        pass

    held = Held()
    alive = weakref.ref(held)

    def items(held: Held) -> Iterator[int]:
        yield 1
        if of == "items":
            raise LookupError("the list ends here")
        yield 0

    gc.collect()
    gc.disable()
    try:
        results = in_order(lambda number: 1 // number, items(held), threads=2, ahead=4)
        with pytest.raises((LookupError, ZeroDivisionError)):
            list(results)
        del held, results
        assert alive() is None
    finally:
        gc.enable()


def test_the_only_result_does_not_wait_for_the_next_item() -> None:
    """Finding the second video may take minutes."""
    asked = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        asked.set()
        yield 1

    results = in_order(lambda number: number, items(), threads=2, ahead=8, when_ready=True)
    assert next(results) == 0 and not asked.is_set()
    results.close()


def test_a_result_that_is_ready_need_not_wait_for_the_next_item() -> None:
    def items() -> Iterator[int]:
        yield 0
        ended.wait(10)
        yield 1
        raise AssertionError("taken although a result was ready")

    ended = threading.Event()
    results = in_order(lambda _: ended.set(), items(), threads=1, ahead=9, when_ready=True)
    next(results)


def test_a_closed_iterator_drops_what_has_not_begun_and_ends_its_threads() -> None:
    begun: list[int] = []
    first_may_end = threading.Event()

    def call(number: int) -> None:
        begun.append(number)
        if number:
            first_may_end.wait(10)

    results = in_order(call, range(50), threads=1, ahead=8, name="prefetch-test")
    next(results)
    threading.Timer(0.1, first_may_end.set).start()
    results.close()  # type: ignore[attr-defined]
    assert len(begun) <= 2
    assert not [one for one in threading.enumerate() if one.name.startswith("prefetch-test")]

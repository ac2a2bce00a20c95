"""Arguments that are numbers: what is no whole number, or out of range, is refused by name."""

from __future__ import annotations

import operator
from typing import SupportsIndex

from .errors import InputError

__all__ = ["whole_number"]


def whole_number(name: str, value: SupportsIndex, least: int = 1, most: int | None = None) -> int:
    """Return a whole number, also of numpy's types.

    Raises:
        InputError: It is of another type, or not from ``least`` to ``most``.

    Example:
        >>> whole_number("clips", 10)
        10
    """
    allowed = f"a whole number >= {least}" if most is None else f"a whole number {least} to {most}"
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InputError(f"{name} is {value!r}; allowed: {allowed}.") from error
    if number < least or (most is not None and number > most):
        raise InputError(f"{name} is {number}; allowed: {allowed}.")
    return number

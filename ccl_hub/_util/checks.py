"""Values out of range, and keywords that nobody reads, are refused by name."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable
from typing import SupportsIndex

from ..errors import ConfigError, InputError


def require(ok: bool, name: str, value: object, allowed: str) -> None:
    """Refuse a value of a configuration, naming its field and what is allowed.

    Raises:
        ConfigError: ``ok`` is false.

    Example:
        >>> require(False, "lr", -1, "more than 0")
        Traceback (most recent call last):
        ccl_hub.errors.ConfigError: lr is -1; allowed: more than 0.
    """
    if not ok:
        raise ConfigError(f"{name} is {value!r}; allowed: {allowed}.")


def whole_number(name: str, value: SupportsIndex, least: int = 1, most: int | None = None) -> int:
    """Return ``value`` as an int, whether it is of Python's or of numpy's types.

    Raises:
        InputError: It is not a whole number from ``least`` to ``most``.

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


def known_keywords(names: Iterable[str], allowed: Collection[str]) -> None:
    """Refuse keywords that would be left unread.

    Raises:
        InputError: Names the first that is not allowed, and those that are.

    Example:
        >>> known_keywords(["tokn"], ["revision", "token"])
        Traceback (most recent call last):
        ccl_hub.errors.InputError: unknown keyword 'tokn'; allowed are revision, token.
    """
    for name in names:
        if name not in allowed:
            raise InputError(f"unknown keyword {name!r}; allowed are {', '.join(allowed)}.")

"""Whether decoding is confined, how well, and who is told.

level        what a decoder that is taken over by its file can still do
full         nothing but give wrong frames of the videos that it decodes, or none
files only   what the caller can, but for opening files and TCP connections
none         what the caller can
"""

from __future__ import annotations

import logging
from typing import Literal

from ..errors import InputError
from .confinement import Walls, available

Sandbox = Literal["auto", "require", "off"]
"""``auto``: as well as the system can; ``require``: fully, or not at all; ``off``: never."""

SANDBOXES: tuple[Sandbox, ...] = ("auto", "require", "off")

Level = Literal["full", "files only", "none"]

logger = logging.getLogger(__name__)

_told = False


def level_of(walls: Walls) -> Level:
    """Return the level of a process with these walls around it.

    The list of calls is enough for ``full``: no call on it opens or names anything. Landlock is a
    second wall there.
    """
    if walls.seccomp:
        return "full"
    return "files only" if walls.landlock else "none"


def check(sandbox: Sandbox) -> None:
    """Refuse a sandbox that is unknown, or that this system does not offer.

    Raises:
        InputError: It is one of them.
    """
    if sandbox not in SANDBOXES:
        raise InputError(f"sandbox is {sandbox!r}; allowed: {', '.join(SANDBOXES)}.")
    if sandbox == "require":
        require_full(available())


def require_full(walls: Walls) -> None:
    """Refuse walls of a lower level than ``full``.

    Raises:
        InputError: They are.
    """
    if (level := level_of(walls)) != "full":
        raise InputError(
            f"sandbox is 'require', but here decoding can be confined at the level {level!r}, not "
            "'full', which takes Linux on x86_64 or aarch64 with seccomp; use such a system, or "
            "sandbox='auto' (--sandbox auto) and files that you trust."
        )


def describe(walls: Walls) -> str:
    """Return the level and the walls in words."""
    names = ["seccomp"] * walls.seccomp
    if walls.landlock:
        names.append(f"Landlock {walls.landlock}")
    level = level_of(walls)
    return f"{level} ({', '.join(names)})" if names else level


def tell_once(walls: Walls) -> None:
    """Warn, once in this process, that decoding is not fully confined."""
    global _told
    if not _told and level_of(walls) != "full":
        _told = True
        logger.warning(
            "decoding is confined at the level %r: a file that takes over the decoder could do "
            "more than give wrong frames (see SECURITY.md); sandbox='require' (--sandbox require) "
            "refuses to run so.",
            level_of(walls),
        )

"""Which share of the videos one of several runs takes, and who says so."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True)
class Shard:
    """Which share of the videos one run takes: number ``index`` of ``count``, from 0."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise InputError(
                f"the shard is {self.index} of {self.count}; allowed: 0 to {self.count - 1} of "
                f"{self.count}, which is at least 1."
            )

    @property
    def label(self) -> str:
        """The share as file names have it."""
        return f"{self.index}-of-{self.count}"

    def takes(self, id: str) -> bool:
        """Whether a video is in this share."""
        return shard_of(id, self.count) == self.index


def shard_of(id: str, shards: int) -> int:
    """Return which of ``shards`` shares takes a video, by its id alone: 0 to ``shards`` - 1.

    Raises:
        InputError: ``shards`` is less than 1.

    Example:
        >>> shard_of("a/x.mp4", 8)
        5
    """
    if shards < 1:
        raise InputError(f"shards is {shards}; allowed: at least 1.")
    return int.from_bytes(hashlib.sha256(id.encode()).digest(), "big") % shards


def parse_shard(text: str | None, environ: Mapping[str, str]) -> Shard:
    """Return the share of this process.

    Args:
        text: "i/n" with i from 0; None for all; or "auto": the first of torchrun's RANK and
            WORLD_SIZE, Slurm's SLURM_PROCID and SLURM_NTASKS, and its SLURM_ARRAY_TASK_ID and
            SLURM_ARRAY_TASK_COUNT that tells of more than one share.
        environ: The environment, read for "auto" only.

    Raises:
        InputError: The text or a variable is not as described, or "auto" finds none.

    Example:
        >>> parse_shard("2/8", {})
        Shard(index=2, count=8)
    """
    if text is None:
        return Shard()
    if text == "auto":
        return _shard_of_environment(environ)
    numbers = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if numbers is None:
        raise InputError(f"the shard is {text!r}; allowed: i/n such as 0/8, or auto.")
    return _checked(int(numbers[1]), int(numbers[2]), f"the shard is {text!r}")


def _shard_of_environment(environ: Mapping[str, str]) -> Shard:
    def number(name: str, missing: str | None = None) -> int:
        value = environ.get(name, missing) or ""
        if not re.fullmatch(r"[0-9]{1,9}", value):
            raise InputError(f"shard auto: {name} is {value!r}; expected a number; give i/n.")
        return int(value)

    shard = None
    for index, count in (
        ("RANK", "WORLD_SIZE"),
        ("SLURM_PROCID", "SLURM_NTASKS"),
        ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    ):
        if index not in environ or count not in environ:
            continue
        i, n = number(index), number(count)
        if index == "SLURM_ARRAY_TASK_ID":
            i -= number("SLURM_ARRAY_TASK_MIN", "0")
            i //= number("SLURM_ARRAY_TASK_STEP", "1") or 1
        shard = _checked(i, n, f"shard auto: {index} and {count} mean {i}/{n}")
        if n > 1:  # each task of a Slurm array also says that it is one of one process
            break
    if shard is None:
        raise InputError(
            "shard auto: neither torchrun (RANK, WORLD_SIZE) nor Slurm (SLURM_PROCID, "
            "SLURM_NTASKS; SLURM_ARRAY_TASK_ID, SLURM_ARRAY_TASK_COUNT) started this process; "
            "give i/n such as 0/8."
        )
    return shard


def _checked(index: int, count: int, seen: str) -> Shard:
    if not 0 <= index < count:
        raise InputError(f"{seen}; allowed: i/n with i from 0 to n - 1, such as 0/8.")
    return Shard(index, count)

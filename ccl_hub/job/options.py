"""What a batch job is asked to do: which videos, and how their results are kept."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from .._util.files import absolute_path
from ..embed.writers import LEVELS, SUFFIXES
from ..errors import InputError
from ..inputs.find import VideoInput, VideoSearch
from ..inputs.shards import Shard
from .destination import Destination


@dataclass(frozen=True)
class JobInputs:
    """Which videos; see :func:`ccl_hub.inputs.find_videos`.

    Args:
        inputs: Files, folders and patterns.
        lists: Files that list paths.
        root: Folder from which videos are named; None for what earlier runs took, or the deepest
            common folder.
        extensions: Extensions of the files taken from folders; None for those of videos.
    """

    inputs: Sequence[str | Path] = ()
    lists: Sequence[Path] = ()
    root: Path | None = None
    extensions: Collection[str] | None = None

    @cached_property
    def search(self) -> VideoSearch:
        """The search for the videos of the inputs, made once, which goes on where it stopped."""
        return VideoSearch(self.inputs, self.lists, self.extensions)

    def choose_root(self, earlier: Path | None) -> Path:
        """Return the folder from which videos are named; the same in every run.

        It is absolute: a relative one would change its meaning with the current folder.

        Args:
            earlier: The root of earlier runs into the same destination.

        Raises:
            InputError: There is no input, or the earlier root is gone and the inputs are
                elsewhere: they may be the videos of before, under other names.
        """
        if self.root is not None:
            return Path(absolute_path(self.root))
        common = self.search.root
        if earlier is None:
            return common
        if not os.path.isdir(earlier) and not common.is_relative_to(earlier):  # noqa: PTH112
            raise InputError(
                f"{common}: videos were named from the folder {earlier} so far, which is gone. If "
                "it was moved, give its new path as the root (--root); if these are other "
                f"videos, give --root {earlier}, and they are named by their whole paths."
            )
        return earlier

    def videos(self, root: Path, shard: Shard, destination: Destination) -> Iterator[VideoInput]:
        """Yield the videos of a shard, but no file of the job itself."""
        for video in self.search.videos(root):
            if shard.takes(video.id) and not destination.holds(video.path):
                yield video


@dataclass(frozen=True)
class JobOptions:
    """How results are kept and what is done again.

    Args:
        suffix: Suffix of the files in a folder: ".npy", ".npz" or ".safetensors".
        level: "clip", "frame" or "video", of a .npy or a dataset; None for "clip". Other files
            hold every level.
        shard: Which share of the videos this run takes.
        checksum: Know a source by its sha256 instead of its size and time of change; what failed
            is tried again.
        retry_failed: Try every failed or incomplete video again; without it only those whose
            failure may have been the machine's, or that have changed.
        fail_fast: Stop at the first video that fails.
        overwrite: Remove what was made with other settings instead of refusing.
    """

    suffix: str = ".npz"
    level: str | None = None
    shard: Shard = field(default_factory=Shard)
    checksum: bool = False
    retry_failed: bool = False
    fail_fast: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.suffix not in SUFFIXES:
            raise InputError(
                f"format is {self.suffix.lstrip('.')!r}; allowed: "
                f"{', '.join(suffix[1:] for suffix in SUFFIXES)}."
            )
        if self.level is not None and self.level not in LEVELS:
            raise InputError(f"level is {self.level!r}; allowed: {', '.join(LEVELS)}.")

    def has_frames(self, destination: Destination) -> bool:
        """Whether the vectors of frames are kept.

        Raises:
            InputError: A level is asked for, but the files hold every one.
        """
        if destination.is_dataset or self.suffix == ".npy":
            return self.level == "frame"
        if self.level is not None:
            raise InputError(
                f"level is {self.level!r} but {self.suffix} files hold every level; leave level "
                "out, or choose the format npy or a .parquet dataset."
            )
        return True

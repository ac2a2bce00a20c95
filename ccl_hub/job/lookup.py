"""A look at one video before anything is done: what is known of it, and whether that still holds.

A file is known by its size and time of change, or, if the job is told to, by its sha256. The hash
is taken here, before the file is decoded; a file that changes in between counts as not hashed, so
that no result is ever kept with the hash of another content.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .._util.files import file_sha256
from ..batch.options import BatchItem
from ..errors import MediaError
from ..inputs.find import VideoInput
from ..video.open import MediaLimits, check_file
from .manifest import FAILED, INCOMPLETE, Row
from .options import JobOptions
from .sinks import Sink

STORAGE_CODES = frozenset({"unreadable", "not_found"})
TRANSIENT_CODES = frozenset({"crashed", "timeout", *STORAGE_CODES})
"""Failures that may be the machine's: tried again in the next run."""


@dataclass
class Look:
    """What is known of a video.

    Args:
        video: Its name and path.
        before: What the manifest says of it, if anything.
        size_bytes: Size of the file now; -1 if there is none.
        mtime_ns: Time of its change, likewise.
        intact: Its output is there, byte by byte.
        sha256: Hash of the file, or "" if it is not asked for or the file cannot be read.
        hash_error: Why the file cannot be read, or "".
    """

    video: VideoInput
    before: Row | None
    size_bytes: int
    mtime_ns: int
    intact: bool = False
    sha256: str = ""
    hash_error: str = ""

    @classmethod
    def at(cls, video: VideoInput, before: Row | None) -> Look:
        """Begin with what is quick."""
        return cls(video, before, *_size_and_time(video.path))

    def closely(self, sink: Sink, checksum: bool) -> Look:
        """Go on with what is slow, from any thread: read the output, and hash the file."""
        if self.before is not None and self.before.state != FAILED:
            self.intact = sink.intact(self.before)
        if checksum and self.video.path.is_file():
            try:
                self.sha256 = file_sha256(self.video.path)
            except OSError as error:
                self.hash_error = error.strerror or str(error)
        return self

    @property
    def file_is_gone(self) -> bool:
        """Whether there is no such file, or it is out of reach."""
        return self.size_bytes < 0

    @property
    def changed(self) -> bool:
        """Whether size and time of change are not those of before."""
        before = self.before
        known = before and (before.size_bytes, before.mtime_ns)
        return known != (self.size_bytes, self.mtime_ns)

    @property
    def output_holds(self) -> bool:
        """Whether there is a whole output, and the file is as it was or gone."""
        return self.intact and (not self.changed or self.file_is_gone)

    def changed_since(self) -> bool:
        """Whether the file has changed since this look began."""
        return _size_and_time(self.video.path) != (self.size_bytes, self.mtime_ns)

    def is_kept(self, before: Row, options: JobOptions) -> bool:
        """Whether what was known before still holds, as far as size and time tell."""
        if before.state == FAILED:
            retry = options.retry_failed or before.code in TRANSIENT_CODES
            return not self.changed and not retry and not options.checksum
        if self.file_is_gone and self.intact:
            return True  # what was made of it stays
        if before.state == INCOMPLETE and options.retry_failed:
            return False
        return self.intact and not self.changed and not options.checksum

    def has_known_content(self, before: Row, options: JobOptions) -> bool:
        """Whether the hash of the file says that its output, which is intact, is still good."""
        if not (self.intact and self.sha256) or (options.retry_failed and before.code):
            return False
        if before.source_sha256:
            return before.source_sha256 == self.sha256
        # The first hash of a file says of what the output was made only if nothing has changed.
        return not self.changed and not self.changed_since()

    def failure(self, limits: MediaLimits) -> BatchItem | None:
        """Return the failure of a file that is missing, holds nothing or could not be hashed.

        A decoding process would say the same, a thousand times as slowly: lists go stale.
        """
        path = self.video.path
        if self.hash_error:
            return BatchItem(-1, path, None, "unreadable", self.hash_error)
        if self.size_bytes > 0:
            return None
        try:
            check_file(path, limits)
        except MediaError as error:
            return BatchItem(-1, path, None, error.code, error.reason)
        return None


def _size_and_time(path: Path) -> tuple[int, int]:
    """Return size in bytes, -1 without a file, and time of change in ns, as SQLite takes it."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return -1, 0
    return status.st_size, min(max(status.st_mtime_ns, -(1 << 63)), (1 << 63) - 1)

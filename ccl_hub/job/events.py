"""What a batch job tells: what became of each video, and of the run as a whole."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .manifest import Row


@dataclass(frozen=True)
class VideoEvent:
    """What became of one video.

    Args:
        id: Its name.
        path: The file.
        state: "done", "incomplete" (embedded as far as it could be read) or "failed".
        code: Reason code of what is not done.
        reason: The same in words.
        duration_seconds: Length of the video, if it was embedded now.
        kept: True if an earlier run had done it.
    """

    id: str
    path: str
    state: str
    code: str
    reason: str
    duration_seconds: float
    kept: bool

    @classmethod
    def of(cls, row: Row, kept: bool) -> VideoEvent:
        """Tell of a row of the manifest."""
        seconds = 0.0 if kept else row.duration_seconds
        return cls(row.id, row.path, row.state, row.code, row.reason, seconds, kept)


@dataclass
class JobSummary:
    """What a run did.

    Args:
        destination: Where the embeddings are.
        counts: Videos by state.
        codes: Videos that are not done, by reason code.
        kept: Videos that an earlier run had done, in whatever state; the counts include them.
        video_seconds: Length of the videos embedded now.
        elapsed_seconds: Length of the run.
        failures: File that lists which of these videos are not done, or None.
        stopped: True if it ended early, by fail_fast.
        sandbox: How well decoding was confined: "full", "files only" or "none"; "" if nothing was
            decoded.
    """

    destination: Path
    counts: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    video_seconds: float = 0.0
    elapsed_seconds: float = 0.0
    failures: Path | None = None
    stopped: bool = False
    sandbox: str = ""

    @property
    def all_done(self) -> bool:
        """True if every video was embedded whole."""
        return not self.codes and not self.stopped

    def add(self, event: VideoEvent) -> None:
        """Count a video."""
        self.counts[event.state] += 1
        self.kept += event.kept
        self.video_seconds += event.duration_seconds
        if event.code:
            self.codes[event.code] += 1

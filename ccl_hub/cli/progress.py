"""What a person or a program sees of a run: a bar, a table, JSON lines."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..job.events import JobSummary, VideoEvent

_HOUR_SECONDS = 3600.0


class ClipProgress:
    """A bar on stderr, from the first clips of a video on; none if quiet or not on a terminal.

    Args:
        quiet: No bar.
        unit: What is counted.
    """

    def __init__(self, quiet: bool, unit: str = "clip") -> None:
        self._quiet, self._unit = quiet, unit
        self._bar: Any = None

    def __enter__(self) -> ClipProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, done: int, total: int) -> None:
        """Show ``done`` of ``total``."""
        if self._bar is None:
            self._bar = _bar(self._quiet, total=total, unit=self._unit, leave=False)
        self._bar.update(done - self._bar.n)


class JobProgress:
    """A bar on stderr with speed, time left and failures; or JSON lines for programs.

    Args:
        quiet: No bar.
        say: Takes a JSON line for each video; None for no lines.
    """

    def __init__(self, quiet: bool, say: Callable[[str], None] | None) -> None:
        self._quiet, self._say = quiet, say
        self._bar: Any = None
        self._failed = 0
        self._video_seconds = 0.0
        self._began = time.monotonic()

    def __enter__(self) -> JobProgress:
        self._bar = _bar(self._quiet, unit="video", dynamic_ncols=True, smoothing=0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    @property
    def shown(self) -> bool:
        """Whether there is a bar."""
        return not self._bar.disable

    def set_total(self, videos: int) -> None:
        """Tell how many videos there are, once that is known; from any thread."""
        self._bar.total = videos

    def tell_stage(self, stage: str) -> None:
        """Tell what is being done once all videos are."""
        self._bar.set_description_str(stage)

    def update(self, event: VideoEvent) -> None:
        """Show what became of a video."""
        self._failed += event.state == "failed"
        self._video_seconds += event.duration_seconds
        hours = self._video_seconds / max(time.monotonic() - self._began, 1e-9)
        self._bar.set_postfix_str(f"{hours:.1f} h of video/h, {self._failed} failed", False)
        self._bar.update()
        if self._say is not None:
            self._say(json.dumps({"event": "video", **dataclasses.asdict(event)}))


def _bar(quiet: bool, **options: Any) -> Any:
    from tqdm import tqdm

    disable = quiet or sys.stderr is None or None  # None: not on a terminal
    return tqdm(file=sys.stderr, disable=disable, **options)


def summary_facts(summary: JobSummary) -> dict[str, Any]:
    """Return a run as JSON values."""
    return {
        "event": "summary",
        "destination": str(summary.destination),
        "videos": dict(summary.counts),
        "reasons": dict(summary.codes),
        "kept": summary.kept,
        "video_seconds": round(summary.video_seconds, 3),
        "elapsed_seconds": round(summary.elapsed_seconds, 3),
        "failures": None if summary.failures is None else str(summary.failures),
        "stopped": summary.stopped,
        "sandbox": summary.sandbox,
    }


def summary_table(summary: JobSummary) -> str:
    """Return a run in some lines: what was embedded, what was not and why."""
    counts = summary.counts
    now = sum(counts.values()) - summary.kept
    hours = summary.video_seconds / _HOUR_SECONDS
    speed = summary.video_seconds / max(summary.elapsed_seconds, 1e-9)
    lines = [
        f"{summary.destination}: {sum(counts.values())} videos: {counts['done']} done, "
        f"{counts['incomplete']} incomplete, {counts['failed']} failed",
        f"now: {now} videos, {hours:.2f} h of video, in {summary.elapsed_seconds:.1f} s "
        f"({now / max(summary.elapsed_seconds, 1e-9):.2f} videos/s, {speed:.1f} h of video/h); "
        f"{summary.kept} were there before",
    ]
    width = max(map(len, summary.codes), default=0)
    lines += [f"  {code:{width}}  {count}" for code, count in summary.codes.most_common()]
    if summary.failures is not None:
        lines.append(f"see {summary.failures}")
    if summary.stopped:
        lines.append("stopped at the first failure; run again to go on")
    return "\n".join(lines)

"""The hard cycle as a second opinion: clip -> nearest frame -> nearest clip.

It is what the network was trained for (paper, Section 3): a clip finds a frame of its own video,
and that frame a clip of it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .results import Alike, Doubt, Hit
from .store import Frames, Keys, Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from .asking import Question

NEAR_SECONDS = 2.0
AS_NEAR = 0.02
"""Cosines that differ by less are as near: a library may hold a video twice."""

NEAREST = 10
LEAST_RETURNING = 0.5
MOST_ALIKE = 200

CLIPS_AT_ONCE = 1024

Vectors = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


def opinion(store: Store, question: Question, hit: Hit) -> bool | None:
    """Return whether the clip of a query that a hit covers and a frame of the hit find each other.

    None if there is no such clip, or the hit is mirrored and its clip would be, too.
    """
    spans = question.look.clip_seconds
    if not len(spans) or hit.mirrored:
        return None
    middle = (hit.query_start + hit.query_end) / 2
    clip = question.clips[[int(np.abs(spans.mean(axis=1) - middle).argmin())]]  # (1,D)
    found = store.nearest(clip, NEAREST)
    if not len(found.keys):
        return False
    (key,) = (video.key for video in store.videos.values() if video.id == hit.video)
    here = (found.seconds >= hit.start - NEAR_SECONDS) & (found.seconds <= hit.end + NEAR_SECONDS)
    as_near = found.cosines >= found.cosines[0] - AS_NEAR
    rows = np.flatnonzero((found.keys == key) & here & as_near)
    if not len(rows):
        return False
    frame = found[rows[:1]]
    others = store.nearest(frame.vectors, 1, without=key, name="clips")
    back = float(frame.vectors[0] @ clip[0])
    return not len(others.keys) or back >= float(others.cosines[0]) - AS_NEAR


def alike(store: Store, clips: Vectors, without: set[str]) -> list[Alike]:
    """Return videos by how near their clips are to those of a query, nearest first.

    Args:
        store: The library.
        clips: (W, D) unit vectors.
        without: Names of videos that are left out.
    """
    left_out = {video.key for video in store.videos.values() if video.id in without}
    found = store.nearest(clips, MOST_ALIKE, left_out, name="clips")
    rows = []
    for key in np.unique(found.keys).tolist():
        video, here = store.videos[key], store.of(key, "clips")
        cosines = clips @ here.vectors.T  # (W,w)
        best = int(cosines.max(axis=0).argmax())
        start, end = float(here.seconds[best]), float(here.ends[best])
        similarity = float(cosines.max(axis=1).mean())
        rows.append(Alike(video.id, video.path, start, end, similarity))
    return sorted(rows, key=lambda row: -row.similarity)


def doubts(store: Store, progress: Callable[[int, int], None] | None = None) -> list[Doubt]:
    """Return the videos of which most clips do not return, fewest first.

    Args:
        store: The library.
        progress: Called with (clips done, clips in all).
    """
    asked, returning = Counter[int](), Counter[int]()
    strays: dict[int, Counter[int]] = {}
    total = store.count("clips")
    for block in store.blocks("clips"):
        for begin in range(0, len(block.keys), CLIPS_AT_ONCE):
            clips = block[begin : begin + CLIPS_AT_ONCE]
            ends, arrived = _ends(store, clips)
            asked.update(clips.keys.tolist())
            returning.update(clips.keys[arrived & (ends == clips.keys)].tolist())
            away = arrived & (ends != clips.keys)
            for key, end in zip(clips.keys[away].tolist(), ends[away].tolist(), strict=True):
                strays.setdefault(key, Counter())[end] += 1
            if progress is not None:
                progress(min(total, asked.total()), total)
    rows = []
    for key, video in store.videos.items():
        share = returning[key] / asked[key] if asked[key] else 1.0
        if share < LEAST_RETURNING:
            most = max(strays.get(key, {}).items(), key=lambda stray: stray[1], default=None)
            stray = store.videos[most[0]].id if most else ""
            rows.append(Doubt(video.id, video.path, asked[key], share, stray))
    return sorted(rows, key=lambda row: (row.returning, row.video))


def _ends(store: Store, clips: Frames) -> tuple[Keys, Flags]:
    """Return the videos in which clips end: of their nearest frame, or of its clip if it is home.

    Also which of them end anywhere.
    """
    frames, arrived = _homes(store, clips.vectors, clips.keys, "frames")
    ends = frames.keys.copy()
    home = np.flatnonzero(arrived & (ends == clips.keys))
    back, there = _homes(store, frames.vectors[home], clips.keys[home], "clips")
    ends[home[there]] = back.keys[there]
    return ends, arrived


def _homes(store: Store, vectors: Vectors, own: Keys, name: str) -> tuple[Frames, Flags]:
    """Return the row that is nearest to each vector; one of its own video if that is as near.

    Also which of them have found any; rows of the others say nothing.
    """
    found = store.nearest(vectors, NEAREST, name=name)
    numbers = np.arange(len(vectors))
    first = np.searchsorted(found.queries, numbers)
    arrived = np.isin(numbers, found.queries)
    if not len(found.keys):
        times, cosines = np.zeros(len(own)), np.zeros(len(own), np.float32)
        return Frames(own, times, times, vectors, numbers, cosines), arrived
    chosen = np.minimum(first, len(found.keys) - 1)
    top = found.cosines[chosen]
    at_home = found.keys == own[found.queries]
    as_near = found.cosines >= top[found.queries] - AS_NEAR
    rows = np.flatnonzero(at_home & as_near)
    queries, nearest = np.unique(found.queries[rows], return_index=True)
    chosen[queries] = rows[nearest]
    return found[chosen], arrived

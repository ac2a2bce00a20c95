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
from .store import Store

if TYPE_CHECKING:
    from .asking import Question

NEAR_SECONDS = 2.0
AS_NEAR = 0.02
"""Cosines that differ by less are as near: a library may hold a video twice."""

NEAREST = 10
LEAST_RETURNING = 0.5
MOST_ALIKE = 200

Vectors = npt.NDArray[np.float32]


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


def doubts(store: Store) -> list[Doubt]:
    """Return the videos of which most clips do not return, fewest first."""
    rows = []
    for video in store.videos.values():
        clips = store.of(video.key, "clips")
        if not len(clips.keys):
            continue
        frames = _homes(store, clips.vectors, video.key, "frames")
        returning, strays = 0, Counter[int]()
        for home in frames:
            if home is None:
                continue
            key, vector = home
            back = _homes(store, vector[None], video.key, "clips")[0] if key == video.key else home
            if back is not None and back[0] == video.key:
                returning += 1
            else:
                strays[key if back is None else back[0]] += 1
        share = returning / len(clips.keys)
        if share < LEAST_RETURNING:
            most = strays.most_common(1)
            stray = store.videos[most[0][0]].id if most else ""
            rows.append(Doubt(video.id, video.path, len(clips.keys), share, stray))
    return sorted(rows, key=lambda row: (row.returning, row.video))


def _homes(
    store: Store, vectors: Vectors, own: int, name: str
) -> list[tuple[int, Vectors] | None]:
    """Return the video and vector that is nearest to each vector; its own if that is as near."""
    found = store.nearest(vectors, NEAREST, name=name)
    homes: list[tuple[int, Vectors] | None] = []
    for number in range(len(vectors)):
        near = found[found.queries == number]
        if not len(near.keys):
            homes.append(None)
            continue
        own_rows = np.flatnonzero((near.keys == own) & (near.cosines >= near.cosines[0] - AS_NEAR))
        row = int(own_rows[0]) if len(own_rows) else 0
        homes.append((int(near.keys[row]), near.vectors[row]))
    return homes

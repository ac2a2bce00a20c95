"""What videos of a library have in common: each is asked for among the others, and grouped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .matching.chance import Chance
from .matching.match import Match, Matcher, Query
from .results import Overlap, Stretches, is_same_place
from .store import Store

NEARLY_ALL = 0.9


def overlaps(
    store: Store,
    matcher: Matcher,
    chance: Chance,
    frame_seconds: float,
    max_e: float,
    progress: Callable[[int, int], None] | None = None,
) -> list[Overlap]:
    """Return all overlaps, by group and then by E-value.

    Args:
        store: The library.
        matcher: Finds queries in it.
        chance: Its E-values.
        frame_seconds: Time between frames.
        max_e: Largest E-value of an overlap, for one video asked for.
        progress: Called with (videos done, videos in all).
    """
    found: dict[tuple[int, int], list[tuple[Match, float]]] = {}
    places: dict[tuple[int, int], list[Match]] = {}  # of all, also of those that are left out
    videos, rows = store.videos, store.frame_count
    for number, video in enumerate(videos.values(), 1):
        frames = store.of(video.key)
        length = max(1.0, video.duration_seconds / frame_seconds)
        least = chance.score(max_e, length, rows)
        query = Query(frames.seconds, frames.vectors, video.duration_seconds)
        for match in matcher.matches(query, without={video.key}, least_score=least):
            e_value = chance.e_value(match.score, length, rows)
            pair = (video.key, match.key)
            if e_value > max_e:
                continue
            known = [_place(other) for other in places.get(pair, [])]
            known += [_place(other, turned=True) for other in places.get(pair[::-1], [])]
            # The best come first; the same stretch may be found along another line, or has been
            # found from the other side.
            if not any(is_same_place(_place(match), one) for one in known):
                found.setdefault(pair, []).append((match, e_value))
            places.setdefault(pair, []).append(match)
        if progress is not None:
            progress(number, len(videos))
    return _grouped(store, found)


def _place(match: Match, turned: bool = False) -> Stretches:
    """Return the two stretches of a match; turned, as if the other video had been asked for."""
    asked, found = (match.query_start, match.query_end), (match.start, match.end)
    return (*found, *asked) if turned else (*asked, *found)


def _grouped(
    store: Store, found: dict[tuple[int, int], list[tuple[Match, float]]]
) -> list[Overlap]:
    """Give overlaps names, kinds and groups."""
    group_of: dict[int, int] = {}

    def head(key: int) -> int:
        while group_of.setdefault(key, key) != key:
            key = group_of[key]
        return key

    for first, second in found:
        group_of[head(second)] = head(first)
    rows = []
    for (first, second), matches in found.items():
        video, other = store.videos[first], store.videos[second]
        covered = (
            sum(m.query_end - m.query_start for m, _ in matches),
            sum(m.end - m.start for m, _ in matches),
        )
        shares = [
            seconds / max(one.duration_seconds, 1e-9)
            for seconds, one in zip(covered, (video, other), strict=True)
        ]
        kind = "overlap" if max(shares) < NEARLY_ALL else "part"
        kind = "copy" if min(shares) >= NEARLY_ALL else kind
        for match, e_value in matches:
            rows.append(
                Overlap(
                    *(head(first), kind, video.id, video.path),
                    *(match.query_start, match.query_end, other.id, other.path),
                    *(match.start, match.end, match.speed, match.similarity),
                    *(match.score, e_value),
                )
            )
    sizes: dict[int, int] = {}
    for row in rows:
        sizes[row.group] = sizes.get(row.group, 0) + 1
    order = sorted(sizes, key=lambda group: (-sizes[group], group))
    numbers = {group: number for number, group in enumerate(order, 1)}
    rows = [replace(row, group=numbers[row.group]) for row in rows]
    return sorted(rows, key=lambda row: (row.group, row.e_value, row.video, row.start))

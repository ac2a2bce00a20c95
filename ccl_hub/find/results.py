"""What a library answers: frozen rows, and tables of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Generic, TypeVar, overload


@dataclass(frozen=True)
class Hit:
    """A stretch of a video of the library that shows what the query shows.

    Args:
        video: Name of the video in the library.
        path: Its file.
        query_start: Where the stretch begins in the query, in seconds; 0 for a picture.
        query_end: Where it ends there.
        start: Where it begins in the video, in seconds from its first frame.
        end: Where it ends there; for a picture, how long what it shows stays alike.
        speed: Seconds of the video for each second of the query, 0.5 to 2.
        mirrored: The query shows it mirrored, left for right.
        similarity: Mean cosine of the frames that match, -1 to 1.
        score: Evidence, 0 or more: frames that match and are rarely alike count most.
        e_value: Hits at least this good that chance gives, expected for one query like this in a
            library of this size.
        cycle: The second opinion: the clip finds a frame of the hit as the nearest of the library,
            and that frame the clip (None if there is no clip to ask).
    """

    video: str
    path: str
    query_start: float
    query_end: float
    start: float
    end: float
    speed: float
    mirrored: bool
    similarity: float
    score: float
    e_value: float
    cycle: bool | None = None


@dataclass(frozen=True)
class Overlap:
    """Two stretches, of two videos of the library, that show the same.

    Args:
        group: Number of the group, from 1; videos that overlap directly or through others.
        kind: "copy": nearly all of both; "part": nearly all of one; "overlap": parts of both.
        video: Name of the first video.
        path: Its file.
        start: Where the stretch begins in it, in seconds.
        end: Where it ends there.
        other: Name of the second video.
        other_path: Its file.
        other_start: Where the stretch begins there.
        other_end: Where it ends there.
        speed: Seconds of the second for each second of the first.
        similarity: See :class:`Hit`; so are ``score`` and ``e_value``.
        score: Evidence.
        e_value: Expected by chance for one video like the first.
    """

    group: int
    kind: str
    video: str
    path: str
    start: float
    end: float
    other: str
    other_path: str
    other_start: float
    other_end: float
    speed: float
    similarity: float
    score: float
    e_value: float


@dataclass(frozen=True)
class Alike:
    """A video of the library with content like the query's, not the same footage.

    Args:
        video: Name of the video.
        path: Its file.
        start: Where its most similar clip begins, in seconds.
        end: Where that clip ends.
        similarity: Mean over the query's clips of the cosine with the nearest clip of the video.
    """

    video: str
    path: str
    start: float
    end: float
    similarity: float


@dataclass(frozen=True)
class Doubt:
    """A video of the library whose own clips and frames do not find each other.

    Args:
        video: Name of the video.
        path: Its file.
        clips: Number of its clips that were asked.
        returning: Share of them whose nearest frame is one of the same video and finds a clip of
            it back: the hard cycle, 0 to 1.
        strays_to: The video in which most of the others end, "" if in none.
    """

    video: str
    path: str
    clips: int
    returning: float
    strays_to: str


Row = TypeVar("Row", Hit, Overlap, Alike, Doubt)


@dataclass(frozen=True)
class Results(Sequence[Row], Generic[Row]):
    """Rows of one kind, best first, with what they answer.

    Args:
        kind: Class of the rows, whose fields are the columns of tables even if there is no row.
        rows: The rows.
        query: What was asked for: a path, or words.
        query_seconds: Length of the query; 0 for a picture.

    Example:
        >>> found = Results(Alike, (Alike("a.mp4", "/v/a.mp4", 0.0, 4.0, 0.75),), "query.mp4")
        >>> len(found), found[0].video
        (1, 'a.mp4')
        >>> print(found.to_csv(), end="")
        video,path,start,end,similarity
        a.mp4,/v/a.mp4,0.0,4.0,0.75
    """

    kind: type[Row]
    rows: tuple[Row, ...] = ()
    query: str = ""
    query_seconds: float = 0.0

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Row, ...]: ...
    def __getitem__(self, index: int | slice) -> Row | tuple[Row, ...]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return [field.name for field in fields(self.kind)]

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the rows as JSON values."""
        return [asdict(row) for row in self.rows]

    def to_csv(self) -> str:
        """Return the rows as CSV, with a line of names."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.to_dicts())
        return text.getvalue()

    def to_pandas(self) -> Any:
        """Return the rows as a ``pandas.DataFrame``; needs pandas."""
        import pandas

        return pandas.DataFrame(self.to_dicts(), columns=self.columns)


def without_weaker_twins(hits: Iterable[Hit]) -> list[Hit]:
    """Return hits, best first, without those at the place of a better one.

    They are the same stretch mirrored, or found along another line: a still scene shows the same
    at each of its instants, so that one hit has others beside it, and those again.
    """
    kept: list[Hit] = []
    places: dict[str, list[Stretches]] = {}
    for hit in sorted(hits, key=lambda hit: (hit.e_value, -hit.score)):
        place = hit.query_start, hit.query_end, hit.start, hit.end
        better = places.setdefault(hit.video, [])
        if not any(is_same_place(place, other) for other in better):
            kept.append(hit)
        better.append(place)
    return kept


Stretches = tuple[float, float, float, float]
"""Start and end of a stretch, start and end of the one in another video that shows the same."""


def is_same_place(one: Stretches, other: Stretches) -> bool:
    """Whether most of the first stretch lies in that of another pair, and some of the second.

    Example:
        >>> is_same_place((0.0, 4.0, 10.0, 14.0), (1.0, 5.0, 11.0, 15.0))
        True
        >>> is_same_place((0.0, 4.0, 10.0, 14.0), (0.0, 4.0, 70.0, 74.0))
        False
    """
    return _share(*one[:2], *other[:2]) > 0.5 and _share(*one[2:], *other[2:]) > SOME


SOME = 0.1
"""Stretches that lie end to end share up to the half step by which each is widened."""


def _share(start: float, end: float, other_start: float, other_end: float) -> float:
    """Return how much of a stretch lies in another; an instant lies in it whole or not at all."""
    if end - start < 1e-6:
        return float(other_start - 0.5 <= start <= other_end + 0.5)
    return max(0.0, min(end, other_end) - max(start, other_start)) / (end - start)

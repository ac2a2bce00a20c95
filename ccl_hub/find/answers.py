"""From a question to hits, with names and E-values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .matching.chance import Chance
from .matching.evidence import Background
from .matching.match import Matcher
from .results import Hit, without_weaker_twins

if TYPE_CHECKING:
    from .asking import Question
    from .files import LibraryFiles
    from .store import Store


def matcher_of(store: Store, files: LibraryFiles) -> tuple[Matcher, Chance]:
    """Return what finds queries in a library, and its E-values."""
    chance, background = files.chance(), files.background()
    if chance is None or background is None:  # an indexing that has not come to its end
        background, chance = Background.of(store), Chance.guessed(store.frame_count)
    return Matcher(store, background, files.facts.frame_seconds), chance


def hits_of(
    store: Store, files: LibraryFiles, question: Question, max_e: float, mirrored: bool
) -> list[Hit]:
    """Return the hits of a question, best first, without the second opinion.

    Args:
        store: The library's database.
        files: Its files.
        question: What is asked for.
        max_e: Largest E-value.
        mirrored: Also look for it mirrored.
    """
    matcher, chance = matcher_of(store, files)
    rows, step = store.frame_count, files.facts.frame_seconds
    ways = question.ways if mirrored else question.ways[:1]
    hits = []
    for number, way in enumerate(ways):
        query = way.as_picture_if_still(matcher.still_cosine)
        frames = 1.0 if query.is_picture else max(1.0, query.duration_seconds / step)
        least = chance.score(max_e / len(ways), frames, rows)
        for match in matcher.matches(query, least_score=least):
            e_value = chance.e_value(match.score, frames, rows, len(ways))
            video = store.videos[match.key]
            end = match.query_end if query is way else way.duration_seconds
            hits.append(
                Hit(
                    *(video.id, video.path, match.query_start, end),
                    *(match.start, match.end, match.speed, number == 1),
                    *(match.similarity, match.score, e_value),
                )
            )
    return without_weaker_twins(hit for hit in hits if hit.e_value <= max_e)

"""Writes hits, overlaps and videos alike as one self-contained HTML file.

The facts are JSON inside the page, and a script makes elements of them by ``textContent``: a file
name is never markup. The page loads the local videos that it plays, and nothing else; its
Content-Security-Policy says so to the browser.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._util.files import write_atomically
from ...errors import InputError
from ...inputs.extensions import IMAGE_EXTENSIONS
from ...inputs.names import as_text, from_text
from ..results import Alike, Doubt, Hit, Overlap, Results
from .thumbnails import thumbnails

TEMPLATE = Path(__file__).with_name("template.html")
PAIRS = 4
"""Pairs of thumbnails along a hit."""

MOST_ROWS = 500
"""Rows with thumbnails; a page of more would be slow to make and to open."""


@dataclass(frozen=True)
class Place:
    """A stretch of a file that is shown beside another one."""

    name: str
    path: str
    start: float
    end: float

    @property
    def instants(self) -> list[float]:
        """When the thumbnails are taken: once for a picture, else evenly inside the stretch."""
        length = self.end - self.start
        if length < 1e-6:
            return [self.start]
        return [self.start + length * (2 * n + 1) / (2 * PAIRS) for n in range(PAIRS)]

    def facts(self, pictures: Pictures) -> dict[str, Any]:
        """Return what the page shows of it, given the thumbnails of all places."""
        path = Path(from_text(self.path))
        encoded = [pictures[self.path, instant] for instant in self.instants]
        return {
            "name": self.name,
            "folder": str(Path(self.name).parent) if "/" in self.name else "",
            "start": self.start,
            "end": self.end,
            "file": path.absolute().as_uri(),
            "is_picture": path.suffix.lower() in IMAGE_EXTENSIONS,
            "thumbnails": encoded,
        }


def write_page(
    results: Results[Any],
    path: Path,
    title: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write results as a page.

    Args:
        results: What a library answered.
        path: The HTML file; replaced if it exists.
        title: Shown on top; by default what was asked.
        progress: Called with (files done, files in all) as thumbnails are made.

    Raises:
        InputError: The name is not one of an HTML file.
        OutputError: The file cannot be written.
    """
    check_page(path)
    query = as_text(results.query)
    shown = [(row, _places(row, query)) for row in results.rows[:MOST_ROWS]]
    pictures = _pictures([place for _, places in shown for place in places], progress)
    rows = [
        {**_figures(row), "places": [place.facts(pictures) for place in places]}
        for row, places in shown
    ]
    title = title or f"{results.kind.__name__}s: {query}"
    data = {
        "kind": results.kind.__name__,
        "query": query,
        "count": len(results),
        "rows": rows,
    }
    write_atomically(path, render(data, title))


def check_page(path: Path) -> None:
    """Refuse to write a page over a file of another kind.

    Raises:
        InputError: The name is not one of an HTML file.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path}: a page is HTML; give a name that ends in .html.")


def render(data: dict[str, Any], title: str) -> str:
    """Return the text of a page."""
    text = TEMPLATE.read_text(encoding="utf-8")
    # "<" would end the element that holds the data; the others are no line ends in HTML.
    safe = json.dumps(data, ensure_ascii=True).replace("<", "\\u003c").replace(">", "\\u003e")
    return text.replace("{{title}}", html.escape(title)).replace("{{data}}", safe)


def _places(row: Hit | Overlap | Alike | Doubt, query: str) -> list[Place]:
    """Return the stretches that a row is about, one or two."""
    match row:
        case Hit():
            asked = Place(query, query, row.query_start, row.query_end)
            return [asked, Place(row.video, row.path, row.start, row.end)]
        case Overlap():
            other = Place(row.other, row.other_path, row.other_start, row.other_end)
            return [Place(row.video, row.path, row.start, row.end), other]
        case Alike():
            return [Place(row.video, row.path, row.start, row.end)]
        case Doubt():
            return [Place(row.video, row.path, 0.0, 0.0)]


_MEASURED = ("e_value", "score", "similarity", "speed")
_FIGURES: dict[type, tuple[str, ...]] = {
    Hit: (*_MEASURED, "mirrored", "cycle"),
    Overlap: (*_MEASURED, "kind", "group"),
    Alike: ("similarity",),
    Doubt: ("returning", "strays_to"),
}


def _figures(row: Hit | Overlap | Alike | Doubt) -> dict[str, Any]:
    """Return what the page says of a row besides its places."""
    return {name: getattr(row, name) for name in _FIGURES[type(row)]}


Pictures = dict[tuple[str, float], str]
"""(path, instant) -> a JPEG in base64, or ""."""


def _pictures(places: list[Place], progress: Callable[[int, int], None] | None) -> Pictures:
    """Return the thumbnails of all places, each file opened once."""
    instants: dict[str, set[float]] = {}
    for place in places:
        instants.setdefault(place.path, set()).update(place.instants)
    pictures: Pictures = {}
    for number, (path, wanted) in enumerate(instants.items(), 1):
        order = sorted(wanted)
        for instant, picture in zip(order, thumbnails(from_text(path), order), strict=True):
            pictures[path, instant] = base64.b64encode(picture).decode("ascii")
        if progress is not None:
            progress(number, len(instants))
    return pictures

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

    def facts(self) -> dict[str, Any]:
        """Return what the page shows of it."""
        path = Path(from_text(self.path))
        pictures = thumbnails(path, self.instants)
        encoded = [base64.b64encode(picture).decode("ascii") for picture in pictures]
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
        progress: Called with (rows done, rows in all).

    Raises:
        InputError: The name is not one of an HTML file.
        OutputError: The file cannot be written.
    """
    check_page(path)
    shown, query = results.rows[:MOST_ROWS], as_text(results.query)
    rows = []
    for number, row in enumerate(shown, 1):
        rows.append(_facts(row, query))
        if progress is not None:
            progress(number, len(shown))
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


def _facts(row: Hit | Overlap | Alike | Doubt, query: str) -> dict[str, Any]:
    """Return what the page shows of a row: two places, or one, and figures."""
    figures: dict[str, Any]
    match row:
        case Hit():
            asked = Place(query, query, row.query_start, row.query_end)
            found = Place(row.video, row.path, row.start, row.end)
            figures = {
                "e_value": row.e_value,
                "score": row.score,
                "similarity": row.similarity,
                "speed": row.speed,
                "mirrored": row.mirrored,
                "cycle": row.cycle,
            }
            return {**figures, "places": [asked.facts(), found.facts()]}
        case Overlap():
            first = Place(row.video, row.path, row.start, row.end)
            second = Place(row.other, row.other_path, row.other_start, row.other_end)
            figures = {
                "e_value": row.e_value,
                "score": row.score,
                "similarity": row.similarity,
                "speed": row.speed,
                "kind": row.kind,
                "group": row.group,
            }
            return {**figures, "places": [first.facts(), second.facts()]}
        case Alike():
            place = Place(row.video, row.path, row.start, row.end)
            return {"similarity": row.similarity, "places": [place.facts()]}
        case Doubt():
            place = Place(row.video, row.path, 0.0, 0.0)
            figures = {"returning": row.returning, "strays_to": row.strays_to}
            return {**figures, "places": [place.facts()]}

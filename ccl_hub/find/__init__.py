"""Where in my videos is this? A library of frame vectors on disk, and answers with a known error.

index   videos -> the batch job -> LibrarySink -> LanceDB           (sink, store)
where   query -> vectors -> nearest frames -> votes -> segments -> E-values
(query)            (store)          (matching)          (matching)
"""

from typing import TYPE_CHECKING

from .._util.lazy import lazy_names

if TYPE_CHECKING:
    from .library import Library
    from .results import Alike, Doubt, Hit, Overlap, Results

__all__ = ["Alike", "Doubt", "Hit", "Library", "Overlap", "Results"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".library": ["Library"],
        ".results": ["Alike", "Doubt", "Hit", "Overlap", "Results"],
    },
)

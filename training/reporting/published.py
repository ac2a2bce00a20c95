"""Published figures that our rows are printed beside: Tables 2 to 7 of the paper, and later ones.

``published.csv`` holds them, all in per cent as printed by their authors, none computed here.
Source of the tables: "Cycle-Contrast for Self-Supervised Video Representation Learning", NeurIPS
2020.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

PAPER = "CCL paper, NeurIPS 2020"
F_MEASURE = "F-measure"
# Data sets with published figures, and how a report names them.
DATA_SETS = {
    "ucf101": "UCF101 split 1",
    "hmdb51": "HMDB51 split 1",
    "mmact cross-session": "MMAct cross-session",
    "mmact cross-subject": "MMAct cross-subject",
}


@dataclass(frozen=True)
class PublishedRow:
    """One printed row.

    Args:
        table: Number in the paper; later work stands in the table whose layout it fits.
        method: Name in that table.
        figures: Per cent as printed, by data set (a key of :data:`DATA_SETS`), task (as in
            :class:`training.evaluation.results.Column`; ``finetune`` for ``CCL(E2E)``) and metric
            (``top-1`` ... ``top-50``, or ``F-measure``: macro or micro is not stated).
        source: Where it was printed.
        note: What makes it differ from the other rows, such as labels or another modality.
        reference: The row serves for comparison: random, supervised or multi-modal.
    """

    table: int
    method: str
    figures: dict[tuple[str, str, str], float]
    source: str
    note: str
    reference: bool

    def per_cent(self, data: str, task: str, metric: str) -> float | None:
        """Return the figure of a column, the first of any task for ""; None if there is none."""
        columns = ((data, task or key[1], metric) for key in self.figures)
        return next((self.figures[one] for one in columns if one in self.figures), None)


def _read_published() -> tuple[PublishedRow, ...]:
    """Read ``published.csv``: one line per figure, those of a row one after the other."""
    with Path(__file__).with_name("published.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    keys = ("table", "method", "source", "note", "reference")
    rows = []
    for row, figures in groupby(lines, lambda line: {key: line[key] for key in keys}):
        printed = {
            (one["data"], one["task"], one["metric"]): float(one["per_cent"]) for one in figures
        }
        described = (row["source"], row["note"], bool(row["reference"]))
        rows.append(PublishedRow(int(row["table"]), row["method"], printed, *described))
    return tuple(rows)


PUBLISHED = _read_published()


def published_rows(table: int) -> list[PublishedRow]:
    """Return the rows of one table, in the order of ``published.csv``."""
    return [row for row in PUBLISHED if row.table == table]


def published_data(name: str) -> str | None:
    """Return the key of :data:`DATA_SETS` that a measured set is, or None.

    Published figures are of test split 1, so ``ucf101 split 2`` has none.

    Args:
        name: Of a :class:`training.evaluation.results.DataRecord`.

    Example:
        >>> published_data("UCF-101 split 1"), published_data("ucf101 split 2")
        ('ucf101', None)
    """
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    for key in DATA_SETS:
        plain = re.sub(r"[^a-z0-9]", "", key)
        if letters in {plain, f"{plain}1", f"{plain}split1", f"{plain}fold1", f"{plain}split01"}:
            return key
    return None

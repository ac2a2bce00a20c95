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
# Of which published figures exist, and how a report names them.
DATA_SETS = {
    "ucf101": "UCF101 split 1",
    "hmdb51": "HMDB51 split 1",
    "mmact cross-session": "MMAct cross-session",
    "mmact cross-subject": "MMAct cross-subject",
}


@dataclass(frozen=True)
class PublishedFigure:
    """One printed figure.

    Args:
        data: A key of :data:`DATA_SETS`.
        task: As in :class:`training.evaluation.results.Measurement`; ``finetune`` for
            ``CCL(E2E)``.
        metric: ``top-1`` ... ``top-50``, or ``F-measure`` (macro or micro is not stated).
        per_cent: As printed.
    """

    data: str
    task: str
    metric: str
    per_cent: float


@dataclass(frozen=True)
class PublishedRow:
    """One printed row.

    Args:
        table: Number in the paper; later work stands in the table whose layout it fits.
        method: Name in that table.
        figures: Its figures.
        source: Where it was printed.
        note: What makes it differ from the other rows, such as labels or another modality.
        reference: There to compare with: random, supervised or multi-modal rows.
    """

    table: int
    method: str
    figures: tuple[PublishedFigure, ...]
    source: str
    note: str
    reference: bool

    def per_cent(self, data: str, task: str, metric: str) -> float | None:
        """Return the figure of a column, or None where none was printed."""
        columns = {(one.data, one.task, one.metric): one.per_cent for one in self.figures}
        return columns.get((data, task, metric))


def _read_published() -> tuple[PublishedRow, ...]:
    """Read ``published.csv``: one line per figure, those of a row one after the other."""
    with Path(__file__).with_name("published.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    keys = ("table", "method", "source", "note", "reference")
    rows = []
    for row, figures in groupby(lines, lambda line: {key: line[key] for key in keys}):
        printed = tuple(
            PublishedFigure(one["data"], one["task"], one["metric"], float(one["per_cent"]))
            for one in figures
        )
        described = (row["source"], row["note"], bool(row["reference"]))
        rows.append(PublishedRow(int(row["table"]), row["method"], printed, *described))
    return tuple(rows)


PUBLISHED = _read_published()


def published_rows(table: int) -> list[PublishedRow]:
    """Return the rows of one table, in the order they are printed here."""
    return [row for row in PUBLISHED if row.table == table]


def published_data(name: str) -> str | None:
    """Return the key of :data:`DATA_SETS` that a measured set is, or None.

    Published figures are of test split 1, so ``ucf101 split 2`` is none of them.

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

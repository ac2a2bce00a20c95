"""Rows of the report's tables: cells, what is missing, and what may be printed bold."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from ..evaluation.results import Column, Results, Summary, summarise
from .published import DATA_SETS, PAPER, PublishedRow

NOT_MEASURED = "not yet measured"
NOT_PUBLISHED = "not published"

Line = tuple[str, str]  # group and label: one row of ours
Item = TypeVar("Item", bound=Hashable)


@dataclass(frozen=True)
class Cell:
    """One figure, or why there is none.

    Args:
        text: What is printed; per cent.
        kind: ``measured``, ``published`` or ``missing``.
        best: Ahead of every other measured row of its group by more than one deviation.
    """

    text: str
    kind: str
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One row.

    Args:
        label: Model or method.
        marks: Some of ``reference`` and ``published (...)``.
        seeds: Number of seeds behind the figures; "" for published rows.
        cells: One per column.
        note: Printed small beside the label.
    """

    label: str
    marks: tuple[str, ...]
    seeds: str
    cells: tuple[Cell, ...]
    note: str = ""

    @property
    def spans(self) -> list[tuple[Cell, int]]:
        """Cells with their widths, equal neighbours without a figure as one."""
        merged = []
        for cell, run in groupby(self.cells):
            count = len(list(run))
            merged += [(cell, count)] if cell.kind == "missing" else [(cell, 1)] * count
        return merged


@dataclass(frozen=True)
class Group:
    """Rows that may be compared: one data set and one way of counting.

    Args:
        title: Data set and way of counting; "" where the table has one group.
        rows: Ours, then published ones.
        aside: Whether it is shown folded up.
    """

    title: str
    rows: tuple[Row, ...]
    aside: bool = False


@dataclass(frozen=True)
class Table:
    """One table, of the paper or ours.

    Args:
        number: 2 to 7 as in the paper; ours go on from 8.
        title: What it shows.
        heads: Titles over several columns with their widths; empty for none.
        columns: Titles of the figure columns.
        groups: The rows.
        notes: Sentences to print below.
    """

    number: int
    title: str
    heads: tuple[tuple[str, int], ...]
    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()

    @property
    def starts(self) -> list[int]:
        """Columns over which a new head begins."""
        return [sum(width for _, width in self.heads[:i]) for i in range(len(self.heads))]


class Figures:
    """The summaries by row, data set and column, all in order of first appearance."""

    def __init__(self, results: Sequence[Results]) -> None:
        self.all = summarise(results)
        self._cells = {(s.group, s.label, s.data, s.column): s for s in self.all}
        self._references = {(s.group, s.label) for s in self.all if s.reference}

    def get(self, line: Line, data: str, column: Column) -> Summary | None:
        """Return one figure, or None if it was not measured."""
        return self._cells.get((*line, data, column))

    def lines(self, keep: Callable[[Summary], bool] = lambda _: True) -> list[Line]:
        """Return the rows that have a figure to keep, in order of first appearance."""
        return unique((s.group, s.label) for s in self.all if keep(s))

    def is_reference(self, line: Line) -> bool:
        """Whether a row serves for comparison."""
        return line in self._references


def rows_of(
    figures: Figures,
    lines: Sequence[tuple[Line, str, Sequence[Summary | None]]],
    width: int,
    with_group: bool = True,
) -> list[Row]:
    """Make rows of lines, suffixes of their labels and summaries, one for each of the columns.

    Where nothing was measured there is one row that says so.
    """
    if all(one is None for _, _, summaries in lines for one in summaries):
        return none_measured(width)
    leaders = [_leader([summaries[i] for _, _, summaries in lines]) for i in range(width)]
    rows = []
    for (experiment, label), suffix, summaries in lines:
        cells = tuple(
            Cell(NOT_MEASURED, "missing")
            if one is None
            else Cell(one.text(), "measured", one is leader)
            for one, leader in zip(summaries, leaders, strict=True)
        )
        counts = sorted({one.seeds for one in summaries if one is not None})
        seeds = f"{counts[0]}-{counts[-1]}" if len(counts) > 1 else "".join(map(str, counts))
        marks = ("reference",) if figures.is_reference((experiment, label)) else ()
        note = experiment if with_group else ""
        rows.append(Row(label + suffix, marks, seeds or "0", cells, note))
    return rows


def none_measured(width: int) -> list[Row]:
    """Make the one row of a table for which nothing was measured."""
    return [Row("all rows of this report", (), "0", (Cell(NOT_MEASURED, "missing"),) * width)]


def _leader(summaries: Sequence[Summary | None]) -> Summary | None:
    """Return the figure of a column that leads beyond doubt, or None.

    It is not of a reference row, and ahead of every other measured one by more than the larger
    standard deviation of the two; without a spread over seeds a figure neither leads nor is led.
    """
    measured = [one for one in summaries if one is not None]
    if len(measured) < 2:
        return None
    leader = max(measured, key=lambda one: one.mean)
    if leader.reference or any(one.std is None for one in measured):
        return None
    others = (one for one in measured if one is not leader)
    ahead = all(leader.mean - one.mean > max(leader.std, one.std) for one in others)
    return leader if ahead else None


def printed_rows(
    rows: Iterable[PublishedRow], columns: Sequence[tuple[str, str, str]]
) -> list[Row]:
    """Make rows of published figures.

    Args:
        rows: Of one table.
        columns: Data set, task ("" for any) and metric of each.

    Returns:
        Those rows that have a figure in one of the columns.
    """
    printed = []
    for row in rows:
        cells = []
        for column in columns:
            value = row.per_cent(*column)
            text = NOT_PUBLISHED if value is None else f"{value:.1f}"
            cells.append(Cell(text, "missing" if value is None else "published"))
        if all(cell.kind == "missing" for cell in cells):
            continue
        names = ", ".join(unique(DATA_SETS[data].split()[0] for data, _, _ in row.figures))
        marks = (f"published ({names})",) + (("reference",) if row.reference else ())
        source = "" if row.source == PAPER else row.source
        note = "; ".join(text for text in (source, row.note) if text)
        printed.append(Row(row.method, marks, "", tuple(cells), note))
    return printed


def unique(items: Iterable[Item]) -> list[Item]:
    """Return different items once each, in order of first appearance."""
    return list(dict.fromkeys(items))

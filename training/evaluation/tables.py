"""Results as Markdown tables, in per cent, the seeds of a row together."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from .results import Column, Measurement, Results, Summary, summarise

FOLD = re.compile(r"(.+) split (\d+)")
# The columns of Table 7 that an ablation measures, in order.
ABLATION_COLUMNS = (
    Column("finetune", "", "video", "", "top-1"),
    Column("linear", "", "video", "", "top-1"),
    Column("V=>V", "512", "clip", "class", "top-1"),
    Column("F=>V", "512", "clip", "same video", "top-1"),
    Column("V=>F", "512", "clip", "same video", "top-1"),
    Column("F=>V", "128", "clip", "same video", "top-1"),
    Column("V=>F", "128", "clip", "same video", "top-1"),
)


def markdown_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of texts, which are taken as they are, without a newline at its end."""
    titles = tuple(head)
    lines = (f"| {' | '.join(cells)} |" for cells in (titles, *rows))
    return "\n".join((next(lines), "|---" * len(titles) + "|", *lines))


def retrieval_tables(results: Sequence[Results]) -> str:
    """Return a table per data set; rows that answer the same question stand together.

    Args:
        results: Of retrieval, at least one.
    """
    tables: dict[str, dict[tuple[str, ...], dict[str, dict[str, Summary]]]] = {}
    for cell in summarise(results):
        task, space, level, match, metric, centred = cell.column
        question = (task, level, match, f"{space}-d{', centred' * centred}")
        rows = tables.setdefault(cell.data, {}).setdefault(question, defaultdict(dict))
        rows[cell.label][metric] = cell
    texts = []
    for name, questions in tables.items():
        data = next(one.data for one in results if one.data.name == name)
        measured = {m for rows in questions.values() for cells in rows.values() for m in cells}
        metrics = sorted(measured, key=lambda metric: int(metric.partition("-")[2]))
        labels = dict.fromkeys(label for rows in questions.values() for label in rows)
        caption = f"{name}: {data.test_videos} test videos, {data.train_videos} training videos"
        texts.append(f"{caption}; {data.note}." if data.note else f"{caption}.")
        lines = [
            (*question, label, *_texts(rows.get(label, {}), metrics))
            for question, rows in questions.items()
            for label in labels
        ]
        texts.append(markdown_table(("task", "by", "found", "space", "model", *metrics), lines))
    return "\n\n".join(texts) + "\n"


def classifier_table(results: Sequence[Results]) -> str:
    """Return a row per set and model, and after them the means of sets that are folds.

    Args:
        results: Of a linear probe or fine-tuning, at least one.
    """
    results = [*results, *fold_means(results)]
    rows: dict[tuple[str, str, str], dict[str, Summary]] = defaultdict(dict)
    for cell in summarise(results):
        rows[cell.data, cell.label, cell.group][cell.column.metric] = cell
    metrics = list(dict.fromkeys(metric for cells in rows.values() for metric in cells))
    tests = {one.data.name: one.data.test_videos for one in results}
    lines = [
        (
            f"{data} ({tests[data]})",
            f"{label} ({group})" if group else label,
            str(max(cell.seeds for cell in cells.values())),
            *_texts(cells, metrics),
        )
        for (data, label, group), cells in rows.items()
    ]
    return markdown_table(("data (test videos)", "model", "seeds", *metrics), lines) + "\n"


def _texts(cells: dict[str, Summary], metrics: Iterable[str]) -> list[str]:
    return [cells[metric].text() if metric in cells else "" for metric in metrics]


def ablation_table(summaries: Iterable[Summary], labels: Iterable[str]) -> str:
    """Return Table 7: a row per objective, a column per data set and figure.

    Args:
        summaries: Of the results.
        labels: The rows, in order.
    """
    cells = {
        (one.label, one.data, one.column): one.text()
        for one in summaries
        if one.column in ABLATION_COLUMNS
    }
    measured = {(data, column) for _, data, column in cells}
    columns = sorted(measured, key=lambda column: (column[0], ABLATION_COLUMNS.index(column[1])))
    rows = [
        (label, *(cells.get((label, *column), "not yet measured") for column in columns))
        for label in labels
    ]
    titles = (f"{data}: {_title(column)}" for data, column in columns)
    return markdown_table(("objective", *titles), rows) + "\n"


def _title(column: Column) -> str:
    space = f"{column.space}-d" if column.space else ""
    words = (column.task, space, column.match, column.metric)
    return " ".join(word for word in words if word)


def fold_means(results: Sequence[Results]) -> list[Results]:
    """Average results over the folds of a data set, for printing beside the folds.

    Args:
        results: Of any sets; those named ``NAME split 1``, ``NAME split 2``, ... are folds.

    Returns:
        One result per group, row, seed and data set with several folds, named like ``NAME (mean of
        splits 1, 2, 3)``, with the figures that all its folds have, and without confusion.
    """
    rows: dict[tuple[str, str, int | None, str], dict[str, Results]] = defaultdict(dict)
    for one in results:
        fold = FOLD.fullmatch(one.data.name)
        if fold:
            rows[one.group, one.model.label, one.model.seed, fold[1]][fold[2]] = one
    return [
        _mean_of_folds(name, dict(sorted(folds.items(), key=lambda fold: int(fold[0]))))
        for (*_, name), folds in rows.items()
        if len(folds) > 1
    ]


def _mean_of_folds(name: str, folds: dict[str, Results]) -> Results:
    """Average results of the folds of ``name``, by the number of the fold, in order."""
    columns: dict[Column, list[Measurement]] = defaultdict(list)
    for one in folds.values():
        for measurement in one.measurements:
            columns[measurement.column].append(measurement)
    measurements = tuple(
        dataclasses.replace(
            of_folds[0],
            value=math.fsum(one.value for one in of_folds) / len(of_folds),
            queries=sum(one.queries for one in of_folds),
        )
        for of_folds in columns.values()
        if len(of_folds) == len(folds)
    )
    first, *_ = folds.values()
    data = dataclasses.replace(
        first.data,
        name=f"{name} (mean of splits {', '.join(folds)})",
        fingerprint="",
        train_videos=sum(one.data.train_videos for one in folds.values()),
        test_videos=sum(one.data.test_videos for one in folds.values()),
    )
    return dataclasses.replace(first, data=data, measurements=measurements, confusion=None)

"""Results as Markdown tables, in per cent, the seeds of a row together."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from .results import Measurement, Results, Summary, summarise

FOLD = re.compile(r"(.+) split (\d+)")
# The columns of Table 7 that an ablation measures: task, space, level, match, metric.
ABLATION_COLUMNS = (
    ("finetune", "", "video", "", "top-1"),
    ("linear", "", "video", "", "top-1"),
    ("V=>V", "512", "clip", "class", "top-1"),
    ("F=>V", "512", "clip", "same video", "top-1"),
    ("V=>F", "512", "clip", "same video", "top-1"),
    ("F=>V", "128", "clip", "same video", "top-1"),
    ("V=>F", "128", "clip", "same video", "top-1"),
)


def markdown_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of texts, which are taken as they are; without a newline at its end."""
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
    """Return a row per set and model; sets that are folds are followed by their means.

    Args:
        results: Of a linear probe or fine-tuning, at least one.
    """
    results = [*results, *fold_means(results)]
    rows: dict[tuple[str, str, str], dict[str, Summary]] = defaultdict(dict)
    for cell in summarise(results):
        rows[cell.data, cell.label, cell.group][cell.column[4]] = cell
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
    cells = {}
    columns = set()
    for one in summaries:
        *what, centred = one.column
        if tuple(what) in ABLATION_COLUMNS and not centred:
            column = (one.data, ABLATION_COLUMNS.index(tuple(what)))
            cells[one.label, column] = one.text()
            columns.add(column)
    order = sorted(columns)
    titles = [f"{data}: {_title(ABLATION_COLUMNS[place])}" for data, place in order]
    rows = [
        (label, *(cells.get((label, column), "not yet measured") for column in order))
        for label in labels
    ]
    return markdown_table(("objective", *titles), rows) + "\n"


def _title(column: tuple[str, ...]) -> str:
    task, space, _, match, metric = column
    return " ".join(part for part in (task, f"{space}-d" if space else "", match, metric) if part)


def fold_means(results: Sequence[Results]) -> list[Results]:
    """Average results over the folds of a data set, for printing beside the folds.

    Args:
        results: Of any sets; those named ``NAME split 1``, ``NAME split 2``, ... are folds.

    Returns:
        One result per group, row, seed and data set with several folds, named like ``NAME (mean of
        splits 1, 2, 3)``, with the figures that all its folds have. Without confusion.
    """
    rows: dict[tuple[str, str, int | None, str], list[tuple[str, Results]]] = defaultdict(list)
    for one in results:
        fold = FOLD.fullmatch(one.data.name)
        if fold:
            rows[one.group, one.model.label, one.model.seed, fold[1]].append((fold[2], one))
    means = []
    for (*_, name), folds in rows.items():
        if len(folds) < 2:
            continue
        folds = sorted(folds, key=lambda fold: int(fold[0]))
        values: dict[Any, list[Measurement]] = defaultdict(list)
        for _, one in folds:
            for measurement in one.measurements:
                values[measurement.column].append(measurement)
        measurements = tuple(
            dataclasses.replace(
                found[0],
                value=math.fsum(m.value for m in found) / len(found),
                queries=sum(m.queries for m in found),
            )
            for found in values.values()
            if len(found) == len(folds)
        )
        title = f"{name} (mean of splits {', '.join(number for number, _ in folds)})"
        first = folds[0][1]
        data = dataclasses.replace(
            first.data,
            name=title,
            fingerprint="",
            train_videos=sum(one.data.train_videos for _, one in folds),
            test_videos=sum(one.data.test_videos for _, one in folds),
        )
        means.append(
            dataclasses.replace(first, data=data, measurements=measurements, confusion=None)
        )
    return means

"""Tables 2 to 7 in the paper's layout: measured rows beside published ones.

A table has groups of rows that may be compared with each other: one data set, one space, one way
of counting. A figure that is missing says so; nothing is left blank and nothing is filled in.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby, product

from ccl_hub.errors import TrainingError

from ..data.splits import OWN_SPLIT
from ..evaluation.results import Column, Results, Summary
from .published import DATA_SETS, F_MEASURE, published_data, published_rows
from .rows import (
    NOT_MEASURED,
    Figures,
    Group,
    Line,
    Row,
    Table,
    none_measured,
    printed_rows,
    rows_of,
    unique,
)

TASK_NAMES = {
    "F=>V": "frame ⇒ video",
    "V=>F": "video ⇒ frame",
    "F=>F": "frame ⇒ frame",
    "V=>V": "video ⇒ video",
    "linear": "linear probe",
    "finetune": "fine-tuned",
}
SPACES = {"512": "512-d representation", "128": "128-d space of the loss"}
# Data sets of the paper's tables.
PAPER_DATA = ("UCF101", "HMDB51", "Kinetics-400", "MMAct")


def paper_tables(results: Sequence[Results]) -> list[Table]:
    """Arrange results as the paper does.

    Args:
        results: Of any kinds, models and data sets.

    Returns:
        Tables 2 to 7 in order, each with its published rows, whether or not anything was measured;
        then our own of edited frames, if any were looked up.

    Raises:
        TrainingError: The results do not fit together; see
        :func:`training.evaluation.results.summarise`.
    """
    figures = Figures(_told_from_official(results))
    return [
        *(_retrieval_table(number, figures) for number in (2, 3)),
        *(_classifier_table(number, figures) for number in (4, 5, 6)),
        _ablation_table(figures),
        *_edited_tables(figures),
    ]


def missing_data(results: Sequence[Results]) -> list[str]:
    """Return the data sets of the paper without a result.

    A set counts if its name is the official one, with or without a split: ``ucf101-small`` is
    another set.
    """
    names = [_letters(result.data.name) for result in _told_from_official(results)]
    split = "((split|fold)?0?[1-3]|crosssession|crosssubject)?"
    return [
        official
        for official in PAPER_DATA
        if not any(re.fullmatch(_letters(official) + split, name) for name in names)
    ]


def _told_from_official(results: Sequence[Results]) -> list[Results]:
    """Rename sets that have the name of a published one but were split by our own rule."""
    return [
        dataclasses.replace(
            one, data=dataclasses.replace(one.data, name=f"{one.data.name}, own split")
        )
        if published_data(one.data.name) and one.data.note.startswith(OWN_SPLIT)
        else one
        for one in results
    ]


# -- Tables 2 and 3 -----------------------------------------------------------------------------

RETRIEVAL_TITLES = {
    2: "Retrieval between frames and videos (cycle consistency)",
    3: "Retrieval by class, frame by frame and video by video",
}
MATCHES = {2: "exact clip", 3: "class"}
KS = {2: (1, 5, 10), 3: (1, 5, 10, 20, 50)}


def _retrieval_table(number: int, figures: Figures) -> Table:
    """Table 2 has both tasks side by side, Table 3 one above the other."""
    tasks = ("F=>V", "V=>F") if number == 2 else ("F=>F", "V=>V")
    metrics = tuple(f"top-{k}" for k in KS[number])
    blocks = [tasks] if number == 2 else [(task,) for task in tasks]
    lines = figures.lines(lambda s: s.column.task in tasks)
    groups = []
    for block in blocks:
        for data, variant in _retrieval_groups(figures, block, MATCHES[number]):
            columns = [variant._replace(task=t, metric=m) for t in block for m in metrics]
            cells = [(line, "", [figures.get(line, data, c) for c in columns]) for line in lines]
            rows = rows_of(figures, cells, len(columns))
            if published_data(data) == "ucf101" and variant == _paper_variant(MATCHES[number]):
                printed = [("ucf101", column.task, column.metric) for column in columns]
                rows += printed_rows(published_rows(number), printed)
            title = DATA_SETS.get(data, data)
            if len(blocks) > 1:
                title = f"{TASK_NAMES[block[0]]} · {title}"
            title = f"{title} · {_variant_text(variant)}"
            groups.append(Group(title, tuple(rows), variant.centred))
    heads = tuple((TASK_NAMES[task], len(metrics)) for task in tasks) if number == 2 else ()
    titles = metrics * len(blocks[0])
    notes = _notes_of_retrieval(number, figures, tasks, metrics)
    return Table(number, RETRIEVAL_TITLES[number], heads, titles, tuple(groups), notes)


def _paper_variant(match: str) -> Column:
    """What the paper's figures stand for; like all variants, a column without task and metric."""
    return Column("", "512", "clip", match, "")


def _retrieval_groups(
    figures: Figures, tasks: Sequence[str], match: str
) -> list[tuple[str, Column]]:
    """Data sets with their variants; UCF101 as published is there even if not measured."""
    groups = [
        (s.data, s.column._replace(task="", metric=""))
        for s in figures.all
        if s.column.task in tasks
    ]
    paper = _paper_variant(match)
    ucf101 = [group for group in groups if published_data(group[0]) == "ucf101"]
    if paper not in [variant for _, variant in ucf101]:
        groups.insert(0, (ucf101[0][0] if ucf101 else "ucf101", paper))
    names = unique(data for data, _ in groups)
    names.sort(key=lambda name: published_data(name) != "ucf101")

    def order(group: tuple[str, Column]) -> tuple[int, bool, bool, bool, bool]:
        data, (_, space, level, matched, _, centred) = group
        return (names.index(data), centred, space != "512", matched != match, level != "clip")

    return sorted(unique(groups), key=order)


def _variant_text(variant: Column) -> str:
    _, space, level, match, _, centred = variant
    words = [SPACES.get(space, space), f"by {level}" if level else "", match]
    words.append("each split's mean subtracted" if centred else "")
    return " · ".join(word for word in words if word)


def _notes_of_retrieval(
    number: int, figures: Figures, tasks: Sequence[str], metrics: Sequence[str]
) -> tuple[str, ...]:
    notes = {
        2: "Found means: the very clip (of a frame), or a frame of the very clip, is among the k "
        "nearest of all test items; the rows “same video” count any clip or frame of the video. "
        "Clips of short videos overlap: a frame that lies in several counts for one of them only, "
        "so that even perfect embeddings stay below 100 by “exact clip”.",
        3: "Found means: the class of a test item is among those of its k nearest training "
        "items. “By video” averages the clips of a video into one vector first.",
    }
    measured = unique(s.column.metric for s in figures.all if s.column.task in tasks)
    more = ", ".join(metric for metric in measured if metric not in metrics)
    also = (f"Also measured, and in the results files only: {more}.",) if more else ()
    return (notes[number], *also, *_absent_note(figures, lambda s: s.column.task in tasks))


# -- Tables 4, 5 and 6 --------------------------------------------------------------------------

CLASSIFIER_TITLES = {
    4: "Action recognition, all layers fine-tuned",
    5: "Action recognition, linear probe on the frozen network",
    6: "F-measure, linear probe (FC) and fine-tuned (E2E)",
}
CLASSIFIER_TASKS = {4: ("finetune",), 5: ("linear",), 6: ("linear", "finetune")}
CLASSIFIER_DATA = {
    4: ("ucf101", "hmdb51"),
    5: ("ucf101", "hmdb51"),
    6: ("mmact cross-session", "mmact cross-subject"),
}
SUFFIXES = {"linear": "FC", "finetune": "E2E"}


def _classifier_table(number: int, figures: Figures) -> Table:
    """One column per data set and metric; one row per model (Table 6: and per way of training)."""
    tasks = CLASSIFIER_TASKS[number]
    by_f1 = number == 6

    def belongs(one: Summary) -> bool:
        return one.column.task in tasks and one.column.metric.endswith("F1") == by_f1

    paper = Column("", "", "video", "", "macro-F1" if by_f1 else "top-1")
    columns = [(data, paper) for data in CLASSIFIER_DATA[number]]
    columns = unique([*columns, *(_classifier_column(s) for s in figures.all if belongs(s))])
    names = unique(data for data, _ in columns)
    columns.sort(key=lambda column: names.index(column[0]))
    cells = _classifier_cells(one for one in figures.all if belongs(one))
    lines = [
        (
            line,
            f" ({SUFFIXES[task]})" if by_f1 else "",
            [cells.get((line, task, *column)) for column in columns],
        )
        for task in tasks
        for line in figures.lines(lambda s, task=task: belongs(s) and s.column.task == task)
    ]
    metric = F_MEASURE if by_f1 else paper.metric
    # Published figures fit one kind of column; "" is a metric that none has.
    printed = [(data, "", metric if column == paper else "") for data, column in columns]
    rows = (
        *rows_of(figures, lines, len(columns)),
        *printed_rows(published_rows(number), printed),
    )
    heads = tuple(
        (DATA_SETS.get(data, data), len(list(run)))
        for data, run in groupby(columns, lambda column: column[0])
    )
    notes = _absent_note(figures, belongs)
    if by_f1:
        notes = ("The paper does not say which F-measure; ours is macro-F1 unless named.", *notes)
    titles = tuple(_classifier_title(column) for _, column in columns)
    return Table(number, CLASSIFIER_TITLES[number], heads, titles, (Group("", rows),), notes)


def _classifier_cells(
    summaries: Iterable[Summary],
) -> dict[tuple[Line, str, str, Column], Summary]:
    """Return summaries by row, task, data set and column; two of one cell are an error."""
    cells: dict[tuple[Line, str, str, Column], Summary] = {}
    for one in summaries:
        cell = ((one.group, one.label), one.column.task, *_classifier_column(one))
        other = cells.setdefault(cell, one)
        if other is not one:
            raise TrainingError(
                f"{one.label}: {one.column.task} {one.column.metric} on {one.data} and on "
                f"{other.data} would be one cell of a table; give one of them."
            )
    return cells


def _classifier_column(one: Summary) -> tuple[str, Column]:
    """Data set, by its published name if it has one, and what sets columns of a table apart."""
    space = "" if one.column.space == "512" else one.column.space
    level = one.column.level or "video"
    column = one.column._replace(task="", space=space, level=level, match="")
    return published_data(one.data) or one.data, column


def _classifier_title(column: Column) -> str:
    _, space, level, _, metric, centred = column
    words = [metric, SPACES.get(space, space), f"by {level}" if level != "video" else ""]
    words.append("centred" if centred else "")
    return ", ".join(word for word in words if word)


# -- Table 7 ------------------------------------------------------------------------------------

# The paper's own column first.
ABLATION_TASKS = ("finetune", "linear", "F=>V", "V=>F", "F=>F", "V=>V")


def _ablation_table(figures: Figures) -> Table:
    """Top-1 of every task for the rows of each experiment; one group of rows per data set."""
    width = len(ABLATION_TASKS)

    def printed(name: str) -> list[Row]:
        return printed_rows(published_rows(7), [(name, task, "top-1") for task in ABLATION_TASKS])

    measured = unique((s.group, s.data) for s in figures.all if s.group)
    published = {published_data(data) for _, data in measured}
    groups = [
        Group(DATA_SETS[name], (*none_measured(width), *printed(name)))
        for name in CLASSIFIER_DATA[4]
        if name not in published
    ]
    for experiment, data in measured:
        name = published_data(data) or ""
        lines = [
            (line, "", [_top_1(figures, line, data, task) for task in ABLATION_TASKS])
            for line in figures.lines(lambda s, experiment=experiment: s.group == experiment)
        ]
        rows = (*rows_of(figures, lines, width, with_group=False), *printed(name))
        groups.append(Group(f"{DATA_SETS.get(name, data)} · {experiment}", rows))
    notes = (
        "Top-1 on 512-d representations by clip (frame ⇒ video and video ⇒ frame: exact clip), "
        "and of classifiers by video. The paper fine-tunes on UCF101 and HMDB51.",
    )
    columns = tuple(TASK_NAMES[task] for task in ABLATION_TASKS)
    return Table(7, "Ablation of the loss, top-1", (), columns, tuple(groups), notes)


# -- Table 8, ours -----------------------------------------------------------------------------


def _edited_tables(figures: Figures) -> list[Table]:
    """Return the table of edited frames: one column for each edit, the mean first."""

    def belongs(one: Summary) -> bool:
        return one.column.task == "edited"

    measured = [one for one in figures.all if belongs(one)]
    groups = []
    for data, centred in sorted(unique((one.data, one.column.centred) for one in measured)):
        columns = unique(
            one.column for one in measured if one.data == data and one.column.centred == centred
        )
        lines = [
            (line, "", [figures.get(line, data, column) for column in columns])
            for line in figures.lines(belongs)
        ]
        title = f"{data} · the library's mean subtracted" if centred else data
        groups.append(Group(title, tuple(rows_of(figures, lines, len(columns))), centred))
    if not groups:
        return []
    titles = tuple(unique(one.column.match for one in measured))
    notes = (
        "Ours, not of the paper. Found means: the nearest of all frames, by cosine, is of the "
        "video that the edited frame was taken from.",
    )
    return [Table(8, "Edited frames find their video", (), titles, tuple(groups), notes)]


def _top_1(figures: Figures, line: Line, data: str, task: str) -> Summary | None:
    if task not in ("linear", "finetune"):
        match = "exact clip" if task in ("F=>V", "V=>F") else "class"
        return figures.get(line, data, Column(task, "512", "clip", match, "top-1"))
    kinds = product(("video", "", "clip"), ("", "512"), ("", "class"))
    of_kinds = (
        figures.get(line, data, Column(task, space, level, match, "top-1"))
        for level, space, match in kinds
    )
    return next((one for one in of_kinds if one is not None), None)


def _absent_note(figures: Figures, belongs: Callable[[Summary], bool]) -> tuple[str, ...]:
    """Name the rows that were measured elsewhere but have no figure in a table."""
    present = figures.lines(belongs)
    absent = unique(line[1] for line in figures.lines() if line not in present)
    if not absent or not present:
        return ()
    return (f"Without a row here, as {NOT_MEASURED} in it: {', '.join(absent)}.",)


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())

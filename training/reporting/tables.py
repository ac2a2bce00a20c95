"""Tables 2 to 7 in the paper's layout: measured rows beside published ones.

A table has groups of rows that may be compared with each other: one data set, one space, one way
of counting. A figure that is missing says so; nothing is left blank and nothing is filled in.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from ccl_hub.errors import TrainingError

from ..data.splits import OWN_SPLIT
from ..evaluation.results import Results, Summary
from .published import DATA_SETS, F_MEASURE, published_data, published_rows
from .rows import (
    NOT_MEASURED,
    Column,
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
# Data sets of the paper's tables, and the words that tell them by name.
PAPER_DATA = ("UCF101", "HMDB51", "Kinetics-400", "MMAct")


def paper_tables(results: Sequence[Results]) -> list[Table]:
    """Arrange results as the paper does.

    Args:
        results: Of any kinds, models and data sets.

    Returns:
        Tables 2 to 7 in order, each with its published rows, whether or not anything was measured.

    Raises:
        TrainingError: The results do not fit together; see
        :func:`training.evaluation.results.summarise`.
    """
    figures = Figures(_told_from_official(results))
    return [
        *(_retrieval_table(number, figures) for number in (2, 3)),
        *(_classifier_table(number, figures) for number in (4, 5, 6)),
        _ablation_table(figures),
    ]


def missing_data(results: Sequence[Results]) -> list[str]:
    """Return the data sets of the paper of which no result was given.

    A set counts if its name is the official one, with or without a split: ``ucf101-small`` is
    another set.
    """
    names = [_plain(result.data.name) for result in _told_from_official(results)]
    split = "((split|fold)?0?[1-3]|crosssession|crosssubject)?"
    return [
        name
        for name in PAPER_DATA
        if not any(re.fullmatch(_plain(name) + split, one) for one in names)
    ]


def _told_from_official(results: Sequence[Results]) -> list[Results]:
    """Rename sets that are called as a published one but were split by our own rule."""
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
    lines = figures.lines(lambda s: s.column[0] in tasks)
    groups = []
    for block in blocks:
        for data, variant in _retrieval_groups(figures, block, MATCHES[number]):
            keys = [_column(task, metric, variant) for task in block for metric in metrics]
            cells = [(line, "", [figures.get(line, data, key) for key in keys]) for line in lines]
            rows = rows_of(figures, cells, len(keys))
            if published_data(data) == "ucf101" and variant == _variant(MATCHES[number]):
                wanted = [("ucf101", key[0], key[4]) for key in keys]
                rows += printed_rows(published_rows(number), wanted)
            title = DATA_SETS.get(data, data)
            if len(blocks) > 1:
                title = f"{TASK_NAMES[block[0]]} · {title}"
            groups.append(Group(f"{title} · {_variant_text(variant)}", tuple(rows), variant[3]))
    heads = tuple((TASK_NAMES[task], len(metrics)) for task in tasks) if number == 2 else ()
    columns = metrics * len(blocks[0])
    notes = _notes_of_retrieval(number, figures, tasks, metrics)
    return Table(number, RETRIEVAL_TITLES[number], heads, columns, tuple(groups), notes)


Variant = tuple[str, str, str, bool]  # space, level, match, centred


def _variant(match: str) -> Variant:
    """What the paper's figures stand for."""
    return ("512", "clip", match, False)


def _column(task: str, metric: str, variant: Variant) -> Column:
    space, level, match, centred = variant
    return (task, space, level, match, metric, centred)


def _retrieval_groups(
    figures: Figures, tasks: Sequence[str], match: str
) -> list[tuple[str, Variant]]:
    """Data sets with their variants; UCF101 as published is there even if not measured."""
    found = [
        (s.data, (s.column[1], s.column[2], s.column[3], s.column[5]))
        for s in figures.all
        if s.column[0] in tasks
    ]
    if not any(published_data(name) == "ucf101" and v == _variant(match) for name, v in found):
        measured = [name for name, _ in found if published_data(name) == "ucf101"]
        found.insert(0, (measured[0] if measured else "ucf101", _variant(match)))
    names = unique(name for name, _ in found)
    names.sort(key=lambda name: published_data(name) != "ucf101")

    def order(one: tuple[str, Variant]) -> tuple[int, bool, bool, bool, bool]:
        space, level, matched, centred = one[1]
        return (names.index(one[0]), centred, space != "512", matched != match, level != "clip")

    return sorted(unique(found), key=order)


def _variant_text(variant: Variant) -> str:
    space, level, match, centred = variant
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
    shown = [notes[number]]
    more = unique(
        s.column[4] for s in figures.all if s.column[0] in tasks and s.column[4] not in metrics
    )
    if more:
        shown.append(f"Also measured, and in the results files only: {', '.join(more)}.")
    return (*shown, *_absent_note(figures, lambda s: s.column[0] in tasks))


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
        return one.column[0] in tasks and one.column[4].endswith("F1") == by_f1

    printed = ("macro-F1" if by_f1 else "top-1", "video", "", False)
    columns = [(data, printed) for data in CLASSIFIER_DATA[number]]
    columns = unique([*columns, *(_classifier_column(s) for s in figures.all if belongs(s))])
    names = unique(data for data, _ in columns)
    columns.sort(key=lambda column: names.index(column[0]))
    found = _by_place(one for one in figures.all if belongs(one))
    lines = [
        (
            line,
            f" ({SUFFIXES[task]})" if by_f1 else "",
            [found.get((line, task, *c)) for c in columns],
        )
        for task in tasks
        for line in figures.lines(lambda s, task=task: belongs(s) and s.column[0] == task)
    ]
    metric = F_MEASURE if by_f1 else printed[0]
    # Published figures fit one kind of column; "" is a metric that none has.
    wanted = [(data, "", metric if place == printed else "") for data, place in columns]
    rows = (
        *rows_of(figures, lines, len(columns)),
        *printed_rows(published_rows(number), wanted),
    )
    heads = tuple(
        (DATA_SETS.get(data, data), len(list(run)))
        for data, run in groupby(columns, lambda column: column[0])
    )
    notes = _absent_note(figures, belongs)
    if by_f1:
        notes = ("The paper does not say which F-measure; ours is macro-F1 unless named.", *notes)
    titles = tuple(_place_text(place) for _, place in columns)
    return Table(number, CLASSIFIER_TITLES[number], heads, titles, (Group("", rows),), notes)


def _by_place(summaries: Iterable[Summary]) -> dict[tuple[Line, str, str, Place], Summary]:
    """Return summaries by row, task, data set and place; two of one cell are an error."""
    found: dict[tuple[Line, str, str, Place], Summary] = {}
    for one in summaries:
        key = ((one.group, one.label), one.column[0], *_classifier_column(one))
        if key in found:
            raise TrainingError(
                f"{one.label}: {one.column[0]} {one.column[4]} on {one.data} and on "
                f"{found[key].data} would be one cell of a table; give one of them."
            )
        found[key] = one
    return found


Place = tuple[str, str, str, bool]  # metric, level, space, centred


def _classifier_column(one: Summary) -> tuple[str, Place]:
    """Data set and place of a figure; the published name where there is one."""
    _, space, level, _, metric, centred = one.column
    known = published_data(one.data)
    place = (metric, level or "video", "" if space == "512" else space, centred)
    return known or one.data, place


def _place_text(place: Place) -> str:
    metric, level, space, centred = place
    words = [metric, SPACES.get(space, space), f"by {level}" if level != "video" else ""]
    words.append("centred" if centred else "")
    return ", ".join(word for word in words if word)


# -- Table 7 ------------------------------------------------------------------------------------

# The paper's own column first.
ABLATION_TASKS = ("finetune", "linear", "F=>V", "V=>F", "F=>F", "V=>V")


def _ablation_table(figures: Figures) -> Table:
    """Top-1 of every task for the rows of each experiment; one group of rows per data set."""
    width = len(ABLATION_TASKS)

    def printed(name: str | None) -> list[Row]:
        wanted = [(name or "", task, "top-1") for task in ABLATION_TASKS]
        return printed_rows(published_rows(7), wanted)

    measured = unique((s.group, s.data) for s in figures.all if s.group)
    there = {published_data(data) for _, data in measured}
    groups = [
        Group(DATA_SETS[name], (*none_measured(width), *printed(name)))
        for name in CLASSIFIER_DATA[4]
        if name not in there
    ]
    for experiment, data in measured:
        known = published_data(data)
        found = [
            (line, "", [_top_1(figures, line, data, task) for task in ABLATION_TASKS])
            for line in figures.lines(lambda s, wanted=experiment: s.group == wanted)
        ]
        rows = (*rows_of(figures, found, width, with_group=False), *printed(known))
        groups.append(Group(f"{DATA_SETS.get(known or '', data)} · {experiment}", rows))
    notes = (
        "Top-1 on 512-d representations by clip (frame ⇒ video and video ⇒ frame: exact clip), "
        "and of classifiers by video. The paper fine-tunes on UCF101 and HMDB51.",
    )
    columns = tuple(TASK_NAMES[task] for task in ABLATION_TASKS)
    return Table(7, "Ablation of the loss, top-1", (), columns, tuple(groups), notes)


def _top_1(figures: Figures, line: Line, data: str, task: str) -> Summary | None:
    if task in ("linear", "finetune"):
        levels = [(space, level) for level in ("video", "", "clip") for space in ("", "512")]
        found = [
            figures.get(line, data, (task, space, level, match, "top-1", False))
            for space, level in levels
            for match in ("", "class")
        ]
        return next((one for one in found if one is not None), None)
    match = "exact clip" if task in ("F=>V", "V=>F") else "class"
    return figures.get(line, data, _column(task, "top-1", _variant(match)))


def _absent_note(figures: Figures, belongs: Callable[[Summary], bool]) -> tuple[str, ...]:
    """Name the rows that were measured elsewhere but have no figure in a table."""
    there = figures.lines(belongs)
    absent = unique(label for group, label in figures.lines() if (group, label) not in there)
    if not absent or not there:
        return ()
    return (f"Without a row here, as {NOT_MEASURED} in it: {', '.join(absent)}.",)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())

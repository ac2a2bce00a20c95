"""Curves as inline SVG that takes the page's colours, and confusion matrices.

matplotlib draws with colours that stand for CSS ones, which are put in afterwards, so that one
drawing is readable on a light and on a dark page. Lines differ by dashes too, not by colour alone.
"""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ccl_hub._util.extras import require_packages
from ccl_hub.errors import ConfigError, TrainingError

from ..evaluation.results import Results
from ..run.logs import LOG_NAME, read_log

Points = Sequence[tuple[float, float]]
Series = Mapping[str, Points]

MAX_POINTS = 400
MAX_LABEL = 40
# Drawn colour -> what the page gives for it; the colours themselves stand in colors.css.
TEXT, GRID = "#010203", "#010204"
LINES = tuple(f"#0102{number:02x}" for number in range(16, 24))
COLOURS = {TEXT: "currentColor", GRID: "var(--rule)"} | {
    colour: f"var(--line-{i})" for i, colour in enumerate(LINES)
}
FINE_DASHES = ((7, 2), (1, 1), (5, 1, 1, 1, 1, 1), (9, 3, 3, 3))
DASHES = ("-", "--", "-.", ":", *((0, lengths) for lengths in FINE_DASHES))
# Numbers in a training line that are not loss terms.
NOT_LOSSES = frozenset(
    "step epoch lr crop_px clips_per_second data_wait_share seconds cycle_rate accuracy "
    "grad_norm".split()
)
QUESTIONS = {
    "video_to_video": "V=>V, class",
    "frame_to_video_clip": "F=>V, exact clip",
    "frame_to_video_same_video": "F=>V, same video",
    "video_to_frame_clip": "V=>F, exact clip",
    "video_to_frame_same_video": "V=>F, same video",
}
MAX_MATRIX_CLASSES = 24
MAX_CONFUSIONS = 15


@dataclass(frozen=True)
class Chart:
    """A drawing: ``svg`` is safe markup, with a title and a description inside."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix.

    Args:
        title: Model, data set and kind of classifier.
        caption: How many videos and seeds.
        classes: Names, in order.
        rows: Per true class: counts with their share of the class's videos in [0, 1]; empty when
            there are too many classes for a table.
        worst: Most frequent confusions: true class, what it was taken for, how often, of how many.
    """

    title: str
    caption: str
    classes: tuple[str, ...]
    rows: tuple[tuple[tuple[int, float], ...], ...]
    worst: tuple[tuple[str, str, int, int], ...]


def line_chart(
    series: Series, *, title: str, x_label: str, y_label: str, logarithmic: bool = False
) -> Chart:
    """Draw lines over one axis.

    Args:
        series: Name -> points (x, y), at least one line with a point. More than 400 points are
            averaged in blocks, which the caption says.
        title: Read out instead of the drawing, and printed above it.
        x_label: Below the axis.
        y_label: Beside the axis.
        logarithmic: y in powers of ten.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    instead = "read log.jsonl and the results files"
    require_packages("a chart", ["matplotlib"], "training", instead, ConfigError)
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    thinned = {name: _thin(points) for name, points in series.items()}
    buffer = io.StringIO()
    style = {"svg.fonttype": "none", "svg.hashsalt": title, "text.parse_math": False}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # The page's own fonts draw the letters, so those that matplotlib lacks do not matter.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure = Figure(figsize=(5.0, 3.3), layout="constrained")
        canvas = FigureCanvasSVG(figure)
        panel = figure.subplots()
        for i, (name, points) in enumerate(thinned.items()):
            # matplotlib leaves names with a leading underscore out of the legend.
            label = _short(f"\N{HAIR SPACE}{name}" if name.startswith("_") else name)
            colour, dash = LINES[i % len(LINES)], DASHES[i % len(DASHES)]
            marker = "." if len(points) < 30 else ""
            panel.plot(
                *zip(*points, strict=True), label=label, color=colour, ls=dash, marker=marker
            )
        _style(panel, _short(x_label), _short(y_label), logarithmic)
        canvas.print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    last = ", ".join(f"{name} {points[-1][1]:.4g}" for name, points in series.items())
    caption = f"At the end: {last}."
    if any(len(points) > MAX_POINTS for points in series.values()):
        caption += f" Drawn as means of blocks, at most {MAX_POINTS} points a line."
    return Chart(title, caption, _page_svg(buffer.getvalue(), title, caption))


def _style(panel: Any, x_label: str, y_label: str, logarithmic: bool) -> None:
    """Put everything that is not a line into the page's text colour, without a background."""
    if logarithmic:
        panel.set_yscale("log")
    panel.figure.patch.set_visible(False)
    panel.patch.set_visible(False)
    panel.set_xlabel(x_label, color=TEXT)
    panel.set_ylabel(y_label, color=TEXT)
    panel.tick_params(which="both", colors=TEXT)
    panel.grid(color=GRID, linewidth=0.8)
    for side in panel.spines.values():
        side.set_color(GRID)
    panel.legend(fontsize=9, labelcolor=TEXT, frameon=False)


def _short(text: str) -> str:
    """Cut what would leave no room for the lines; the caption has the whole name."""
    return text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 1]}…"


def _thin(points: Points) -> list[tuple[float, float]]:
    """Average blocks of points so that at most MAX_POINTS are left."""
    if len(points) <= MAX_POINTS:
        return [(float(x), float(y)) for x, y in points]
    blocks = np.array_split(np.asarray(points, np.float64), MAX_POINTS)
    return [(float(x), float(y)) for x, y in (block.mean(0) for block in blocks)]


def _page_svg(text: str, title: str, description: str) -> str:
    """Take the drawing out of its XML file and give it the page's colours and words."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # Every drawing numbers its groups from 1, and a page must not hold an id twice.
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    for drawn, colour in COLOURS.items():
        body = body.replace(drawn, colour)
    view = re.search(r'viewBox="([^"]*)"', body)
    words = f"<title>{html.escape(title)}</title><desc>{html.escape(description)}</desc>"
    opening = f'<svg role="img" viewBox="{view[1] if view else ""}" ' + (
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return re.sub(r"<svg[^>]*>", lambda _: opening + words, body, count=1)


# -- what is drawn ------------------------------------------------------------------------------


def run_charts(folder: Path) -> list[Chart]:
    """Draw a training run over steps: loss, cycle rate or accuracy, learning rate, validations.

    Args:
        folder: The run's folder, with ``log.jsonl``.

    Raises:
        TrainingError: There is no log, or no step in it.
        ConfigError: matplotlib is not installed.
    """
    lines = read_log(folder / LOG_NAME)
    train = [line for line in lines if line.get("kind") == "train"]
    if not train:
        raise TrainingError(
            f"{folder / LOG_NAME}: no training step; give the --out folder of a training run."
        )
    terms = dict.fromkeys(n for line in train for n in line if n not in NOT_LOSSES)
    panels = [
        ("loss terms", {n: _points(train, n) for n in terms}, "loss"),
        ("cycle rate", {"cycle rate": _points(train, "cycle_rate")}, "share that come home"),
        ("accuracy", {"training batch": _points(train, "accuracy")}, "share that is right"),
        ("learning rate", {"learning rate": _points(train, "lr")}, "learning rate"),
        *_validation_panels([line for line in lines if line.get("kind") == "validation"]),
    ]
    name = folder.resolve().name
    charts = []
    for title, series, label in panels:
        drawn = {n: points for n, points in series.items() if points}
        if drawn:
            chart = line_chart(drawn, title=f"{name}: {title}", x_label="step", y_label=label)
            charts.append(chart)
    return charts


def _points(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(line["step"], line[name]) for line in lines if _is_number(line.get(name))]


def _is_number(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _validation_panels(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, Series, str]]:
    """A panel per data set with top-1 on 512-d features, one of the test, one of other figures."""
    sets: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line in lines:
        for name, spaces in line.get("retrieval", {}).items():
            for question, title in QUESTIONS.items():
                value = spaces.get("features", {}).get(question, {}).get("1")
                if _is_number(value):
                    points = sets.setdefault(name, {}).setdefault(title, [])
                    points.append((line["step"], 100 * value))
    panels: list[tuple[str, Series, str]] = [
        (f"retrieval on {name}, top-1, 512-d", series, "per cent") for name, series in sets.items()
    ]
    tests = [{"step": line["step"], **line["test"]} for line in lines if "test" in line]
    metrics = dict.fromkeys(name for line in tests for name in line if name != "step")
    panels.append(("test", {name: _points(tests, name) for name in metrics}, "share"))
    names = dict.fromkeys(
        n for line in lines for n, value in line.items() if n != "step" and _is_number(value)
    )
    panels.append(("validation", {n: _points(lines, n) for n in names}, "value"))
    return panels


def result_charts(results: Sequence[Results]) -> list[Chart]:
    """Draw the curves of results files: one chart per data set and curve, a line for each row.

    A line is the mean over a row's seeds if they have the same steps; otherwise each has its own.
    """
    panels: dict[tuple[str, str], dict[str, list[Points]]] = {}
    for result in results:
        words = (result.kind, result.group, result.data.name)
        heading = " · ".join(word for word in words if word)
        for name, values in result.curves.items():
            numbered = enumerate(values if isinstance(values, (list, tuple)) else (), start=1)
            points = [(i, value) for i, value in numbered if _is_number(value)]
            if points:
                lines = panels.setdefault((heading, name), {})
                lines.setdefault(result.model.label, []).append(points)
    charts = []
    for (heading, name), lines in panels.items():
        series = {n: line for label, runs in lines.items() for n, line in _lines_of(label, runs)}
        title = f"{heading}: {name}"
        charts.append(line_chart(series, title=title, x_label="epoch or step", y_label=name))
    return charts


def _lines_of(label: str, runs: Sequence[Points]) -> list[tuple[str, Points]]:
    """Return the mean of runs that have the same steps, and otherwise each run by itself."""
    steps = [[step for step, _ in run] for run in runs]
    if any(one != steps[0] for one in steps):
        return [(f"{label}, run {i}", run) for i, run in enumerate(runs, start=1)]
    values = zip(*([value for _, value in run] for run in runs), strict=True)
    means = [math.fsum(column) / len(runs) for column in values]
    return [(label, list(zip(steps[0], means, strict=True)))]


def matrices(results: Sequence[Results]) -> list[Matrix]:
    """Return the confusion matrices, the counts of a row's seeds added."""
    rows: dict[tuple[str, str, str, str, tuple[str, ...]], list[np.ndarray]] = {}
    for result in results:
        if result.confusion is not None:
            row = (result.kind, result.group, result.model.label, result.data.name)
            counts = _checked_counts(result)
            rows.setdefault((*row, result.confusion.classes), []).append(counts)
    return [_matrix(row, of_seeds) for row, of_seeds in rows.items()]


def _checked_counts(result: Results) -> np.ndarray:
    """Return the counts, int64 (C, C)."""
    confusion = result.confusion
    size = len(confusion.classes)
    if {len(row) for row in confusion.counts} != {size} or len(confusion.counts) != size:
        raise TrainingError(
            f"{result.file_name}: the confusion matrix is not {size} x {size}, the number of its "
            "classes; measure again."
        )
    return np.array(confusion.counts, np.int64)


def _matrix(row: tuple[str, str, str, str, tuple[str, ...]], of_seeds: list[np.ndarray]) -> Matrix:
    kind, group, label, data, classes = row
    counts = np.sum(of_seeds, axis=0)
    totals = counts.sum(1)
    shares = counts / np.maximum(totals, 1)[:, None]
    rows = tuple(
        tuple(zip(*row, strict=True)) for row in zip(counts.tolist(), shares.tolist(), strict=True)
    )
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSIONS]
    worst = tuple(
        (classes[i], classes[j], int(wrong[i, j]), int(totals[i]))
        for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[i, j]
    )
    seeds = f"sum over {len(of_seeds)} seeds" if len(of_seeds) > 1 else "one run"
    right = int(np.trace(counts))
    caption = f"{int(counts.sum())} predictions for test videos ({seeds}), {right} of them right."
    title = " · ".join(word for word in (label, data, kind, group) if word)
    shown = rows if len(classes) <= MAX_MATRIX_CLASSES else ()
    return Matrix(title, caption, classes, shown, worst)

"""What a report shows, put together from results, and written as HTML or Markdown.

:func:`page_of` arranges, :func:`render` and :func:`markdown` write. Everything in results is
foreign text: both writers escape it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ccl_hub._util.extras import require_packages
from ccl_hub.errors import ConfigError

from ..evaluation.results import DataRecord, ModelRecord, Results
from ..evaluation.tables import markdown_table
from .edits import EditSheet
from .figures import Chart, Matrix, matrices, result_charts
from .gallery import Gallery
from .rows import Cell, Table, unique
from .tables import missing_data, paper_tables

TEMPLATE = "template.html"
TITLE = "Cycle-Contrastive Learning: evaluation"
NO_HUB = (
    "No .eval_results file was written: none of these data sets has a Hub id. "
    "--hub-data NAME=ORG/DATASET#TASK gives one."
)


@dataclass(frozen=True)
class ModelRow:
    """A model of the results, its seeds together."""

    label: str
    marks: tuple[str, ...]
    source: str
    seeds: str
    description: str
    weights: str


@dataclass(frozen=True)
class Page:
    """Everything that report.html and report.md show; plain values, not yet escaped.

    ``intro`` is one paragraph on how to read it, ``honest`` says in one sentence what was not
    measured, ``made`` with which software the figures were made. ``settings`` holds ``kind``,
    ``settings`` and ``rows`` of evaluations that were set up alike; ``notes`` are sentences below
    those. ``hub`` says what was written for the Hub, or why nothing was; ``hub_files`` are
    relative to the report's folder.
    """

    title: str
    intro: str
    honest: str
    models: tuple[ModelRow, ...]
    data: tuple[DataRecord, ...]
    settings: tuple[dict[str, str], ...]
    notes: tuple[str, ...]
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...]
    matrices: tuple[Matrix, ...]
    galleries: tuple[Gallery, ...]
    edits: EditSheet | None
    hub: str
    hub_files: tuple[str, ...]
    made: str

    @property
    def contents(self) -> list[dict[str, str]]:
        """Anchors and titles of the page's sections."""
        sections = [("measured", "What was measured")]
        sections += [(f"table-{t.number}", f"Table {t.number}") for t in self.tables]
        sections += [("curves", "Curves")] if self.charts else []
        sections += [("confusion", "Confusion matrices")] if self.matrices else []
        sections += [("neighbours", "Nearest neighbours")] if self.galleries else []
        sections += [("edits", "Edits")] if self.edits else []
        sections.append(("hub", "Hub metadata"))
        return [{"anchor": anchor, "title": title} for anchor, title in sections]


def page_of(
    results: Sequence[Results],
    *,
    title: str = TITLE,
    charts: Sequence[Chart] = (),
    galleries: Sequence[Gallery] = (),
    edits: EditSheet | None = None,
    hub_files: Sequence[str] = (),
) -> Page:
    """Arrange everything for the page.

    It needs at least one result. Charts of the results follow ``charts``, those of training runs.

    Raises:
        TrainingError: The results do not fit together.
    """
    tables = paper_tables(results)
    missing = missing_data(results)
    honest = "All data sets of the paper were measured."
    if missing:
        honest = (
            f"Not measured here, as no results on them were given: {', '.join(missing)}. Their "
            "figures below are the published ones; figures on other data sets cannot be compared "
            "with them."
        )
    hub = "model-index for the front matter of each model's card, per cent."
    if not any(".eval_results/" in name for name in hub_files):
        hub = f"{hub} {NO_HUB}"
    return Page(
        title=title,
        intro="All figures are per cent, mean ± standard deviation over seeds where there is "
        "more than one seed. Rows marked “published” were not measured here: they are as the CCL "
        "paper (NeurIPS 2020) prints them, or, where marked “later work”, as their authors do; "
        "rows marked “reference” serve for comparison. A figure is bold only if it is ahead of "
        "every other measured row of its group by more than one standard deviation.",
        honest=honest,
        models=_model_rows(results),
        data=tuple({r.data.name: r.data for r in results}.values()),
        settings=_settings(results),
        notes=_notes(results),
        tables=tuple(tables),
        charts=(*charts, *result_charts(results)),
        matrices=tuple(matrices(results)),
        galleries=tuple(galleries),
        edits=edits,
        hub=hub,
        hub_files=tuple(hub_files),
        made=_made(results),
    )


def _model_rows(results: Sequence[Results]) -> tuple[ModelRow, ...]:
    rows: dict[tuple[str, str], list[ModelRecord]] = {}
    for result in results:
        rows.setdefault((result.group, result.model.label), []).append(result.model)
    return tuple(
        ModelRow(
            label=label,
            marks=tuple(m for m in (group, "reference" if models[0].reference else "") if m),
            source=_listed(m.source for m in models) or "not recorded",
            seeds=_listed(str(m.seed) for m in models if m.seed is not None) or "fixed weights",
            description=_listed(m.description for m in models) or "not recorded",
            weights=_listed(m.weights_sha256[:12] for m in models) or "no file",
        )
        for (group, label), models in rows.items()
    )


def _listed(texts: Iterable[str]) -> str:
    """Join different texts, each once."""
    return ", ".join(unique(text for text in texts if text))


def _settings(results: Sequence[Results]) -> tuple[dict[str, str], ...]:
    labels: dict[tuple[str, str], list[str]] = {}
    for result in results:
        text = json.dumps(result.settings, sort_keys=True, ensure_ascii=False)
        labels.setdefault((result.kind, text), []).append(result.model.label)
    return tuple(
        {"kind": kind, "settings": text, "rows": f"{len(rows)}: {_listed(rows)}"}
        for (kind, text), rows in labels.items()
    )


def _notes(results: Sequence[Results]) -> tuple[str, ...]:
    seeded = {r.model.label for r in results if r.model.seed is not None}
    single = sorted({r.model.label for r in results} - seeded)
    if not single:
        return ()
    return (f"One set of weights, so without a spread over seeds: {', '.join(single)}.",)


def _made(results: Sequence[Results]) -> str:
    commits = _listed(r.software.get("commit", "") for r in results) or "not recorded"
    versions = _listed(
        ", ".join(f"{n} {v}" for n, v in r.software.get("versions", {}).items()) for r in results
    )
    return f"{len(results)} results files, measured at commit {commits}; {versions}."


def render(page: Page) -> str:
    """Return the page as one HTML file.

    Every text is escaped; nothing in results can become markup.

    Raises:
        ConfigError: Jinja2 is not installed.
    """
    require_packages("the page", ["jinja2"], "training", "read the results files", ConfigError)
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=here, autoescape=True, undefined=StrictUndefined)
    return environment.get_template(TEMPLATE).render(page=page)


def markdown(page: Page) -> str:
    """Return the tables as Markdown, with what was measured and the honest sentence."""
    lines = [f"# {_plain(page.title)}", "", page.intro, "", f"**{page.honest}**", ""]
    lines += _markdown_rows(
        ("data set", "train videos", "test videos", "classes", "note"),
        [
            (d.name, str(d.train_videos), str(d.test_videos), str(d.classes), d.note or "none")
            for d in page.data
        ],
    )
    lines += _markdown_rows(
        ("row", "source", "seeds", "how trained"),
        [(_marked(m.label, m.marks), m.source, m.seeds, m.description) for m in page.models],
    )
    lines += [_plain(note) for note in page.notes]
    for table in page.tables:
        lines += ["", f"## Table {table.number}. {table.title}", "", *_markdown_table(table)]
    return "\n".join([*lines, "", _plain(page.made), ""])


def _markdown_table(table: Table) -> list[str]:
    heads = [head for head, width in table.heads for _ in range(width)]
    columns = [
        f"{head}, {column}" if head else column
        for head, column in zip(heads or [""] * len(table.columns), table.columns, strict=True)
    ]
    lines: list[str] = []
    for group in table.groups:
        lines += [f"**{_plain(group.title)}**", ""] if group.title else []
        rows = [
            (
                _marked(row.label, row.marks) + (f" [{row.note}]" if row.note else ""),
                row.seeds or "not stated",
                *row.cells,
            )
            for row in group.rows
        ]
        lines += _markdown_rows(("row", "seeds", *columns), rows)
    return [*lines, *(f"- {_plain(note)}" for note in table.notes)]


def _markdown_rows(head: Sequence[str], rows: Iterable[Sequence[str | Cell]]) -> list[str]:
    """Return one table, every text escaped, and an empty line."""
    return [markdown_table(map(_plain, head), (map(_cell, row) for row in rows)), ""]


def _cell(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return _plain(cell)
    return f"**{_plain(cell.text)}**" if cell.best else _plain(cell.text)


def _marked(label: str, marks: Sequence[str]) -> str:
    return ", ".join((label, *marks))


def _plain(text: str) -> str:
    """Escape what Markdown or HTML would act on, and put the text on one line."""
    one_line = " ".join(text.split())
    one_line = re.sub(r"([\\`*_\[\]|])", r"\\\1", one_line)
    return one_line.replace("&", "&amp;").replace("<", "&lt;")

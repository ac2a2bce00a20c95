"""From results, runs and models to the files of a report."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from ccl_hub._util.files import make_folder, write_atomically
from ccl_hub.errors import ConfigError

from ..evaluation.evaluate import EmbeddingOptions, embedded_sets
from ..evaluation.results import read_results
from ..frames.packed import FrameStore
from ..recipes.edits import Edits
from .edits import EditSheet, edit_sheet
from .figures import run_charts
from .gallery import Gallery, galleries
from .metadata import hub_data, metadata_files, write_metadata
from .page import markdown, page_of, render
from .rows import unique

logger = logging.getLogger("training.report")


@dataclass(frozen=True)
class ReportOptions(EmbeddingOptions):
    """What a report shows; see ``python -m training.report --help``."""

    results: tuple[Path, ...]
    out: Path
    title: str
    runs: tuple[Path, ...]
    hub_data: tuple[str, ...]
    gallery_model: tuple[str, ...]
    edits_of: str
    edit_videos: int
    queries: int
    neighbours: int
    seed: int


def write_report(options: ReportOptions) -> None:
    """Read, compute and write everything that the options ask for.

    Raises:
        CCLError: Results, runs, models or data cannot be used.
        OutputError: The folder cannot be written.
    """
    results = read_results(options.results)
    hub_sets = hub_data(options.hub_data)
    measured = unique(result.data.name for result in results)
    unused = sorted(hub_sets.keys() - measured)
    if unused:
        raise ConfigError(
            f"--hub-data {unused[0]}: no result is of that data set; allowed: "
            f"{', '.join(measured)}."
        )
    charts = [chart for run in options.runs for chart in run_charts(run)]
    drawn = _galleries(options)
    files = metadata_files(results, hub_sets)
    page = page_of(
        results,
        title=options.title,
        charts=charts,
        galleries=drawn,
        edits=_edits(options),
        hub_files=[f"hub/{name}" for name in files],
    )
    texts = {"report.html": render(page), "report.md": markdown(page)}
    folder = make_folder(options.out)
    write_metadata(files, folder / "hub")
    for name, text in texts.items():
        write_atomically(folder / name, text)
        logger.info("wrote %s", folder / name)


def _edits(options: ReportOptions) -> EditSheet | None:
    """Draw the contact sheet of edits, if it is asked for."""
    if not options.edits_of:
        return None
    store = FrameStore(options.edits_of)
    return edit_sheet(store, options.edit_videos, Edits(), options.seed)


def _galleries(options: ReportOptions) -> list[Gallery]:
    """Embed and search, for every gallery model and data set."""
    if bool(options.gallery_model) != bool(options.data):
        raise ConfigError("galleries need a --gallery-model and a labelled set --data; give both.")
    if not options.data:
        return []
    return [
        gallery
        for named, labelled, features in embedded_sets(
            options.gallery_model, (options.seed,), options
        )
        for gallery in galleries(
            labelled,
            features,
            named.record.label,
            queries=options.queries,
            neighbours=options.neighbours,
            seed=options.seed,
        )
    ]

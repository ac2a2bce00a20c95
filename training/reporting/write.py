"""From results, runs and models to the files of a report."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from ccl_hub._util.files import make_folder, write_atomically
from ccl_hub.errors import ConfigError
from ccl_hub.network.devices import resolve_device

from ..evaluation.features import features_of
from ..evaluation.labelled_sets import open_evaluation_sets
from ..evaluation.models import load_models
from ..evaluation.results import read_results
from .figures import run_charts
from .gallery import Gallery, galleries
from .metadata import hub_data, metadata_files, write_metadata
from .page import markdown, page_of, render

logger = logging.getLogger("training.report")


@dataclass(frozen=True)
class ReportOptions:
    """What a report shows; see ``python -m training.report --help``."""

    results: tuple[Path, ...]
    out: Path
    title: str
    runs: tuple[Path, ...]
    hub_data: tuple[str, ...]
    gallery_model: tuple[str, ...]
    data: tuple[str, ...]
    queries: int
    neighbours: int
    seed: int
    clips: int
    batch_clips: int
    device: str
    workers: int
    cache: Path | None
    test_share: float


def write_report(options: ReportOptions) -> None:
    """Read, compute and write everything that the options ask for.

    Raises:
        CCLError: Results, runs, models or data cannot be used.
        OutputError: The folder cannot be written.
    """
    results = read_results(options.results)
    known = hub_data(options.hub_data)
    unused = sorted(known.keys() - {result.data.name for result in results})
    if unused:
        raise ConfigError(f"--hub-data {unused[0]}: no result is of that data set.")
    charts = [chart for run in options.runs for chart in run_charts(run)]
    drawn = _galleries(options)
    files = metadata_files(results, known)
    page = page_of(
        results,
        title=options.title,
        charts=charts,
        drawn=drawn,
        hub_files=[f"hub/{name}" for name in files],
    )
    texts = {"report.html": render(page), "report.md": markdown(page)}
    folder = make_folder(options.out)
    write_metadata(files, folder / "hub")
    for name, text in texts.items():
        write_atomically(folder / name, text)
        logger.info("wrote %s", folder / name)


def _galleries(options: ReportOptions) -> list[Gallery]:
    """Embed and search, for every gallery model and data set."""
    if bool(options.gallery_model) != bool(options.data):
        raise ConfigError("galleries need a --gallery-model and a labelled set --data; give both.")
    drawn: list[Gallery] = []
    if not options.data:
        return drawn
    device = resolve_device(options.device)
    for named in load_models(options.gallery_model, (options.seed,), device):
        for source in open_evaluation_sets(
            options.data,
            named.model.preprocessing,
            test_share=options.test_share,
            workers=options.workers,
        ):
            features = features_of(
                named.model,
                source,
                clips=options.clips,
                batch_clips=options.batch_clips,
                device=device,
                cache=options.cache,
                workers=options.workers,
            )
            drawn += galleries(
                source,
                features,
                named.record.label,
                queries=options.queries,
                neighbours=options.neighbours,
                seed=options.seed,
            )
    return drawn

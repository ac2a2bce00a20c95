"""All results on one page: ``python -m training.report RESULTS... --out FOLDER``.

Writes ``report.html`` (one file, no script, nothing fetched), ``report.md`` (the same tables), and
``hub/MODEL/`` with ``model_index.yml`` and ``.eval_results`` for a model card. Published figures
stand beside ours and are labelled so; what was not measured says so. Exit codes: 0 written; 2
results, runs, model or data cannot be used; 1 the folder cannot be written.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ccl_hub._util.files import make_folder, write_atomically
from ccl_hub.errors import CCLError, ConfigError, OutputError
from ccl_hub.network.devices import resolve_device

from .evaluation.features import features_of
from .evaluation.labelled_sets import TEST_SHARE, open_evaluation_sets
from .evaluation.models import load_models
from .evaluation.results import read_results
from .reporting.figures import run_charts
from .reporting.gallery import Gallery, galleries
from .reporting.metadata import hub_data, metadata_files, write_metadata
from .reporting.page import TITLE, markdown, page_of, render

__all__ = ["main", "write_report"]

logger = logging.getLogger("training.report")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become one line on stderr."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        write_report(options)
    except OutputError as error:
        return _fail(error, 1)
    except CCLError as error:
        return _fail(error, 2)
    return 0


def _fail(error: CCLError, code: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.report",
        description="Write one page with every table, beside the published figures.",
    )
    parser.add_argument("results", nargs="+", type=Path, help="results files, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--title", default=TITLE)
    parser.add_argument(
        "--runs", nargs="+", type=Path, default=[], help="training runs whose curves to draw"
    )
    parser.add_argument(
        "--hub-data",
        action="append",
        default=[],
        metavar="NAME=ORG/DATASET[#TASK]",
        help="a data set that is a benchmark on the Hub; may be repeated",
    )
    gallery = parser.add_argument_group("galleries of nearest neighbours")
    gallery.add_argument(
        "--gallery-model",
        action="append",
        default=[],
        metavar="[LABEL=]PLACE",
        help="a model as the evaluations take it; may be repeated",
    )
    gallery.add_argument(
        "--data", action="append", default=[], metavar="PLACE", help="labelled set; repeatable"
    )
    gallery.add_argument("--queries", type=int, default=4, help="per direction (default: 4)")
    gallery.add_argument("--neighbours", type=int, default=5, help="per query (default: 5)")
    gallery.add_argument(
        "--seed", type=int, default=0, help="of the draw, and of random rows (default: 0)"
    )
    gallery.add_argument("--clips", type=int, default=10, help="clips per video (default: 10)")
    gallery.add_argument("--batch-clips", type=int, default=32, help="clips computed at once")
    gallery.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    gallery.add_argument("--workers", type=int, default=2, help="threads that read frames")
    gallery.add_argument("--cache", type=Path, help="folder of embeddings kept by an evaluation")
    gallery.add_argument("--test-share", type=float, default=TEST_SHARE)
    return parser


def write_report(options: argparse.Namespace) -> None:
    """Read, compute and write everything the arguments ask for."""
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
        content = text.encode()
        write_atomically(folder / name, lambda file, content=content: file.write(content))
        logger.info("wrote %s", folder / name)


def _galleries(options: argparse.Namespace) -> list[Gallery]:
    """Embed and search, for every gallery model and data set."""
    if bool(options.gallery_model) != bool(options.data):
        raise ConfigError("galleries need a --gallery-model and a labelled set --data; give both.")
    drawn: list[Gallery] = []
    if not options.data:
        return drawn
    device = resolve_device(options.device)
    for named in load_models(options.gallery_model, (options.seed,), device):
        for source in open_evaluation_sets(options, named.model.preprocessing):
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


if __name__ == "__main__":
    sys.exit(main())

"""All results on one page: ``python -m training.report RESULTS... --out FOLDER``.

Writes ``report.html`` (one file, no script, nothing fetched), ``report.md`` (the same tables), and
``hub/MODEL/`` with ``model_index.yml`` and ``.eval_results`` for a model card. Published
figures stand beside ours and are labelled as published; a figure that was not measured says so.
Exit codes: 0 written; 2 results, runs, model or data cannot be used; 1 the folder cannot be
written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .cli import add_feature_arguments, count, options_of, run
from .reporting.page import TITLE
from .reporting.write import ReportOptions, write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become one line on stderr."""
    options = read_options(arguments)
    return run(lambda: write_report(options))


def read_options(arguments: Sequence[str] | None) -> ReportOptions:
    """Read the command line."""
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
    parser.add_argument(
        "--edits-of",
        default="",
        metavar="PACK",
        help="show what the edits of a training make of frames of this packed set",
    )
    parser.add_argument(
        "--edit-videos", type=count, default=6, help="videos on that sheet (default: 6)"
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
        "--data",
        action="append",
        default=[],
        metavar="PLACE",
        help="a labelled set as the evaluations take it; may be repeated",
    )
    gallery.add_argument("--queries", type=int, default=4, help="per direction (default: 4)")
    gallery.add_argument("--neighbours", type=int, default=5, help="per query (default: 5)")
    gallery.add_argument(
        "--seed", type=int, default=0, help="of the draw, and of random rows (default: 0)"
    )
    add_feature_arguments(gallery)
    return options_of(ReportOptions, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())

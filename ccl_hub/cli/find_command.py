"""The command ``ccl-find``: arguments in, messages out, no logic; see :mod:`ccl_hub.cli.common`.

Exit codes are those of the other commands, and 3: nothing was found, as grep has its own.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._util.files import check_folder, check_writable
from ..errors import InputError
from ..registry import DEFAULT_MODEL
from .common import DONE, USAGE_OR_PARTIAL, AsJson, Debug, SandboxChoice, guard
from .progress import ClipProgress, JobProgress, summary_facts, summary_table

if TYPE_CHECKING:
    from ..find.library import Library
    from ..find.results import Results

NOTHING_FOUND = 3
COMMAND = "ccl-find"

find_app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Find where in your videos something is: a picture, a clip, copies of each other. No "
    "video is ever changed. Exit codes: 0 found; 3 nothing found; 1 failed; 2 wrong usage, or "
    "videos could not be read; 130 stopped by Ctrl-C.",
)

In = Annotated[Path, typer.Option("--in", help="The library.", metavar="LIBRARY")]
TheLibrary = Annotated[Path, typer.Argument(help="The library.", metavar="LIBRARY")]
Query = Annotated[Path, typer.Argument(help="A video or picture file.", metavar="QUERY")]
MaxE = Annotated[
    float,
    typer.Option(
        "--max-e", help="Largest E-value: hits this good that chance gives for one query."
    ),
]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print a table as CSV on stdout.")]
PageFile = Annotated[
    Path | None, typer.Option("--page", help="Also write an HTML page to look at.", metavar="FILE")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")]


@find_app.command("index")
def index_command(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Video files, folders of them, or patterns.", metavar="INPUT"),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The library; made if missing.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="A name of 'ccl-hub list', a folder, or a Hub id. [default: the library's, or "
            f"{DEFAULT_MODEL}]"
        ),
    ] = None,
    every_seconds: Annotated[
        float | None,
        typer.Option("--every", help="Seconds between frames. [default: the library's, or 0.5]"),
    ] = None,
    keyframes: Annotated[
        bool,
        typer.Option("--keyframes", help="Decode key frames alone: faster, coarser in time."),
    ] = False,
    whiten: Annotated[
        bool,
        typer.Option("--whiten", help="Whiten vectors by what the library itself shows."),
    ] = False,
    keep_gone: Annotated[
        bool, typer.Option("--keep-gone", help="Keep videos whose files are no longer there.")
    ] = False,
    lists: Annotated[
        list[Path] | None, typer.Option("--manifest", help="A list of videos, as of ccl-embed.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder from which videos are named.")] = None,
    extensions: Annotated[
        str | None, typer.Option("--ext", help="Take these from folders: mp4,mkv.")
    ] = None,
    device: Device = "auto",
    workers: Annotated[int | None, typer.Option(help="Decoding processes.", min=1)] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of a CPU network.", min=1)] = None,
    deadline_seconds: Annotated[
        float, typer.Option("--deadline", help="Longest that decoding one video may take.")
    ] = 600.0,
    checksum: Annotated[
        bool, typer.Option("--checksum", help="Know files by sha256, not by size and time.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try videos again that failed before.")
    ] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first video that fails.")
    ] = False,
    sandbox: SandboxChoice = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a library of videos, or do what is new, changed or gone since.

    Run the same command again to go on after an interruption.
    """
    _log(quiet)
    with guard(COMMAND, debug, "run the same command again to go on"):
        from ..batch.options import BatchOptions
        from ..job.options import JobInputs, JobOptions

        endings = None if extensions is None else [text.strip() for text in extensions.split(",")]
        videos = JobInputs(inputs, lists or [], root, endings)
        batch = BatchOptions(
            workers=workers, threads=threads, deadline_seconds=deadline_seconds, sandbox=sandbox
        )
        options = JobOptions(checksum=checksum, retry_failed=retry_failed, fail_fast=fail_fast)
        check_folder(out)
        videos.search.check()  # before torch is imported and a model loaded
        library = _made(out, model, every_seconds, keyframes, device)
        with JobProgress(quiet, typer.echo if as_json else None) as progress:
            summary = library.add(
                inputs=videos,
                options=options,
                batch=batch,
                listen=progress.update,
                tell_total=progress.set_total if progress.shown else None,
                forget_gone=not keep_gone,
                whiten=whiten,
                tell_stage=progress.tell_stage,
            )
        facts = {**summary_facts(summary), "in_library": len(library)}
        if as_json:
            typer.echo(json.dumps({**facts, "frames": library.frame_count}))
        if not quiet:
            typer.echo(summary_table(summary), err=True)
            count, frames = len(library), library.frame_count
            typer.echo(f"{out}: {count} videos, {frames} frames", err=True)
        raise typer.Exit(DONE if summary.all_done else USAGE_OR_PARTIAL)


@find_app.command("where")
def where_command(
    query: Query,
    library: In,
    max_e: MaxE = 0.01,
    mirrored: Annotated[
        bool, typer.Option("--mirrored/--not-mirrored", help="Also look for it mirrored.")
    ] = True,
    page: PageFile = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    device: Device = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Tell where in the library a picture or video is: video, from when to when, E-value."""
    _log(quiet)
    with guard(COMMAND, debug):
        _check_outputs(as_json, as_csv, page)
        opened = _opened(library, device)
        with ClipProgress(quiet) as bar:
            found = opened.where(query, max_e=max_e, mirrored=mirrored, progress=bar.update)
        _tell(found, as_json, as_csv, page, quiet)


@find_app.command("overlaps")
def overlaps_command(
    library: TheLibrary,
    max_e: MaxE = 0.01,
    page: PageFile = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """List what videos of the library have in common: copies, parts, overlaps, in groups."""
    _log(quiet)
    with guard(COMMAND, debug):
        _check_outputs(as_json, as_csv, page)
        opened = _opened(library)
        with ClipProgress(quiet, unit="video") as bar:
            found = opened.overlaps(max_e=max_e, progress=bar.update)
        _tell(found, as_json, as_csv, page, quiet)


@find_app.command("similar")
def similar_command(
    query: Query,
    library: In,
    most: Annotated[int, typer.Option("--top", help="Videos, at most.", min=1)] = 10,
    page: PageFile = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    device: Device = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """List videos with content like the query's that are not the same footage."""
    _log(quiet)
    with guard(COMMAND, debug):
        _check_outputs(as_json, as_csv, page)
        opened = _opened(library, device)
        with ClipProgress(quiet) as bar:
            found = opened.similar(query, most=most, progress=bar.update)
        _tell(found, as_json, as_csv, page, quiet)


@find_app.command("check")
def check_command(
    library: TheLibrary,
    page: PageFile = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """List videos whose own clips and frames do not find each other: mis-cut, wrong or broken."""
    _log(quiet)
    with guard(COMMAND, debug):
        _check_outputs(as_json, as_csv, page)
        opened = _opened(library)
        with ClipProgress(quiet) as bar:
            found = opened.check(progress=bar.update)
        _tell(found, as_json, as_csv, page, quiet)


def _log(quiet: bool) -> None:
    logging.basicConfig(level=logging.ERROR if quiet else logging.WARNING, format="%(message)s")


def _opened(folder: Path, device: str = "auto") -> Library:
    """Open a library; if there is none, say so before torch is imported."""
    from ..find.files import LibraryFiles

    LibraryFiles.read(folder)
    from ..find.library import Library

    return Library.open(folder, device=device)


def _made(
    out: Path, model: str | None, every_seconds: float | None, keyframes: bool, device: str
) -> Library:
    """Open a library, or make it; what is not said is as it is there."""
    from ..find.files import LibraryFiles
    from ..find.library import Library

    if LibraryFiles.are_at(out):
        there = LibraryFiles.read(out).facts
        model = there.model if model is None else model
        every_seconds = there.frame_seconds if every_seconds is None else every_seconds
        keyframes = keyframes or there.key_frames_only
    return Library.create(
        out,
        model or DEFAULT_MODEL,
        frame_seconds=0.5 if every_seconds is None else every_seconds,
        key_frames_only=keyframes,
        device=device,
    )


def _check_outputs(as_json: bool, as_csv: bool, page: Path | None) -> None:
    """Refuse, before any work is done, outputs that cannot be."""
    if as_json and as_csv:
        raise InputError("both --json and --csv were given; give one: stdout is for one table.")
    if page is not None:
        from ..find.page.write import check_page

        check_page(page)
        check_writable(page)


def _tell(
    found: Results[Any], as_json: bool, as_csv: bool, page: Path | None, quiet: bool
) -> None:
    """Print what was found, write the page, and end with the exit code."""
    if as_json:
        facts = {"query": found.query, "query_seconds": found.query_seconds}
        typer.echo(json.dumps({**facts, "rows": found.to_dicts()}))
    elif as_csv:
        typer.echo(found.to_csv(), nl=False)
    else:
        for row in found:
            typer.echo(_LINES[type(row).__name__](row))
    if page is not None:
        from ..find.page.write import write_page

        with ClipProgress(quiet, unit="file") as bar:
            write_page(found, page, progress=bar.update)
    if not found and not quiet:
        typer.echo(f"{COMMAND}: nothing found", err=True)
    raise typer.Exit(DONE if found else NOTHING_FOUND)


def _clock(seconds: float) -> str:
    """Return h:mm:ss.t, without hours if there are none."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest / 10:04.1f}"
    return f"{hours}:{minutes:02}:{tail}" if hours else f"{minutes}:{tail}"


def _span(start: float, end: float) -> str:
    return _clock(start) if end - start < 0.05 else f"{_clock(start)}-{_clock(end)}"


def _hit_line(hit: Any) -> str:
    words = [hit.video, _span(hit.start, hit.end)]
    if hit.query_end > 0:
        words.append(f"shows {_span(hit.query_start, hit.query_end)}")
    if hit.speed != 1:
        words.append(f"speed {hit.speed:.2f}")
    words += ["mirrored"] if hit.mirrored else []
    words.append(f"E {hit.e_value:.1g}")
    words += ["cycle agrees"] if hit.cycle else []
    return "\t".join(words)


def _overlap_line(row: Any) -> str:
    first, second = _span(row.start, row.end), _span(row.other_start, row.other_end)
    words = [f"{row.group}", row.kind, row.video, first, row.other, second]
    return "\t".join([*words, f"E {row.e_value:.1g}"])


def _alike_line(row: Any) -> str:
    return f"{row.video}\t{_span(row.start, row.end)}\tsimilarity {row.similarity:.3f}"


def _doubt_line(row: Any) -> str:
    strays = f"\tothers end in {row.strays_to}" if row.strays_to else ""
    return f"{row.video}\t{row.returning:.0%} of {row.clips} clips return{strays}"


_LINES: dict[str, Callable[[Any], str]] = {
    "Hit": _hit_line,
    "Overlap": _overlap_line,
    "Alike": _alike_line,
    "Doubt": _doubt_line,
}


def find_main() -> None:
    """Entry point of ``ccl-find``."""
    find_app(prog_name=COMMAND)

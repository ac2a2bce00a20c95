"""The command ``ccl-embed``, for one video or a million: arguments in, messages out, no logic."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .._util.files import check_folder, check_place
from .._version import __version__
from ..embed.writers import LEVELS, SUFFIXES, check_output
from ..errors import CCLError, InputError
from ..inputs.find import common_root, find_videos
from ..inputs.shards import parse_shard
from .common import (
    DEFAULT_MODEL,
    DONE,
    USAGE_OR_PARTIAL,
    AsJson,
    CacheDir,
    Debug,
    ForceDownload,
    LocalFilesOnly,
    Subfolder,
    TokenEnv,
    guard,
    hub_options,
)

if TYPE_CHECKING:
    from ..inputs.shards import Shard
    from ..job.options import JobInputs
    from ..job.state import Destination

__all__ = ["embed_app"]

embed_app = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)

Backend = Literal["torch", "torch-compile", "onnx", "openvino", "openvino-bf16", "openvino-int8"]
CALIBRATION_VIDEOS = 10_000
BATCH_ONLY = (
    *("manifest", "root", "ext", "format", "workers", "threads", "deadline", "memory_limit"),
    *("shard", "checksum", "retry_failed", "fail_fast", "overwrite"),
)
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def _size(text: str) -> int:
    """Read a size such as 512M or 4G, in bytes."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in _UNITS else (text, "")
    try:
        size = int(float(number) * _UNITS.get(unit, 1))
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise typer.BadParameter(f"{text!r} is no size; allowed: bytes, or such as 512M or 4G.")
    return size


@embed_app.command()
def embed(
    context: typer.Context,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Of one video: .npy (one level), .npz or .safetensors (all levels, times, "
            "provenance), replaced if it exists. Of any number: a folder, or a .parquet dataset.",
        ),
    ],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Local video files, folders of them, or patterns.",
            metavar="INPUT",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="A name of 'ccl-hub list', a folder, or a Hub id org/name.")
    ] = DEFAULT_MODEL,
    level: Annotated[
        str | None,
        typer.Option(
            help=f"What a .npy or a row of a dataset is: {', '.join(LEVELS)}. [default: clip]"
        ),
    ] = None,
    clips: Annotated[
        int | None, typer.Option(help="Clips spread evenly over a video. [default: 10]", min=1)
    ] = None,
    every: Annotated[
        float | None,
        typer.Option(help="Instead: a clip starting every so many seconds, tail included."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda (all of them, for many videos), cuda:N or mps.")
    ] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    backend: Annotated[
        Backend, typer.Option(help="What runs the network; those other than torch on a CPU.")
    ] = "torch",
    revision: Annotated[
        str | None, typer.Option(help="Commit, tag or branch of a Hub id.")
    ] = None,
    token_env: TokenEnv = None,
    cache_dir: CacheDir = None,
    local_files_only: LocalFilesOnly = False,
    force_download: ForceDownload = False,
    subfolder: Subfolder = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Clips computed at once. [default: what suits the device]", min=1),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    manifest: Annotated[
        list[Path] | None,
        typer.Option(
            help="A list of videos: .csv or .parquet with a column path, or text, one a line.",
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            help="Folder from which outputs are named. [default: what all inputs and lists have]"
        ),
    ] = None,
    ext: Annotated[
        str | None, typer.Option(help="Take these from folders: mp4,mkv. [default: all videos]")
    ] = None,
    format: Annotated[
        Literal["npz", "npy", "safetensors"], typer.Option(help="Of the files in a folder.")
    ] = "npz",
    workers: Annotated[
        int | None, typer.Option(help="Decoding processes. [default: one a core]", min=1)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of a CPU network. [default: one a core]", min=1)
    ] = None,
    deadline: Annotated[
        float, typer.Option(help="Longest that decoding one video may take, in seconds.")
    ] = 600.0,
    memory_limit: Annotated[
        int | None,
        typer.Option(
            help="Memory of a decoding process, 128M or more. [default: a fair share, 4G at most]",
            parser=_size,
            metavar="SIZE",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Take share I of N, from 0: 0/4. 'auto' asks torchrun or Slurm.", metavar="I/N"
        ),
    ] = None,
    checksum: Annotated[
        bool,
        typer.Option(
            "--checksum", help="Know files by sha256, not by size and time; hashes every file."
        ),
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try every video again that failed before.")
    ] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first video that fails.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Remove what was made by another model or sampling."),
    ] = False,
) -> None:
    """Embed videos: 512-d vectors of their clips, frames or the whole.

    One video into one file, or any number into a folder or a Parquet dataset. Run the same
    command again to go on after an interruption: what is done and intact is left alone.

    Exit codes: 0 done; 1 failed; 2 wrong usage, or videos were left out or are incomplete.
    """
    logging.basicConfig(level=logging.ERROR if quiet else logging.WARNING, format="%(message)s")
    if quiet:  # huggingface_hub reads this when it is imported, which is later
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    given = SimpleNamespace(**context.params)
    hub = (token_env, cache_dir, local_files_only, force_download, subfolder)
    said = [name for name in BATCH_ONLY if _was_given(context, name)]

    def work() -> int:
        given.hub = hub_options(*hub)
        one = _single(given)
        if one is not None and said:
            raise InputError(
                f"--{said[0].replace('_', '-')} is for many videos, and the output {str(out)!r} "
                "is a file for one; leave it out, or give a folder or a dataset."
            )
        return _embed_all(given, said) if one is None else _embed_one(one, given)

    is_file = out.suffix in SUFFIXES
    stopped = "nothing was written" if is_file else "run the same command again to go on"
    guard("ccl-embed", work, debug, stopped)


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _single(given: SimpleNamespace) -> Path | None:
    """Return the one video that is to be written to one file, or None for a batch.

    Raises:
        InputError: The output is a file for one video, but more is asked for.
    """
    inputs, out = given.inputs or [], given.out
    if out.suffix not in SUFFIXES:
        if out.suffix and out.suffix != ".parquet" and not out.is_dir():
            raise InputError(
                f"the output is {str(out)!r}; allowed: for one video a name that ends in one of "
                f"{', '.join(SUFFIXES)}; for any number a folder (a name without a dot, or one "
                "that exists) or a dataset that ends in .parquet."
            )
        return None
    if not inputs:
        raise InputError("no INPUT; give the video to embed.")
    if len(inputs) != 1 or inputs[0].is_dir():
        raise InputError(
            f"the output {str(out)!r} is a file for one video; for several give a folder, or a "
            "dataset that ends in .parquet."
        )
    return Path(inputs[0])


def _embed_one(video: Path, given: SimpleNamespace) -> int:
    """Embed one video into one file."""
    out, level, quiet = given.out, given.level, given.quiet
    check_output(out, level, source=video)
    check_place(out)
    began = time.perf_counter()
    from ..backends.make import engines_for
    from ..batch.options import BatchOptions
    from ..embed.stream import write_video

    batch = BatchOptions(workers=1, batch_clips=given.batch_size)
    (engine,) = engines_for(
        given.model,
        given.revision,
        given.device,
        given.dtype,
        given.backend,
        batch,
        most=1,
        hub=given.hub,
    )
    with _ClipProgress(quiet) as progress:
        provenance, shapes = write_video(
            engine,
            video,
            out,
            level,
            clips=given.clips,
            every_seconds=given.every,
            batch_size=given.batch_size,
            progress=progress.update,
        )
    facts = {
        "out": str(out),
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "provenance": dataclasses.asdict(provenance),
        "elapsed_seconds": round(time.perf_counter() - began, 3),
    }
    if given.as_json:
        typer.echo(json.dumps(facts))
    if not quiet:
        typer.echo(_summary(out, level, facts), err=True)
    if provenance.completeness == "incomplete":
        typer.echo(f"ccl-embed: {video}: incomplete: {provenance.note}", err=True)
        return USAGE_OR_PARTIAL
    return DONE


def _embed_all(given: SimpleNamespace, said: list[str]) -> int:
    """Embed any number of videos into a folder or dataset."""
    out, quiet = given.out, given.quiet
    shard = parse_shard(given.shard, os.environ)
    if given.shard is not None and not quiet:
        typer.echo(f"shard {shard.index} of {shard.count}", err=True)
    from ..batch.options import BatchOptions
    from ..job.options import JobInputs, JobOptions
    from ..job.run import run_job
    from ..job.state import Destination
    from ..sampling import Sampling
    from .progress import JobProgress, summary_facts, summary_table

    # Wrong usage is found before torch is imported and a model loaded, which takes seconds.
    for reader in ("walk", "lists"):
        logging.getLogger(f"ccl_hub.inputs.{reader}").addFilter(_once())
    wanted, destination = Sampling(given.clips, given.every), Destination.at(out)
    inputs = JobInputs(
        given.inputs or [],
        given.manifest or [],
        given.root,
        None if given.ext is None else [part.strip() for part in given.ext.split(",")],
    )
    batch = BatchOptions(
        workers=given.workers,
        threads=given.threads,
        deadline_seconds=given.deadline,
        memory_bytes=given.memory_limit,
        batch_clips=given.batch_size,
    )
    options = JobOptions(
        suffix=f".{given.format}",
        level=given.level,
        shard=shard,
        checksum=given.checksum,
        retry_failed=given.retry_failed,
        fail_fast=given.fail_fast,
        overwrite=given.overwrite,
    )
    options.has_frames(destination)
    if destination.is_dataset and "format" in said:
        raise InputError(
            f"--format is {given.format}, but {str(out)!r} is a dataset, whose parts are Parquet; "
            "leave it out, or give a folder."
        )
    check_folder(out)
    common_root(inputs.inputs, inputs.lists)
    for one in inputs.inputs:
        next(find_videos([one], extensions=inputs.extensions))
    for listed in inputs.lists:
        next(find_videos([], lists=[listed]))

    from ..backends.make import engines_for

    calibration = None
    if given.backend == "openvino-int8":  # used unless the cache has an int8 model
        some = find_videos(inputs.inputs, lists=inputs.lists, extensions=inputs.extensions)
        calibration = [video.path for video in islice(some, CALIBRATION_VIDEOS)]
    engines = engines_for(
        given.model,
        given.revision,
        given.device,
        given.dtype,
        given.backend,
        batch,
        calibration=calibration,
        hub=given.hub,
    )
    say = typer.echo if given.as_json else None
    with JobProgress(quiet, say) as progress:
        if progress.shown:
            _count(inputs, destination, options.shard, progress.set_total)
        summary = run_job(inputs, out, engines, wanted, options, batch, progress.update)
    if say is not None:
        say(json.dumps(summary_facts(summary)))
    if not quiet:
        typer.echo(summary_table(summary), err=True)
    return DONE if summary.all_done else USAGE_OR_PARTIAL


def _summary(out: Path, level: str | None, facts: dict[str, Any]) -> str:
    """Return the one line that ends a run."""
    names = {"clip": "clips", "frame": "frames", "video": "video"}
    wanted = [names[level or "clip"]] if out.suffix == ".npy" else list(names.values())
    shapes = ", ".join(f"{name} {tuple(facts['shapes'][name])}" for name in wanted)
    seconds = facts["provenance"]["duration_seconds"]
    return f"{out}: {shapes} from {seconds:.2f} s of video in {facts['elapsed_seconds']:.1f} s"


class _ClipProgress:
    """A tqdm bar on stderr from the first batch on; silent if quiet or not a terminal."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.bar: Any = None

    def __enter__(self) -> _ClipProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def update(self, done: int, total: int) -> None:
        """Show ``done`` of ``total`` clips."""
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(
                total=total,
                unit="clip",
                file=sys.stderr,
                leave=False,
                disable=self.quiet or sys.stderr is None or None,
            )
        self.bar.update(done - self.bar.n)


def _count(
    inputs: JobInputs, destination: Destination, shard: Shard, tell: Callable[[int], None]
) -> None:
    """Count the videos in a thread of its own, for the time left; errors come where they count."""
    from ..job.state import read_settings, root_of

    def count() -> None:
        with contextlib.suppress(CCLError):
            root = inputs.choose_root(root_of(read_settings(destination)))
            tell(sum(1 for _ in inputs.videos(root, shard, destination)))

    threading.Thread(target=count, daemon=True).start()


def _once() -> Callable[[logging.LogRecord], bool]:
    """Return a filter for what is told each time the folders and lists are read."""
    told: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        known = len(told)
        told.add(record.getMessage())
        return len(told) > known

    return is_new

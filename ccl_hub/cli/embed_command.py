"""The command ``ccl-embed``, for one video or a million: arguments in, messages out, no logic."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .._util.files import check_folder, check_writable
from .._version import __version__
from ..embed.writers import LEVELS, SUFFIXES, check_output
from ..errors import InputError
from ..inputs.shards import parse_shard
from ..registry import DEFAULT_MODEL
from .common import (
    DONE,
    USAGE_OR_PARTIAL,
    AsJson,
    CacheDir,
    Debug,
    ForceDownload,
    LocalFilesOnly,
    SandboxChoice,
    Subfolder,
    TokenEnv,
    guard,
    hub_options,
)
from .progress import ClipProgress, JobProgress, summary_facts, summary_table

if TYPE_CHECKING:
    from ..backends.engine import Engine
    from ..batch.options import BatchOptions
    from ..decoding.one_video import Decode
    from ..sampling import Sampling

embed_app = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)

Backend = Literal[
    "auto", "torch", "torch-compile", "onnx", "openvino", "openvino-bf16", "openvino-int8"
]
Format = Literal["npz", "npy", "safetensors"]
DECODE: dict[str, Decode] = {"auto": "auto", "require": "confined", "off": "in-process"}
"""Where one video is decoded."""

CALIBRATION_VIDEOS = 10_000
BATCH_ONLY = (
    *("lists", "root", "extensions", "format", "workers", "threads", "deadline_seconds"),
    *("memory_bytes", "shard", "checksum", "retry_failed", "fail_fast", "overwrite"),
)
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class Report:
    """What is told of a run."""

    quiet: bool
    as_json: bool

    def tell(self, facts: dict[str, Any], lines: str) -> None:
        """Tell the end of a run: facts to programs, lines to people."""
        if self.as_json:
            typer.echo(json.dumps(facts))
        if not self.quiet:
            typer.echo(lines, err=True)


def _print_version(is_asked_for: bool) -> None:
    if is_asked_for:
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
        raise typer.BadParameter(f"{text!r} is not a size; give bytes, or such as 512M or 4G.")
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
    every_seconds: Annotated[
        float | None,
        typer.Option(
            "--every", help="Instead: a clip starting every so many seconds, tail included."
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda (all of them, for many videos), cuda:N or mps.")
    ] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    backend: Annotated[
        Backend,
        typer.Option(
            help="What runs the network; those other than torch on a CPU. auto: there onnx, or "
            "openvino, where it gives torch's numbers in float32; on a GPU torch."
        ),
    ] = "auto",
    revision: Annotated[
        str | None, typer.Option(help="Commit, tag or branch of a Hub id.")
    ] = None,
    token_env: TokenEnv = None,
    cache_dir: CacheDir = None,
    local_files_only: LocalFilesOnly = False,
    force_download: ForceDownload = False,
    subfolder: Subfolder = None,
    batch_clips: Annotated[
        int | None,
        typer.Option(
            "--batch-size", help="Clips computed at once. [default: what suits the device]", min=1
        ),
    ] = None,
    sandbox: SandboxChoice = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    lists: Annotated[
        list[Path] | None,
        typer.Option(
            "--manifest",
            help="A list of videos: .csv or .parquet with a column path, or text, one a line.",
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            help="Folder from which outputs are named. [default: what all inputs and lists have]"
        ),
    ] = None,
    extensions: Annotated[
        str | None,
        typer.Option("--ext", help="Take these from folders: mp4,mkv. [default: all videos]"),
    ] = None,
    format: Annotated[Format, typer.Option(help="Of the files in a folder.")] = "npz",
    workers: Annotated[
        int | None, typer.Option(help="Decoding processes. [default: one a core]", min=1)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of a CPU network. [default: one a core]", min=1)
    ] = None,
    deadline_seconds: Annotated[
        float,
        typer.Option("--deadline", help="Longest that decoding one video may take, in seconds."),
    ] = 600.0,
    memory_bytes: Annotated[
        int | None,
        typer.Option(
            "--memory-limit",
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

    is_file = out.suffix in SUFFIXES
    stopped = "nothing was written" if is_file else "run the same command again to go on"
    with guard("ccl-embed", debug, stopped):
        from ..batch.options import BatchOptions
        from ..sampling import Sampling

        hub = hub_options(token_env, cache_dir, local_files_only, force_download, subfolder)
        batch = BatchOptions(
            workers=workers,
            threads=threads,
            deadline_seconds=deadline_seconds,
            memory_bytes=memory_bytes,
            batch_clips=batch_clips,
            sandbox=sandbox,
        )
        sampling = Sampling(clips, every_seconds)

        def engines(**choice: Any) -> list[Engine]:
            from ..batch.run import engines_for

            choice = {"backend": backend, **choice}
            return engines_for(model, revision, device, dtype, options=batch, hub=hub, **choice)

        report = Report(quiet, as_json)
        video = _single_video(inputs or [], out)
        if video is not None:
            _refuse_batch_options(context, out)
            raise typer.Exit(_embed_one(video, out, level, engines, sampling, batch, report))
        share = parse_shard(shard, os.environ)
        if shard is not None and not quiet:
            typer.echo(f"shard {share.index} of {share.count}", err=True)
        from ..backends.make import FLOAT32_RUNTIMES
        from ..job.destination import Destination
        from ..job.options import JobInputs, JobOptions
        from ..job.run import run_job
        from ..job.state import earlier_backend

        endings = None if extensions is None else [text.strip() for text in extensions.split(",")]
        videos = JobInputs(inputs or [], lists or [], root, endings)
        options = JobOptions(
            suffix=f".{format}",
            level=level,
            shard=share,
            checksum=checksum,
            retry_failed=retry_failed,
            fail_fast=fail_fast,
            overwrite=overwrite,
        )
        if out.suffix == ".parquet" and _was_given(context, "format"):
            raise InputError(
                f"--format is {format}, but {str(out)!r} is a dataset, whose parts are Parquet; "
                "leave it out, or give a folder."
            )
        # Wrong usage is refused before torch is imported and a model loaded, which takes seconds.
        options.has_frames(Destination.at(out))
        check_folder(out)
        videos.search.check()
        calibration = None
        if backend == "openvino-int8":  # used unless the cache has an int8 model
            calibration = videos.search.first(CALIBRATION_VIDEOS)
        going_on = None
        if backend == "auto" and not overwrite:
            going_on = earlier_backend(Destination.at(out))
            fits = device in ("auto", "cpu") and dtype == "float32"
            if going_on in FLOAT32_RUNTIMES and not fits:
                raise InputError(
                    f"{str(out)!r} was begun with the backend {going_on}, which computes float32 "
                    "on the CPU; go on with --device cpu and no --dtype, or give another --out."
                )
        computing = engines(calibration=calibration, backend=going_on or backend)
        with JobProgress(quiet, typer.echo if as_json else None) as progress:
            tell_total = progress.set_total if progress.shown else None
            summary = run_job(
                videos, out, computing, sampling, options, batch, progress.update, tell_total
            )
        report.tell(summary_facts(summary), summary_table(summary))
        raise typer.Exit(DONE if summary.all_done else USAGE_OR_PARTIAL)


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _refuse_batch_options(context: typer.Context, out: Path) -> None:
    for parameter in context.command.params:
        if parameter.name in BATCH_ONLY and _was_given(context, parameter.name):
            raise InputError(
                f"{parameter.opts[0]} is for many videos, and the output {str(out)!r} is a file "
                "for one; leave it out, or give a folder or a dataset."
            )


def _single_video(inputs: list[Path], out: Path) -> Path | None:
    """Return the one video that is to be written to one file, or None for a batch.

    Raises:
        InputError: The output is a file for one video, but more is asked for.
    """
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
    return inputs[0]


def _embed_one(
    video: Path,
    out: Path,
    level: str | None,
    engines: Callable[..., list[Engine]],
    sampling: Sampling,
    batch: BatchOptions,
    report: Report,
) -> int:
    """Embed one video into one file."""
    check_output(out, level, source=video)
    check_writable(out)
    began = time.perf_counter()
    from ..decoding.one_video import prepare

    decode = DECODE[batch.sandbox]
    prepare(decode)  # the process is ready when the model is
    (engine,) = engines(most=1)
    from ..embed.stream import write_video

    with ClipProgress(report.quiet) as progress:
        provenance, shapes = write_video(
            engine,
            video,
            out,
            level,
            clips=sampling.clips,
            every_seconds=sampling.every_seconds,
            batch_size=batch.batch_clips,
            progress=progress.update,
            decode=decode,
        )
    facts = {
        "out": str(out),
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "provenance": dataclasses.asdict(provenance),
        "elapsed_seconds": round(time.perf_counter() - began, 3),
    }
    report.tell(facts, _summary(out, level, facts))
    if provenance.completeness == "incomplete":
        typer.echo(f"ccl-embed: {video}: incomplete: {provenance.note}", err=True)
        return USAGE_OR_PARTIAL
    return DONE


def _summary(out: Path, level: str | None, facts: dict[str, Any]) -> str:
    """Return the one line that ends a run."""
    names = {"clip": "clips", "frame": "frames", "video": "video"}
    written = [names[level or "clip"]] if out.suffix == ".npy" else list(names.values())
    shapes = ", ".join(f"{name} {tuple(facts['shapes'][name])}" for name in written)
    seconds = facts["provenance"]["duration_seconds"]
    return f"{out}: {shapes} from {seconds:.2f} s of video in {facts['elapsed_seconds']:.1f} s"


def embed_main() -> None:
    """Entry point of ``ccl-embed``."""
    embed_app(prog_name="ccl-embed")

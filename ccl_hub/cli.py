"""The commands ``ccl-embed`` and ``ccl-hub``: arguments in, messages out, no logic.

Messages and progress go to stderr; stdout belongs to data. torch is imported only when needed, so
that ``--help`` and usage errors answer at once. Exit codes: 0 done; 1 failed; 2 wrong usage, or
the result is there but part of the video could not be read; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from . import __version__
from .errors import CCLError, InputError
from .files import check_place
from .registry import REGISTRY, list_models
from .writers import LEVELS, check_output

__all__ = ["embed_main", "hub_main"]

DONE, FAILED, USAGE_OR_PARTIAL, INTERRUPTED = 0, 1, 2, 130
DEFAULT_MODEL = "ccl_r18_mini"
DEBUG_HELP = "Show the traceback of an error."

embed_app = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)
hub_app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="List, describe, verify, export and publish pretrained CCL models.",
)

Debug = Annotated[bool, typer.Option("--debug", help=DEBUG_HELP)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the facts as JSON on stdout.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@embed_app.command()
def embed(
    video: Annotated[Path, typer.Argument(help="A local video or image file.", metavar="VIDEO")],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Where to write: .npy (one level), .npz or .safetensors (all levels, times, "
            "provenance). Replaced if it exists.",
        ),
    ],
    model: Annotated[
        str, typer.Option(help="A name of 'ccl-hub list', a folder, or a Hub id org/name.")
    ] = DEFAULT_MODEL,
    level: Annotated[
        str | None,
        typer.Option(help=f"What a .npy holds: {', '.join(LEVELS)}. [default: clip]"),
    ] = None,
    clips: Annotated[
        int | None, typer.Option(help="Clips spread evenly over the video. [default: 10]", min=1)
    ] = None,
    every: Annotated[
        float | None,
        typer.Option(help="Instead: a clip starting every so many seconds, tail included."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    revision: Annotated[
        str | None, typer.Option(help="Commit, tag or branch of a Hub id.")
    ] = None,
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
) -> None:
    """Embed one video: 512-d vectors of its clips, frames or the whole.

    Exit codes: 0 done; 1 failed; 2 wrong usage, or written from a video that is incomplete.
    """
    del version
    logging.basicConfig(level=logging.ERROR if quiet else logging.WARNING, format="%(message)s")
    if quiet:  # huggingface_hub reads this when it is imported, which is later
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

    def work() -> int:
        check_output(out, level, source=video)
        check_place(out)
        began = time.perf_counter()
        from .embed import write_video
        from .model import CCLModel

        net = CCLModel.from_pretrained(model, revision, device=device, dtype=dtype)
        with _Progress(quiet) as progress:
            provenance, shapes = write_video(
                net,
                video,
                out,
                level,
                clips=clips,
                every_seconds=every,
                batch_size=batch_size,
                progress=progress.update,
            )
        facts = {
            "out": str(out),
            "shapes": {name: list(shape) for name, shape in shapes.items()},
            "provenance": dataclasses.asdict(provenance),
            "elapsed_seconds": round(time.perf_counter() - began, 3),
        }
        if as_json:
            typer.echo(json.dumps(facts))
        if not quiet:
            typer.echo(_summary(out, level, facts), err=True)
        if provenance.completeness == "incomplete":
            typer.echo(f"ccl-embed: {video}: incomplete: {provenance.note}", err=True)
            return USAGE_OR_PARTIAL
        return DONE

    _guard("ccl-embed", work, debug)


def _summary(out: Path, level: str | None, facts: dict[str, Any]) -> str:
    """Return the one line that ends a run."""
    names = {"clip": "clips", "frame": "frames", "video": "video"}
    wanted = [names[level or "clip"]] if out.suffix == ".npy" else list(names.values())
    shapes = ", ".join(f"{name} {tuple(facts['shapes'][name])}" for name in wanted)
    seconds = facts["provenance"]["duration_seconds"]
    return f"{out}: {shapes} from {seconds:.2f} s of video in {facts['elapsed_seconds']:.1f} s"


class _Progress:
    """A tqdm bar on stderr from the first batch on; silent if quiet or not a terminal."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.bar: Any = None

    def __enter__(self) -> _Progress:
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


@hub_app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the models: name, size, where from, trained on."""

    def work() -> int:
        entries = [REGISTRY[name] for name in list_models()]
        if as_json:
            facts = [{**dataclasses.asdict(entry), "repo": entry.repo} for entry in entries]
            typer.echo(json.dumps(facts))
            return DONE
        for entry in entries:
            size = f"{entry.size_bytes / 1e6:.1f} MB" if entry.published else "not yet published"
            where = "bundled" if entry.bundled else f"Hub: {entry.repo}"
            typer.echo(f"{entry.name:16} {size:>18}  {where:24} {entry.trained_on}")
        return DONE

    _guard("ccl-hub", work, debug=False)


@hub_app.command("info")
def info_command(
    name: Annotated[str, typer.Argument(help="A name, folder or Hub id.")],
    revision: Annotated[str | None, typer.Option(help="Revision of a Hub id.")] = None,
    debug: Debug = False,
) -> None:
    """Print a model's configuration and provenance as JSON."""

    def work() -> int:
        from . import weights

        source = weights.resolve(name, revision)
        _, sha256 = weights.read_tensors(source)
        facts = {
            "sha256": sha256,
            "size_bytes": source.weights_path.stat().st_size,
            "checked_against": source.checked_against,
        }
        typer.echo(json.dumps({**facts, **source.config.to_dict()}, indent=2))
        return DONE

    _guard("ccl-hub", work, debug)


@hub_app.command("verify")
def verify_command(
    name: Annotated[str, typer.Argument(help="A model with golden vectors.")] = DEFAULT_MODEL,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "cpu",
    revision: Annotated[str | None, typer.Option(help="Revision of a Hub id.")] = None,
    debug: Debug = False,
) -> None:
    """Re-embed shipped golden inputs and compare: does this machine give our numbers?

    Exit codes: 0 within tolerance; 1 not, or the check could not run.
    """

    def work() -> int:
        from .golden import verify

        checks = verify(name, device, revision)
        for check in checks:
            typer.echo(str(check))
        return DONE if all(check.passed for check in checks) else FAILED

    _guard("ccl-hub", work, debug)


@hub_app.command("export")
def export_command(
    name: Annotated[str, typer.Argument(help="A name, folder or Hub id.")],
    format: Annotated[
        Literal["onnx", "torch-export"],
        typer.Option(help="onnx needs pip install 'ccl-hub[onnx]'."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Where to write: .onnx or .pt2. Replaced if it exists."),
    ],
    revision: Annotated[str | None, typer.Option(help="Revision of a Hub id.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a model for another runtime: one file, any batch, length and frame size, float32.

    The file is compared with the model at several shapes and written only if it gives the same
    numbers within 1e-4. How to prepare pixels is in its metadata. Exit codes: 0 written; 1 not;
    2 wrong usage.
    """

    def work() -> int:
        check_place(out)
        from .interop import check_target, export_model
        from .model import CCLModel

        check_target(out, format)
        exported = export_model(CCLModel.from_pretrained(name, revision), out, format)
        if as_json:
            typer.echo(json.dumps(dataclasses.asdict(exported)))
        typer.echo(str(exported), err=True)
        return DONE

    _guard("ccl-hub", work, debug)


@hub_app.command("publish")
def publish_command(
    folder: Annotated[
        Path, typer.Argument(help="A model folder of training.export, or a bundled name.")
    ],
    repo: Annotated[str, typer.Argument(help="Where to: org/name on the Hub.", metavar="REPO")],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, send nothing.")
    ] = False,
    branch: Annotated[
        str | None, typer.Option(help="Branch to commit to, made if missing. [default: main]")
    ] = None,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = "",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check a model folder and publish it on the Hub in one commit.

    Weights must load strictly and give their golden vectors, and the model card must be complete.
    Log in first with 'hf auth login', or set HF_TOKEN. Prints the registry entry to paste.
    Exit codes: 0 published; 1 not; 2 wrong usage.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("ccl_hub").setLevel(logging.INFO)

    def work() -> int:
        from .publish import publish

        done = publish(
            folder, repo, private=private, branch=branch, message=message, dry_run=dry_run
        )
        typer.echo(json.dumps(dataclasses.asdict(done)) if as_json else done.registry_entry())
        place = f"{repo}@{done.revision}"
        typer.echo("dry run: nothing was sent" if dry_run else f"published {place}", err=True)
        return DONE

    stopped = "the Hub has the whole commit or nothing of it; publish again"
    _guard("ccl-hub", work, debug, stopped)


def _guard(
    command: str, work: Callable[[], int], debug: bool, stopped: str = "nothing was written"
) -> None:
    """Run a command body; turn errors into one line and an exit code."""
    try:
        code = work()
    except KeyboardInterrupt:
        typer.echo(f"{command}: stopped by the user; {stopped}.", err=True)
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of stdout went away, as "head" does: typer exits with 1
        raise
    except Exception as error:
        if debug:
            raise
        if isinstance(error, CCLError):
            message = " ".join(str(error).split())
        else:
            message = (
                f"unexpected {type(error).__name__}: {' '.join(str(error).split())}; "
                "this is a bug: please report it with the output of the same command and --debug."
            )
        typer.echo(f"{command}: {message}", err=True)
        code = USAGE_OR_PARTIAL if isinstance(error, InputError) else FAILED
    raise typer.Exit(code)


def embed_main() -> None:
    """Entry point of ``ccl-embed``."""
    embed_app(prog_name="ccl-embed")


def hub_main() -> None:
    """Entry point of ``ccl-hub``."""
    hub_app(prog_name="ccl-hub")

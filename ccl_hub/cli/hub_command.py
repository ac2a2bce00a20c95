"""The command ``ccl-hub``: arguments in, messages out, no logic; see :mod:`ccl_hub.cli.common`."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from .._util.files import check_writable
from ..registry import DEFAULT_MODEL, REGISTRY, list_models
from .common import (
    FAILED,
    AsJson,
    CacheDir,
    Debug,
    ForceDownload,
    LocalFilesOnly,
    Subfolder,
    TokenEnv,
    guard,
    hub_options,
    token_of,
)

hub_app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="List, describe, verify, export, quantize and publish pretrained CCL models.",
)


@hub_app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the models: name, size, where from, trained on."""
    with guard("ccl-hub", debug=False):
        entries = [REGISTRY[name] for name in list_models()]
        if as_json:
            facts = [{**dataclasses.asdict(entry), "repo": entry.repo} for entry in entries]
            typer.echo(json.dumps(facts))
            return
        for entry in entries:
            size = f"{entry.size_bytes / 1e6:.1f} MB" if entry.published else "not yet published"
            where = "bundled" if entry.bundled else f"Hub: {entry.repo}"
            typer.echo(f"{entry.name:16} {size:>18}  {where:24} {entry.trained_on}")


@hub_app.command("info")
def info_command(
    name: Annotated[str, typer.Argument(help="A name, folder or Hub id.")],
    revision: Annotated[str | None, typer.Option(help="Revision of a Hub id.")] = None,
    token_env: TokenEnv = None,
    cache_dir: CacheDir = None,
    local_files_only: LocalFilesOnly = False,
    force_download: ForceDownload = False,
    subfolder: Subfolder = None,
    debug: Debug = False,
) -> None:
    """Print a model's configuration and provenance as JSON."""
    with guard("ccl-hub", debug):
        from ..network import model_files

        hub = hub_options(token_env, cache_dir, local_files_only, force_download, subfolder)
        source = model_files.resolve(name, revision, hub)
        _, sha256 = model_files.read_weights(source)
        facts = {
            "sha256": sha256,
            "size_bytes": source.weights_path.stat().st_size,
            "checked_against": source.checked_against,
        }
        typer.echo(json.dumps({**facts, **source.config.to_dict()}, indent=2))


@hub_app.command("verify")
def verify_command(
    name: Annotated[str, typer.Argument(help="A model with golden vectors.")] = DEFAULT_MODEL,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "cpu",
    revision: Annotated[str | None, typer.Option(help="Revision of a Hub id.")] = None,
    token_env: TokenEnv = None,
    cache_dir: CacheDir = None,
    local_files_only: LocalFilesOnly = False,
    force_download: ForceDownload = False,
    subfolder: Subfolder = None,
    debug: Debug = False,
) -> None:
    """Re-embed shipped golden inputs and compare: does this machine give our numbers?

    Also prints how well this machine confines decoding. Exit codes: 0 within tolerance; 1 not,
    or the check could not run.
    """
    with guard("ccl-hub", debug):
        from ..decoding.one_video import walls_here
        from ..decoding.sandbox import describe
        from ..publish.golden import verify

        hub = hub_options(token_env, cache_dir, local_files_only, force_download, subfolder)
        checks = verify(name, device, revision, hub)
        for check in checks:
            typer.echo(str(check))
        typer.echo(f"confinement of decoders: {describe(walls_here())}")
        if not all(check.passed for check in checks):
            raise typer.Exit(FAILED)


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
    token_env: TokenEnv = None,
    cache_dir: CacheDir = None,
    local_files_only: LocalFilesOnly = False,
    force_download: ForceDownload = False,
    subfolder: Subfolder = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a model for another runtime: one file, any batch, length and frame size, float32.

    The file is compared with the model at several shapes and written only if it gives the same
    numbers within 1e-4. How to prepare pixels is in its metadata. Exit codes: 0 written; 1 not;
    2 wrong usage.
    """
    with guard("ccl-hub", debug):
        check_writable(out)
        from ..backends.export import check_target, export_model
        from ..model import CCLModel

        check_target(out, format)
        hub = hub_options(token_env, cache_dir, local_files_only, force_download, subfolder)
        model = CCLModel.from_pretrained(name, revision, **hub.keywords())
        exported = export_model(model, out, format)
        if as_json:
            typer.echo(json.dumps(dataclasses.asdict(exported)))
        typer.echo(str(exported), err=True)


@hub_app.command("quantize")
def quantize_command(
    name: Annotated[str, typer.Argument(help="A name, folder or Hub id.")],
    videos: Annotated[
        list[Path], typer.Argument(help="Videos like yours: files, folders or patterns.")
    ],
    revision: Annotated[str | None, typer.Option(help="Revision of a Hub id.")] = None,
    token_env: TokenEnv = None,
    cache_dir: CacheDir = None,
    local_files_only: LocalFilesOnly = False,
    force_download: ForceDownload = False,
    subfolder: Subfolder = None,
    force: Annotated[bool, typer.Option("--force", help="Make it again if there is one.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make the int8 network of --backend openvino-int8, calibrated on videos, and keep it.

    It is compared with the float32 network on clips held out, and kept only if the cosine is at
    least 0.99. Exit codes: 0 made, or there already; 1 not; 2 wrong usage.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with guard("ccl-hub", debug):
        from ..backends.int8_cache import find_int8
        from ..backends.quantize import build_int8
        from ..inputs.find import find_videos
        from ..model import CCLModel

        paths = [video.path for video in find_videos(videos)]
        hub = hub_options(token_env, cache_dir, local_files_only, force_download, subfolder)
        model = CCLModel.from_pretrained(name, revision, **hub.keywords())
        cached = None if force else find_int8(model)
        int8 = cached or build_int8(model, paths, force=force)
        facts = {"path": str(int8.path), "made": cached is None}
        if as_json:
            typer.echo(json.dumps({**facts, **dataclasses.asdict(int8.facts)}))
        if cached is not None:
            typer.echo(
                "there already, so these videos were not read; --force makes it again", err=True
            )
        typer.echo(
            f"{int8.path}: lowest cosine to float32 {int8.facts.frame_cosine:.4f} of "
            f"{int8.facts.compared_frames} frames, {int8.facts.clip_cosine:.4f} of their clips",
            err=True,
        )


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
    token_env: TokenEnv = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check a model folder and publish it on the Hub in one commit.

    Weights must load strictly and give their golden vectors, and the model card must be complete.
    Log in first with 'hf auth login', or name a token that may write. Prints the registry entry
    to paste. Exit codes: 0 published; 1 not; 2 wrong usage.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("ccl_hub").setLevel(logging.INFO)
    stopped = "the Hub has the whole commit or nothing of it; publish again"
    with guard("ccl-hub", debug, stopped):
        from ..publish.upload import publish

        published = publish(
            folder,
            repo,
            private=private,
            branch=branch,
            message=message,
            dry_run=dry_run,
            token=token_of(token_env),
        )
        entry = published.registry_entry()
        typer.echo(json.dumps(dataclasses.asdict(published)) if as_json else entry)
        sent = f"published {repo}@{published.revision}"
        typer.echo("dry run: nothing was sent" if dry_run else sent, err=True)


def hub_main() -> None:
    """Entry point of ``ccl-hub``."""
    hub_app(prog_name="ccl-hub")

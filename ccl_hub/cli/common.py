"""What the commands have in common: options, exit codes, errors in one line.

Messages and progress go to stderr; stdout belongs to data. torch is imported only when needed, so
that ``--help`` and usage errors answer at once. Exit codes: 0 done; 1 failed; 2 wrong usage, or
done but for videos, or parts of one, that could not be read; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import CCLError, InputError
from ..hub_options import HubOptions

DONE, FAILED, USAGE_OR_PARTIAL, INTERRUPTED = 0, 1, 2, 130

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
SandboxChoice = Annotated[
    Literal["auto", "require", "off"],
    typer.Option(
        "--sandbox",
        help="Confine decoding: auto, as well as the system can; require, fully or not at all; "
        "off, never.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the facts as JSON on stdout.")]

TokenEnv = Annotated[
    str | None,
    typer.Option(
        "--token-env",
        help="Environment variable with a token for the Hub. [default: HF_TOKEN, or that of "
        "'hf auth login']",
        metavar="NAME",
    ),
]
CacheDir = Annotated[
    Path | None,
    typer.Option("--cache-dir", help="Cache of the Hub's files. [default: that of HF_HOME]"),
]
LocalFilesOnly = Annotated[
    bool, typer.Option("--local-files-only", help="Take the model from the cache; no network.")
]
ForceDownload = Annotated[
    bool, typer.Option("--force-download", help="Fetch the model again, whatever the cache has.")
]
Subfolder = Annotated[
    str | None,
    typer.Option("--subfolder", help="Folder inside the Hub id or folder, where the model is."),
]


def hub_options(
    token_env: str | None,
    cache_dir: Path | None,
    local_files_only: bool,
    force_download: bool,
    subfolder: str | None,
) -> HubOptions:
    """Return the Hub options of a command.

    Raises:
        InputError: A value is not allowed; see also :func:`token_of`.
    """
    token = token_of(token_env)
    return HubOptions(token, cache_dir, local_files_only, force_download, subfolder)


def token_of(variable: str | None) -> str | None:
    """Return the token in an environment variable; None if none is named.

    A token is never an argument itself: other users see the arguments of running programs, and
    shells keep them.

    Raises:
        InputError: There is no such variable, or it is empty.
    """
    if variable is None:
        return None
    token = os.environ.get(variable, "").strip()  # as the Hub's client does with HF_TOKEN
    if not token:  # the name is not shown: it may be the token itself
        raise InputError(
            "--token-env must name an environment variable that holds a token, and there is none "
            "of the name given. If you gave a token, consider it known to others: revoke it, and "
            "put the new one into a variable."
        )
    return token


@contextmanager
def guard(command: str, debug: bool, stopped: str = "nothing was written") -> Iterator[None]:
    """Turn the errors of a command body into one line and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"{command}: stopped by the user; {stopped}.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:  # the reader of stdout went away, as "head" does: typer exits with 1
        raise
    except Exception as error:
        if debug or isinstance(error, typer.Exit):
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
        raise typer.Exit(code) from None

"""What the commands have in common: options, exit codes, errors in one line.

Messages and progress go to stderr; stdout belongs to data. torch is imported only when needed, so
that ``--help`` and usage errors answer at once. Exit codes: 0 done; 1 failed; 2 wrong usage, or
done but for videos, or parts of one, that could not be read; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from .errors import CCLError, InputError

__all__ = [
    "DEFAULT_MODEL",
    "DONE",
    "FAILED",
    "INTERRUPTED",
    "USAGE_OR_PARTIAL",
    "AsJson",
    "Debug",
    "guard",
]

DONE, FAILED, USAGE_OR_PARTIAL, INTERRUPTED = 0, 1, 2, 130
DEFAULT_MODEL = "ccl_r18_mini"

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the facts as JSON on stdout.")]


def guard(
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

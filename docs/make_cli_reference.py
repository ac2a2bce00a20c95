"""Write ``docs/cli.md`` from what ``ccl-embed``, ``ccl-find`` and ``ccl-hub`` say with ``--help``.

Run it as ``python docs/make_cli_reference.py``.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # document this tree, always

from ccl_hub._util.files import write_atomically
from ccl_hub.cli.embed_command import embed_app
from ccl_hub.cli.find_command import find_app
from ccl_hub.cli.hub_command import hub_app

PAGE = Path(__file__).resolve().parent / "cli.md"
COLUMNS = "80"  # a help text wraps at the width of the terminal; here it is always this one
HEAD = """\
# Command line

<!-- Written by docs/make_cli_reference.py from the commands' own help; do not edit. -->

Messages and progress go to stderr, data to stdout. Exit codes: 0 done; 1 failed; 2 wrong usage,
or videos failed or are incomplete; 3 ccl-find found nothing; 130 stopped by Ctrl-C. `python -m
training.pack` and the other programs of `training/` answer `--help` in the same way; what they
are for is told in [Training](training.md) and [Evaluation](evaluation.md).
"""


def help_text(app: typer.Typer, *words: str) -> str:
    """Return what ``WORDS --help`` prints on a plain terminal of 80 columns.

    Args:
        app: The program.
        words: Its name, and that of a command if it has several.
    """
    text, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = COLUMNS
    try:
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            app([*words[1:], "--help"], prog_name=words[0])
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns
    return text.getvalue()


def commands() -> list[tuple[typer.Typer, tuple[str, ...]]]:
    """Return every program and command, in the order in which the page has them."""
    pages: list[tuple[typer.Typer, tuple[str, ...]]] = [(embed_app, ("ccl-embed",))]
    for app, program in ((find_app, "ccl-find"), (hub_app, "ccl-hub")):
        names = [info.name or info.callback.__name__ for info in app.registered_commands]
        pages += [(app, (program,)), *((app, (program, name)) for name in names)]
    return pages


def reference() -> str:
    """Return the text of the page."""
    parts = [HEAD]
    for app, words in commands():
        level = "#" * (1 + len(words))
        parts.append(
            f"{level} {' '.join(words)}\n\n```text\n{help_text(app, *words).strip()}\n```\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    write_atomically(PAGE, reference())

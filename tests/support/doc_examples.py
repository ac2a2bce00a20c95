"""Code in Markdown pages: found, run as a reader would run it, and held against ``--help``."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from ccl_hub.cli.embed_command import embed_app
from ccl_hub.cli.find_command import find_app
from ccl_hub.cli.hub_command import hub_app

APPS = {"ccl-embed": embed_app, "ccl-find": find_app, "ccl-hub": hub_app}
FENCE = re.compile(r"(```+)(.*)")
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
SAID = re.compile(r"(?:\s*print\(.*\)  )?# (.+)")
CODE = re.compile(r"^(```+).*?^\1$|^ {4}[^\n]*|`[^`]+`", re.DOTALL | re.MULTILINE)
CONTINUED = re.compile(r"\\\n\s*")  # a line that ends in a backslash goes on
PROGRAM = re.compile(
    r"(?:^|[\s`])(ccl-embed|ccl-(?:find|hub) [a-z]+|-m training\.[a-z_]+)\b([^\n`]*)"
)


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Args:
        line: Where it starts, from 1.
        language: ``python``, ``shell``, ... or "".
        text: What is in it.
        reason: Why it is not run, or "".
    """

    line: int
    language: str
    text: str
    reason: str


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page, with the reason that the comment above one gives."""
    fence, start, language, reason, before = "", 0, "", "", ""
    lines: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        found = FENCE.fullmatch(line.strip())
        if fence and line.strip() == fence:
            yield Block(start, language, "\n".join(lines), reason)
            fence, before = "", ""
        elif fence:
            lines.append(line)
        elif found:
            fence, language, start, lines = found[1], found[2], number, []
            comment = NOT_RUN.fullmatch(before)
            reason = comment[1] if comment else ""
        elif line.strip():
            before = line.strip()
    assert not fence, f"{page}:{start}: this block does not end"


def run_python(block: Block, page: Path, names: dict[str, Any]) -> None:
    """Run a block; where a comment says what a statement prints, it must print that.

    Such a comment ends the line of a ``print``, or stands on lines of its own after the statement.
    """
    lines = block.text.splitlines()
    assert not any(re.match(r"\s*\)+  # ", line) for line in lines), f"{page}: a print to a line"
    body = ast.parse(block.text).body
    ends = [statement.lineno - 1 for statement in body[1:]] + [len(lines)]
    for statement, end in zip(body, ends, strict=True):
        module = ast.increment_lineno(ast.Module([statement], []), block.line)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(module, str(page), "exec"), names)  # noqa: S102 - as a reader does
        part = lines[statement.lineno - block.line - 1 : end]
        expected = [match[1] for line in part if (match := SAID.match(line))]
        if expected:
            found = printed.getvalue().splitlines()
            assert found == expected, f"{page}:{statement.lineno}: prints {found}"


def run_shell(block: Block, page: Path, skip: Mapping[str, str] | None = None) -> int:
    """Run each line of a block; returns how many lines were run.

    Args:
        block: Lines of one program each, in this process and the current folder.
        page: For messages.
        skip: Reasons by how a line begins, for lines that are not run.
    """
    done = 0
    text = CONTINUED.sub(" ", block.text)
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if not words or any(line.startswith(begin) for begin in skip or {}):
            continue
        assert not {"|", ">", "&&", ";"} & set(words), f"{page}:{block.line}: one program a line"
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = _run(words)
        assert code == 0, f"{page}:{block.line}: {line}: exit code {code}: {said.getvalue()}"
        done += 1
    return done


def _run(words: list[str]) -> object:
    if words[0] == "cp":
        shutil.copy(words[1], words[2])
        return 0
    if words[:2] == ["python", "-m"] and words[2].startswith("training."):
        return import_module(words[2]).main(words[3:])
    assert words[0] in APPS, f"{words[0]}: no program that the tests can run"
    try:
        APPS[words[0]](words[1:], prog_name=words[0])
    except SystemExit as exit_:
        return exit_.code
    return 0


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield every command in the code of a text: "ccl-hub list" or "training.pack", its words."""
    code = "\n".join(found[0] for found in CODE.finditer(CONTINUED.sub(" ", text)))
    for match in PROGRAM.finditer(code):
        yield match[1].removeprefix("-m "), shlex.split(match[2], comments=True)


@cache
def options(program: str) -> frozenset[str]:
    """Return the options that ``PROGRAM --help`` names."""
    words = program.split()
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        if words[0].startswith("training."):
            import_module(words[0]).main(["--help"])
        else:
            APPS[words[0]]([*words[1:], "--help"], prog_name=words[0])
    found = re.findall(r"(?<![\w-])--[a-z][\w-]*", text.getvalue())
    assert found, f"{program} --help names no option"
    return frozenset(found)

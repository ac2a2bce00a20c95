"""The documentation: its examples run, nothing in it is stale, and the site builds."""

from __future__ import annotations

import doctest
import logging
import os
import re
import runpy
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from doc_examples import Block, blocks, commands, options, run_python, run_shell
from project import ROOT, module_of

import ccl_hub
from ccl_hub import errors
from training.recipes.finetuning import FINETUNE_RECIPES, read_finetune_recipe
from training.recipes.pretraining import read_recipe
from training.recipes.toml import RECIPES_FOLDER

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
TEXTS = [
    *(page for page in PAGES if page.name != "cli.md"),
    *(ROOT / name for name in ("README.md", "MODEL_CARD.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    ROOT / "training" / "README.md",
]
LANGUAGES = ("python", "shell", "text", "bibtex")
MOST_NOT_RUN = 18
README_NOT_RUN = {
    "pip install": "the continuous integration runs these first of all",
    "ccl-find": "the videos here are too few and short; tests/ccl_hub/find does it",
    "ccl-hub export": "takes long; tests/ccl_hub/backends/test_export.py does it",
    "python -m training.": "trains for hours; docs/publishing.md has the same in small",
}
# The first is in the README; test_export.py writes the file of the second.
ELSEWHERE = ("ccl_hub", "ccl_hub.backends.export")


def has_examples(path: Path) -> bool:
    lines = path.read_text(encoding="utf-8").splitlines()
    return any(">>> " in line and "+SKIP" not in line for line in lines)


SOURCES = sorted([*(ROOT / "ccl_hub").rglob("*.py"), *(ROOT / "training").rglob("*.py")])
EXAMPLES = [
    name for path in SOURCES if (name := module_of(path)) not in ELSEWHERE and has_examples(path)
]
GENERATOR = runpy.run_path(str(DOCS / "make_cli_reference.py"))


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's folder: the example, a short video of his own, and a folder of five more."""
    from numbered import make_videos

    videos = make_videos(tmp_path / "my_videos")
    (tmp_path / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "bouncing_balls.mp4", tmp_path / "examples")
    shutil.copy(videos / "0.mp4", tmp_path / "video.mp4")
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("ccl_hub")  # ccl-hub publish lets it say more
    monkeypatch.setattr(logger, "level", logger.level)
    for name in ("walk", "lists"):  # ccl-embed lets these say a thing only once
        one = logging.getLogger(f"ccl_hub.inputs.{name}")
        monkeypatch.setattr(one, "filters", list(one.filters))
    return tmp_path


def is_run(block: Block) -> bool:
    return block.language in ("python", "shell") and not block.reason


RUN = [page for page in PAGES if any(map(is_run, blocks(page)))]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_the_examples_of_a_page_run(page: Path, reader: Path) -> None:
    names: dict = {"__name__": "__main__"}
    for block in blocks(page):
        if is_run(block) and block.language == "python":
            run_python(block, page, names)
        elif is_run(block):
            assert run_shell(block, page), f"{page}:{block.line}: nothing to run"


def test_the_examples_of_the_readme_run(reader: Path) -> None:
    page, names, done = ROOT / "README.md", {"__name__": "__main__"}, 0
    for block in blocks(page):
        if block.language == "python":
            run_python(block, page, names)
        elif not block.language:
            done += run_shell(block, page, README_NOT_RUN)
    assert done >= 5 and "result" in names


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_examples_of_docstrings_run(module: str) -> None:
    done = doctest.testmod(import_module(module))
    assert done.failed == 0 and done.attempted > 0


def test_docstrings_have_examples() -> None:
    assert len(EXAMPLES) > 20


def test_blocks_that_are_not_run_say_why() -> None:
    found = [(page, block) for page in PAGES for block in blocks(page)]
    for page, block in found:
        known = block.language in LANGUAGES or block.language.startswith("{")
        assert known, f"{page}:{block.line}: ```{block.language}: allowed: {LANGUAGES}"
    reasons = [block.reason for _, block in found if block.reason]
    assert all(len(reason) > 10 for reason in reasons)
    assert len(reasons) <= MOST_NOT_RUN, "run an example, or raise the number knowingly"
    comments = sum(page.read_text().count("not run:") for page in PAGES)
    assert comments == len(reasons), "a comment 'not run' that is not above a block"


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_have_the_options_they_are_shown_with(page: Path) -> None:
    for program, words in commands(page.read_text(encoding="utf-8")):
        shown = {word.partition("=")[0] for word in words if re.match("--[a-z]", word)}
        assert shown <= options(program) | {"--help"}, program
        changes = [after for word, after in pairwise(words) if word == "--set"]
        recipe = words[0] if words else ""
        if program == "training.finetune" and (FINETUNE_RECIPES / f"{recipe}.toml").is_file():
            read_finetune_recipe(recipe, changes)
        elif (
            program in ("training.pretrain", "training.ablation")
            and (RECIPES_FOLDER / f"{recipe}.toml").is_file()
        ):
            read_recipe(recipe, changes)


def plain(text: str) -> str:
    """A help text without what another version of typer writes otherwise: layout and types."""
    return " ".join(re.sub(r"<[^<>\n]*>|\b(TEXT|PATH|INTEGER|FLOAT)\b( RANGE)?", "", text).split())


def test_every_reason_code_is_in_the_guide() -> None:
    text = (DOCS / "batch.md").read_text(encoding="utf-8")
    table = text[text.index("| code |") :].partition("\n\n")[0]
    listed = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    kinds = errors.MediaError.__subclasses__()
    others = {"incomplete", "crashed", "timeout", "not_finite", "internal"}
    assert listed == {kind.code for kind in kinds} | others


def test_the_command_line_reference_is_current() -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    advice = "run python docs/make_cli_reference.py"
    assert plain(page) == plain(GENERATOR["reference"]()), advice


def test_every_command_is_in_a_guide() -> None:
    guides = [page.read_text(encoding="utf-8") for page in TEXTS]
    shown = {program for text in guides for program, _ in commands(text)}
    wanted = {" ".join(words) for _, words in GENERATOR["commands"]()}
    wanted -= {"ccl-find", "ccl-hub"}  # each of their commands is there
    for path in (ROOT / "training").glob("*.py"):
        if "argparse.ArgumentParser(" in path.read_text(encoding="utf-8"):
            wanted.add(f"training.{path.stem}")
    assert len(wanted) > 10
    assert wanted <= shown, f"in no guide: {wanted - shown}"


# The site ---------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Anchors and links of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, _Page]:
    """The pages of the site, built as the continuous integration must: warnings are errors."""
    pytest.importorskip("furo", reason="pip install '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-E", "-W", "--keep-going", DOCS, out]
    environment = {**os.environ, "HTTPS_PROXY": "http://127.0.0.1:9"}  # no network
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=out)
    assert done.returncode == 0, done.stderr
    return {path: _Page(path) for path in out.glob("*.html")}


def test_every_link_of_the_site_leads_somewhere(site: dict[Path, _Page]) -> None:
    assert {path.stem for path in site} > {page.stem for page in PAGES}
    checked = 0
    for path, page in site.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or link.startswith("//"):
                assert url.scheme in ("https", "data"), f"{path.name}: {link}"
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            assert target.is_file(), f"{path.name}: {link}"
            if url.fragment and target in site:
                assert unquote(url.fragment) in site[target].anchors, f"{path.name}: {link}"
            checked += 1
    assert checked > 100


def test_nothing_of_the_site_is_fetched_from_elsewhere(site: dict[Path, _Page]) -> None:
    fetched = re.compile(r'<(?:script|img|link)[^>]*(?:src|href)="(?:https?:)?//')
    for path in site:
        assert not fetched.search(path.read_text(encoding="utf-8")), path.name


def test_every_public_name_is_documented(site: dict[Path, _Page]) -> None:
    (anchors,) = [page.anchors for path, page in site.items() if path.name == "api.html"]
    wanted = {f"ccl_hub.{name}" for name in ccl_hub.__all__}
    wanted |= {f"ccl_hub.errors.{name}" for name in errors.__all__}
    assert wanted <= anchors, f"not in docs/api.md: {wanted - anchors}"


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_of_the_repository(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not urlsplit(link).scheme:
            assert (page.parent / link).is_file(), f"{page}: {link}"

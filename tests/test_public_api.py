"""What the package promises as a whole: public names, errors, and no call that is banned."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest
from project import ROOT, module_of

import ccl_hub
from ccl_hub import errors
from ccl_hub.backends import BACKENDS
from ccl_hub.cli import embed_command
from ccl_hub.embed.writers import SUFFIXES

SAFE_VALUES = {"weights_only": True, "allow_pickle": False}  # the only ones that may be written
BANNED = {
    "pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
}  # they run what they read
PACKAGE = sorted((ROOT / "ccl_hub").rglob("*.py"))
SOURCES = [
    *PACKAGE,
    *sorted((ROOT / "training").rglob("*.py")),
    *sorted((ROOT / "tools").rglob("*.py")),
    *sorted((ROOT / "benchmarks").glob("*.py")),
    ROOT / "hubconf.py",
]


def test_the_guards_below_see_every_file() -> None:
    assert len(PACKAGE) > 60 and len(SOURCES) > 130


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_banned_calls(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg in SAFE_VALUES:
            safe = isinstance(node.value, ast.Constant)
            safe = safe and node.value.value is SAFE_VALUES[node.arg]
            assert safe, f"{path}:{node.value.lineno}: {node.arg}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "load_state_dict":
                assert not any(k.arg == "strict" for k in node.keywords), f"{path}:{node.lineno}"
        if isinstance(node, ast.Import):
            assert not BANNED & {alias.name.partition(".")[0] for alias in node.names}, path
        if isinstance(node, ast.ImportFrom) and not node.level:
            assert (node.module or "").partition(".")[0] not in BANNED, path


@pytest.mark.parametrize("path", PACKAGE, ids=module_of)
def test_the_library_never_prints(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path}:{node.lineno}"


def test_public_names_are_sorted_and_exist() -> None:
    assert ccl_hub.__all__ == sorted(ccl_hub.__all__)
    assert set(ccl_hub.__all__) <= set(dir(ccl_hub))
    for name in ccl_hub.__all__:
        assert getattr(ccl_hub, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = ccl_hub.nonsense


def test_every_error_is_in_the_tree_of_the_docstring() -> None:
    assert errors.__all__ == sorted(errors.__all__)
    for name in errors.__all__:
        assert f" {name} " in f" {errors.__doc__.replace('(', ' (')} ".replace("\n", " "), name
        assert issubclass(getattr(errors, name), errors.CCLError)


def test_media_error_codes_differ() -> None:
    kinds = [errors.MediaError, *errors.MediaError.__subclasses__()]
    assert len({kind.code for kind in kinds}) == len(kinds)


def test_types_are_shipped() -> None:
    assert (ROOT / "ccl_hub" / "py.typed").is_file()


def test_the_command_offers_every_backend_and_format() -> None:
    assert get_args(embed_command.Backend) == ("auto", *BACKENDS)
    assert {f".{name}" for name in get_args(embed_command.Format)} == set(SUFFIXES)

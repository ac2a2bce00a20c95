"""The shape of the package: public names, import directions, banned calls, lazy imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

import ccl_hub
from ccl_hub import errors

SAFE_VALUES = {"weights_only": True, "allow_pickle": False}  # the only ones that may be written
PACKAGE = sorted((ROOT / "ccl_hub").rglob("*.py"))
TRAINING = sorted((ROOT / "training").rglob("*.py"))
SOURCES = [*PACKAGE, *TRAINING, ROOT / "hubconf.py", *sorted((ROOT / "benchmarks").glob("*.py"))]


def module_of(path: Path) -> str:
    """The dotted name of a file of this project: ccl_hub.video.clock."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Every module a file imports anywhere, in full."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parent.parts
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def importers(module: str) -> set[str]:
    return {
        module_of(path)
        for path in PACKAGE
        if any(name == module or name.startswith(f"{module}.") for name in imports(path))
    }


def test_the_package_never_imports_training() -> None:
    assert not importers("training")


def test_hub_access_has_one_home() -> None:
    assert importers("huggingface_hub") == {"ccl_hub.hub"}


def test_decoding_has_one_home() -> None:
    names = importers("av")
    assert names and all(name.startswith("ccl_hub.video.") for name in names)


def test_inference_needs_no_torchvision_and_no_click() -> None:
    assert not importers("torchvision")
    assert not importers("click"), "typer carries its own"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_banned_calls(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg in SAFE_VALUES:
            safe = isinstance(node.value, ast.Constant)
            safe = safe and node.value.value is SAFE_VALUES[node.arg]
            assert safe, f"{path}:{node.value.lineno}: {node.arg}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            if name == "load_state_dict":
                assert not any(k.arg == "strict" for k in node.keywords), f"{path}:{node.lineno}"
    assert not imports(path) & {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


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


def test_import_is_light() -> None:
    code = (
        "import sys, ccl_hub, ccl_hub.cli.hub_command; ccl_hub.list_models();"
        "print([m for m in ('torch', 'av', 'huggingface_hub', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr

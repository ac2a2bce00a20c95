"""torch.hub from a download and from a clone: every entry, strictly, in fresh processes.

These processes have no package but those that hubconf asks for, and no network but the loopback.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import http.server
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import ROOT
from tiny_models import tiny_model

import hubconf
from ccl_hub import CCLModel
from ccl_hub.network import model_files
from ccl_hub.registry import REGISTRY

ENTRIES = {*REGISTRY, "ccl_preprocess"}
CHECKPOINTS = sorted(REGISTRY)
IMPORTED_AS = {"pillow": "PIL", "scikit-video": "skvideo", "scikit-learn": "sklearn"}

# What runs first in each process: packages that torch.hub users need not have are not there.
PRELUDE = """
import sys, torch
hidden = sys.argv[1].split(",")
sys.modules.update(dict.fromkeys(hidden))  # None: find_spec and import do not find it

def attempt(*arguments, **kw):
    try:
        return torch.hub.load(*arguments, **kw)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""


def git(*arguments: object) -> None:
    subprocess.run(["git", "-C", str(ROOT), *map(str, arguments)], check=True)


def optional_packages() -> set[str]:
    """Import names of everything pyproject.toml mentions that hubconf does not ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = itertools.chain.from_iterable(project["optional-dependencies"].values())
    lines = [*project["dependencies"], *extras]
    names = {re.split(r"[\[>=<~]", line)[0] for line in lines} - {"ccl-hub", "tqdm"}
    return {IMPORTED_AS.get(n, n.replace("-", "_")) for n in names} - {*hubconf.dependencies}


def run(code: str, *arguments: object, home: Path, **environment: str) -> list[str]:
    """Run in a fresh, isolated process and return the lines it prints."""
    foreign = ("HF_", "CCL_", "TORCH_HOME", "PYTHON", "XDG_")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    hidden = ",".join(sorted(optional_packages()))
    done = subprocess.run(
        [sys.executable, "-I", "-c", PRELUDE + code, hidden, *map(str, arguments)],
        env={
            **clean,
            "TORCH_HOME": str(home / "torch"),
            "HF_HOME": str(home / "hf"),
            "HF_HUB_OFFLINE": "1",
            **environment,
        },
        stdin=subprocess.DEVNULL,  # a question would fail
        capture_output=True,
        text=True,
        cwd=home,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone") / "ccl"
    git("clone", "-q", ROOT, folder)
    return folder


@pytest.fixture
def archives(tmp_path: Path) -> Iterator[str]:
    """Address of a server that gives zip archives of the last commit, as the real one does."""
    folder = tmp_path / "served" / "org" / "ccl" / "zipball"
    folder.mkdir(parents=True)
    for ref in ("main", "v0.1.0"):
        git("archive", "--format=zip", "--prefix=org-ccl-0123abc/", "-o", folder / ref, "HEAD")
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "served")
    )
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


DOWNLOAD = """
url, names = sys.argv[2], sys.argv[3].split(",")
torch.hub._git_archive_link = lambda owner, name, ref: f"{url}/{owner}/{name}/zipball/{ref}"
new = dict(trust_repo=True, skip_validation=True, verbose=False)  # else api.github.com is asked
kept = dict(trust_repo=True, verbose=False)
repo = "org/ccl:v0.1.0"
print(sorted(torch.hub.list(repo, **new)) == names, "ccl_hub" in sys.modules)
for name in names:
    assert len(torch.hub.help(repo, name, trust_repo=True).splitlines()) > 3, name
model = torch.hub.load(repo, "ccl_lite0", **kept)
frames = torch.zeros(8, 60, 80, 3, dtype=torch.uint8).numpy()
clips = torch.hub.load(repo, "ccl_preprocess", frames, model.preprocessing, **kept)
with torch.inference_mode():
    print(tuple(model(clips).video.shape), model.training, model.weights_sha256)
print(sys.modules["ccl_hub"].__file__)
torch.hub.load("org/ccl:main", "ccl_lite0", pretrained=False, **new)
"""


def test_a_download_by_tag_lists_explains_and_loads(archives: str, tmp_path: Path) -> None:
    lines = run(DOWNLOAD, archives, ",".join(sorted(ENTRIES)), home=tmp_path)
    said = [line for line in lines if not line.startswith("Downloading: ")]
    assert len(lines) - len(said) == 2, "each version is downloaded once and kept"
    kept = tmp_path / "torch" / "hub"
    assert said == [
        "True False",
        f"(1, 512) False {REGISTRY['ccl_lite0'].sha256}",
        str(kept / "org_ccl_v0.1.0" / "ccl_hub" / "__init__.py"),
    ]
    assert {path.name for path in kept.iterdir() if path.is_dir()} == {
        "org_ccl_main",
        "org_ccl_v0.1.0",
    }


ENTRY_BY_ENTRY = """
clone, tiny, names = sys.argv[2], sys.argv[3], sys.argv[4].split(",")
def watch(event, values):  # a process that decodes is spoken to over sockets without address
    unnamed = event == "socket.sendmsg" and values[1] is None
    local = event == "socket.__new__" and values[1] == socket.AF_UNIX
    if event.startswith("socket.") and not unnamed and not local:
        sys.exit(event)
import socket
sys.addaudithook(watch)
for name in names:
    fresh = torch.hub.load(clone, name, source="local", pretrained=False)
    print(name, sum(p.numel() for p in fresh.parameters()), fresh.training)
    print(name, torch.hub.load(clone, name, source="local", weights=tiny).weights_sha256)
    print(name, attempt(clone, name, source="local").__class__.__name__)
small = torch.hub.load(clone, "ccl_r18_mini", source="local", weights=tiny)
print(small.embed(clone + "/examples/bouncing_balls.mp4", clips=2, batch_size=2).clips.tolist())
"""


def test_every_entry_of_a_clone_works_without_the_network(clone: Path, tmp_path: Path) -> None:
    tiny = tiny_model().save_pretrained(tmp_path / "tiny")
    sha256 = hashlib.sha256((tiny / model_files.WEIGHTS_NAME).read_bytes()).hexdigest()
    lines = run(ENTRY_BY_ENTRY, clone, tiny, ",".join(CHECKPOINTS), home=tmp_path)
    for name in CHECKPOINTS:
        parameters = {"ccl_lite0": 4979072, "ccl_r18_mini": 12128704}.get(name, 12128192)
        assert lines.pop(0) == f"{name} {parameters} True"
        assert lines.pop(0) == f"{name} {sha256}"
        bundled = REGISTRY[name].bundled
        assert lines.pop(0) == f"{name} {'CCLModel' if bundled else 'str'}"
    here = CCLModel.from_pretrained(tiny).embed(
        ROOT / "examples" / "bouncing_balls.mp4", clips=2, batch_size=2
    )
    assert lines == [str(here.clips.tolist())]


ERRORS = """
def told(*arguments, **kw):
    print(" ".join(str(attempt(sys.argv[2], *arguments, source="local", **kw)).split()))

told("ccl_r18_k400")
told("ccl_r18_mini", weights="no_such_name")
told("ccl_r18_mini", weights="")
told("ccl_r18_mini", weights=sys.argv[3])
told("ccl_r18_mini", weights="ccl_r18_mini", pretrained=False)
told("ccl_r18_mini", revision="v9")
told("ccl_r18_mini", tokn="hf_geheim")
told("ccl_r18_mini", pretrained=False, device="cpu")
told("no_such_entry")
for name in ("numpy", "av", "safetensors", "huggingface_hub"):
    there = sys.modules.get(name, torch)
    sys.modules[name] = None
    told("ccl_r18_mini")
    if there is torch:
        del sys.modules[name]
    else:
        sys.modules[name] = there
print(type(attempt(sys.argv[2], "ccl_r18_mini", source="local")).__name__)
"""


def test_what_goes_wrong_is_said_clearly(clone: Path, tmp_path: Path) -> None:
    pickled = tiny_model().save_pretrained(tmp_path / "pickled")
    (pickled / model_files.WEIGHTS_NAME).rename(pickled / "pytorch_model.bin")
    lines = run(ERRORS, clone, pickled, home=tmp_path)
    for start, part in [
        ("ModelNotFoundError: ", "'ccl_r18_k400' is not yet published"),
        ("ModelNotFoundError: 'no_such_name' is neither", "Known names: ccl_lite0"),
        ("ModelNotFoundError: ", "no config.json"),
        ("WeightsError: ", "pytorch_model.bin), which can run code and is never loaded"),
        ("InputError: ", "weights is 'ccl_r18_mini' but pretrained is False"),
        ("InputError: revision is 'v9'", "pinned"),
        ("InputError: unknown keyword 'tokn'; allowed are pretrained, weights, ", " token, "),
        ("InputError: unknown keyword 'device'; allowed are ", "pretrained, weights, config."),
        ("RuntimeError: Cannot find callable no_such_entry in hubconf", ""),
        ("RuntimeError: Missing dependencies: numpy", ""),
        ("RuntimeError: Missing dependencies: av", ""),
        ("RuntimeError: Missing dependencies: safetensors", ""),
        ("RuntimeError: Missing dependencies: huggingface_hub", ""),
        ("CCLModel", ""),
    ]:
        line = lines.pop(0)
        assert line.startswith(start) and part in line
    assert not lines


TWO_COPIES = """
from pathlib import Path
first, second, installed = map(Path, sys.argv[2:5])

def load(place, name="ccl_r18_mini", **kw):
    found = attempt(str(place), name, source="local", **kw)
    print(" ".join(found.split()) if isinstance(found, str) else type(found).__module__)

if sys.argv[5] == "installed":
    sys.path.insert(0, str(installed))
    import ccl_hub
    del sys.path[0]
load(first)
print(sys.modules["ccl_hub"].__file__)
load(second)
load(second, pretrained=False)
load(second, "ccl_preprocess", frames=torch.zeros(8, 60, 80, 3, dtype=torch.uint8).numpy())
file = first / "ccl_hub" / "sampling.py"
text = file.read_text()
file.write_text(text + "# another version, as force_reload=True puts it there\\n")
load(first)
file.write_text(text)
"""


@pytest.mark.parametrize("before", ["nothing", "installed"])
def test_a_second_copy_of_the_code_is_the_same_or_refused(
    clone: Path, before: str, tmp_path: Path
) -> None:
    """The second gave the code and weights of the first without a word."""
    second, installed = tmp_path / "ccl_other", tmp_path / "site-packages"
    shutil.copytree(clone, second, ignore=shutil.ignore_patterns(".git"))
    shutil.copytree(clone / "ccl_hub", installed / "ccl_hub")
    for file, old, new in (
        ("_version.py", "__version__ = ", "__version__ = 'other'  # "),
        ("registry.py", 'sha256="c3d1', 'sha256="0000'),
    ):
        path = second / "ccl_hub" / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
    lines = run(TWO_COPIES, clone, second, installed, before, home=tmp_path)
    place = installed if before == "installed" else clone
    assert lines[:2] == ["ccl_hub.model", str(place / "ccl_hub" / "__init__.py")]
    assert len(lines) == 6
    for line, other in zip(lines[2:], [second, second, second, clone], strict=True):
        assert line.startswith("ImportError: this process has imported ccl_hub ")
        assert f"from {place / 'ccl_hub'}; the code in {other / 'ccl_hub'} is another" in line
        assert "in a new process" in line


# What needs no process ---------------------------------------------------------------------------


def test_the_entries_are_those_of_the_registry() -> None:
    public = {name for name, value in vars(hubconf).items() if callable(value)}
    assert {name for name in public if not name.startswith("_")} == ENTRIES


def test_dependencies_are_what_the_package_imports() -> None:
    """All of them but what the commands, the extras, other libraries and PIL images need."""
    elsewhere = {"cli", "find", "ray", "hf_transformers.py", "job/parquet.py", "inputs/lists.py"}
    elsewhere |= {
        f"backends/{name}.py"
        for name in ("export", "onnx_engine", "openvino_engine", "quantize", "tracing")
    }
    package, found = ROOT / "ccl_hub", set()
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        if name in elsewhere or name.partition("/")[0] in elsewhere:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).partition(".")[0])
    assert found - sys.stdlib_module_names - {"_typeshed", "ccl_hub", "PIL"} == {
        *hubconf.dependencies
    }


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_no_entry_is_unpinned_or_unhashed(name: str) -> None:
    entry = REGISTRY[name]
    if not entry.published:
        assert not entry.bundled and (entry.revision, entry.size_bytes) == ("", 0)
        return
    assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256) and entry.size_bytes > 0
    if entry.bundled:
        data = (model_files.bundled_folder(name) / model_files.WEIGHTS_NAME).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.size_bytes, entry.sha256)
    else:
        assert re.fullmatch(r"[0-9a-f]{40}", entry.revision)


@pytest.mark.parametrize("name", ["hubconf.py", "ccl_hub/registry.py"])
def test_no_address_is_written_down(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"https?://|localhost|127\.0\.0\.1", text)

"""The shape of the house: small rooms, small modules, one direction, light imports, public paths.

The directions themselves stand in pyproject.toml (``tool.importlinter``); `lint-imports` holds
them, and the first test runs it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import grimp
import pytest
from project import ROOT, module_of

TOPS = ("ccl_hub", "training", "tools", "tests")
FILES = sorted(path for top in TOPS for path in (ROOT / top).rglob("*.py"))
FEWEST_FILES = 200  # a guard that looks at almost nothing always passes
MOST_FILES, MOST_LINES = 14, 450

# The paths that users import from; each room's __init__ keeps them, wherever the module lies.
PUBLIC = {
    "ccl_hub": "Architecture BatchItem BatchOptions CCLConfig CCLModel CCLOutput Embeddings"
    " HubOptions Preprocessing Provenance __version__ embed_many list_models",
    "ccl_hub.backends": "BACKENDS make_engine",
    "ccl_hub.batch": "BatchItem BatchOptions embed_many engines_for",
    "ccl_hub.config": "Architecture CCLConfig Preprocessing Provenance",
    "ccl_hub.embed": "ClipStream EmbeddingProvenance Embeddings embed_frames embed_image"
    " embed_video write_video",
    "ccl_hub.errors": "CCLError InputError MediaError OutputError",
    "ccl_hub.inputs": "IMAGE_EXTENSIONS VIDEO_EXTENSIONS VideoInput common_root find_videos"
    " output_name parse_shard shard_of",
    "ccl_hub.job": "JobInputs JobOptions JobSummary VideoEvent run_job",
    "ccl_hub.model": "CCLModel CCLOutput",
    "ccl_hub.publish": "CheckedFolder Published check_folder publish",
    "ccl_hub.sampling": "ClipPlan Sampling clip_instants nearest_frames on_screen_frames"
    " sample_eval sample_train uniform_clip_starts window_starts",
    "ccl_hub.transforms": "to_clips",
    "ccl_hub.video": "DecodeReport MediaLimits SourceFacts VideoInfo VideoReader iter_frames"
    " load_image resize_rgb",
}
# With optional packages: looked at where they are.
PUBLIC_EXTRAS = {
    "ray": ("ccl_hub.ray", "COLUMNS CCLEmbedder embed_paths"),
    "lancedb": ("ccl_hub.find", "Alike Doubt Hit Library Overlap Results"),
    "transformers": ("ccl_hub.hf_transformers", "CCLAutoModel CCLTransformersConfig"),
}
# What the worked examples of CONTRIBUTING.md add.
IMAGINED = {"backends/tensorrt_engine.py", "training/robustness.py"}
HEAVY = ("torch", "av", "huggingface_hub", "numpy")
# File or room of ccl_hub -> what importing all of it loads none of. At the terminal half a second
# counts, and a decoding process must not pay for torch.
LIGHT = {
    "__init__.py": HEAVY,
    "cli/hub_command.py": HEAVY,
    "backends/make.py": ("torch",),
    "batch/run.py": ("torch",),
    "cli": ("torch",),
    "decoding": ("torch",),
    "embed/stream.py": ("torch",),
    "inputs": ("torch",),
    "job": ("torch",),
}


def test_the_directions_hold() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and ", 0 broken" in done.stdout, done.stdout + done.stderr


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Who imports whom; imports inside functions and for annotations count."""
    found = grimp.build_graph("ccl_hub", "training", "tools", cache_dir=None)
    assert len(found.modules) > 120
    return found


def test_no_room_is_crowded() -> None:
    rooms = Counter(path.parent for path in FILES)
    assert rooms.total() > FEWEST_FILES and len(rooms) > 30
    crowded = {str(room.relative_to(ROOT)): n for room, n in rooms.items() if n > MOST_FILES}
    assert not crowded, f"rooms of more than {MOST_FILES} Python files; part them by what they do"


def test_no_module_is_long() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert len(lines) > FEWEST_FILES and sum(lines.values()) > 40_000
    long = {str(path.relative_to(ROOT)): n for path, n in lines.items() if n > MOST_LINES}
    assert not long, (
        f"modules of more than {MOST_LINES} lines; give one of their jobs a new module"
    )


def test_no_module_imports_what_imports_it(graph: grimp.ImportGraph) -> None:
    circles = [
        f"{module} -> {imported}"
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if graph.chain_exists(importer=imported, imported=module)
    ]
    assert not circles


def test_the_library_imports_modules_and_not_rooms(graph: grimp.ImportGraph) -> None:
    """The names in a room's __init__ are for users; inside, they would hide who needs whom."""
    rooms = [f"ccl_hub.{path.parent.name}" for path in (ROOT / "ccl_hub").glob("*/__init__.py")]
    assert len(rooms) > 10
    for room in ("ccl_hub", *rooms):
        importers = graph.find_modules_that_directly_import(room)
        inside = {name for name in importers if name.startswith("ccl_hub.")}
        assert not inside, f"{inside} import from {room}/__init__.py; name the module"


def test_contributing_shows_every_room() -> None:
    picture = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```")[5]
    for package in ("ccl_hub", "training"):
        lines = picture[picture.index(f"{package}/") :].partition("\n\n")[0]
        files = [path.relative_to(ROOT / package) for path in (ROOT / package).rglob("*.py")]
        names = {file.parts[0].removesuffix(".py") for file in files} - {"__init__"}
        assert len(names) > 10
        missing = {name for name in names if not re.search(rf"\b{name}\b", lines)}
        assert not missing, f"the picture in CONTRIBUTING.md lacks {missing}"


def test_contributing_names_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w.]+/[\w./]*)`", text)) - IMAGINED
    assert len(named) > 20
    tops = (ROOT, ROOT / "ccl_hub", ROOT / "training")
    missing = {name for name in named if not any((top / name).exists() for top in tops)}
    assert not missing, f"CONTRIBUTING.md names {missing}"


@pytest.mark.parametrize("place", LIGHT)
def test_importing_is_light(place: str) -> None:
    path = ROOT / "ccl_hub" / place
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    code = (
        f"import sys, ccl_hub, {', '.join(map(module_of, files))}; ccl_hub.list_models();"
        f"print([name for name in {LIGHT[place]} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("module", PUBLIC)
def test_public_paths(module: str) -> None:
    missing = [name for name in PUBLIC[module].split() if not hasattr(import_module(module), name)]
    assert not missing


@pytest.mark.parametrize("package", PUBLIC_EXTRAS)
def test_public_paths_of_extras(package: str) -> None:
    pytest.importorskip(package)
    module, names = PUBLIC_EXTRAS[package]
    assert not [name for name in names.split() if not hasattr(import_module(module), name)]

"""A library of footage, made once for all tests that only ask."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from scenes import flat, footage

if importlib.util.find_spec("lancedb") is None:  # pip install '.[find]'
    collect_ignore_glob = ["test_*.py"]

VIDEOS = 12


@pytest.fixture(scope="session")
def engines():
    from ccl_hub.batch import BatchOptions, engines_for
    from ccl_hub.registry import DEFAULT_MODEL

    options = BatchOptions(workers=1, threads=1)
    return engines_for(DEFAULT_MODEL, None, "cpu", None, "torch", options)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Footage of 9 s each in two folders, a black video and one that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("a", "b"):
        (folder / name).mkdir()
    for number in range(VIDEOS):
        footage(folder / "ab"[number % 2] / f"v{number:02}.mp4", number)
    flat(folder / "a" / "black.mp4")
    (folder / "b" / "broken.mp4").write_bytes(b"no video at all" * 100)
    return folder


@pytest.fixture(scope="session")
def library(videos: Path, engines, tmp_path_factory: pytest.TempPathFactory):
    from ccl_hub.batch import BatchOptions
    from ccl_hub.find import Library

    made = Library.create(tmp_path_factory.mktemp("library") / "library", engines)
    made.add([videos], batch=BatchOptions(workers=1, threads=1))
    return made

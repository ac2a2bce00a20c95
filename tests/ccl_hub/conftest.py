"""Fixtures of the tests that run the commands and jobs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from embed_jobs import Program, save_model


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """``ccl-embed``, imported once and forked for each run."""
    with Program(tmp_path_factory.mktemp("program")) as started:
        yield started


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model; rooms that need the model itself have their own."""
    return save_model(tmp_path_factory.mktemp("model"))


MOST_FILES = 20
"""Of one test; some make thousands."""


@pytest.fixture(autouse=True)
def confined_too(request: pytest.FixtureRequest) -> Iterator[None]:
    """With ``CCL_TEST_CONFINED=1``: every file that tests of video make, decoded confined, too."""
    asked = os.environ.get("CCL_TEST_CONFINED") and request.path.parent.name == "video"
    if not asked or "tmp_path" not in request.fixturenames:
        yield
        return
    from both_ways import same_both_ways

    folder = request.getfixturevalue("tmp_path")
    yield
    for path in [path for path in sorted(folder.rglob("*")) if path.is_file()][:MOST_FILES]:
        same_both_ways(path)

"""Fixtures of the tests that run the commands and jobs."""

from __future__ import annotations

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

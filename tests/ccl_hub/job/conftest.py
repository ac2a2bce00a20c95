"""Videos that most tests of jobs embed."""

from __future__ import annotations

from pathlib import Path

import pytest
from embed_jobs import tiny_folder


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("small"), 6)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("small"), 4)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "in", 3)

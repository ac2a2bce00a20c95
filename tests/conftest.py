"""Fixtures that several test modules use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real videos beside the project; tests that use it are marked ``shared``."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CCL_SHARED_DATA", beside))
    if not (folder / "real").is_dir():
        pytest.skip(f"no videos at {folder}; set CCL_SHARED_DATA")
    return folder

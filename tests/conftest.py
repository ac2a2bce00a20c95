"""Fixtures that several test modules use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from training.data.datasets import VideoList


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real videos beside the project; tests that use it are marked ``shared``."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CCL_SHARED_DATA", beside))
    if not (folder / "real").is_dir():
        pytest.skip(f"no videos at {folder}; set CCL_SHARED_DATA")
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> VideoList:
    """Five numbered videos of 12 frames, listed."""
    from numbered import make_videos

    from training.data.datasets import from_folder

    return from_folder(make_videos(tmp_path_factory.mktemp("videos")))


@pytest.fixture(scope="module")
def packed(videos: VideoList, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of those videos packed, two to a shard."""
    from training.frames.packing import pack

    folder = tmp_path_factory.mktemp("packed")
    pack(videos, folder, workers=1, shard_videos=2)
    return folder

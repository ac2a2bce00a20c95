"""Fixtures that several test modules use."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from training.data.datasets import VideoList

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes of tests share the cores, and theirs do, too. Threads that spin while they
    # wait for each other then take a hundred times as long as one alone.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")

# What tests remember of runtimes must not lie in the user's cache, nor come from there.
os.environ.setdefault("CCL_CACHE", tempfile.mkdtemp(prefix="ccl-cache-"))

# Shells start what runs in the background deaf to Ctrl-C, and so would tests what they start.
for number in (signal.SIGINT, getattr(signal, "SIGQUIT", signal.SIGINT)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real videos beside the project; tests that use it are marked ``shared``."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CCL_SHARED_DATA", beside))
    if not (folder / "real").is_dir():
        pytest.skip(f"no videos at {folder}; set CCL_SHARED_DATA")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread of torch: with tiny tensors more of them would only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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

"""A video, and decoding processes that fail as its name says; no test leaves any behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_parts import (
    leaves_nothing,
    make_video,
    spread_faults,
)

from ccl_hub.decoding import process
from ccl_hub.decoding.messages import DecodeSettings


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames, of which 34 are sampled: blocks of 16, 16 and 2."""
    return make_video(tmp_path_factory.mktemp("pool"), "good.mp4")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield from leaves_nothing()


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spread_faults(tmp_path, monkeypatch)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Process ids of the workers, as they are started."""
    start, ids = process.start, []

    def noted(settings: DecodeSettings) -> Any:
        worker = start(settings)
        ids.append(worker.process.pid)
        return worker

    monkeypatch.setattr(process, "start", noted)
    return ids

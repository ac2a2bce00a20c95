"""A tiny model and videos of many lengths; whatever happens to a batch, nothing is left of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from batch_parts import (
    leaves_nothing,
    make_video,
    spread_faults,
)
from media import Recipe, irregular_ticks, write_video
from tiny_models import tiny_model

from ccl_hub.embed import Embeddings, embed_video
from ccl_hub.model import CCLModel


@pytest.fixture(scope="module")
def model() -> CCLModel:
    model = tiny_model()
    model.head.start_calibrated(torch.rand(16, 16, 7, 7))
    return model


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of many lengths: longer and shorter than a clip, than a block, and than the ring."""
    folder = tmp_path_factory.mktemp("videos")
    lengths = enumerate([40, 3, 90, 17, 16, 400, 1, 33])
    found = [make_video(folder, f"{i}.mp4", frames, first=50 * i) for i, frames in lengths]
    ticks = irregular_ticks(60)
    return [*found, write_video(folder, Recipe("vfr.mkv", "libx264", 60, ticks=ticks))]


@pytest.fixture(scope="module")
def alone(model: CCLModel, videos: list[Path]) -> dict[Path, Embeddings]:
    return {path: embed_video(model, path, batch_size=2) for path in videos}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield from leaves_nothing()


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spread_faults(tmp_path, monkeypatch)

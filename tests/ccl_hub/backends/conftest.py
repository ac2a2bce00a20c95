"""A small model, and videos to calibrate on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from media import Recipe, cut, write_video
from tiny_models import small_model

from ccl_hub import CCLModel


def moving_scene(place: int, number: int, width: int, height: int) -> np.ndarray:
    """Return frame ``number`` of a scene of soft colours that drift; one for each place."""
    generator = np.random.default_rng(place)
    coarse = generator.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    scene = np.roll(coarse.repeat(8, axis=0).repeat(8, axis=1), 3 * number, axis=1)
    return np.ascontiguousarray(scene)


@pytest.fixture(scope="module")
def model() -> CCLModel:
    return small_model()


@pytest.fixture(scope="module")
def clips_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of 12 s, a damaged one and a text file."""
    folder = tmp_path_factory.mktemp("videos")
    for place in range(6):
        make = partial(moving_scene, place)
        write_video(folder, Recipe(f"{place}.mp4", "mpeg4", 96, rate=8, make=make))
    cut(folder / "0.mp4", folder / "6.mp4", 0.5)
    (folder / "7.mp4").write_text("this is no video")
    return folder


@pytest.fixture(scope="module")
def videos(clips_folder: Path) -> list[Path]:
    return sorted(clips_folder.iterdir())

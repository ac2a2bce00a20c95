"""Windows at the price of frames: the same vectors as window by window, in bounded memory."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from media import Recipe, irregular_ticks
from media import write_video as encode
from project import ROOT
from tiny_models import tiny_model

from ccl_hub.backends import TorchEngine
from ccl_hub.embed import ClipStream, embed_video, write_video
from ccl_hub.errors import DecodeError, InputError
from ccl_hub.model import CCLModel
from ccl_hub.network.frame_maps import ClipHead, FrameMaps
from ccl_hub.network.windows import WindowAssembler
from ccl_hub.sampling import Sampling
from ccl_hub.transforms import to_clips
from ccl_hub.video import VideoReader

BALLS = ROOT / "examples" / "bouncing_balls.mp4"


@pytest.fixture(scope="module")
def model() -> CCLModel:
    """A tiny model whose last BatchNorm does something, as a trained one's does."""
    model = tiny_model()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in (model.head.bn6.weight, model.head.bn6.running_var):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        for tensor in (model.head.bn6.bias, model.head.bn6.running_mean):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return model


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 112, 112, 3), dtype=np.uint8)


def by_windows(model: CCLModel, frames: np.ndarray, indices: np.ndarray) -> tuple:
    """Every window through the network on its own."""
    with torch.inference_mode():
        outputs = [model(to_clips(frames[row][None], model.preprocessing)) for row in indices]
    return tuple(torch.cat(vectors).numpy() for vectors in list(zip(*outputs, strict=True))[1::-1])


def by_frames(model: CCLModel, frames: np.ndarray, indices: np.ndarray, batch: int) -> tuple:
    engine = TorchEngine(model)
    windows = WindowAssembler(indices, engine.clip_head)
    parts = [
        windows.add(engine(frames[windows.frames[i : i + batch]]))
        for i in range(0, len(windows.frames), batch)
    ]
    assert windows.finished
    return tuple(np.concatenate(vectors) for vectors in zip(*parts, strict=True))


def assert_same(found: tuple, wanted: tuple) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * float(np.abs(other).max()))


@pytest.mark.parametrize("batch", [1, 5, 16, 64])
@pytest.mark.parametrize(
    "indices",
    [
        np.arange(9)[:, None] + np.arange(0, 32, 4),  # regular, every frame
        np.arange(0, 40, 8)[:, None] + np.arange(8),  # side by side
        np.array([[3, 3, 4, 6, 6, 6, 9, 9], [3, 4, 4, 6, 7, 9, 9, 11]]),  # frames shown long
        np.array([[0, 4, 8, 2, 6, 0, 4, 8], [0, 4, 8, 2, 6, 0, 4, 8]]),  # a short video, looped
        np.array([[0], [2]]),  # clips of one frame
        np.zeros((10, 8), dtype=np.int64),  # a still image
    ],
    ids=["dense", "apart", "irregular", "looped", "single", "still"],
)
def test_equal_to_window_by_window(
    model: CCLModel, frames: np.ndarray, indices: np.ndarray, batch: int
) -> None:
    assert_same(by_frames(model, frames, indices, batch), by_windows(model, frames, indices))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_ascending_windows(model: CCLModel, frames: np.ndarray, data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 5))
    row = st.lists(st.integers(0, 12), min_size=width, max_size=width).map(sorted)
    indices = np.array(sorted(data.draw(st.lists(row, min_size=1, max_size=6))))
    batch = data.draw(st.integers(1, 7))
    assert_same(by_frames(model, frames, indices, batch), by_windows(model, frames, indices))


def test_only_frames_of_open_windows_are_held() -> None:
    indices = np.arange(2000)[:, None] + np.arange(0, 32, 4)
    windows, alive, most, given = WindowAssembler(indices, ClipHead(torch.zeros(2))), set(), 0, 0
    for begin in range(0, len(windows.frames), 16):
        count = len(windows.frames[begin : begin + 16])
        maps = FrameMaps(torch.zeros(count, 2), torch.zeros(count, 1, 3, 2))
        alive.add(begin)
        weakref.finalize(maps.parts, alive.discard, begin)
        given += len(windows.add(maps).clips)
        del maps
        most = max(most, len(windows._held))
        assert len(windows._held) == (0 if windows._maps is None else len(windows._maps.vectors))
    assert given == 2000 and most <= 32, f"{most} frames held"
    assert len(alive) <= 1, "maps of frames that no window needs are kept"


@pytest.mark.parametrize("every", [0.04, 0.5])
def test_a_variable_rate_video_whatever_the_windows(
    model: CCLModel, tmp_path: Path, every: float
) -> None:
    path = encode(tmp_path, Recipe("vfr.mkv", "libx264", frames=60, ticks=irregular_ticks(60)))
    with ClipStream(model, path, Sampling(every_seconds=every)) as stream:
        parts = list(stream)
    with VideoReader(path, resize=model.preprocessing) as reader:
        frames = dict(reader.frames(np.unique(stream.plan.indices)))
    small = np.stack([frames.get(i, next(iter(frames.values()))) for i in range(60)])
    found = tuple(np.concatenate(vectors) for vectors in zip(*parts, strict=True))
    assert_same(found, by_windows(model, small, stream.plan.indices))


@pytest.mark.parametrize("level", ["clip", "frame", "video"])
def test_a_streamed_npy_has_the_bytes_of_a_whole_one(
    model: CCLModel, tmp_path: Path, level: str
) -> None:
    result = embed_video(model, BALLS, every_seconds=0.2)
    result.save(tmp_path / "whole.npy", level)
    provenance, shapes = write_video(
        model, BALLS, tmp_path / "parts.npy", level, every_seconds=0.2
    )
    assert (tmp_path / "parts.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert shapes["clips"] == result.clips.shape and shapes["frames"] == result.frames.shape
    assert provenance == result.provenance


def test_windows_denser_than_frames_are_made_some_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of a screen recording: 700 windows become whole with its third frame."""
    generator = torch.Generator().manual_seed(0)
    maps = FrameMaps(
        torch.randn(3, 5, generator=generator), torch.randn(3, 4, 3, 5, generator=generator)
    )
    indices = np.array([[0, 0, 1], [0, 1, 2]]).repeat(700, axis=0)
    made: list[int] = []
    windows, inner = WindowAssembler._windows, WindowAssembler(indices, ClipHead(torch.zeros(5)))
    monkeypatch.setattr(
        WindowAssembler,
        "_windows",
        lambda self, positions, maps: (
            made.append(len(positions)) or windows(self, positions, maps)
        ),
    )
    found = inner.add(maps)
    assert inner.finished and sum(made) == 1400 and max(made) <= 256
    assert found.clips.shape == (1400, 5) and found.frames.shape == (1400, 3, 5)
    without = WindowAssembler(indices, ClipHead(torch.zeros(5)), with_frames=False).add(maps)
    assert without.frames.shape == (1400, 0, 5)
    assert np.array_equal(without.clips, found.clips)
    few = WindowAssembler(indices[::700], ClipHead(torch.zeros(5))).add(maps)
    assert np.array_equal(few.clips.repeat(700, axis=0), found.clips)


def test_a_frame_that_never_comes_is_an_error(
    model: CCLModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VideoReader, "frames", lambda self, indices, **_: iter(()))
    with pytest.raises(DecodeError, match="never decoded"):
        embed_video(model, BALLS, decode="in-process")


def test_sampling_is_checked_before_any_video_is_opened() -> None:
    with pytest.raises(InputError, match="give one"):
        Sampling(clips=3, every_seconds=1.0)
    with pytest.raises(InputError, match="clips is 0"):
        Sampling(clips=0)
    assert (
        str(Sampling()) == "clips=10" and str(Sampling(every_seconds=0.5)) == "every_seconds=0.5"
    )

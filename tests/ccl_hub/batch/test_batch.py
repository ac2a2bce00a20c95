"""Batches: the numbers of single videos, and a video or a network that fails."""

from __future__ import annotations

import copy
import gc
import itertools
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from batch_parts import (
    FakeEngine,
    ToldEngine,
    children,
    codes,
    copies,
    held,
    with_damaged_frames,
)
from media import cut

from ccl_hub.backends import Engine, TorchEngine
from ccl_hub.batch import BatchItem, BatchOptions, embed_batch, embed_many, pipeline
from ccl_hub.decoding.messages import DecodeSettings
from ccl_hub.embed import Embeddings, embed_video
from ccl_hub.errors import CCLError, InputError
from ccl_hub.model import CCLModel
from ccl_hub.network.frame_maps import FrameMaps
from ccl_hub.sampling import Sampling

ONE = BatchOptions(workers=1, threads=1)


def run(paths: list[Path], engine: Engine, **options: object) -> list[BatchItem]:
    """Embed with an engine; the items in order of the paths."""
    own = BatchOptions(**{"workers": 1, "threads": 1, **options})
    items = list(embed_batch(paths, [engine], Sampling(), own))
    assert sorted(item.index for item in items) == list(range(len(paths)))
    ordered = sorted(items, key=lambda item: item.index)
    assert [item.path for item in ordered] == paths
    return ordered


def assert_equal(found: Embeddings | None, wanted: Embeddings) -> None:
    assert found is not None
    for name in ("clips", "clip_seconds", "frames", "frame_seconds", "video"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
    assert found.provenance == wanted.provenance


# The numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "threads", "order"), [(1, 1, 1), (4, 4, 1), (1, 4, -1), (4, 1, -1)]
)
def test_results_are_the_bits_of_single_videos(
    model: CCLModel,
    videos: list[Path],
    alone: dict[Path, Embeddings],
    workers: int,
    threads: int,
    order: int,
) -> None:
    own = BatchOptions(workers=workers, threads=threads)
    items = list(embed_many([str(path) for path in videos[::order]], model, options=own))
    assert len(items) == len(videos)
    for item in items:
        assert item.path == str(videos[::order][item.index])
        assert_equal(item.embeddings, alone[Path(item.path)])


@pytest.mark.parametrize("batch_clips", [1, 8, 64])
def test_the_size_of_batches_changes_rounding_only(
    model: CCLModel, videos: list[Path], alone: dict[Path, Embeddings], batch_clips: int
) -> None:
    sizes: list[int] = []
    engine = ToldEngine(TorchEngine(model), lambda frames: sizes.append(len(frames)))
    for item in run(videos, engine, workers=2, batch_clips=batch_clips):
        assert item.embeddings is not None
        for name in ("clips", "frames", "video"):
            wanted = getattr(alone[item.path], name)
            np.testing.assert_allclose(
                getattr(item.embeddings, name), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max()
            )
    assert max(sizes) <= max(16, 8 * batch_clips)
    assert max(sizes) > 16 or batch_clips == 1


def test_windows_and_no_frames(model: CCLModel, videos: list[Path]) -> None:
    own = BatchOptions(workers=2, threads=2, frames=False)
    for item in embed_many(videos[-1:] + videos[:5], model, every_seconds=0.1, options=own):
        found = item.embeddings
        wanted = embed_video(model, item.path, every_seconds=0.1, batch_size=2)
        assert found is not None
        np.testing.assert_array_equal(found.clips, wanted.clips)
        np.testing.assert_array_equal(found.clip_seconds, wanted.clip_seconds)
        assert found.frames.shape == (len(wanted.clips), 0, 16)
        assert found.frame_seconds.shape == (len(wanted.clips), 0)
        assert found.provenance == wanted.provenance


@pytest.mark.parametrize("damaged", [[1], [30], [20, 21, 57], [50, 59]])
def test_frames_that_cannot_be_decoded_are_left_out_as_in_a_single_video(
    model: CCLModel, tmp_path: Path, damaged: list[int]
) -> None:
    """Found out in the middle, after some frames went through the network."""
    path = with_damaged_frames(tmp_path, "damaged.mkv", damaged)
    wanted = embed_video(model, path, every_seconds=0.1, batch_size=2)
    assert wanted.incomplete and wanted.provenance.source_frames == 60 - len(damaged)
    own = BatchOptions(workers=2, threads=3)
    for item in embed_many([path] * 5, model, every_seconds=0.1, options=own):
        assert_equal(item.embeddings, wanted)


def test_videos_are_shared_among_devices(
    model: CCLModel, videos: list[Path], alone: dict[Path, Embeddings]
) -> None:
    twin = copy.deepcopy(model)
    seen: list[int] = []

    def told(place: int) -> ToldEngine:
        def tell(frames: np.ndarray) -> None:
            seen.append(place)
            time.sleep(0.01)

        return ToldEngine(TorchEngine((model, twin)[place]), tell)

    own = BatchOptions(workers=2, threads=1)
    for item in embed_batch(videos * 2, [told(0), told(1)], Sampling(), own):
        assert_equal(item.embeddings, alone[Path(item.path)])
    assert 0.2 < sum(seen) / len(seen) < 0.8, seen


# Bad videos ------------------------------------------------------------------------------------


def test_bad_videos_are_items_with_a_code(
    model: CCLModel, videos: list[Path], alone: dict[Path, Embeddings], tmp_path: Path
) -> None:
    import av

    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "folder.mp4").mkdir()
    cut(videos[0], tmp_path / "cut.mp4", 0.5)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    odd = copies(videos[0], ["12:30.mp4", "-x.mp4", "p%03d.mp4", "x#y?z.mp4", "a b.mp4"])
    odd += copies(videos[0], [os.fsdecode(b"latin-\xe9.mp4")])
    wanted = {
        "missing.mp4": "not_found",
        "empty.mp4": "damaged",
        "text.mp4": "unsupported",
        "folder.mp4": "not_found",
        "cut.mp4": "damaged",
        "sound.mp4": "no_video",
        "nul\0.mp4": "not_found",
    }
    paths = [tmp_path / name for name in wanted]
    items = run([videos[0], *paths, *odd], TorchEngine(model), workers=2)
    assert codes(items) == ["", *wanted.values(), *[""] * len(odd)]
    assert_equal(items[0].embeddings, alone[videos[0]])
    for item in items[-len(odd) :]:
        np.testing.assert_array_equal(item.embeddings.clips, alone[videos[0]].clips)
    assert "no such local file" in items[1].reason
    (item,) = embed_many(["http://example.com/x.mp4"], model, options=ONE)
    assert item.code == "not_found"


def test_crashes_and_hangs_cost_one_video_each(
    model: CCLModel, videos: list[Path], alone: dict[Path, Embeddings], faults: None
) -> None:
    bad = copies(
        videos[2],
        [
            "abort-20-x.mp4",
            "segv-open-x.mp4",
            "sleep-30-x.mp4",
            "runtime-50-x.mp4",
            "kill-0-x.mp4",
        ],
    )
    paths = [path for pair in itertools.zip_longest(videos, bad) for path in pair if path]
    items = run(paths, TorchEngine(model), workers=2, threads=2, deadline_seconds=4.0)
    for item in items:
        if item.path in alone:
            assert_equal(item.embeddings, alone[item.path])
    found = {item.path.name: item.code for item in items if item.code}
    assert found == {
        "abort-20-x.mp4": "crashed",
        "segv-open-x.mp4": "crashed",
        "sleep-30-x.mp4": "timeout",
        "runtime-50-x.mp4": "internal",
        "kill-0-x.mp4": "crashed",
    }


def test_a_crash_while_its_blocks_wait_for_the_network(
    model: CCLModel, videos: list[Path], faults: None
) -> None:
    bad = copies(videos[2], ["abort-60-a.mp4", "abort-60-b.mp4"])
    engine = FakeEngine(model, seconds=0.3)
    items = run([videos[0], *bad, videos[0], videos[0]], engine)
    assert codes(items) == ["", "crashed", "crashed", "", ""]
    for item in items[3:]:
        np.testing.assert_array_equal(item.embeddings.clips, items[0].embeddings.clips)
    assert engine.frames <= 3 * 34 + 48, "the network computed frames that nobody wants"


@pytest.mark.slow
def test_waiting_for_a_slow_network_is_no_hang(
    model: CCLModel, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 frames in 25 blocks of 0.2 s, far beyond the deadline, in a ring of two blocks."""
    monkeypatch.setattr(pipeline, "DecodeSettings", partial(DecodeSettings, slots=2))
    engine = FakeEngine(model, seconds=0.2)
    own = BatchOptions(workers=1, threads=1, deadline_seconds=2.0)
    sources = [videos[5], videos[0], videos[1]]
    items = list(embed_batch(sources, [engine], Sampling(every_seconds=0.1), own))
    assert codes(items) == [""] * 3
    assert engine.frames > 440


def test_paths_are_read_as_they_are_needed(model: CCLModel, videos: list[Path]) -> None:
    read = 0

    def endless() -> Iterator[Path]:
        nonlocal read
        while True:
            read += 1
            yield videos[1]

    own = BatchOptions(workers=2, threads=2)
    items = embed_many(endless(), model, options=own)
    assert read == 0 and children() == []
    for given, item in enumerate(itertools.islice(items, 60), 1):
        assert item.code == "" and read <= given + 2 * 2 + 2 * 2
    items.close()
    assert children() == []


def test_a_row_without_a_path_is_an_error_and_moves_no_result(
    model: CCLModel, videos: list[Path]
) -> None:
    items = embed_many([videos[0], None, videos[1]], model, clips=1)
    assert next(items).index == 0
    with pytest.raises(InputError, match="path 1 is None; leave out"):
        list(items)


def test_no_paths_no_processes(model: CCLModel) -> None:
    before = held()
    assert list(embed_many([], model)) == []
    assert held() == before


# What goes wrong in the network ----------------------------------------------------------------


def test_not_a_number_is_an_item(model: CCLModel, videos: list[Path]) -> None:
    class Spoiling(FakeEngine):
        def __call__(self, frames: np.ndarray) -> FrameMaps:
            maps = super().__call__(frames)
            if len(frames) == 1:
                maps.vectors.fill_(float("nan"))
            return maps

    items = run([videos[0], videos[6], videos[2]], Spoiling(model))
    assert codes(items) == ["", "not_finite", ""]
    assert "NaN or infinity" in items[1].reason


def test_too_little_memory_on_the_device_ends_the_batch(
    model: CCLModel, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, before = TorchEngine(model), held()

    def full(frames: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine, "_graph", full)
    with pytest.raises(InputError, match="too little memory"):
        run(videos, engine, workers=2, threads=2)
    assert held() == before


@pytest.mark.parametrize(("kind", "threads"), [(RuntimeError, 3), (SystemExit, 1)])
def test_an_error_in_a_lane_ends_the_batch(
    model: CCLModel, videos: list[Path], kind: type[BaseException], threads: int
) -> None:
    before, calls = held(), itertools.count()

    def burn(frames: np.ndarray) -> None:
        if next(calls) == 2:
            time.sleep(0.5)  # others wait behind it
            raise kind("burnt")

    with pytest.raises(kind, match="burnt"):
        run(videos, ToldEngine(FakeEngine(model), burn), workers=2, threads=threads)
    assert held() == before


def test_workers_that_cannot_start_end_the_batch(
    model: CCLModel, videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(7)")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = held()
    with pytest.raises(CCLError, match=r"cannot start .*exit code 7"):
        list(embed_many(videos, model, options=BatchOptions(workers=2)))
    gc.collect()
    assert held() == before


def test_an_error_of_the_feed_comes_out(model: CCLModel, videos: list[Path]) -> None:
    def feed() -> Iterator[Path]:
        yield from videos[:3]
        raise LookupError("the list ends here")

    before = held()
    with pytest.raises(LookupError, match="ends here"):
        list(embed_many(feed(), model, options=ONE))
    assert held() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [({"workers": 0}, "workers is 0"), ({"deadline_seconds": 0}, "more than 0 seconds")],
)
def test_options_are_checked(options: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        BatchOptions(**options)

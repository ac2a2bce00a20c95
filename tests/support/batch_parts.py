"""What the tests of batches share: small videos, an engine without a network, what is left."""

from __future__ import annotations

import gc
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from faults import SITE_CUSTOMIZE
from media import Recipe, numbered_frame, write_video

from ccl_hub.backends import Engine, EngineInfo
from ccl_hub.batch import BatchItem
from ccl_hub.decoding.one_video import close_idle
from ccl_hub.model import CCLModel
from ccl_hub.network.frame_maps import ClipHead, FrameMaps

QUICK = {"preset": "ultrafast", "bf": "0", "g": "25"}


class FakeEngine:
    """An engine that says what the mean colours of a frame are, after a while.

    Args:
        model: Gives preprocessing and name.
        seconds: Time that a call takes, without using the processor.
        dim: Of the vectors, a multiple of 3.
    """

    info = EngineInfo("torch", "cpu", "float32")
    batch_frames = 16
    calls_at_once = 1

    def __init__(self, model: CCLModel, seconds: float = 0.0, dim: int = 3) -> None:
        self.model, self.seconds = model, seconds
        self.repeat, self.clip_head = dim // 3, ClipHead(torch.zeros(dim))
        self.frames = 0

    def __call__(self, frames: np.ndarray) -> FrameMaps:
        time.sleep(self.seconds)
        self.frames += len(frames)
        means = torch.from_numpy(frames[:, ::8, ::8].mean((1, 2), dtype=np.float32))  # (n,3)
        vectors = means.repeat(1, self.repeat)  # (n,D)
        return FrameMaps(vectors, vectors[:, None, None].repeat(1, 1, 3, 1))  # (n,1,3,D)


class ToldEngine:
    """An engine that tells of each call: ``tell(frames)`` before it."""

    def __init__(self, engine: Engine, tell: Callable[[np.ndarray], object]) -> None:
        self.engine, self.tell = engine, tell
        self.model, self.info = engine.model, engine.info
        self.batch_frames, self.clip_head = engine.batch_frames, engine.clip_head
        self.calls_at_once = engine.calls_at_once

    def __call__(self, frames: np.ndarray) -> FrameMaps:
        self.tell(frames)
        return self.engine(frames)


def make_video(folder: Path, name: str, frames: int = 40, first: int = 0, **more: Any) -> Path:
    """Write a small H.264 video of 10 frames a second, numbered from ``first``."""

    def make(number: int, width: int, height: int) -> np.ndarray:
        return numbered_frame((first + number) % 512, width, height)

    values = {"size": (64, 48), "rate": 10, "options": QUICK, "make": make, **more}
    return write_video(folder, Recipe(name, "libx264", frames, **values))


def copies(video: Path, names: Iterable[str]) -> list[Path]:
    """Copy a video to other names beside it."""
    return [Path(shutil.copy(video, video.with_name(name))) for name in names]


def long_video(source: Path, target: Path, frames: int, rate: int = 10) -> Path:
    """Repeat the packets of a video of whole groups of pictures until there are enough frames."""
    with av.open(str(source)) as video:
        packets = [(bytes(p), p.is_keyframe) for p in video.demux(video=0) if p.size]
        with av.open(str(target), "w") as container:
            stream = container.add_stream_from_template(video.streams.video[0])
            step = round(Fraction(1, rate) / stream.time_base)
            for i in range(frames):
                data, is_key = packets[i % len(packets)]
                packet = av.Packet(data)
                packet.pts = packet.dts = i * step
                packet.duration, packet.time_base, packet.is_keyframe = (
                    step,
                    stream.time_base,
                    is_key,
                )
                packet.stream = stream
                container.mux(packet)
    return target


def with_damaged_frames(folder: Path, name: str, damaged: Iterable[int]) -> Path:
    """Write a Matroska file of single pictures, some of which are zeros in place of data."""
    path = make_video(folder, "pictures.mkv", 60, options={"g": "1", "preset": "ultrafast"})
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    for number in damaged:
        assert data.count(packets[number]) == 1
        data = data.replace(packets[number], bytes(len(packets[number])))
    target = folder / name
    target.write_bytes(data)
    return target


PYTHONS_OWN = ("resource_tracker", "multiprocessing.forkserver")


def children() -> list[int]:
    """Return the ids of the processes that this one started and that are still there.

    But for Python's own, which other tests have it start, and which stays.
    """
    tasks = Path("/proc/self/task").glob("*/children")
    found = [int(number) for task in tasks for number in text_of(task).split()]
    command = "/proc/{}/cmdline"
    names = {n: text_of(Path(command.format(n))) for n in found}
    return [n for n, name in names.items() if not any(word in name for word in PYTHONS_OWN)]


def text_of(path: Path) -> str:
    """Return what the system says of a process or thread; "" if it has ended."""
    try:
        return path.read_text()
    except OSError:
        return ""


def peak_mb(process: int | str) -> int:
    """Return the most memory that a process had; ``ru_maxrss`` begins with that of its parent."""
    words = Path(f"/proc/{process}/status").read_text().split()
    return int(words[words.index("VmHWM:") + 1]) // 1024


def held() -> dict[str, object]:
    """Return the processes, threads and descriptors of this process, and torch's threads."""
    with ThreadPoolExecutor(1) as pool:  # each thread has a number of its own
        new_thread = pool.submit(torch.get_num_threads).result()
    return {
        "children": children(),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "torch": (torch.get_num_threads(), new_thread),
    }


def leaves_nothing() -> Iterator[None]:
    """Body of a fixture: no test leaves a process or a thread, or needs the garbage collector.

    Servers that other libraries started for earlier tests are none of this one's.
    """
    close_idle()
    before = children()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        close_idle()  # the process that is kept for the next single video
    assert [child for child in children() if child not in before] == []
    assert not [t.name for t in threading.enumerate() if t.name.startswith("ccl-")]


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Return True as soon as something holds, False if it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def spread_faults(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let decoding processes started from now on have :mod:`tests.faults`."""
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE_CUSTOMIZE)
    monkeypatch.syspath_prepend(str(site))


def codes(items: list[BatchItem]) -> list[str]:
    """Return the codes of items, each of which has a result or says why not."""
    assert all((item.embeddings is None) == bool(item.code) for item in items)
    assert all(bool(item.code) == bool(item.reason) for item in items)
    return [item.code for item in items]

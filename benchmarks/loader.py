"""How many training clips a second the loader gives: packed, resident, and naive.

    python -m training.pack VIDEOS --out PACK
    python -m benchmarks.loader PACK --videos VIDEOS --out loader.json
    python -m benchmarks.loader PACK --stores        # Arrow IPC, LMDB and LitData side by side

All ways are timed in turns, so that a busy machine slows all alike. Each row states clips per
second of wall time, and per second of processor time (all threads together), which a busy machine
disturbs less. ``naive`` decodes the whole video for every clip, as a plain dataset class does;
``files`` decodes from the nearest key frame; ``packed`` reads single JPEG frames; ``resident``
gathers decoded frames; ``augment`` is the augmentation alone, on clips that are there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.train_step import machine
from ccl_hub._util.files import write_atomically
from ccl_hub.config import Preprocessing
from training.clips.augment import augment
from training.clips.loader import ClipLoader, EpochSampler, ResidentFrames, draw_clips
from training.data.datasets import VideoList
from training.data.sources import list_videos
from training.frames.files import VideoFolderStore
from training.frames.packed import FrameSource, FrameStore
from training.recipes.augmentation import Augment

CLIP = Preprocessing(clip_frames=8, frame_interval_seconds=0.16, frame_choice="on_screen")


@dataclass
class Row:
    """One way of getting clips, and what it took in each round."""

    name: str
    run: Callable[[], int]
    one_process: bool = True  # the processor time of other processes is not seen
    wall_seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    clips: list[int] = field(default_factory=list)

    def measure(self) -> None:
        """Run once and keep the times."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.clips.append(self.run())
        self.wall_seconds.append(time.perf_counter() - wall)
        self.cpu_seconds.append(time.process_time() - cpu)

    def result(self) -> dict[str, Any]:
        """Return the median over the rounds."""
        rates = [n / s for n, s in zip(self.clips, self.wall_seconds, strict=True)]
        per_cpu = [n / max(s, 1e-9) for n, s in zip(self.clips, self.cpu_seconds, strict=True)]
        return {
            "name": self.name,
            "clips_per_second": statistics.median(rates),
            "clips_per_cpu_second": statistics.median(per_cpu) if self.one_process else None,
            "spread": [min(rates), max(rates)],
        }


class NaiveVideos:
    """A store that decodes a whole video whenever a frame of it is wanted."""

    def __init__(self, store: VideoFolderStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def __len__(self) -> int:
        return len(self._store)

    def read(self, video: int, indices: Any) -> np.ndarray:
        """Decode everything, keep the frames asked for."""
        return self._store.read(video, np.arange(self._store.frames_of(video)))[indices]


class _Endless:
    """Batches of one epoch after the other."""

    def __init__(self, store: FrameSource, batch: int, workers: int) -> None:
        self._store, self._batch, self._workers = store, batch, workers
        self._batches = self._run()

    def _run(self) -> Iterator[Any]:
        epoch = 0
        while True:
            sampler = EpochSampler(len(self._store), 0, epoch, self._batch)
            loader = ClipLoader(self._store, sampler, CLIP, workers=self._workers)
            with loader:
                yield from loader
            epoch += 1

    def take(self, clips: int) -> int:
        """Read at least so many clips; return how many."""
        done = 0
        while done < clips:
            done += next(self._batches).frames.shape[1]
        return done


class _Clips(torch.utils.data.Dataset):
    """Clips as a torch dataset, to compare worker processes with threads."""

    def __init__(self, pack: Path) -> None:
        self.pack, self.store = pack, None

    def __len__(self) -> int:
        return len(FrameStore(self.pack))

    def __getitem__(self, video: int) -> np.ndarray:
        if self.store is None:
            self.store = FrameStore(self.pack)
        indices = draw_clips(self.store, video, CLIP, seed=0, epoch=0, views=1)
        return self.store.read(video, indices[0])


def process_rows(pack: Path, batch: int, workers: int, clips: int) -> list[Row]:
    """Return the row of torch's DataLoader with spawned processes."""
    loader = torch.utils.data.DataLoader(
        _Clips(pack),
        batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        multiprocessing_context="spawn",
        persistent_workers=True,
        prefetch_factor=3,
    )

    def endless() -> Iterator[Any]:
        while True:
            yield from loader

    batches = endless()
    next(batches)

    def run() -> int:
        for _ in range(-(-clips // batch)):
            next(batches)
        return -(-clips // batch) * batch

    return [Row(f"packed, {workers} processes (torch DataLoader)", run, one_process=False)]


def loader_rows(options: argparse.Namespace) -> list[Row]:
    """Return all ways of getting clips."""
    store = FrameStore(options.pack)
    batch, clips = min(options.batch, len(store)), options.clips
    rows = []
    for workers in options.workers:
        endless = _Endless(store, batch, workers)
        rows.append(Row(f"packed, {workers} threads", lambda e=endless: e.take(clips)))
    if options.processes:
        rows += process_rows(options.pack, batch, options.processes, clips)
    size = tuple(options.resident_px) if options.resident_px else None
    resident = ResidentFrames(store, options.device, size, threads=2)
    gathering = _Endless(resident, batch, 0)
    height, width = resident.size_px
    rows.append(Row(f"resident {height}x{width}", lambda: _synced(gathering.take(clips))))
    if options.videos:
        few = options.naive_clips
        listed = list_videos(options.videos)
        files = VideoFolderStore(
            VideoList("part", listed.items[: max(few, batch)], listed.classes)
        )
        for name, source in (("files", files), ("naive", NaiveVideos(files))):
            small = min(batch, 8)
            endless = _Endless(source, small, 2)
            rows.append(Row(f"{name}, 2 threads", lambda e=endless: e.take(few)))
    sampler = EpochSampler(len(store), 0, 0, batch)
    held = next(iter(ClipLoader(resident, sampler, CLIP)))
    for kind in ("paper", "strong"):
        for crop_px in options.crop_px:
            config = Augment(kind, crop_px=crop_px)

            def run(config: Augment = config) -> int:
                augment(held.frames[0], config, held.seeds[0])
                return _synced(batch)

            rows.append(Row(f"augment {kind} {height}x{width} -> {crop_px}", run))
    return rows


def _synced(clips: int) -> int:
    """Wait for the GPU, so that its work is in the time."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clips


def store_rows(pack: Path, folder: Path, reads: int, videos: int) -> list[Row]:
    """Return rows that read 8 encoded frames of random videos from each kind of store."""
    store = FrameStore(pack)
    kept = range(min(videos, len(store)))
    first = np.concatenate([[0], np.cumsum([store.frames_of(v) for v in kept])])
    frames = [store.encoded(v, f).tobytes() for v in kept for f in range(store.frames_of(v))]
    generator = np.random.default_rng(0)

    def clips() -> Iterator[np.ndarray]:
        for _ in range(reads):
            video = int(generator.integers(len(kept)))
            count = int(first[video + 1] - first[video])
            start = int(generator.integers(max(1, count - 16)))
            yield first[video] + np.minimum(start + 2 * np.arange(8), count - 1)

    def reader(get: Callable[[int], bytes]) -> Callable[[], int]:
        def run() -> int:
            for places in clips():
                for place in places:
                    if not len(get(int(place))):
                        raise RuntimeError("an empty frame")
            return reads

        return run

    video_of = np.repeat(np.arange(len(kept)), np.diff(first))

    def arrow(place: int) -> bytes:
        video = int(video_of[place])
        return store.encoded(video, place - int(first[video])).tobytes()

    rows = [Row("Arrow IPC", reader(arrow))]
    try:
        import lmdb
    except ImportError:
        print("lmdb is not installed: left out", file=sys.stderr)
    else:
        size = 2 * sum(map(len, frames)) + 2**26
        database = lmdb.open(str(folder / "lmdb"), map_size=size, readahead=False)
        with database.begin(write=True) as transaction:
            for place, data in enumerate(frames):
                transaction.put(place.to_bytes(8, "big"), data)
        reading = database.begin(buffers=True)
        rows.append(Row("LMDB", reader(lambda p: bytes(reading.get(p.to_bytes(8, "big"))))))
    try:
        from litdata.streaming import StreamingDataset
        from litdata.streaming.writer import BinaryWriter
    except ImportError:
        print("litdata is not installed: left out", file=sys.stderr)
    else:
        writer = BinaryWriter(str(folder / "litdata"), chunk_bytes="32MB")
        for place, data in enumerate(frames):
            writer[place] = data
        writer.done()
        writer.merge()
        dataset = StreamingDataset(str(folder / "litdata"))
        rows.append(Row("LitData", reader(lambda p: dataset[p])))
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("pack", type=Path, help="folder made by python -m training.pack")
    parser.add_argument("--videos", type=Path, help="the same videos unpacked: folder or manifest")
    parser.add_argument("--stores", action="store_true", help="compare stores instead")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--clips", type=int, default=960, help="clips in each round")
    parser.add_argument("--naive-clips", type=int, default=96, help="for the slow ways")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="threads")
    parser.add_argument("--processes", type=int, default=2, help="of torch's DataLoader; 0: none")
    parser.add_argument("--crop-px", type=int, nargs="+", default=[56, 112])
    parser.add_argument("--resident-px", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--device", default="cpu", help="where resident frames are")
    parser.add_argument("--threads", type=int, default=2, help="torch's CPU threads")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        if options.stores:
            rows = store_rows(options.pack, Path(folder), options.clips, videos=300)
        else:
            rows = loader_rows(options)
        for row in rows:
            row.run()
        for _ in range(options.rounds):
            for row in rows:
                row.measure()
    report = {
        "command": "python -m benchmarks.loader " + " ".join(arguments or sys.argv[1:]),
        "machine": machine(torch.device(options.device)),
        "rows": [row.result() for row in rows],
    }
    for row in report["rows"]:
        cpu = row["clips_per_cpu_second"]
        print(
            f"{row['name']:44} {row['clips_per_second']:9.1f} clips/s "
            f"{'' if cpu is None else f'{cpu:9.1f} clips per CPU second'}",
            file=sys.stderr,
        )
    if options.out:
        write_atomically(options.out, json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

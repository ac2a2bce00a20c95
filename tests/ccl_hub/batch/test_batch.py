"""Batches: the numbers of single videos, in bounded memory, whatever happens; nothing is left."""

from __future__ import annotations

import copy
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from batch_parts import (
    FakeEngine,
    ToldEngine,
    children,
    copies,
    held,
    leaves_nothing,
    long_video,
    make_video,
    spread_faults,
    text_of,
    wait_until,
    with_damaged_frames,
)
from media import Recipe, cut, irregular_ticks, write_video
from project import PYTHONPATH
from tiny_models import tiny_model

from ccl_hub.backends import Engine, TorchEngine
from ccl_hub.batch import BatchItem, BatchOptions, embed_batch, embed_many, pipeline
from ccl_hub.decoding.messages import DecodeSettings
from ccl_hub.embed import Embeddings, embed_video
from ccl_hub.errors import CCLError, InputError
from ccl_hub.model import CCLModel
from ccl_hub.network.frame_graph import FrameMaps
from ccl_hub.sampling import Sampling

ONE = BatchOptions(workers=1, threads=1)


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


def run(paths: list[Path], engine: Engine, **options: object) -> list[BatchItem]:
    """Embed with an engine; the items in order of the paths."""
    own = BatchOptions(**{"workers": 1, "threads": 1, **options})
    items = list(embed_batch(paths, [engine], Sampling(), own))
    assert sorted(item.index for item in items) == list(range(len(paths)))
    ordered = sorted(items, key=lambda item: item.index)
    assert [item.path for item in ordered] == paths
    return ordered


def codes(items: list[BatchItem]) -> list[str]:
    assert all((item.embeddings is None) == bool(item.code) for item in items)
    assert all(bool(item.code) == bool(item.reason) for item in items)
    return [item.code for item in items]


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


# Ending early ----------------------------------------------------------------------------------


def test_closing_early_leaves_nothing(model: CCLModel, videos: list[Path], faults: None) -> None:
    hanging = copies(videos[0], ["spin-open-x.mp4"]) * 4
    before = held()
    items = embed_many([videos[0], *hanging, *videos], model, options=BatchOptions(workers=2))
    assert next(items).code == ""
    assert len(children()) == 2
    items.close()
    assert held() == before


def test_an_error_of_the_consumer_leaves_nothing(model: CCLModel, videos: list[Path]) -> None:
    def consume() -> None:
        for item in embed_many(videos, model, options=BatchOptions(workers=2, threads=2)):
            raise LookupError(item.index)

    before = held()
    with pytest.raises(LookupError) as caught:
        consume()
    del caught
    gc.collect()
    assert held() == before


def test_ctrl_c_leaves_nothing(model: CCLModel, videos: list[Path], faults: None) -> None:
    hanging = copies(videos[0], ["sleep-open-x.mp4"])
    before = held()
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        list(embed_many(hanging * 3, model, options=BatchOptions(workers=2)))
    timer.join()
    gc.collect()
    assert held() == before


@pytest.mark.slow
def test_closing_in_a_thread_of_its_own(model: CCLModel, videos: list[Path]) -> None:
    """As the garbage collector may, for an iterator that was left in a cycle."""
    before = held()
    errors: list[BaseException] = []

    def close(frames: np.ndarray) -> None:
        if ready:
            try:
                ready[0].close()
            except ValueError:  # the other lane is at it
                return
            except BaseException as error:
                errors.append(error)

    ready: list[Generator[BatchItem, None, None]] = []
    engine = ToldEngine(FakeEngine(model, seconds=0.05), close)
    own = BatchOptions(workers=2, threads=2)
    items = embed_batch(videos * 3, [engine], Sampling(), own)
    next(items)
    ready.append(items)
    assert wait_until(lambda: not children() and held()["threads"] == before["threads"])
    assert errors == []
    ready.clear()
    del items, engine
    gc.collect()
    assert held() == before


def test_results_are_not_kept(model: CCLModel, videos: list[Path]) -> None:
    """Neither by idle lanes nor by the pipeline."""
    items = embed_many(itertools.chain(videos, itertools.repeat("no.mp4")), model, options=ONE)
    seen: list[weakref.ref[Embeddings]] = []
    while len(seen) < len(videos):
        item = next(items)
        if item.embeddings is not None:
            seen.append(weakref.ref(item.embeddings))
    item = next(items)
    assert item.code == "not_found"
    assert [ref for ref in seen if ref() is not None] == []
    items.close()


# Whole programs --------------------------------------------------------------------------------

PROGRAM = """
import sys
from ccl_hub import embed_many
from tiny_models import tiny_model
from ccl_hub.batch import BatchOptions
items = embed_many(sys.argv[1:], tiny_model(), options=BatchOptions(workers=2, threads=2))
"""
ALL = PROGRAM + "print(sorted((i.index, i.code, i.embeddings.clips.shape) for i in items))\n"


def start(
    arguments: list[object], folder: Path, text: str | None = None, extra: Path | None = None
) -> subprocess.Popen[str]:
    """Start Python in a folder, with the project on its path."""
    places = [PYTHONPATH] if extra is None else [str(extra), PYTHONPATH]
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if text is not None:
        process.stdin.write(text)
        process.stdin.close()
        process.stdin = None
    return process


def output(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, ""), err
    return out


@pytest.mark.parametrize("way", ["script", "-c", "stdin"])
@pytest.mark.slow
def test_a_program_without_main_guard(tmp_path: Path, videos: list[Path], way: str) -> None:
    """Run where files are named as modules that workers import."""
    (tmp_path / "program").mkdir()
    (tmp_path / "data").mkdir()
    if way == "script":  # with the others, Python itself imports from the current folder
        for name in ("av", "numpy", "ccl_hub", "traceback"):
            (tmp_path / "data" / f"{name}.py").write_text("raise SystemExit(9)")
    (tmp_path / "program" / "run.py").write_text(ALL)
    ways = {"script": [tmp_path / "program" / "run.py"], "-c": ["-c", ALL], "stdin": ["-"]}
    text = ALL if way == "stdin" else None
    process = start([*ways[way], *videos[:3]], tmp_path / "data", text)
    shapes = [(i, "", (10, 16)) for i in range(3)]
    assert output(process).strip() == str(shapes)


@pytest.mark.parametrize("end", ["", "raise SystemExit"])
def test_a_program_that_ends_before_its_iterator(
    tmp_path: Path, videos: list[Path], end: str
) -> None:
    text = PROGRAM + f"print(next(items).code, 'end')\n{end}\n"
    assert output(start(["-c", text, *videos * 3], tmp_path)).strip() == "end"


def test_killing_the_program_kills_hanging_workers(
    tmp_path: Path, videos: list[Path], faults: None
) -> None:
    hanging = copies(videos[0], ["spin-open-x.mp4", "sleep-open-x.mp4"])
    text = PROGRAM + "import os; print(os.getpid(), flush=True); list(items)"
    process = start(["-c", text, *hanging], tmp_path, extra=tmp_path / "site")
    pid = int(process.stdout.readline())

    def busy() -> list[int]:
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        found = [int(number) for task in tasks for number in text_of(task).split()]
        return [n for n in found if "SigIgn:\t0000000001001002" in _status(n)]

    assert wait_until(lambda: len(busy()) == 2)
    time.sleep(1.0)  # they are at their videos now
    workers = busy()
    process.kill()
    killed = time.monotonic()
    assert wait_until(lambda: all(not _runs(worker) for worker in workers), 10)
    assert time.monotonic() - killed < 5.0  # at once, but for a busy machine
    process.communicate()


def _status(pid: int) -> str:
    return text_of(Path(f"/proc/{pid}/status"))


def _runs(pid: int) -> bool:
    status = _status(pid)
    return bool(status) and "State:\tZ" not in status


# Memory and speed ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_memory_descriptors_and_threads_stay_flat(
    model: CCLModel, videos: list[Path], count: int
) -> None:
    def memory_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    own = BatchOptions(workers=2, threads=2)
    paths = itertools.islice(itertools.cycle([videos[1], videos[4], "no.mp4"]), count)
    facts = []
    for number, item in enumerate(embed_many(paths, model, clips=2, options=own)):
        assert item.code in ("", "not_found")
        if number % 20 == 19:
            facts.append((memory_mb(), len(os.listdir("/proc/self/fd")), len(children())))  # noqa: PTH208
    early, late = facts[count // 100], facts[-1]
    assert late[0] - early[0] < 20
    assert max(fds for _, fds, _ in facts) - early[1] <= 12  # workers are replaced meanwhile
    # One more while a worker is replaced: the old one still ends.
    assert {workers for *_, workers in facts} <= {1, 2, 3}, [
        (c, text_of(Path(f"/proc/{c}/cmdline"))) for c in children()
    ]


LONG = """
import sys
from ccl_hub.batch import BatchOptions, embed_batch
from ccl_hub.sampling import Sampling
from batch_parts import FakeEngine, children, peak_mb
from tiny_models import tiny_model
own = BatchOptions(workers=1, threads=2, frames=False)
engine = FakeEngine(tiny_model(), dim=510)
items = embed_batch([sys.argv[1]], [engine], Sampling(every_seconds=0.1), own)
item = next(items)
(worker,) = children()
print(*item.embeddings.clips.shape, item.embeddings.provenance.source_frames,
      peak_mb("self"), peak_mb(worker))
"""


@pytest.mark.slow
def test_an_hour_takes_the_memory_of_a_minute(tmp_path: Path) -> None:
    source = make_video(tmp_path, "source.mp4", 100)
    peaks = []
    for frames, windows in ((600, 589), (36_000, 35_989)):
        path = long_video(source, tmp_path / f"{frames}.mp4", frames)
        done = output(start(["-c", LONG, path], tmp_path))
        count, dim, found, ours, theirs = map(int, done.split())
        assert (count, dim, found) == (windows, 510, frames)
        peaks.append((ours, theirs))
    result_mb = 35_989 * 510 * 4 / 2**20
    assert peaks[1][0] - peaks[0][0] < 100 + result_mb, peaks
    assert peaks[1][1] - peaks[0][1] < 100, peaks


def test_lanes_wait_for_the_assembly_of_a_video(
    model: CCLModel, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    most, add = 0, pipeline._Attempt.add

    def slowly(attempt: pipeline._Attempt, maps: FrameMaps) -> None:
        nonlocal most
        time.sleep(0.02)
        most = max(most, len(attempt.waiting))
        add(attempt, maps)

    monkeypatch.setattr(pipeline, "MOST_WAITING", 3)
    monkeypatch.setattr(pipeline._Attempt, "add", slowly)
    own = BatchOptions(workers=1, threads=4)
    engine = FakeEngine(model)
    sources = [videos[5]] * 2
    items = list(embed_batch(sources, [engine], Sampling(every_seconds=0.1), own))
    assert codes(items) == ["", ""]
    np.testing.assert_array_equal(items[0].embeddings.clips, items[1].embeddings.clips)
    assert 1 <= most <= 3, most


def test_decoding_and_computing_overlap(model: CCLModel, videos: list[Path], faults: None) -> None:
    """Each alone takes 0.25 s a block of 16 frames, all of it asleep."""
    (slow,) = copies(videos[5], ["slow-15-x.mp4"])

    def seconds(engine: FakeEngine) -> float:
        """Time from the first result, so that no process starts in it, to the last."""
        sources = [videos[1], slow]
        items = embed_batch(sources, [engine], Sampling(every_seconds=0.1), ONE)
        assert next(items).code == ""
        began = time.monotonic()
        assert next(items).code == ""
        took = time.monotonic() - began
        items.close()
        return took

    decoding, both = seconds(FakeEngine(model)), seconds(FakeEngine(model, 0.22))
    computing = 0.22 * 400 / 16
    assert decoding > 6
    assert both < max(computing, decoding) / 0.9, (computing, decoding, both)

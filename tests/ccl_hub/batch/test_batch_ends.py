"""However a batch ends, nothing is left; memory, descriptors and threads stay flat meanwhile."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from batch_parts import (
    FakeEngine,
    ToldEngine,
    children,
    codes,
    copies,
    held,
    long_video,
    make_video,
    text_of,
    wait_until,
)
from project import PYTHONPATH

from ccl_hub.batch import BatchItem, BatchOptions, embed_batch, embed_many, pipeline
from ccl_hub.embed import Embeddings
from ccl_hub.model import CCLModel
from ccl_hub.network.frame_maps import FrameMaps
from ccl_hub.sampling import Sampling

ONE = BatchOptions(workers=1, threads=1)


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


@pytest.mark.parametrize(
    "way", ["script", *(pytest.param(way, marks=pytest.mark.slow) for way in ("-c", "stdin"))]
)
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
        return [number for number in found if _ignores_ctrl_c(number)]

    try:
        assert wait_until(lambda: len(busy()) == 2)
        time.sleep(1.0)  # they are at their videos now
        workers = busy()
    finally:
        process.kill()
    killed = time.monotonic()
    assert wait_until(lambda: all(not _runs(worker) for worker in workers), 10)
    assert time.monotonic() - killed < 5.0  # at once, but for a busy machine
    process.communicate()


def _ignores_ctrl_c(pid: int) -> bool:
    mask = _status(pid).partition("SigIgn:")[2].split()
    return bool(mask) and bool(int(mask[0], 16) & 1 << signal.SIGINT - 1)


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


@pytest.mark.slow
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
    # One after the other they would take the sum; a busy machine makes both a little longer.
    assert both < 0.8 * (computing + decoding), (computing, decoding, both)

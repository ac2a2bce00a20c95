"""Decoding processes that crash, hang, overeat or cannot start: each costs one video at most."""

from __future__ import annotations

import gc
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_parts import (
    children,
    copies,
    held,
    leaves_nothing,
    make_video,
    spread_faults,
    wait_until,
)
from media import Recipe, cut, write_video

from ccl_hub.batch.options import LEAST_WORKER_BYTES
from ccl_hub.config import Preprocessing
from ccl_hub.crop import centre_crop
from ccl_hub.decoding import pool as decode_pool
from ccl_hub.decoding.messages import DecodeSettings, Job
from ccl_hub.decoding.pool import Block, DecodeEvents, DecodePool
from ccl_hub.errors import CCLError
from ccl_hub.sampling import ClipPlan, Sampling
from ccl_hub.video import MediaLimits, SourceFacts, VideoReader

PAPER = Preprocessing()
GOOD = ("", "")


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


class Watched:
    """A pool, and what it tells.

    Args:
        hold: Keep the blocks until :meth:`give_back`.
        settings: Of the workers, and of the pool.
    """

    def __init__(
        self,
        workers: int = 1,
        deadline: float = 60.0,
        hold: bool = False,
        recycle: int = 256,
        **settings: Any,
    ) -> None:
        self.hold, self.held = hold, []
        self.plans: dict[int, ClipPlan] = {}
        self.frames: dict[int, list[np.ndarray]] = {}
        self.over: queue.Queue[tuple[int, tuple[str, str]]] = queue.Queue()
        self.facts: dict[int, SourceFacts] = {}
        self.error: BaseException | None = None
        values = {"preprocessing": PAPER, "sampling": Sampling(), "limits": MediaLimits()}
        events = DecodeEvents(
            plan=self._plan,
            frames=self._frames,
            end=self._end,
            failed=lambda number, code, reason: self.over.put((number, (code, reason))),
            broken=self._broken,
        )
        own = DecodeSettings(**{**values, **settings})
        self.pool = DecodePool(own, events, workers, deadline, recycle)

    def _plan(self, number: int, plan: ClipPlan) -> None:
        self.plans[number], self.frames[number] = plan, []

    def _frames(self, number: int, block: Block) -> None:
        self.frames[number].append(block.frames if self.hold else block.frames.copy())
        self.held.append(block) if self.hold else block.release()

    def _end(self, number: int, facts: SourceFacts) -> None:
        self.facts[number] = facts
        self.over.put((number, GOOD))

    def _broken(self, error: BaseException) -> None:
        self.error = error
        self.over.put((-1, ("broken", str(error))))

    def give_back(self) -> None:
        """Release what is held, and from now on everything at once."""
        self.hold = False
        while self.held:
            self.held.pop(0).release()

    def decode(self, paths: Iterable[Path], first: int = 0) -> list[tuple[str, str]]:
        """Decode some videos; return how each ended, in order."""
        numbers = range(first, first)
        for number, path in enumerate(paths, first):
            self.pool.submit(Job(number, path))
            numbers = range(first, number + 1)
        found: dict[int, tuple[str, str]] = {}
        while len(found) < len(numbers):
            number, outcome = self.over.get(timeout=120)
            assert number not in found, "a video ended twice"
            assert number >= 0, outcome[1]
            found[number] = outcome
        return [found[number] for number in numbers]


@contextmanager
def watched(**options: Any) -> Iterator[Watched]:
    one = Watched(**options)
    try:
        yield one
    finally:
        one.pool.close()


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Process ids of the workers, as they are started."""
    start, ids = decode_pool._start, []

    def noted(settings: DecodeSettings) -> Any:
        worker = start(settings)
        ids.append(worker.process.pid)
        return worker

    monkeypatch.setattr(decode_pool, "_start", noted)
    return ids


def cropped(path: Path, indices: np.ndarray) -> np.ndarray:
    with VideoReader(path, resize=PAPER) as reader:
        return np.stack([centre_crop(f, PAPER.crop_px) for _, f in reader.frames(indices)])


def test_frames_are_those_of_a_reader(video: Path) -> None:
    before = held()
    with watched() as one:
        assert one.decode([video]) == [GOOD]
        wanted = np.unique(one.plans[0].indices)
        assert [len(block) for block in one.frames[0]] == [16, 16, 2]
        np.testing.assert_array_equal(np.concatenate(one.frames[0]), cropped(video, wanted))
        assert (one.facts[0].frames, one.facts[0].completeness) == (40, "complete")
    one.frames.clear()
    del one
    assert held() == before


@pytest.mark.parametrize(
    ("fault", "word"), [("abort", "SIGABRT"), ("segv", "SIGSEGV"), ("kill", "SIGKILL")]
)
def test_a_crash_costs_one_video_and_names_the_signal(
    video: Path, faults: None, fault: str, word: str
) -> None:
    bad = copies(video, [f"{fault}-{place}-x.mp4" for place in ("open", 0, 20, 20, 33)])
    with watched(workers=2) as one:
        outcomes = one.decode([video, bad[0], bad[1], video, bad[2], bad[3], bad[4], video])
    assert [code for code, _ in outcomes] == ["", *["crashed"] * 2, "", *["crashed"] * 3, ""]
    assert all(word in reason for code, reason in outcomes if code)
    hint = "memory" if word == "SIGKILL" else "crashes the decoder"
    assert hint in outcomes[1][1]


@pytest.mark.parametrize(("fault", "exit_code"), [("exit", 3), ("systemexit", 5)])
def test_a_worker_that_ends_itself_costs_one_video(
    video: Path, faults: None, fault: str, exit_code: int
) -> None:
    (bad,) = copies(video, [f"{fault}-20-x.mp4"])
    with watched() as one:
        outcomes = one.decode([bad, video])
    assert outcomes[0][0] == "crashed" and f"exit code {exit_code}" in outcomes[0][1]
    assert outcomes[1] == GOOD


@pytest.mark.parametrize("fault", ["spin", "sleep"])
def test_a_hang_costs_one_deadline(
    video: Path, faults: None, starts: list[int], fault: str
) -> None:
    bad = copies(video, [f"{fault}-20-x.mp4", f"{fault}-open-x.mp4"])
    with watched(deadline=2.0) as one:
        assert one.decode([video]) == [GOOD]
        began = time.monotonic()
        outcomes = one.decode([bad[0], video, bad[1], video], first=1)
        took = time.monotonic() - began
    assert [code for code, _ in outcomes] == ["timeout", "", "timeout", ""]
    assert "after 2 s" in outcomes[0][1] and "--deadline" in outcomes[0][1]
    assert 4.0 <= took < 25.0, took  # two deadlines, and two new processes on a busy machine
    assert len(starts) == 3


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("runtime", "internal", "RuntimeError in faults.py, line"),
        ("key", "internal", "KeyError"),
        ("unicode", "internal", "invalid start byte"),
        ("recursion", "internal", "RecursionError"),
        ("disk", "unreadable", "Input/output error"),
        ("damaged", "damaged", "cannot be decoded"),
        ("eat", "too_large", "--memory-limit"),
    ],
)
def test_an_error_in_a_worker_costs_one_video_and_no_process(
    video: Path,
    faults: None,
    starts: list[int],
    capfd: pytest.CaptureFixture[str],
    fault: str,
    code: str,
    words: str,
) -> None:
    bad = copies(video, [f"{fault}-open-x.mp4", f"{fault}-20-x.mp4"])
    with watched(memory_bytes=600 << 20) as one:
        outcomes = one.decode([bad[0], video, bad[1], bad[1], video])
    assert [found for found, _ in outcomes] == [code, "", code, code, ""]
    assert all(words in reason for found, reason in outcomes if found)
    assert len(starts) == (4 if code == "too_large" else 1)  # where memory is in pieces
    assert capfd.readouterr().err == ""


def test_memory_beyond_the_limit_costs_one_video(
    tmp_path: Path, video: Path, starts: list[int]
) -> None:
    """Decoders that get no memory may call frames damaged, and go on without them."""

    def grey(number: int, width: int, height: int) -> np.ndarray:
        return np.full((height, width, 3), 50 + number, np.uint8)

    large = make_video(tmp_path, "large.mp4", 8, size=(3840, 2160), make=grey)
    refused = 0
    for limit_mb in (8, 24, 40, 48, 64):
        with watched(memory_bytes=limit_mb << 20) as one:
            outcomes = one.decode([video, large, video])
            assert [code for code, _ in outcomes[::2]] == ["", ""]
            if outcomes[1] == GOOD:
                assert one.facts[1].completeness == "complete", limit_mb
            else:
                assert outcomes[1][0] == "too_large", (limit_mb, outcomes)
                assert "memory" in outcomes[1][1]
                refused += 1
    assert refused >= 2
    starts.clear()
    with watched(memory_bytes=600 << 20) as one:
        assert one.decode([large, video]) == [GOOD, GOOD]
    assert len(starts) == 1


def test_more_windows_than_are_allowed_cost_one_video(tmp_path: Path, video: Path) -> None:
    still = make_video(tmp_path, "one.mp4", 1)
    with watched(sampling=Sampling(every_seconds=1e-6)) as one:
        outcomes = one.decode([video, still])
    assert [code for code, _ in outcomes] == ["too_large", ""]
    assert "more than 1000000 windows" in outcomes[0][1]


def test_damaged_videos_do_not_use_up_the_ring(video: Path, faults: None) -> None:
    bad = copies(video, [f"damaged-{place}-x.mp4" for place in (0, 7, 20, 33)])
    with watched(slots=3, deadline=20.0) as one:
        outcomes = one.decode([*bad, *bad, video])
    assert [code for code, _ in outcomes] == ["damaged"] * 8 + [""]


def test_waiting_for_the_network_is_no_time_of_the_video(video: Path) -> None:
    """Neither in its middle nor before its first block, while those of the last are taken."""
    with watched(slots=3, deadline=2.0, hold=True) as one:
        assert one.decode([video]) == [GOOD]  # its three blocks fill the ring
        one.pool.submit(Job(1, video))
        time.sleep(4.0)
        assert one.over.empty()
        for _ in range(2):
            one.held.pop(0).release()
        assert wait_until(lambda: len(one.held) == 3)
        time.sleep(3.0)
        assert one.over.empty()
        one.give_back()
        assert one.over.get(timeout=60) == (1, GOOD)
    assert sum(map(len, one.frames[1])) == 34


def test_a_worker_that_hangs_after_waiting_is_found(video: Path, faults: None) -> None:
    (bad,) = copies(video, ["sleep-33-x.mp4"])
    with watched(slots=1, deadline=2.0, hold=True) as one:
        one.pool.submit(Job(0, bad))
        time.sleep(3.0)
        one.give_back()
        number, (code, _) = one.over.get(timeout=60)
    assert (number, code) == (0, "timeout")


def test_blocks_of_a_dead_worker_stay_readable(video: Path, faults: None) -> None:
    (bad,) = copies(video, ["kill-33-x.mp4"])
    with watched(hold=True) as one:
        assert one.decode([bad])[0][0] == "crashed"
        assert [len(block) for block in one.frames[0]] == [16, 16]
        wanted = np.unique(one.plans[0].indices)[:32]
        np.testing.assert_array_equal(np.concatenate(one.frames[0]), cropped(video, wanted))
        one.give_back()
        assert one.decode([video], first=1) == [GOOD]


@pytest.mark.parametrize("hold", [False, True], ids=["idle", "while blocks wait"])
def test_workers_are_replaced_after_some_videos(
    video: Path, starts: list[int], hold: bool
) -> None:
    with watched(recycle=2, hold=hold) as one:
        assert one.decode([video] * 7) == [GOOD] * 7
        assert len(starts) == 4 and len(set(starts)) == 4
        assert wait_until(lambda: children() == starts[-1:])
        found = [np.concatenate(one.frames[number]) for number in range(7)]
        wanted = cropped(video, np.unique(one.plans[0].indices))
    for frames in found:
        np.testing.assert_array_equal(frames, wanted)


def broken(**options: Any) -> BaseException:
    """Return the error of a pool that cannot go on."""
    with watched(**options) as one:
        one.pool.submit(Job(0, Path("x.mp4")))
        assert one.over.get(timeout=120)[0] == -1
        assert one.error is not None
    return one.error


def test_workers_that_end_at_their_start_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: list[int]
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(7)")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = held()
    error = broken()
    assert isinstance(error, CCLError)
    assert "cannot start" in str(error) and "exit code 7" in str(error)
    assert len(starts) == 3
    del error  # its traceback knows the last worker
    gc.collect()
    assert held() == before


def test_workers_that_hang_at_their_start_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(3600)")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(decode_pool, "_START_SECONDS", 0.5)
    error = broken(workers=2)
    assert isinstance(error, CCLError) and "0.5 s" in str(error)
    assert children() == []


def test_no_processes_to_be_had_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    before = held()
    error = broken()
    assert isinstance(error, CCLError) and "/no/such/python" in str(error)
    assert held() == before


def test_a_process_that_cannot_be_killed_does_not_stop_the_others(
    video: Path, faults: None, monkeypatch: pytest.MonkeyPatch, starts: list[int]
) -> None:
    """As one that waits in the kernel for a network disk."""
    (bad,) = copies(video, ["sleep-20-x.mp4"])
    end: list[Callable[[], None]] = []
    kill = subprocess.Popen.kill

    def immortal(process: subprocess.Popen[bytes]) -> None:
        if process.pid == starts[0]:
            end.append(lambda: (kill(process), process.wait()))  # type: ignore[arg-type]
        else:
            kill(process)

    monkeypatch.setattr(subprocess.Popen, "kill", immortal)
    monkeypatch.setattr(decode_pool, "_KILL_SECONDS", 0.2)
    with watched(deadline=2.0) as one:
        began = time.monotonic()
        assert [code for code, _ in one.decode([bad, video])] == ["timeout", ""]
        assert time.monotonic() - began < 30
    end[0]()
    assert children() == []


def test_modules_beside_the_videos_are_not_imported(
    tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("av", "numpy", "signal", "ccl_hub", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    with watched() as one:
        assert one.decode([video]) == [GOOD]


def test_modules_are_searched_where_this_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = str(Path(decode_pool.__file__).parents[2])
    monkeypatch.setattr(sys, "path", ["", "/a", Path("/ignored"), "/stdlib", parent, "/b"])
    assert decode_pool._module_folders() == ["/a", "/stdlib", parent, "/b"]
    monkeypatch.setattr(sys, "path", ["/a"])  # as after torch.hub, whose folder is gone again
    assert decode_pool._module_folders() == [parent, "/a"]


def test_ctrl_c_is_not_for_workers(video: Path, starts: list[int]) -> None:
    with watched() as one:
        assert one.decode([video]) == [GOOD]
        status = Path(f"/proc/{starts[0]}/status").read_text()
        ignored = int(status.split("SigIgn:")[1].split()[0], 16)
        assert ignored & 1 << (2 - 1)  # SIGINT


def test_closing_ends_hanging_workers_and_may_be_repeated(video: Path, faults: None) -> None:
    (bad,) = copies(video, ["spin-open-x.mp4"])
    before = held()
    one = Watched(workers=2)
    for number in range(5):
        one.pool.submit(Job(number, bad))
    assert wait_until(lambda: len(children()) == 2)
    one.pool.close()
    one.pool.close()
    one.pool.submit(Job(9, bad))
    del one
    assert held() == before


def test_a_damaged_video_is_no_matter_of_memory_with_a_small_limit(
    tmp_path: Path, video: Path
) -> None:
    whole = write_video(tmp_path, Recipe("whole.mkv", "mpeg4", 60, (48, 32)))
    cut(whole, tmp_path / "cut.mkv", 0.6)
    with watched(memory_bytes=LEAST_WORKER_BYTES) as one:
        assert one.decode([tmp_path / "cut.mkv", video]) == [GOOD, GOOD]
        assert one.facts[0].completeness == "incomplete"


def test_many_workers_at_once(video: Path) -> None:
    with watched(workers=5) as one:
        assert one.decode([video] * 40) == [GOOD] * 40
        assert len(children()) <= 5


BOMB = """
import queue, resource, sys
from pathlib import Path
from ccl_hub.config import Preprocessing
from ccl_hub.decoding.pool import DecodeEvents, DecodePool
from ccl_hub.decoding.messages import DecodeSettings, Job
from ccl_hub.sampling import Sampling
from ccl_hub.video import MediaLimits
over = queue.Queue()
events = DecodeEvents(
    plan=lambda *_: None,
    frames=lambda _, block: block.release(),
    end=lambda *_: over.put("fine"),
    failed=lambda _, code, reason: over.put(code),
    broken=over.put,
)
settings = DecodeSettings(Preprocessing(), Sampling(), MediaLimits())
for path in sys.argv[1:]:
    pool = DecodePool(settings, events, 1, 60.0)
    pool.submit(Job(0, Path(path)))
    outcome = over.get(timeout=60)
    pool.close()
    print(outcome, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""


def test_bombs_are_refused_in_little_memory(tmp_path: Path, video: Path) -> None:
    """Run in a small process, as ``ru_maxrss`` begins with the memory of the one that forks."""
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xea\x60\0\0\xea\x60\x08\2\0\0\0" + bytes(4)
    (tmp_path / "header.png").write_bytes(png + b"\0\0\0\0IEND")

    def grey(number: int, width: int, height: int) -> np.ndarray:
        return np.full((height, width, 3), 99, np.uint8)

    huge = make_video(tmp_path, "huge.mp4", 1, size=(8192, 8192), make=grey)
    paths = [str(path) for path in (video, tmp_path / "header.png", huge)]
    starter = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
    command = [sys.executable, "-c", starter, sys.executable, "-c", BOMB, *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [code for code, _ in lines] == ["fine", "too_large", "too_large"], done.stderr
    baseline, peak = int(lines[0][1]), int(lines[2][1])
    assert baseline < 200, "the measurement is of another process"
    assert peak - baseline < 300

"""How decoding processes start and end, what they import, and how little memory bombs take."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_parts import (
    children,
    copies,
    held,
    make_video,
    wait_until,
)
from watched_pool import GOOD, Watched, watched

from ccl_hub.decoding import pool as decode_pool
from ccl_hub.decoding import process
from ccl_hub.decoding.messages import Job
from ccl_hub.errors import CCLError


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
    monkeypatch.setattr(process, "_KILL_SECONDS", 0.2)
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
    parent = str(Path(process.__file__).parents[2])
    monkeypatch.setattr(sys, "path", ["", "/a", Path("/ignored"), "/stdlib", parent, "/b"])
    assert process.module_folders() == ["/a", "/stdlib", parent, "/b"]
    monkeypatch.setattr(sys, "path", ["/a"])  # as after torch.hub, whose folder is gone again
    assert process.module_folders() == [parent, "/a"]


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


BOMB = """
import queue, resource, sys
from pathlib import Path
from ccl_hub.config import Preprocessing
from ccl_hub.decoding.pool import Block, DecodePool
from ccl_hub.decoding.messages import DecodeSettings, Ended, Failed, Job
from ccl_hub.sampling import Sampling
from ccl_hub.video import MediaLimits
over = queue.Queue()
def hear(event):
    match event:
        case Block():
            event.release()
        case Ended():
            over.put("fine")
        case Failed():
            over.put(event.code)
        case BaseException():
            over.put(event)
settings = DecodeSettings(Preprocessing(), Sampling(), MediaLimits())
for path in sys.argv[1:]:
    pool = DecodePool(settings, hear, 1, 60.0)
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

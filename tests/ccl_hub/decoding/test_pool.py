"""Decoding processes that crash, hang or overeat: each costs one video at most."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from batch_parts import (
    children,
    copies,
    held,
    make_video,
    wait_until,
)
from media import Recipe, cut, write_video
from watched_pool import GOOD, PAPER, watched

from ccl_hub.batch.options import LEAST_WORKER_BYTES
from ccl_hub.crop import center_crop
from ccl_hub.decoding.messages import Job
from ccl_hub.sampling import Sampling
from ccl_hub.video import VideoReader


def cropped(path: Path, indices: np.ndarray) -> np.ndarray:
    with VideoReader(path, resize=PAPER) as reader:
        return np.stack([center_crop(f, PAPER.crop_px) for _, f in reader.frames(indices)])


def test_frames_are_those_of_a_reader(video: Path) -> None:
    before = held()
    with watched() as one:
        assert one.decode([video]) == [GOOD]
        indices = np.unique(one.plans[0].indices)
        assert [len(block) for block in one.frames[0]] == [16, 16, 2]
        np.testing.assert_array_equal(np.concatenate(one.frames[0]), cropped(video, indices))
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
    bad = copies(video, [f"{fault}-{frame}-x.mp4" for frame in ("open", 0, 20, 20, 33)])
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
    assert [outcome for outcome, _ in outcomes] == [code, "", code, code, ""]
    assert all(words in reason for outcome, reason in outcomes if outcome)
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
    bad = copies(video, [f"damaged-{frame}-x.mp4" for frame in (0, 7, 20, 33)])
    with watched(slots=3, deadline=20.0) as one:
        outcomes = one.decode([*bad, *bad, video])
    assert [code for code, _ in outcomes] == ["damaged"] * 8 + [""]


@pytest.mark.slow
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


@pytest.mark.slow
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
        indices = np.unique(one.plans[0].indices)[:32]
        np.testing.assert_array_equal(np.concatenate(one.frames[0]), cropped(video, indices))
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
        results = [np.concatenate(one.frames[number]) for number in range(7)]
        expected = cropped(video, np.unique(one.plans[0].indices))
    for frames in results:
        np.testing.assert_array_equal(frames, expected)


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

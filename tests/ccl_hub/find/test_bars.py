"""Black bars: found where they are, and nowhere else; cut off in files, processes and arrays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scenes import HEIGHT, WIDTH, footage, letterboxed, scene, written

from ccl_hub.config import CCLConfig, Preprocessing
from ccl_hub.video import VideoReader
from ccl_hub.video.bars import BarFinder, Bars, BarsFoundError
from ccl_hub.video.pixels import resize_rgb

KEEP = Preprocessing()
CUT = replace(KEEP, bars="cut")


def bars_of(frames) -> Bars | None:
    finder = BarFinder()
    for frame in frames:
        finder.see(resize_rgb(frame[None], KEEP)[0])
    return finder.bars()


def shots(count: int = 20):
    return [scene(1, n / 4) for n in range(count)]


def test_bars_are_found_on_each_axis_and_on_both() -> None:
    above = bars_of(map(letterboxed, shots()))
    assert above is not None and above.left == 0 and above.top == pytest.approx(0.2, abs=0.02)
    beside = bars_of(np.pad(frame, ((0, 0), (40, 40), (0, 0))) for frame in shots())
    assert beside is not None and beside.top == 0
    assert beside.left == pytest.approx(40 / (WIDTH + 80), abs=0.02)
    both = bars_of(np.pad(frame, ((20, 20), (40, 40), (0, 0))) for frame in shots())
    assert both is not None and both.top > 0.1 and both.left > 0.1


def logo(_: np.ndarray) -> np.ndarray:
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    frame[(y - HEIGHT / 2) ** 2 + (x - WIDTH / 2) ** 2 < 40**2] = 200
    return frame


@pytest.mark.parametrize(
    "frames",
    [
        shots(),
        [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 20,
        [logo(frame) for frame in shots()],
        [frame // 12 for frame in shots()],  # a dark scene
        [letterboxed(frame) for frame in shots(4)] + shots()[4:],
    ],
    ids=["none", "black", "a logo on black", "a dark scene", "a few frames alone"],
)
def test_what_has_no_bars_is_left_whole(frames) -> None:
    assert bars_of(frames) is None


def test_a_reader_tells_bars_early_and_cuts_them_off(tmp_path: Path) -> None:
    path = footage(tmp_path / "boxed.mp4", 1, edit=letterboxed)
    plain = footage(tmp_path / "plain.mp4", 1)
    numbers = list(range(0, 100, 4))
    with VideoReader(path, resize=CUT) as reader:
        seen = []
        with pytest.raises(BarsFoundError) as found:
            for number, _ in reader.frames(numbers):
                seen.append(number)
        assert len(seen) < 16
        reader.cut_bars(found.value.bars)
        cut = np.stack([frame for _, frame in reader.frames(numbers)]).astype(int)
    with VideoReader(plain, resize=CUT) as reader:
        whole = np.stack([frame for _, frame in reader.frames(numbers)]).astype(int)
    with VideoReader(path, resize=KEEP) as reader:
        kept = np.stack([frame for _, frame in reader.frames(numbers)]).astype(int)
    assert cut.shape == whole.shape == (25, 128, 171, 3)
    assert np.abs(cut - whole).mean() < 10 < np.abs(kept - whole).mean()


def test_bars_of_a_turned_video_are_those_that_are_seen() -> None:
    bars = Bars(0.1, 0.2, 0.3, 0.4)
    assert bars.as_stored(False, False, True) == Bars(0.1, 0.2, 0.4, 0.3)
    assert bars.as_stored(False, True, False) == Bars(0.2, 0.1, 0.3, 0.4)
    assert bars.as_stored(True, False, False) == Bars(0.3, 0.4, 0.1, 0.2)


def test_key_frames_alone_are_taken(tmp_path: Path) -> None:
    from ccl_hub.sampling import Sampling

    path = written(tmp_path / "keys.mp4", (scene(1, n / 12) for n in range(100)))  # one of 24
    with VideoReader(path, resize=replace(KEEP, key_frames_only=True)) as reader:
        keys = reader.info.key_frames.tolist()
        assert len(keys) >= 5
        plan = reader.plan(Sampling(every_seconds=1.0))
        assert set(np.unique(plan.indices).tolist()) <= set(keys)
        fast = {number: frame for number, frame in reader.frames(keys)}
    with VideoReader(path, resize=KEEP) as reader:
        for number, frame in reader.frames(keys):
            assert np.array_equal(frame, fast[number])


def test_hashes_of_models_that_keep_bars_are_as_they_were() -> None:
    assert "bars" not in KEEP.identity() and "key_frames_only" not in KEEP.identity()
    usual, cut = CCLConfig(), CCLConfig(preprocessing=CUT)
    assert usual.fingerprint() == CCLConfig(preprocessing=replace(CUT, bars="keep")).fingerprint()
    assert usual.fingerprint() != cut.fingerprint()

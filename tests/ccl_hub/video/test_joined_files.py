"""Joined, interrupted and cut files: frames that are there are given, and what is missing is told.

Every frame shows its own number, so that which frame is shown when can be read off its pixels.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media import Recipe, numbered_frame, write_video
from timed_videos import B_FRAMES, PAPER, assert_right, read_numbers, regular, with_sound

from ccl_hub.video import VideoReader

TS_TURN_SECONDS = 2**33 / 90_000
HOUR = 3600


def piece(folder: Path, name: str, start_seconds: float, first: int, count: int = 25) -> bytes:
    """Return a stream of frames numbered from ``first``, whose clock starts as given."""
    suffix = Path(name).suffix
    recipe = Recipe(
        f"{first}{suffix}",
        "mpeg2video" if suffix == ".mpg" else "libx264",
        count,
        options={"b": "3M"} if suffix == ".mpg" else B_FRAMES,
        shift=round(start_seconds * 25),
        make=lambda number, *size: numbered_frame(first + number, *size),
    )
    return write_video(folder, recipe).read_bytes()


@pytest.mark.parametrize("name", ["v.ts", "v.mpg"])
@pytest.mark.parametrize(
    "starts",
    [(0, 600, 1200), (600, 0, 0), (0, 40 * HOUR / 2, 5), (TS_TURN_SECONDS - 5, 30, 100)],
    ids=["ahead", "back", "wild", "turned"],
)
def test_joined_streams_last_as_long_as_what_they_show(
    tmp_path: Path, name: str, starts: tuple[float, ...]
) -> None:
    path = tmp_path / name
    path.write_bytes(
        b"".join(piece(tmp_path, name, start, 25 * i) for i, start in enumerate(starts))
    )
    info, numbers = read_numbers(path)
    assert [n for n in numbers if n is not None] == [n for n in range(75) if n in numbers]
    assert len(numbers) >= 70  # a decoder may drop pictures where pieces join
    assert info.duration_seconds == pytest.approx(3.0, abs=0.25)
    assert np.diff(info.seconds).max() < 0.25
    assert "the clock breaks" in info.note
    assert info.completeness == "unknown"  # a joint is no damage


def test_a_piece_that_is_missing_is_damage(tmp_path: Path) -> None:
    """Its packets are counted, and the clock does not start over."""
    data = piece(tmp_path, "v.ts", 0, 0, 75)
    packets = [data[i : i + 188] for i in range(0, len(data), 188)]
    path = tmp_path / "v.ts"
    path.write_bytes(b"".join(packets[:100] + packets[121:]))  # they count to 16
    with VideoReader(path, resize=PAPER) as reader:
        assert reader.info.completeness == "incomplete"


def test_a_clock_that_turns_over_goes_on(tmp_path: Path) -> None:
    """33 bits of 90 kHz last for 26.5 hours."""
    path = tmp_path / "v.ts"
    path.write_bytes(piece(tmp_path, "v.ts", TS_TURN_SECONDS - 1.5, 0, 75))
    assert_right(path, regular(75))


def test_a_pause_that_sound_fills_is_real_in_a_transport_stream(tmp_path: Path) -> None:
    seconds = [*regular(25).tolist(), *(60 + regular(25)).tolist()]
    path = with_sound(tmp_path / "v.ts", seconds, [(0.0, 61.0)])
    info = assert_right(path, seconds)
    assert "breaks" not in info.note


def test_a_jump_of_picture_and_sound_is_a_break(tmp_path: Path) -> None:
    seconds = [*regular(25).tolist(), *(60 + regular(25)).tolist()]
    path = with_sound(tmp_path / "v.ts", seconds, [(0.0, 1.0), (60.0, 61.0)])
    assert_right(path, regular(50))


# Frames that are there ---------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg"])
def test_dropped_frames_of_an_avi_are_complete(tmp_path: Path, codec: str) -> None:
    """A camera stores a dropped frame as an empty chunk: the picture before lasts longer."""
    slots = [0, 1, 2, 5, 6, 7, 20, 21, 40, 60]
    path = tmp_path / "dropped.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"bf": "0"})
        stream.width, stream.height = 160, 128
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number, slot in enumerate(slots):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, 160, 128), "rgb24")
            frame.pts, frame.time_base = slot, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info = assert_right(path, np.array(slots) / 25)
    assert (info.completeness, info.note, info.expected_frames) == ("complete", "", 10)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    info, _ = read_numbers(path)
    assert info.completeness == "incomplete"


def test_a_cut_file_gives_its_frames_whatever_the_interleaving(tmp_path: Path) -> None:
    """All video, then all sound: the first sample that is missing is one of sound."""
    fine = with_sound(tmp_path / "fine.mp4", regular(100).tolist(), [(0.0, 4.0)])
    coarse = tmp_path / "coarse.mp4"
    options = {"movflags": "faststart", "max_interleave_delta": "1"}
    with av.open(str(coarse), "w", options=options) as target:
        with av.open(str(fine)) as source:
            copies = [target.add_stream_from_template(s) for s in source.streams]
        for copy in copies:
            with av.open(str(fine)) as source:
                for packet in source.demux(source.streams[copy.index]):
                    if packet.dts is not None:
                        packet.stream = copy
                        target.mux(packet)
    with VideoReader(coarse, resize=PAPER) as reader:
        assert reader.info.completeness == "complete"
    with av.open(str(coarse)) as container:
        cut_at = [p.pos for p in container.demux(video=0) if p.size][60]
    path = tmp_path / "cut.mp4"
    path.write_bytes(coarse.read_bytes()[:cut_at])
    info, numbers = read_numbers(path)
    assert numbers == list(range(60))
    assert (info.completeness, info.expected_frames) == ("incomplete", 100)
    assert "60 of 100 frames are in the file" in info.note


def test_what_decoding_finds_does_not_hide_what_was_mended(tmp_path: Path) -> None:
    recipe = Recipe("v.avi", "mpeg4", 75, options={"bf": "2", "g": "12", "b": "2M"})
    with VideoReader(write_video(tmp_path, recipe), resize=PAPER) as reader:
        reader._listed_note = "told before"
        reader._note_missing(3)
        assert reader.info.note == "1 frame could not be decoded, the first is 3; told before"

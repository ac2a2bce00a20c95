"""The right times whatever the container keeps: decode times, broken clocks, joined streams.

Every frame shows its own number, so that which frame is shown when can be read off its pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media import Recipe, irregular_ticks, numbered_frame, read_number, write_video

from ccl_hub.config import Preprocessing
from ccl_hub.model import CCLModel
from ccl_hub.video import MediaLimits, VideoInfo, VideoReader

PAPER = Preprocessing()
B_FRAMES = {"x264-params": "bframes=3:b-adapt=0:keyint=25:scenecut=0"}
H264 = Recipe("source.mp4", "libx264", 75, options=B_FRAMES)
HEVC = {"preset": "ultrafast", "x265-params": "keyint=25:bframes=3:b-adapt=0:log-level=none"}
TS_TURN_SECONDS = 2**33 / 90_000
HOUR = 3600

WITHOUT_PTS = [
    Recipe("h264.avi", "libx264", 75, options=B_FRAMES),
    Recipe("mpeg2.avi", "mpeg2video", 75, options={"bf": "2", "g": "12", "b": "3M"}),
    Recipe("mpeg4.avi", "mpeg4", 75, options={"bf": "2", "g": "12", "b": "2M"}),
    Recipe("h264.asf", "libx264", 75, options=B_FRAMES),
    Recipe("mpeg2.asf", "mpeg2video", 75, options={"bf": "2", "g": "12", "b": "3M"}),
    Recipe("h264.mxf", "libx264", 75, options=B_FRAMES),
    Recipe("mpeg2.mxf", "mpeg2video", 75, options={"bf": "2", "g": "12", "b": "3M"}),
    Recipe("mpeg2.m2v", "mpeg2video", 75, options={"bf": "2", "g": "12", "b": "3M"}),
]
"""Containers that keep times of decoding, or none, with codecs that reorder frames."""


def copied(source: Path, target: Path, change: Callable[[av.Packet], None] | None = None) -> Path:
    """Copy the video packets of a file into another container, as ``-c copy`` does."""
    with av.open(str(source)) as video, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(video.streams.video[0])
        for packet in video.demux(video=0):
            if packet.size:
                packet.stream = stream
                if change is not None:
                    change(packet)
                container.mux(packet)
    return target


def decoded_when_shown(packet: av.Packet) -> None:
    """Write the time of decoding as that of showing, as careless muxers do."""
    packet.pts = packet.dts


def seen(path: Path, **options) -> tuple[VideoInfo, list[int | None]]:
    with VideoReader(path, resize=PAPER, **options) as reader:
        indices = range(len(reader.info.seconds))
        return reader.info, [read_number(frame) for _, frame in reader.frames(indices)]


def assert_right(path: Path, seconds: Iterable[float], *, of_last: float = 0.04) -> VideoInfo:
    """Compare every frame and its time, whichever way the file is read."""
    wanted = np.asarray(list(seconds))
    for decode_index in (False, True):
        info, numbers = seen(path, decode_index=decode_index)
        assert numbers == list(range(len(wanted)))
        np.testing.assert_allclose(info.seconds, wanted, atol=0.0011)
        assert info.duration_seconds == pytest.approx(wanted[-1] + of_last, abs=0.0021)
        assert info.completeness != "incomplete"
    return info


def regular(count: int) -> np.ndarray:
    return np.arange(count) / 25


@pytest.mark.parametrize("recipe", WITHOUT_PTS, ids=lambda r: r.name)
def test_containers_without_presentation_times(tmp_path: Path, recipe: Recipe) -> None:
    assert_right(write_video(tmp_path, recipe), regular(75))


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("name", ["h264.avi", "mpeg4.avi"])
def test_files_that_inherited_decode_times(tmp_path: Path, name: str, suffix: str) -> None:
    (recipe,) = [r for r in WITHOUT_PTS if r.name == name]
    source = write_video(tmp_path, recipe)
    info = assert_right(
        copied(source, (tmp_path / "copy").with_suffix(suffix), decoded_when_shown), regular(75)
    )
    assert "decode times are used" in info.note


@pytest.mark.parametrize("name", ["v.mkv", "v.flv", "v.ts", "v.nut", "hevc.mkv"])
def test_times_that_the_muxer_wrote_wrongly(tmp_path: Path, name: str) -> None:
    hevc = Recipe("source.mp4", "libx265", 75, options=HEVC)
    source = write_video(tmp_path, hevc if name.startswith("hevc") else H264)
    info = assert_right(copied(source, tmp_path / name, decoded_when_shown), regular(75))
    assert "decode times are used" in info.note


def test_irregular_times_that_are_those_of_decoding(tmp_path: Path) -> None:
    ticks = irregular_ticks(75)
    source = write_video(tmp_path, dataclasses.replace(H264, ticks=ticks))
    info, numbers = seen(copied(source, tmp_path / "v.mov", decoded_when_shown))
    shown = [n for n in numbers if n is not None]
    assert shown == sorted(shown) and len(shown) >= 73
    # No decode times come with the last frames, which then last as usual.
    wanted = (np.array(ticks)[shown] - ticks[shown[0]]) / 1000
    np.testing.assert_allclose(info.seconds[:-2], wanted[:-2], atol=0.0021)


def test_an_avi_whose_clock_ticks_twice_a_frame(tmp_path: Path) -> None:
    """Its packets say that they last for a tick, whatever the distance to the next."""
    source = write_video(tmp_path, dataclasses.replace(H264, name="source.ts"))
    path = tmp_path / "v.avi"
    with av.open(str(source)) as video, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(video.streams.video[0])
        stream.time_base = Fraction(1, 50)
        for packet in video.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    with av.open(str(path)) as container:
        assert container.streams.video[0].time_base == Fraction(1, 50)
    assert_right(path, regular(75))


def test_good_times_are_kept_without_decoding(tmp_path: Path) -> None:
    """Reordering in the times is the proof; so is a decoder that reorders nothing."""
    for name, options in (("b.mp4", B_FRAMES), ("p.mp4", {"bf": "0"})):
        path = write_video(tmp_path, dataclasses.replace(H264, name=name, options=options))
        with VideoReader(path, resize=PAPER) as reader:
            assert reader._index is not None
            assert reader.info.note == ""


def test_frames_that_come_out_in_another_order_are_never_given_under_a_wrong_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ccl_hub.errors import DecodeError
    from ccl_hub.video import index as video_index

    monkeypatch.setattr(video_index, "COMPARED_FRAMES", 1)  # so that it is found out too late
    path = copied(write_video(tmp_path, H264), tmp_path / "v.mkv", decoded_when_shown)
    with VideoReader(path, resize=PAPER) as reader, pytest.raises(DecodeError):
        list(reader.frames([0, 1, 2, 3, 4]))
    made = CCLModel().eval().embed(path, clips=2).provenance
    assert (made.source_frames, made.duration_seconds) == (75, pytest.approx(3.0))


def damaged_end(path: Path) -> Path:
    """Fill the packets of the last frames with zeros."""
    with av.open(str(path)) as container:
        spans = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for position, size in spans[-5:]:
        data[position : position + size] = bytes(size)
    path.write_bytes(data)
    return path


def test_the_length_does_not_depend_on_how_many_clips_are_asked_for(tmp_path: Path) -> None:
    recipe = Recipe("v.mp4", "mpeg4", 90, options={"g": "1", "b": "2M"})
    path = damaged_end(write_video(tmp_path, recipe))
    lengths = set()
    for decode_index in (False, True):
        with VideoReader(path, resize=PAPER, decode_index=decode_index) as reader:
            lengths.add(round(reader.info.duration_seconds, 6))
    assert lengths == {3.6}


# Clocks that break -------------------------------------------------------------------------------


def at(seconds: Iterable[float], path: Path, codec: str = "libx264") -> Path:
    """Encode a numbered frame at each time, without reordering."""
    tick = Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 160, 128, "yuv420p"
        stream.codec_context.time_base = tick
        for number, second in enumerate(seconds):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, 160, 128), "rgb24")
            frame.pts, frame.time_base = round(second / tick), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", ["v.mkv", "v.mp4"])
def test_a_clock_that_jumps_by_days(tmp_path: Path, name: str) -> None:
    jump = (240 if name == "v.mkv" else 36) * HOUR  # MP4 has 31 bits for it
    path = at([i / 25 + (jump if i >= 25 else 0) for i in range(50)], tmp_path / name)
    info = assert_right(path, regular(50))
    assert "the clock breaks once" in info.note and info.completeness == "complete"


@pytest.mark.parametrize("name", ["v.mkv", "v.mp4"])
def test_a_pause_of_a_minute_stays(tmp_path: Path, name: str) -> None:
    seconds = [*regular(10), *(60 + regular(10))]
    info = assert_right(at(seconds, tmp_path / name), seconds)
    assert info.note == ""


def test_the_longest_pause_is_an_option(tmp_path: Path) -> None:
    path = at([*regular(10), *(60 + regular(10))], tmp_path / "v.mkv")
    with VideoReader(path, resize=PAPER, limits=MediaLimits(max_gap_seconds=30)) as reader:
        assert reader.info.duration_seconds == pytest.approx(0.8)


def stamped(path: Path, changes: dict[int, int]) -> Path:
    """Overwrite time stamps, in ms, of the video tags of an FLV file."""
    data, position, seen_tags = bytearray(path.read_bytes()), 13, 0
    while position < len(data):  # a tag: kind, 3 bytes of size, 4 of time, 3 of stream
        if data[position] == 9:
            if seen_tags in changes:
                stamp = changes[seen_tags].to_bytes(4, "big")
                data[position + 4 : position + 8] = stamp[1:] + stamp[:1]
            seen_tags += 1
        position += 11 + int.from_bytes(data[position + 1 : position + 4], "big") + 4
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("place", [0, 1, 29, 74])
@pytest.mark.parametrize("stamp", [2**31 - 1, 5 * HOUR * 1000])
def test_one_impossible_stamp_moves_one_frame(tmp_path: Path, place: int, stamp: int) -> None:
    flv = Recipe("v.flv", "flv", 75, options={"b": "2M"})
    path = stamped(write_video(tmp_path, flv), {place: stamp})
    if (place, stamp) == (74, 5 * HOUR * 1000):  # the last frame after five hours: a pause
        info, _ = seen(path)
        assert info.seconds[-1] == pytest.approx(5 * HOUR)
        return
    info = assert_right(path, regular(75))
    assert info.note


@pytest.mark.parametrize("place", [1, 20, 48])
def test_an_impossible_stamp_in_matroska(tmp_path: Path, place: int) -> None:
    """Sorted by time, the frame would be the last one."""
    path = tmp_path / "v.mkv"
    source = at(regular(50), tmp_path / "source.mkv")
    with av.open(str(source)) as video:
        with av.open(str(path), "w", options={"cluster_time_limit": "1"}) as container:
            stream = container.add_stream_from_template(video.streams.video[0])
            for packet in video.demux(video=0):
                if packet.size:
                    packet.stream, packet.is_keyframe = stream, True  # a cluster of its own
                    container.mux(packet)
    assert late_cluster(path, place) == 50
    assert_right(path, regular(50))


def late_cluster(path: Path, place: int) -> int:
    """Set all bits of the time of a cluster of Matroska; return how many clusters there are."""
    first, *clusters = path.read_bytes().split(b"\x1f\x43\xb6\x75")
    head, stamp, rest = clusters[place].partition(b"\xe7")
    width = rest[0] & 0x7F
    clusters[place] = head + stamp + rest[:1] + b"\xff" * width + rest[1 + width :]
    path.write_bytes(b"\x1f\x43\xb6\x75".join([first, *clusters]))
    return len(clusters)


@pytest.mark.parametrize("from_end", range(2, 16))
def test_an_impossible_stamp_near_the_end_among_reordered_frames(
    tmp_path: Path, from_end: int
) -> None:
    """It puts the frame behind all others, within what a decoder may reorder."""
    path = tmp_path / "v.mkv"
    source = write_video(tmp_path, H264)
    with (
        av.open(str(source)) as video,
        av.open(str(path), "w", options={"cluster_time_limit": "1"}) as container,
    ):
        stream = container.add_stream_from_template(video.streams.video[0])
        for packet in video.demux(video=0):
            if packet.size:
                packet.stream, packet.is_keyframe = stream, True  # a cluster of its own
                container.mux(packet)
    late_cluster(path, -from_end)
    lengths = set()
    for decode_index in (False, True):
        info, numbers = seen(path, decode_index=decode_index)
        assert numbers == list(range(75))
        lengths.add(round(info.duration_seconds, 3))
    assert lengths == {3.0}


# Joined and interrupted streams ------------------------------------------------------------------


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
    info, numbers = seen(path)
    assert [n for n in numbers if n is not None] == [n for n in range(75) if n in numbers]
    assert len(numbers) >= 70  # a decoder may drop pictures where pieces join
    assert info.duration_seconds == pytest.approx(3.0, abs=0.25)
    assert np.diff(info.seconds).max() < 0.25
    assert "the clock breaks" in info.note
    assert info.completeness == "unknown"  # a joint is no damage


def test_a_piece_that_is_missing_is_damage(tmp_path: Path) -> None:
    """Its packets are counted, and the clock does not start anew."""
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


def with_sound(path: Path, frames: list[float], sound: Iterable[tuple[float, float]]) -> Path:
    """Write frames at given times, and sound over given (start, end), in order of time."""
    tick = Fraction(1, 90_000)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"tune": "zerolatency"})
        video.width, video.height, video.pix_fmt = 160, 128, "yuv420p"
        video.codec_context.time_base = tick
        audio = container.add_stream("mp2", rate=48_000)
        events: list[tuple[float, int | None]] = [(t, i) for i, t in enumerate(frames)]
        for start, end in sound:
            events += [(t, None) for t in np.arange(start, end, 1152 / 48_000).tolist()]
        for second, number in sorted(events, key=lambda event: event[0]):
            if number is None:
                silence = np.zeros((1, 1152), np.int16)
                frame = av.AudioFrame.from_ndarray(silence, format="s16", layout="mono")
                frame.sample_rate, frame.time_base = 48_000, Fraction(1, 48_000)
                frame.pts = round(second * 48_000)
                container.mux(audio.encode(frame))
                continue
            picture = av.VideoFrame.from_ndarray(numbered_frame(number, 160, 128), "rgb24")
            picture.pts, picture.time_base = round(second / tick), tick
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path


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
    info, _ = seen(path)
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
    info, numbers = seen(path)
    assert numbers == list(range(60))
    assert (info.completeness, info.expected_frames) == ("incomplete", 100)
    assert "60 of 100 frames are in the file" in info.note


def test_what_decoding_finds_does_not_hide_what_was_mended(tmp_path: Path) -> None:
    recipe = Recipe("v.avi", "mpeg4", 75, options={"bf": "2", "g": "12", "b": "2M"})
    with VideoReader(write_video(tmp_path, recipe), resize=PAPER) as reader:
        reader._listed_note = "told before"
        reader._note_missing(3)
        assert reader.info.note == "1 frame could not be decoded, the first is 3; told before"

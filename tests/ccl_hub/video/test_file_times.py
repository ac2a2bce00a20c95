"""The right times whatever the container keeps: decode times, or clocks that break.

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
from media import Recipe, irregular_ticks, numbered_frame, write_video
from timed_videos import B_FRAMES, H264, PAPER, assert_right, read_numbers, regular

from ccl_hub.model import CCLModel
from ccl_hub.video import MediaLimits, VideoReader

HEVC = {"preset": "ultrafast", "x265-params": "keyint=25:bframes=3:b-adapt=0:log-level=none"}
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
    info, numbers = read_numbers(copied(source, tmp_path / "v.mov", decoded_when_shown))
    shown = [n for n in numbers if n is not None]
    assert shown == sorted(shown) and len(shown) >= 73
    # No decode times come with the last frames, which then last as usual.
    expected = (np.array(ticks)[shown] - ticks[shown[0]]) / 1000
    np.testing.assert_allclose(info.seconds[:-2], expected[:-2], atol=0.0021)


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


@pytest.mark.parametrize("position", [0, 1, 29, 74])
@pytest.mark.parametrize("stamp", [2**31 - 1, 5 * HOUR * 1000])
def test_one_impossible_stamp_moves_one_frame(tmp_path: Path, position: int, stamp: int) -> None:
    flv = Recipe("v.flv", "flv", 75, options={"b": "2M"})
    path = stamped(write_video(tmp_path, flv), {position: stamp})
    if (position, stamp) == (74, 5 * HOUR * 1000):  # the last frame after five hours: a pause
        info, _ = read_numbers(path)
        assert info.seconds[-1] == pytest.approx(5 * HOUR)
        return
    info = assert_right(path, regular(75))
    assert info.note


@pytest.mark.parametrize("position", [1, 20, 48])
def test_an_impossible_stamp_in_matroska(tmp_path: Path, position: int) -> None:
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
    assert late_cluster(path, position) == 50
    assert_right(path, regular(50))


def late_cluster(path: Path, position: int) -> int:
    """Set all bits of the time of a cluster of Matroska; return how many clusters there are."""
    first, *clusters = path.read_bytes().split(b"\x1f\x43\xb6\x75")
    cluster = clusters[position]
    at = 9 - cluster[0].bit_length()  # behind the cluster's size, a number of as many bytes
    if cluster[at] == 0xBF:
        at += 6  # a checksum, which can hold any byte
    assert cluster[at] == 0xE7, "the cluster's time"
    start, end = at + 2, at + 2 + (cluster[at + 1] & 0x7F)
    clusters[position] = cluster[:start] + b"\xff" * (end - start) + cluster[end:]
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
        info, numbers = read_numbers(path, decode_index=decode_index)
        assert numbers == list(range(75))
        lengths.add(round(info.duration_seconds, 3))
    assert lengths == {3.0}

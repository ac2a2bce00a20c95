"""The right frames at the right times, whatever the codec and container say and leave out."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
from media import Recipe, irregular_ticks, numbered_frame, read_number, write_video

from ccl_hub.config import Preprocessing
from ccl_hub.errors import DecodeError, InputError, MediaError
from ccl_hub.sampling import sample_eval
from ccl_hub.video import VideoReader, iter_frames, load_image

PAPER = Preprocessing()
SHORT_SIDE = Preprocessing(resize="short_side")
H264 = {"bf": "3", "b_strategy": "0", "g": "24", "preset": "veryfast"}
X265 = {"preset": "ultrafast", "x265-params": "keyint=24:bframes=3:open-gop=1:log-level=none"}
VP9 = {"g": "24", "deadline": "realtime", "cpu-used": "8"}
TICKS = irregular_ticks(90)


CODECS = [
    Recipe("h264.mp4", "libx264", options=H264),
    Recipe("h264-open.mkv", "libx264", options={"x264-params": "keyint=24:open-gop=1:b-adapt=0"}),
    Recipe("h264-refresh.mkv", "libx264", options={"x264-params": "intra-refresh=1:keyint=24"}),
    Recipe("hevc-open.mp4", "libx265", options=X265),
    Recipe("hevc-10bit.mkv", "libx265", pixel_format="yuv420p10le", options=X265),
    Recipe("vp9.webm", "libvpx-vp9", options=VP9 | {"auto-alt-ref": "1", "lag-in-frames": "12"}),
    Recipe("av1.mp4", "libsvtav1", options={"preset": "12", "g": "24", "svtav1-params": ""}),
    Recipe("mpeg4.mp4", "mpeg4", options={"bf": "2", "g": "24", "b": "2M"}),
    Recipe("prores.mov", "prores_ks", pixel_format="yuv422p10le", frames=60),
    Recipe("mjpeg.mov", "mjpeg", pixel_format="yuvj420p", frames=60),
    Recipe("vfr.mp4", "libx264", options=H264, ticks=TICKS),
    Recipe("vfr.mkv", "libx264", options=H264, ticks=TICKS),
    Recipe("late.mp4", "libx264", options=H264, shift=50),
    Recipe("late.mkv", "libx264", options=H264, shift=50),
    Recipe("live.mkv", "libx264", options=H264, container={"live": "1"}),
    Recipe(
        "fragments.mp4",
        "libx264",
        options=H264,
        container={"movflags": "frag_keyframe+empty_moov"},
    ),
    Recipe("odd-size.mkv", "libvpx-vp9", size=(161, 129), options=VP9),
    Recipe("odd-444.mp4", "libx264", size=(161, 129), pixel_format="yuv444p", options=H264),
    Recipe("interlaced.mp4", "libx264", options=H264 | {"flags": "+ildct+ilme"}),
    Recipe("alpha.webm", "libvpx-vp9", pixel_format="yuva420p", options=VP9),
]
"""Packets tell every frame and its time: indexed by demuxing, decoded by seeking."""

DECODED = [
    Recipe("vp8-hidden.webm", "libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "12"}),
    Recipe("b-frames.avi", "mpeg4", options={"bf": "2", "g": "24", "b": "2M"}),
    Recipe("late.ts", "libx264", options=H264, shift=50),
    Recipe("raw.h264", "libx264", options=H264),
    Recipe("raw.hevc", "libx265", options=X265, format="hevc"),
    Recipe("interlaced.ts", "mpeg2video", options={"flags": "+ildct+ilme", "b": "3M"}),
    Recipe("program.mpg", "mpeg2video", options={"b": "3M"}),
    Recipe("flash.flv", "flv", options={"b": "2M"}),
    Recipe("windows.asf", "wmv2", options={"b": "2M"}),
    Recipe("loop.gif", "gif", pixel_format="rgb8", rate=20, frames=40),
]
"""Packets do not tell: indexed by decoding once, decoded by scanning."""


def read(path: Path, indices: list[int], preprocessing: Preprocessing = PAPER) -> dict:
    with VideoReader(path, resize=preprocessing) as reader:
        frames = dict(reader.frames(indices))
        assert reader.report.decoded == reader.report.wanted == len(indices)
    return frames


@pytest.mark.parametrize("recipe", CODECS + DECODED, ids=lambda r: r.name)
def test_every_frame_and_time_is_right(tmp_path: Path, recipe: Recipe) -> None:
    path = write_video(tmp_path, recipe)
    with VideoReader(path, resize=PAPER) as reader:
        info = reader.info
        frames = [read_number(frame) for _, frame in reader.frames(range(recipe.frames))]
        assert reader._index is None or recipe in CODECS
    assert frames == list(range(recipe.frames))
    np.testing.assert_allclose(info.seconds, recipe.seconds, atol=0.0011)
    assert info.duration_seconds > info.seconds[-1]
    assert info.completeness in ("complete", "unknown")
    assert (info.width_px, info.height_px) == recipe.size


@pytest.mark.parametrize("recipe", CODECS, ids=lambda r: r.name)
def test_a_seek_gives_the_frames_of_a_scan(tmp_path: Path, recipe: Recipe) -> None:
    path = write_video(tmp_path, recipe)
    scanned = [frame for _, frame in iter_frames(path, PAPER)]
    last = recipe.frames - 1
    with VideoReader(path, resize=PAPER) as reader:
        assert reader._index is not None
        for numbers in ([last], [0, last], [last // 2, last // 2 + 1], [last // 3, 2 * last // 3]):
            for number, frame in reader.frames(numbers):
                np.testing.assert_array_equal(frame, scanned[number])


def test_seeking_decodes_only_the_groups_that_are_touched(tmp_path: Path, monkeypatch) -> None:
    from ccl_hub.video import decode as video_decode

    path = write_video(tmp_path, Recipe("long.mp4", "libx264", frames=240, options=H264))
    calls = []
    decode = video_decode.decode_packet
    monkeypatch.setattr(video_decode, "decode_packet", lambda *a: calls.append(1) or decode(*a))
    with VideoReader(path, resize=PAPER, threads=1) as reader:
        assert len(reader.info.key_frames) >= 8
        calls.clear()
        numbers = [5, 120, 235]
        assert [read_number(f) for _, f in reader.frames(numbers)] == numbers
    assert len(calls) < 120


@pytest.mark.parametrize("lie", ["fails", "overshoots"])
def test_a_container_that_cannot_seek_is_scanned(tmp_path: Path, monkeypatch, lie: str) -> None:
    from ccl_hub.video import decode as video_decode

    path = write_video(tmp_path, Recipe("v.mp4", "libx264", options=H264))
    seek, seeks = video_decode._seek, []

    def lying(opened, index, start):
        seeks.append(start)
        if lie == "fails":
            return None
        opened.container.seek(10**9, stream=opened.stream, backward=True)
        return video_decode.packets_of(opened, opened.stream)

    monkeypatch.setattr(video_decode, "_seek", lying)
    assert seek is not video_decode._seek
    frames = read(path, [2, 50, 60])
    assert [read_number(f) for f in frames.values()] == [2, 50, 60]
    assert seeks


def test_frames_hidden_by_an_edit_list_do_not_count(tmp_path: Path) -> None:
    options = {"avoid_negative_ts": "disabled"}
    recipe = Recipe("edit.mp4", "libx264", options=H264, shift=-30, container=options)
    path = write_video(tmp_path, recipe)
    with VideoReader(path, resize=PAPER) as reader:
        info = reader.info
        shown = [read_number(frame) for _, frame in reader.frames(range(60))]
    assert shown == list(range(30, 90))
    np.testing.assert_allclose(info.seconds, np.arange(60) / 25, atol=1e-9)
    assert (info.completeness, info.expected_frames) == ("complete", 60)


def test_a_clip_plan_gets_the_frames_at_its_instants(tmp_path: Path) -> None:
    path = write_video(tmp_path, Recipe("v.mp4", "libx264", options=H264, ticks=TICKS))
    with VideoReader(path, resize=PAPER) as reader:
        plan = sample_eval(reader.info.seconds, reader.info.duration_seconds, PAPER, clips=4)
        frames = dict(reader.frames(np.unique(plan.indices)))
    times = np.array(TICKS) / 1000
    for clip, start in zip(plan.indices, plan.clip_seconds[:, 0], strict=True):
        for k, number in enumerate(clip):
            shown = read_number(frames[number])
            distance = np.abs(times - (start + (k + 0.5) * 0.16))
            assert distance[shown] == pytest.approx(distance.min(), abs=1e-6)


def test_a_clock_that_stands_still_counts_frame_durations(tmp_path: Path) -> None:
    """Some encoders write the same time into every packet."""
    import av

    source = write_video(tmp_path, Recipe("v.mp4", "libx264", frames=20, options={"bf": "0"}))
    path = tmp_path / "still-clock.mp4"
    with av.open(str(source)) as video, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(video.streams.video[0])
        for packet in video.demux(video=0):
            if packet.size:
                packet.stream = stream
                packet.pts = packet.dts = packet.dts // 512 + 1000
                packet.duration = 512
                container.mux(packet)
    with VideoReader(path, resize=PAPER) as reader:
        assert [read_number(f) for _, f in reader.frames(range(20))] == list(range(20))
        assert np.all(np.diff(reader.info.seconds) > 0)


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
@pytest.mark.parametrize("preprocessing", [PAPER, SHORT_SIDE], ids=["stretch", "short_side"])
def test_rotation_is_honoured(tmp_path: Path, angle: int, preprocessing: Preprocessing) -> None:
    def stored(number: int, width: int, height: int) -> np.ndarray:
        size = (height, width) if angle % 180 else (width, height)
        return np.ascontiguousarray(np.rot90(numbered_frame(number, *size), -angle // 90))

    recipe = Recipe("phone.mp4", "libx264", 5, (192, 128), rotation=angle, make=stored)
    path = write_video(tmp_path, recipe)
    with VideoReader(path, resize=preprocessing) as reader:
        frames = [frame for _, frame in reader.frames(range(5))]
        info = reader.info
    assert [read_number(frame) for frame in frames] == [0, 1, 2, 3, 4]
    upright = (128, 192) if angle % 180 else (192, 128)
    assert (info.width_px, info.height_px) == upright
    assert info.rotation_degrees == -angle % 360
    expected = (128, 171, 3) if preprocessing is PAPER else (upright[1], upright[0], 3)
    assert frames[0].shape == expected


def test_a_change_of_size_keeps_the_size_of_the_first_frame(tmp_path: Path) -> None:
    small = Recipe("s.ts", "libx264", 10, (160, 128), options=H264, format="mpegts")
    wide = dataclasses.replace(small, name="w.ts", size=(320, 128))
    parts = [write_video(tmp_path, recipe).read_bytes() for recipe in (small, wide)]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    frames = [frame for _, frame in iter_frames(path, SHORT_SIDE)]
    assert [read_number(frame) for frame in frames] == [*range(10), *range(10)]
    assert {frame.shape for frame in frames} == {(128, 160, 3)}
    times = [seconds for seconds, _ in iter_frames(path, SHORT_SIDE)]
    assert np.all(np.diff(times) > 0) and times[-1] < 1.5  # the clock of the second part restarts


def test_one_frame_and_still_images_are_videos_of_one_frame(tmp_path: Path) -> None:
    recipe = Recipe("one.mp4", "libx264", frames=1)
    with VideoReader(write_video(tmp_path, recipe), resize=PAPER) as reader:
        assert len(reader.info.seconds) == 1 and reader.info.duration_seconds > 0
    still = Recipe("p%03d.png", "png", 1, pixel_format="rgb24", format="image2pipe")
    path = write_video(tmp_path, still)
    with VideoReader(path, resize=PAPER) as reader:
        assert reader.info.duration_seconds == 0 and reader.info.completeness == "complete"
    assert read_number(load_image(path, PAPER)[0]) == 0


@pytest.mark.parametrize("indices", [[-1], [5], [1, 1], [2, 1], [0.5], [[0, 1]]])
def test_frame_numbers_that_are_not_allowed(tmp_path: Path, indices: list) -> None:
    path = write_video(tmp_path, Recipe("v.mp4", "libx264", frames=5))
    with (
        VideoReader(path, resize=PAPER) as reader,
        pytest.raises(InputError, match="allowed: strictly ascending whole numbers from 0 to 4"),
    ):
        reader.frames(indices)


def test_no_frame_wanted_is_no_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path, Recipe("v.mp4", "libx264", frames=5))
    assert read(path, []) == {}


def test_an_undecodable_frame_is_an_error_or_reported(tmp_path: Path, caplog) -> None:
    """The container lists frame 50 on, but their packets hold noise."""
    import av

    path = write_video(tmp_path, Recipe("v.mp4", "mpeg4", 90, options={"g": "1", "b": "2M"}))
    with av.open(str(path)) as container:
        spans = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for position, size in spans[50:]:
        data[position : position + size] = bytes(size)
    path.write_bytes(data)
    with VideoReader(path, resize=PAPER) as reader:
        assert reader.info.completeness == "complete"  # nothing is decoded yet
        with pytest.raises(DecodeError, match="frame 60 of 90, at"):
            dict(reader.frames([10, 60]))
        got = dict(reader.frames([10, 60, 70], skip_missing=True))
        assert list(got) == [10] and reader.report.missing == (60, 70)
        assert reader.info.completeness == "incomplete"
    with VideoReader(path, resize=PAPER, decode_index=True) as reader:
        assert len(reader.info.seconds) == 50 and reader.info.completeness == "incomplete"
        assert [read_number(f) for _, f in reader.frames([0, 49])] == [0, 49]
    with caplog.at_level(logging.WARNING, logger="ccl_hub.video"):
        assert len(list(iter_frames(path, PAPER))) == 50
    assert "incomplete: 40 frames could not be decoded" in caplog.text


def test_threads_do_not_change_the_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path, Recipe("v.mp4", "libx264", 40, options=H264))
    one = [frame for _, frame in iter_frames(path, PAPER, threads=1)]
    four = [frame for _, frame in iter_frames(path, PAPER, threads=4)]
    np.testing.assert_array_equal(one, four)


def test_many_opens_leak_nothing(tmp_path: Path) -> None:
    good = write_video(tmp_path, Recipe("v.mp4", "libx264", 10, options=H264))
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(good.read_bytes()[:900])

    def use() -> None:
        with VideoReader(good, resize=PAPER) as reader:
            next(reader.frames([0, 9]))  # left in the middle
        with pytest.raises(MediaError):
            VideoReader(bad, resize=PAPER)

    def held() -> tuple[int, ...]:
        return tuple(len(list(Path("/proc/self", name).iterdir())) for name in ("fd", "task"))

    use()
    before = held()
    for _ in range(100):
        use()
    assert held() == before

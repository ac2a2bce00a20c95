"""Truncation and damage are never silent, and whole files are never called incomplete."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import av
import numpy as np
import pytest
from media import Recipe, add_silence, cut, read_number, write_video

from ccl_hub.config import Preprocessing
from ccl_hub.errors import DecodeError, MediaError, NoVideoError
from ccl_hub.video import VideoReader, load_image
from ccl_hub.video.file import MediaFile
from ccl_hub.video.headers.wholeness import wholeness

PAPER = Preprocessing()
H264 = {"bf": "3", "g": "24", "preset": "veryfast"}
REORDERED = {"x264-params": "bframes=3:b-adapt=0:keyint=25:scenecut=0"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}

GIF = b"GIF89a\x01\0\x01\0\x80\0\0" + bytes(6)  # one pixel, two colours
GIF += b"!\xf9\x04\0\0\0\0\0" + b",\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0"

WHOLE = [
    Recipe("faststart.mp4", "libx264", options=H264, container={"movflags": "faststart"}),
    Recipe("plain.mp4", "libx264", options=H264),
    Recipe("fragments.mp4", "libx264", options=H264, container=FRAGMENTS),
    Recipe("v.mkv", "libx264", options=H264),
    Recipe("v.webm", "libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "12"}),
    Recipe("v.avi", "mpeg4", options={"bf": "2", "b": "2M"}),
    Recipe("v.flv", "flv", options={"b": "2M"}),
    Recipe("v.gif", "gif", pixel_format="rgb8", rate=20, frames=40),
    Recipe("v.ts", "libx264", options=H264),
]
STATED = [recipe for recipe in WHOLE if recipe.name != "v.ts"]


@pytest.mark.parametrize("recipe", STATED, ids=lambda r: r.name)
def test_a_whole_file_is_complete(tmp_path: Path, recipe: Recipe) -> None:
    with VideoReader(write_video(tmp_path, recipe), resize=PAPER) as reader:
        info = reader.info
    assert (info.completeness, info.note) == ("complete", "")
    assert info.expected_frames in (recipe.frames, None)


def test_a_stream_without_count_and_duration_is_unknown(tmp_path: Path) -> None:
    recipes = [WHOLE[-1], Recipe("live.mkv", "libx264", options=H264, container={"live": "1"})]
    for recipe in recipes:
        with VideoReader(write_video(tmp_path, recipe), resize=PAPER) as reader:
            assert reader.info.completeness == "unknown"
            assert "neither a frame count nor a duration" in reader.info.note


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("recipe", WHOLE, ids=lambda r: r.name)
def test_truncation_is_an_error_or_incomplete(
    tmp_path: Path, recipe: Recipe, share: float
) -> None:
    path = cut(write_video(tmp_path, recipe), tmp_path / f"cut-{recipe.name}", share)
    try:
        with VideoReader(path, resize=PAPER) as reader:
            info = reader.info
            frames = dict(reader.frames(range(len(info.seconds)), skip_missing=True))
            assert reader.info.completeness == "incomplete"
            assert reader.info.note
    except MediaError as error:
        assert str(path) in str(error)
        return
    assert len(frames) <= recipe.frames
    if recipe.name.endswith(("faststart.mp4", "avi")):
        assert info.expected_frames == recipe.frames
        assert len(info.seconds) < recipe.frames
    shown = [read_number(frame) for frame in frames.values()]
    assert np.mean([s == i for i, s in enumerate(shown)]) > 0.9  # the last may be a fragment


@pytest.mark.parametrize("recipe", WHOLE[:-1], ids=lambda r: r.name)
def test_no_cut_that_loses_a_frame_is_called_complete(tmp_path: Path, recipe: Recipe) -> None:
    small = dataclasses.replace(recipe, frames=10, size=(64, 48))
    data = write_video(tmp_path, small).read_bytes()
    path = tmp_path / f"cut-{recipe.name}"
    lengths = {len(data) * i // 60 for i in range(1, 60)} | {len(data) - i for i in range(1, 8)}
    for length in sorted(lengths):
        path.write_bytes(data[:length])
        try:
            with VideoReader(path, resize=PAPER) as reader:
                frames = list(reader.frames(range(len(reader.info.seconds)), skip_missing=True))
                completeness = reader.info.completeness
        except MediaError:
            continue
        assert completeness != "complete" or len(frames) == 10, (length, len(data))


def test_truncation_tells_found_and_expected(tmp_path: Path) -> None:
    path = cut(write_video(tmp_path, WHOLE[0]), tmp_path / "cut.mp4", 0.5)
    with VideoReader(path, resize=PAPER) as reader:
        info = reader.info
    assert info.expected_frames == 90 and 5 < len(info.seconds) < 80
    assert "of 90 frames are in the file" in info.note


def test_a_cut_at_a_packet_border_is_seen_by_duration(tmp_path: Path) -> None:
    """A transport stream says nothing, but Matroska states its duration."""
    path = write_video(tmp_path, Recipe("v.mkv", "libx264", options=H264))
    whole = path.read_bytes()
    last_cluster = whole.rindex(b"\x1f\x43\xb6\x75")
    data = bytearray(whole[:last_cluster])
    segment = whole.index(b"\x18\x53\x80\x67") + 4
    assert data[segment] == 1  # an eight-byte size: make it fit, as if remuxed after the loss
    data[segment : segment + 8] = b"\x01" + (last_cluster - segment - 8).to_bytes(7, "big")
    path.write_bytes(data)
    assert wholeness(MediaFile(path)) == "whole"
    with VideoReader(path, resize=PAPER) as reader:
        assert reader.info.completeness == "incomplete"
        assert "s of 3.600 s" in reader.info.note


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("seconds", [1.0, 7.5])
def test_sound_shorter_or_longer_than_the_video_is_complete(
    tmp_path: Path, suffix: str, seconds: float
) -> None:
    video = write_video(tmp_path, Recipe(f"v.{suffix}", "libx264", options=H264))
    path = add_silence(video, tmp_path / f"sound.{suffix}", seconds)
    with VideoReader(path, resize=PAPER) as reader:
        info = reader.info
    assert (len(info.seconds), info.completeness) == (90, "complete")
    assert info.duration_seconds == pytest.approx(3.6, abs=0.002)


def test_damage_in_the_middle_is_incomplete(tmp_path: Path) -> None:
    path = write_video(tmp_path, Recipe("v.avi", "mpeg4", options={"g": "1", "b": "2M"}))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40_000] = bytes(40_000)
    path.write_bytes(data)
    with VideoReader(path, resize=PAPER) as reader:
        assert reader.info.completeness == "incomplete"
        assert len(reader.info.seconds) < 90


def test_an_avi_that_lost_frames_in_the_middle_is_incomplete(tmp_path: Path) -> None:
    recipe = Recipe("v.avi", "mjpeg", 50, pixel_format="yuvj420p")
    path = write_video(tmp_path, recipe)
    data = bytearray(path.read_bytes())
    begin, end = len(data) // 3, len(data) // 2
    data[begin:end] = bytes(end - begin)
    path.write_bytes(data)
    with VideoReader(path, resize=PAPER) as reader:
        assert reader.info.completeness == "incomplete"


@pytest.mark.parametrize("name", ["v.mp4", "v.flv", "v.mov"])
@pytest.mark.parametrize("share", [0.41, 0.77])
def test_a_cut_in_mid_packet_costs_one_frame_whatever_the_threads(
    tmp_path: Path, name: str, share: float
) -> None:
    """What several threads hold back is lost with the damaged packet."""
    options = {"movflags": "faststart"} if name != "v.flv" else {}
    recipe = Recipe(name, "libx264", 75, options=REORDERED, container=options)
    path = write_video(tmp_path, recipe)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    position, size = packets[int(share * len(packets))]
    path.write_bytes(path.read_bytes()[: position + size // 2])
    results = []
    for threads in (1, 2, 4):
        with VideoReader(path, resize=PAPER, threads=threads, decode_index=True) as reader:
            info = reader.info
            frames = reader.frames(range(len(info.seconds)))
            numbers = [read_number(frame) for _, frame in frames]
        results.append((numbers, info.duration_seconds, info.note))
        assert len(numbers) == int(share * len(packets)) and None not in numbers
        assert info.completeness == "incomplete"
    assert results[1:] == results[:-1]


@pytest.mark.parametrize(
    ("codec", "suffix", "pixel_format"),
    [("png", "png", "rgb24"), ("mjpeg", "jpg", "yuvj420p"), ("libwebp", "webp", "yuv420p")],
)
def test_a_cut_still_image_is_refused(
    tmp_path: Path, codec: str, suffix: str, pixel_format: str
) -> None:
    recipe = Recipe(f"v.{suffix}", codec, 1, pixel_format=pixel_format, format="image2pipe")
    path = write_video(tmp_path, recipe)
    assert read_number(load_image(path, PAPER)[0]) == 0
    with pytest.raises(DecodeError):
        load_image(cut(path, tmp_path / f"cut.{suffix}", 0.6), PAPER)


def test_files_without_video_say_so(tmp_path: Path) -> None:
    import av

    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(NoVideoError, match="no video stream"):
        VideoReader(sound, resize=PAPER)

    header = write_video(tmp_path, Recipe("v.mp4", "libx264", 9, container=FRAGMENTS))
    data = header.read_bytes()
    only_header = tmp_path / "init.mp4"
    only_header.write_bytes(data[: data.index(b"moof") - 4])
    with pytest.raises(NoVideoError, match="holds no frame"):
        VideoReader(only_header, resize=PAPER)


def test_cover_art_is_not_video(tmp_path: Path) -> None:
    import av

    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=48000)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 64
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")
        container.mux(cover.encode(picture))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    with pytest.raises(NoVideoError, match="only a cover picture"):
        VideoReader(path, resize=PAPER)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x00\x00\x00\x14ftypisom", "unknown"),
        (b"\x00\x00\x00\x08free\x00\x00", "cut"),
        (b"\x00\x00\x00\x08free\x00\x00\x10\x00mdat" + bytes(50), "cut"),
        (b"\x00\x00\x00\x08free\x00\x00\x00\x00mdat" + bytes(50), "unknown"),
        (b"\x1aE\xdf\xa3\x80\x18S\x80g\x85abcde", "whole"),
        (b"\x1aE\xdf\xa3\x80\x18S\x80g\x86abcde", "cut"),
        (b"\x1aE\xdf\xa3\x80\x18S\x80g\xffabcde", "unknown"),
        (b"RIFF\x08\x00\x00\x00AVI abcd", "whole"),
        (b"RIFF\x0a\x00\x00\x00AVI abcd", "cut"),
        (b"RIFF\x08\x00\x00\x00AVI abcdRIFF\x04\x00\x00\x00AVIX", "whole"),
        (GIF + b";", "whole"),
        (GIF + b";" + bytes(9), "whole"),
        (GIF, "cut"),
        (GIF[:-2] + b";", "cut"),  # the sign of the end, but inside an image
        (b"GIF89a" + bytes(7) + b"?", "unknown"),
        (b"\xff\xd8\xff" + b"\xff\xda" + bytes(9) + b"\xff\xd9", "whole"),
        (b"\xff\xd8\xff" + b"\xff\xd9" + b"\xff\xda" + bytes(9), "cut"),
        ((b"G" + bytes(187)) * 3, "unknown"),
        ((b"G" + bytes(187)) * 3 + b"G", "cut"),
        (b"BM\x1e\x00\x00\x00" + bytes(24), "whole"),
        (b"BM\x1f\x00\x00\x00" + bytes(24), "cut"),
        (b"hello", "unknown"),
    ],
)
def test_outer_structure(tmp_path: Path, data: bytes, kind: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    assert wholeness(MediaFile(path)) == kind

"""Where decoding may start, and packets that show nothing."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from media import Recipe, numbered_frame, read_number, write_video

from ccl_hub.config import Preprocessing
from ccl_hub.video import MediaLimits, VideoReader
from ccl_hub.video.index import start_packets
from ccl_hub.video.open import check_file, open_video
from ccl_hub.video.scan import decode_packet, is_idr

PAPER = Preprocessing()


def test_pictures_that_lead_an_open_group_start_in_the_group_before() -> None:
    pts = np.array([0, 3, 1, 2, 6, 4, 5, 9, 7, 8, 11, 10])
    keys = np.array([1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0], dtype=bool)
    assert start_packets(pts, keys).tolist() == [0, 0, 0, 0, 4, 0, 0, 7, 4, 4, 7, 7]


@pytest.mark.parametrize("keys", [[0, 0, 0, 0], [0, 0, 1, 0]])
def test_the_first_packet_is_always_a_start(keys: list[int]) -> None:
    starts = start_packets(np.arange(4), np.array(keys, dtype=bool))
    assert starts.tolist() == ([0, 0, 2, 2] if any(keys) else [0, 0, 0, 0])


def test_only_idr_pictures_start_h264(tmp_path: Path) -> None:
    """Open groups and intra refresh are marked as key frames but need what came before."""
    for parameters in ("keyint=24:open-gop=1:b-adapt=0", "intra-refresh=1:keyint=24"):
        recipe = Recipe("v.mkv", "libx264", options={"x264-params": parameters})
        path = write_video(tmp_path, recipe)
        with av.open(str(path)) as container:
            marked = sum(packet.is_keyframe for packet in container.demux(video=0))
        assert marked > 1
        with VideoReader(path, resize=PAPER) as reader:
            assert reader.info.key_frames.tolist() == [0]


def test_annex_b_key_frames_are_found(tmp_path: Path) -> None:
    options = {"bf": "0", "g": "10", "sc_threshold": "0"}
    raw = write_video(tmp_path, Recipe("v.h264", "libx264", 40, options=options))
    with av.open(str(raw)) as container:
        stream = container.streams.video[0]
        extra = stream.codec_context.extradata
        keys = [i for i, p in enumerate(container.demux(stream)) if p.size and is_idr(p, extra)]
    assert keys == [0, 10, 20, 30]


def test_an_empty_packet_does_not_end_decoding(tmp_path: Path) -> None:
    """A decoder takes a packet without data for the end; AVI has them for repeated frames."""
    path = write_video(tmp_path, Recipe("v.avi", "mpeg4", 10, options={"b": "2M"}))
    frames = []
    with open_video(check_file(path, MediaLimits()), MediaLimits(), threads=1) as opened:
        for packet in opened.container.demux(opened.stream):
            frames += decode_packet(opened, av.Packet())
            if packet.size:
                frames += decode_packet(opened, packet)
        frames += decode_packet(opened, None)
    assert (len(frames), opened.damage.errors) == (10, 0)


def test_of_several_tracks_the_default_one_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "two.mp4"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for stream, size in zip(streams, ((64, 48), (160, 128)), strict=True):
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(5):
            for stream in streams:
                pixels = numbered_frame(number, stream.width, stream.height)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    with VideoReader(path, resize=PAPER) as reader:
        assert reader.info.width_px == 64  # the muxer enables only the first by default
        assert [read_number(frame) for _, frame in reader.frames(range(5))] == [0, 1, 2, 3, 4]

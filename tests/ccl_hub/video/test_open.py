"""Hostile files and names: nothing else is opened, nothing hangs, nothing explodes."""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from media import Recipe, read_number, write_video

from ccl_hub.config import Preprocessing
from ccl_hub.errors import (
    DecodeError,
    InputError,
    MediaError,
    MediaLimitError,
    MediaNotFoundError,
    UnreadableError,
    UnsupportedMediaError,
)
from ccl_hub.video import MediaLimits, VideoReader, load_image

PAPER = Preprocessing()
IN_OPEN = 0x20


class Traps:
    """A file and a port that nobody may touch, and what was touched."""

    def __init__(self, folder: Path) -> None:
        self.canary = folder / "canary.mp4"
        shutil.copy(write_video(folder, Recipe("source.mp4", "libx264", 5)), self.canary)
        (folder / "source.mp4").unlink()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = self._libc.inotify_init()
        self._libc.inotify_add_watch(self._inotify, bytes(self.canary), IN_OPEN)

    def touched(self) -> list[str]:
        """Return which traps were sprung since the last call."""
        ready, _, _ = select.select([self._inotify, self._socket], [], [], 0.05)
        if self._inotify in ready:
            os.read(self._inotify, 65536)
        if self._socket in ready:
            self._socket.accept()[0].close()
        return [
            name for name, fd in (("file", self._inotify), ("port", self._socket)) if fd in ready
        ]

    def close(self) -> None:
        os.close(self._inotify)
        self._socket.close()


@pytest.fixture
def traps(tmp_path: Path) -> Iterator[Traps]:
    if not sys.platform.startswith("linux"):
        pytest.skip("watches files by inotify")
    traps = Traps(tmp_path)
    yield traps
    traps.close()


def payloads(traps: Traps) -> dict[str, bytes]:
    """Playlists and pointers, by file name."""
    canary, url = str(traps.canary), f"http://127.0.0.1:{traps.port}/x.ts"
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n{}\n#EXT-X-ENDLIST\n"
    texts = {
        "cc.mp4": "ffconcat version 1.0\nfile canary.mp4\n",
        "cc.txt": f"ffconcat version 1.0\nfile '{canary}'\n",
        "list.m3u8": hls.format(url),
        "list.mp4": hls.format(f"file://{canary}"),
        "list.avi": hls.format(f"concat:{canary}|{url}"),
        "list.mkv": hls.format("canary.mp4"),
        "s.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\n"
        f"t=0 0\nm=video {traps.port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "m.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
        f'<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
        f"<BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>",
        "r.mov": "RTSPtext\r\nrtsp://127.0.0.1:{traps.port}/x\r\n",
        "i.svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>',
        "f.ffmeta": ";FFMETADATA1\ntitle=x\n",
    }
    return {name: text.encode() for name, text in texts.items()}


def test_the_traps_work(traps: Traps) -> None:
    """A plain open falls for a playlist, and the traps see it."""
    path = traps.canary.with_name("cc.mp4")
    path.write_bytes(payloads(traps)["cc.mp4"])
    with av.open(str(path)) as container:
        list(container.demux())
    assert traps.touched() == ["file"]
    socket.create_connection(("127.0.0.1", traps.port)).close()
    assert traps.touched() == ["port"]
    assert traps.touched() == []


def test_every_open_is_absolute_and_restricted(tmp_path: Path, monkeypatch) -> None:
    seen = []
    plain_open = av.open

    def watched(path, **options):
        seen.append((path, options["options"]))
        return plain_open(path, **options)

    write_video(tmp_path, Recipe("v.mkv", "libx264", 5))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(av, "open", watched)
    with VideoReader("v.mkv", resize=PAPER) as reader:
        list(reader.frames([0]))
    assert len(seen) >= 2
    for path, options in seen:
        assert path == str(tmp_path / "v.mkv")
        assert options["protocol_whitelist"] == "file"
        refused = {"hls", "concat", "image2", "dash", "sdp", "rtsp", "lavfi", "webm_dash_manifest"}
        assert not refused & set(options["format_whitelist"].split(","))


def test_playlists_open_nothing(traps: Traps) -> None:
    for name, data in payloads(traps).items():
        path = traps.canary.with_name(name)
        path.write_bytes(data)
        with pytest.raises(UnsupportedMediaError, match="not a supported video"):
            VideoReader(path, resize=PAPER)
        assert traps.touched() == [], name


def test_an_external_data_reference_opens_nothing(traps: Traps) -> None:
    """A QuickTime file may say that its media lie in another file."""
    source = traps.canary.with_name("own.mov")
    shutil.copy(write_video(traps.canary.parent, Recipe("v.mov", "libx264", 5)), source)
    data = source.read_bytes()
    name = str(traps.canary).encode()
    alias = struct.pack(">I4sI", 12 + len(name), b"url ", 0) + name  # flags 0: not in this file
    reference = struct.pack(">I4sI", 12, b"url ", 1)
    assert data.count(reference) >= 1
    source.write_bytes(data.replace(reference, alias[:12]))
    try:
        with VideoReader(source, resize=PAPER) as reader:
            list(reader.frames([0]))
    except MediaError:
        pass  # refusing is as good as reading its own media
    assert traps.touched() == []


@pytest.mark.parametrize(
    "name",
    [
        *("concat:{canary}", "subfile,,start,0,end,0,,:{canary}", "file:{canary}"),
        *("file://{canary}", "http://127.0.0.1:{port}/x.mp4", "tcp://127.0.0.1:{port}"),
        *("data:text/plain,x", "pipe:0", "-", "", "crypto:{canary}", "async:{canary}", "\0"),
    ],
)
def test_urls_are_names_of_no_file(traps: Traps, name: str, monkeypatch) -> None:
    monkeypatch.chdir(traps.canary.parent)
    path = name.format(canary=traps.canary, port=traps.port)
    with pytest.raises(MediaNotFoundError):
        VideoReader(path, resize=PAPER)
    assert traps.touched() == []


@pytest.mark.parametrize(
    "name",
    [
        *("12:30.mp4", "-x.mp4", "p%03d.mp4", "x#y?z.mp4", "two words.mp4", "concat:x.mp4"),
        *("%d.mkv", "http:x.mp4", "naïve é.mp4", "日本.mp4", "line\nbreak.mp4", "x.mp4|y.mp4"),
        *("~.mp4", "x"),
    ],
)
def test_odd_names_work(tmp_path: Path, name: str, monkeypatch) -> None:
    source = write_video(tmp_path, Recipe("source.mp4", "libx264", 5))
    monkeypatch.chdir(tmp_path)
    source.rename(name)
    with VideoReader(name, resize=PAPER) as reader:
        assert [read_number(frame) for _, frame in reader.frames([0, 4])] == [0, 4]


def test_a_name_that_is_not_utf8_works(tmp_path: Path) -> None:
    source = write_video(tmp_path, Recipe("source.mp4", "libx264", 5))
    name = os.path.join(os.fsencode(tmp_path), b"\xe9.mp4")  # noqa: PTH118 (bytes)
    os.rename(source, name)  # noqa: PTH104
    with VideoReader(os.fsdecode(name), resize=PAPER) as reader:
        assert len(reader.info.seconds) == 5


@pytest.mark.parametrize("name", ["p%03d.jpg", "p%03d.png", "p%d.webp"])
def test_a_pattern_in_a_name_is_no_pattern(tmp_path: Path, name: str) -> None:
    codec = {"jpg": "mjpeg", "png": "png", "webp": "libwebp"}[name.rpartition(".")[2]]
    pixel_format = {"mjpeg": "yuvj420p", "png": "rgb24", "libwebp": "yuv420p"}[codec]
    for number in (1, 2):
        recipe = Recipe(
            name.replace("%03d", f"{number:03d}").replace("%d", str(number)),
            codec,
            frames=number,
            pixel_format=pixel_format,
            format="image2pipe",
        )
        write_video(tmp_path, recipe)
    for bait in tmp_path.iterdir():
        bait.write_bytes(b"bait")
    path = write_video(
        tmp_path, Recipe(name, codec, 1, (160, 128), pixel_format, format="image2pipe")
    )
    assert read_number(load_image(path, PAPER)[0]) == 0


def test_metadata_that_is_not_utf8_works(tmp_path: Path) -> None:
    path = write_video(tmp_path, Recipe("v.avi", "mpeg4", 5))
    data = path.read_bytes()
    assert b"Lavf" in data
    path.write_bytes(data.replace(b"Lavf", b"\xe9\xff\xfe\x80"))
    with VideoReader(path, resize=PAPER) as reader:
        assert len(reader.info.seconds) == 5


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "zero", "link to zero", "loop"])
def test_only_regular_files_are_opened(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.mp4"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        path = Path("x.sock")
        with socket.socket(socket.AF_UNIX) as server:
            monkeypatch.chdir(tmp_path)  # the name of a socket must be short
            server.bind(str(path))
    elif kind == "zero":
        path = Path("/dev/zero")
    else:
        path.symlink_to("/dev/zero" if kind == "link to zero" else path)
    with pytest.raises(MediaNotFoundError, match="give the path of a video file"):
        VideoReader(path, resize=PAPER)


def test_an_empty_file_is_named_empty(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    path.touch()
    with pytest.raises(DecodeError, match="empty"):
        VideoReader(path, resize=PAPER)


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch) -> None:
    path = write_video(tmp_path, Recipe("v.mp4", "libx264", 5))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UnreadableError, match="Permission denied"):
        VideoReader(path, resize=PAPER)


def test_limits_are_stated_in_the_error(tmp_path: Path) -> None:
    path = write_video(tmp_path, Recipe("v.mp4", "libx264", 50))
    for limits, words in [
        (MediaLimits(max_pixels=160 * 128 - 1), "160x128; allowed: at most 20479 pixels"),
        (MediaLimits(max_frames=49), "more than 49 frames"),
        (MediaLimits(max_seconds=1.9), "lasts 2.0 s; allowed: at most 1.9 s"),
        (MediaLimits(max_bytes=100), "allowed: at most 100"),
    ]:
        with pytest.raises(MediaLimitError, match=words) as caught:
            VideoReader(path, resize=PAPER, limits=limits)
        assert caught.value.path == path.resolve()
    exact = MediaLimits(max_pixels=160 * 128, max_frames=50, max_seconds=2.0, max_bytes=10**6)
    with VideoReader(path, resize=PAPER, limits=exact) as reader:
        assert len(reader.info.seconds) == 50
    with pytest.raises(InputError, match="max_frames is 0; allowed: above 0"):
        MediaLimits(max_frames=0)


def test_a_long_thin_frame_cannot_be_scaled_up(tmp_path: Path) -> None:
    path = write_video(tmp_path, Recipe("v.mkv", "ffv1", 2, (8192, 16), "yuv420p"))
    with pytest.raises(MediaLimitError, match="at most 64 times the other"):
        VideoReader(path, resize=Preprocessing(resize="short_side"))
    with VideoReader(path, resize=PAPER) as reader:
        assert next(reader.frames([0]))[1].shape == (128, 171, 3)

"""Hostile files and names: nothing else is opened, nothing hangs, nothing explodes."""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from media import Recipe, read_number, write_video
from project import ROOT

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
H264 = {"bf": "2", "g": "12", "preset": "veryfast"}
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
    own = struct.pack(">I4sI", 12, b"url ", 1)
    assert data.count(own) >= 1
    source.write_bytes(data.replace(own, alias[:12]))
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
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.mp4"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        path = Path("x.sock")
        with socket.socket(socket.AF_UNIX) as server:
            os.chdir(tmp_path)
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


BOMB = """
import resource, sys
import ccl_hub.video
from ccl_hub.config import Preprocessing
from ccl_hub.errors import MediaLimitError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with ccl_hub.video.VideoReader(sys.argv[1], resize=Preprocessing()) as reader:
        list(reader.frames(range(len(reader.info.seconds))))
except MediaLimitError as error:
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{grown:.0f} {error}")
"""


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def plain(number: int, width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), number % 256, np.uint8)


@pytest.mark.parametrize("kind", ["8192x8192", "switch h264", "switch mpeg2", "png header"])
def test_bombs_are_refused_in_little_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bomb"
    quick = {"preset": "ultrafast"}
    if kind == "8192x8192":
        recipe = Recipe("b.mp4", "libx264", 1, (8192, 8192), options=quick, make=plain)
        path = write_video(tmp_path, recipe)
    elif kind == "png header":
        header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
        path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + bytes(4) + b"\0\0\0\0IEND")
    else:
        codec, size = ("libx264", 4096) if "h264" in kind else ("mpeg2video", 2048)
        small = Recipe("s.ts", codec, 20, (64, 48), options=quick if size == 4096 else {})
        large = Recipe("l.ts", codec, 2, (size, size), options=small.options, make=plain)
        path.write_bytes(b"".join(write_video(tmp_path, r).read_bytes() for r in (small, large)))
    code = BOMB
    if kind == "switch mpeg2":  # the encoder makes no larger frame: lower the limit instead
        code = BOMB.replace(
            "Preprocessing())", "Preprocessing(), limits=ccl_hub.video.MediaLimits(1000000))"
        )
    done = run_python(code, path)
    assert done.returncode == 0, done.stderr
    grown, _, message = done.stdout.partition(" ")
    assert "allowed: at most" in message and str(path) in message
    assert int(grown) < 300


LONG = """
import resource, sys
import numpy as np
from ccl_hub.config import Preprocessing
from ccl_hub.sampling import sample_eval
from ccl_hub.video import VideoReader
with VideoReader(sys.argv[1], resize=Preprocessing()) as reader:
    info = reader.info
    plan = sample_eval(info.seconds, info.duration_seconds, Preprocessing())
    count = sum(1 for _ in reader.frames(np.unique(plan.indices)))
print(len(info.seconds), count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def repeat(source: Path, target: Path, times: int) -> Path:
    """Write the packets of a video again and again."""
    with av.open(str(source)) as video:
        packets = [(bytes(p), p.is_keyframe) for p in video.demux(video=0) if p.size]
        with av.open(str(target), "w") as container:
            stream = container.add_stream_from_template(video.streams.video[0])
            for i in range(len(packets) * times):
                data, is_key = packets[i % len(packets)]
                packet = av.Packet(data)
                packet.pts = packet.dts = i * 512
                packet.duration = 512
                packet.time_base, packet.is_keyframe = stream.time_base, is_key
                packet.stream = stream
                container.mux(packet)
    return target


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    recipe = Recipe("v.mp4", "libx264", 100, options={"bf": "0", "g": "25"})
    source = write_video(tmp_path, recipe)
    peaks = []
    for times in (15, 900):  # one minute, one hour
        done = run_python(LONG, repeat(source, tmp_path / f"{times}.mp4", times))
        frames, count, peak = map(int, done.stdout.split())
        assert (frames, count) == (times * 100, 80), done.stderr
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 100


FUZZ = """
import sys
from pathlib import Path
import numpy as np
from ccl_hub.config import Preprocessing
from ccl_hub.errors import MediaError
from ccl_hub.video import VideoReader
outcomes = {}
for source in sys.argv[2:]:
    data = Path(source).read_bytes()
    for seed in range(int(sys.argv[1])):
        generator = np.random.default_rng(seed)
        damaged = bytearray(data)
        for position in generator.integers(0, len(data), generator.integers(1, 30)):
            damaged[position] = generator.integers(256)
        if seed % 5 == 0:
            del damaged[generator.integers(len(data)):]
        path = Path(source).with_name("fuzz" + Path(source).suffix)
        path.write_bytes(damaged)
        print(source, seed, file=sys.stderr)
        try:
            with VideoReader(path, resize=Preprocessing()) as reader:
                n = len(reader.info.seconds)
                list(reader.frames(sorted({0, n // 2, n - 1}), skip_missing=True))
                outcome = reader.info.completeness
        except MediaError as error:
            outcome = error.code
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
print(outcomes)
"""


def test_damaged_bytes_give_frames_or_our_own_error(tmp_path: Path) -> None:
    kinds = [("v.mp4", "libx264"), ("v.mkv", "libx265"), ("v.webm", "libvpx-vp9")]
    kinds += [("v.avi", "mpeg4"), ("v.ts", "mpeg2video"), ("v.mov", "prores_ks")]
    files = []
    for name, codec in kinds:
        pixels = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
        options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        files.append(
            write_video(tmp_path, Recipe(name, codec, 8, (64, 48), pixels, options=options))
        )
    files.append(write_video(tmp_path, Recipe("v.gif", "gif", 8, (64, 48), "rgb8")))
    done = run_python(FUZZ, 40, *files)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "incomplete" in done.stdout and "damaged" in done.stdout

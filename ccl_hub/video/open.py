"""How one local file is opened so that nothing else is read and nothing explodes (uses PyAV).

FFmpeg opens whatever a file or its name points at: playlists, other protocols, devices. Here a
path is first resolved to an absolute regular file; only container formats that cannot refer to
other files are allowed; only the ``file`` protocol exists; and decoders refuse frames above a
pixel limit before they allocate them.
"""

from __future__ import annotations

import dataclasses
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
from av.container import InputContainer
from av.video.stream import VideoStream

from ..errors import (
    DecodeError,
    InputError,
    MediaLimitError,
    MediaNotFoundError,
    NoVideoError,
    UnreadableError,
    UnsupportedMediaError,
)
from .headers.layout import image_layout, matroska_crop, track_crop
from .headers.still import still_format, still_size, webp_orientation
from .view import BlockAlpha, FrameView

ALLOWED_FORMATS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg"),
    *("flv", "asf", "ogg", "mxf", "nut", "ivf", "obu", "dv", "rm", "swf", "gif", "apng"),
    *("h264", "hevc", "vvc", "av1", "m4v", "mpegvideo", "h263", "mjpeg", "yuv4mpegpipe"),
    *("png_pipe", "jpeg_pipe", "webp_pipe", "webp", "bmp_pipe", "jpegxl_pipe", "tiff_pipe"),
)
"""Demuxers that may open a file. None of them follows references to other files."""

_CONTAINERS = (
    *(b"\x1aE\xdf\xa3", b"RIFF", b"GIF8", b"OggS", b"FLV", b"0&\xb2u", b"\x00\x00\x01", b"DKIF"),
    *(b"\x00\x00\x00\x01", b"YUV4MPEG2", b"G@"),
)
# Metadata need not be UTF-8; PyAV 19 always replaces what is not, and knows no such argument.
_METADATA: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)
_MAX_CHANGED_PIXELS = 4096 * 2304
_PADDING_PIXELS = 1 << 20
_MOST_OF_FFMPEG = (2**31 - 1) // 8  # av_image_check_size
_MANY_PACKETS = 50
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"sidx")


@dataclass(frozen=True)
class MediaLimits:
    """How large a file may be before it is refused with MediaLimitError; what its clock may do.

    Args:
        max_pixels: Width times height of a decoded frame. The default admits 8K video
            (8192 x 4320); photographs may need more. In mid-stream the size may only change up to
            4096 x 2304 or the size at the start, if that is larger.
        max_frames: Frames of a video. Its index takes about 50 bytes a frame; the default is 24
            hours at 60 frames per second.
        max_seconds: Duration of a video, or None for any.
        max_bytes: Size of the file, or None for any.
        max_gap_seconds: Longest time from a frame to the next. A longer one means that the clock
            broke, and times are counted on from the frame before; 30 hours by default, as in the
            ffmpeg program.
        max_joint_seconds: The same for containers whose clock may start over in mid-file
            (transport and program streams, Ogg), unless another stream fills the gap; 10 seconds
            by default, as in the ffmpeg program.
        max_windows: Windows of a video, with ``every_seconds``, or 3 for each frame on which one
            begins, if that is more: what has more shows the same pictures again and again, in a
            pause or by a clock that jumps. Each window takes 18 kB with its frames. None for
            1,000,000, the limit everywhere.

    Raises:
        InputError: If a limit is not positive.
    """

    max_pixels: int = 8192 * 4352
    max_frames: int = 24 * 3600 * 60
    max_seconds: float | None = None
    max_bytes: int | None = None
    max_gap_seconds: float = 30 * 3600.0
    max_joint_seconds: float = 10.0
    max_windows: int | None = 20_000

    def __post_init__(self) -> None:
        for name in (field.name for field in dataclasses.fields(self)):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"MediaLimits.{name} is {value!r}; allowed: above 0.")


@dataclass
class Damage:
    """What could not be read or decoded.

    Args:
        read_error: What ended the reading before the end of the file, or "".
        errors: Video packets that the decoder refused.
        unsupported: Those that it refused because it lacks a feature.
        corrupt: Frames that are marked as damaged.
    """

    read_error: str = ""
    errors: int = 0
    unsupported: int = 0
    corrupt: int = 0


class Opened(NamedTuple):
    """An open file: its container, its main video stream, what frames mean, and the damage met."""

    container: InputContainer
    stream: VideoStream
    view: FrameView
    damage: Damage


Opener = Callable[[], AbstractContextManager[Opened]]
"""Opens a video, again at each call."""


def check_path(path: str | Path, limits: MediaLimits) -> Path:
    """Return the absolute path of a regular, not empty local file.

    Args:
        path: Path of the file; never a URL.
        limits: Gives ``max_bytes``.

    Raises:
        MediaNotFoundError: No such file, or a directory, pipe, socket or device.
        MediaLimitError: More than ``max_bytes``.
        DecodeError: The file is empty.
    """
    try:
        status = Path(path).stat()  # first: most of what fails is missing, and this is quick
        resolved = Path(path).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaNotFoundError(
            f"no such local file ({reason}); give the path of a video file, not a URL.", path
        ) from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise MediaNotFoundError(f"is {kind}; give the path of a video file.", path)
    if status.st_size == 0:
        raise DecodeError("the file is empty (0 bytes); copy or download it again.", path)
    if limits.max_bytes is not None and status.st_size > limits.max_bytes:
        raise MediaLimitError(
            f"the file has {status.st_size} bytes; allowed: at most {limits.max_bytes} "
            "(MediaLimits.max_bytes).",
            path,
        )
    return resolved


@contextmanager
def open_video(path: str | Path, limits: MediaLimits, threads: int) -> Iterator[Opened]:
    """Open the main video stream of a local file, guarded; closes everything on leaving.

    Args:
        path: Path of the file.
        limits: Largest size.
        threads: Decoder threads; 0 for one per core.

    Yields:
        The open video, whose decoder is configured but not yet open.

    Raises:
        MediaError: One of its kinds, naming the file.
    """
    resolved = check_path(path, limits)
    with _open(resolved, limits) as container:
        stream = _main_stream(container, resolved, limits)
        context = stream.codec_context
        width, height = context.width, context.height
        if not width * height:  # also when probing met a refused size
            width, height = _stated_size(resolved, limits)
        if width * height > limits.max_pixels:
            raise MediaLimitError(
                f"frames are {width}x{height}; allowed: at most {limits.max_pixels} pixels; "
                "raise MediaLimits.max_pixels if you trust the file.",
                resolved,
            )
        if (width + 128) * (height + 128) > _MOST_OF_FFMPEG:
            raise MediaLimitError(
                f"frames are {width}x{height}; allowed: at most {_MOST_OF_FFMPEG} pixels with 128 "
                "more on each axis, whatever the limits; make the picture smaller.",
                resolved,
            )
        most = limits.max_pixels
        if width * height:
            most = min(most, max(width * height, _MAX_CHANGED_PIXELS))
        # Decoders count the rows and columns that they add for alignment, too.
        padded = max(most, (width + 128) * (height + 128)) + _PADDING_PIXELS
        context.options = {"max_pixels": str(padded)}
        context.thread_count = threads
        context.thread_type = "AUTO"
        with _readable(resolved):
            view = _view(resolved, limits, container, stream, most)
        yield Opened(container, stream, view, Damage())


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Name the file where its storage fails."""
    try:
        yield
    except OSError as error:
        raise UnreadableError(
            f"cannot be read ({error.strerror}); check its permissions and the disk.", path
        ) from error


def _stated_size(path: Path, limits: MediaLimits) -> tuple[int, int]:
    """Return the width and height that the file states, without any decoder; 0 if none."""
    with _readable(path):
        width, height = still_size(path)
    if width * height:
        return width, height
    with _open(path, limits, decoders="none") as container:
        context = _main_stream(container, path, limits).codec_context
        return context.width, context.height


def _open(path: Path, limits: MediaLimits, decoders: str | None = None) -> InputContainer:
    """Open the container by an absolute path and restricted formats, protocols and decoders."""
    with _readable(path):
        with path.open("rb") as file:
            head = file.read(24)
        image = forced = still_format(path, head)
    if image == "jpeg_pipe" and path.suffix.lower() in (".mjpeg", ".mjpg"):
        forced = None  # a film after all, of images that differ or are damaged
    options = {
        "format_whitelist": ",".join(ALLOWED_FORMATS),
        "protocol_whitelist": "file",
        # For the decoders that probing opens:
        "max_pixels": str(limits.max_pixels + _PADDING_PIXELS),
    }
    if decoders is not None:
        options["codec_whitelist"] = decoders
    try:
        container: InputContainer = av.open(
            str(path), mode="r", format=forced, options=options, **_METADATA
        )
    except MemoryError as error:
        raise MediaLimitError("opening it needs more memory than there is.", path) from error
    except (av.error.FFmpegError, ValueError) as error:
        known = image or head.startswith(_CONTAINERS) or head[4:8] in _MP4_BOXES
        if known:
            raise DecodeError(
                f"the container cannot be read ({_reason(error)}); it is damaged, cut short or "
                "not one of the supported formats; copy or convert it again.",
                path,
            ) from error
        raise UnsupportedMediaError(
            f"not a supported video or image file ({_reason(error)}); supported are MP4/MOV, "
            "Matroska/WebM, AVI, MPEG-TS/PS, FLV, ASF, Ogg, GIF and common image files; convert "
            "it, for example with 'ffmpeg -i FILE out.mp4'.",
            path,
        ) from error
    return container


def _main_stream(container: InputContainer, path: Path, limits: MediaLimits) -> VideoStream:
    """Return the video stream to show: not cover art; moving, default, largest, first."""
    pictures = [s for s in container.streams.video if s.disposition.value & _ATTACHED_PIC]
    streams = [s for s in container.streams.video if s not in pictures]
    if not streams:
        content = "only a cover picture" if pictures else "no video stream"
        raise NoVideoError(f"the file holds {content}; give a file with video.", path)
    if any(s.disposition.value & _DEPENDENT for s in streams):
        raise UnsupportedMediaError(
            f"the image is stored as {len(streams)} tiles; convert it to JPEG or PNG.", path
        )
    known = [s for s in streams if s.codec_context is not None]
    if not known:
        raise UnsupportedMediaError(
            "no decoder for its video codec; convert it, for example with "
            "'ffmpeg -i FILE -c:v libx264 out.mp4'.",
            path,
        )
    moving = _moving(known, path, limits) if len(known) > 1 else set()
    return max(
        known,
        key=lambda s: (
            s.index in moving,
            bool(s.disposition.value & _DEFAULT),
            s.codec_context.width * s.codec_context.height,
            -s.index,
        ),
    )


def _moving(streams: list[VideoStream], path: Path, limits: MediaLimits) -> set[int]:
    """Return the indices of the streams that have more than one packet.

    Where the container does not list them, packets are read until one of the streams has many:
    a stream that has none or one by then is a still picture.
    """
    listed = bool({"mov", "avi"} & set(streams[0].container.format.name.split(",")))
    counts = {s.index: len(s.index_entries) if listed else 0 for s in streams}
    if not all(counts.values()):
        counts = dict.fromkeys(counts, 0)
        with _open(path, limits) as container, suppress(av.error.FFmpegError, ValueError):
            for packet in container.demux(*(container.streams[i] for i in counts)):
                counts[packet.stream_index] += packet.size > 0
                if max(counts.values()) > _MANY_PACKETS:
                    break
    return {index for index, count in counts.items() if count > 1}


def _is_still(container: InputContainer, stream: VideoStream) -> bool:
    """Return True for an image file, and for an image item of HEIF or AVIF, which has no time."""
    name = container.format.name
    item = "mov" in name.split(",") and stream.frames == 1 and not stream.duration
    return name.endswith("_pipe") or (item and stream.time_base == 1)


def _view(
    path: Path,
    limits: MediaLimits,
    container: InputContainer,
    stream: VideoStream,
    max_pixels: int,
) -> FrameView:
    """Return how the decoded frames of a stream are meant."""
    names, context = container.format.name.split(","), stream.codec_context
    view = FrameView(context.codec.name, max_pixels, is_still=_is_still(container, stream))
    if "mov" in names and view.is_still:
        view.crop, item = image_layout(path, stream.id)
        view.alpha = None if item is None else _still_alpha(path, limits, item)
    elif "mov" in names:
        view.crop = track_crop(path, stream.id)
    elif "matroska" in names:
        view.crop = matroska_crop(path, container.streams.video.index(stream))
        tags = {name.lower(): value for name, value in stream.metadata.items()}
        if context.name in ("vp8", "vp9") and tags.get("alpha_mode") == "1":
            view.alpha = BlockAlpha(context.name, context.options)
    elif "webp_pipe" in names:
        view.orientation = webp_orientation(path)
    return view


def _still_alpha(path: Path, limits: MediaLimits, item: int) -> av.VideoFrame | None:
    """Decode the alpha of an image of HEIF or AVIF; None if FFmpeg lists no such item."""
    with _open(path, limits) as container:
        for stream in container.streams.video:
            if stream.id == item and stream.codec_context is not None:
                stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
                try:
                    return next(container.decode(stream), None)
                except (av.error.FFmpegError, ValueError) as error:
                    raise DecodeError(
                        f"its alpha cannot be decoded ({_reason(error)}); copy it again.", path
                    ) from error
    return None


_DEFAULT = av.stream.Disposition.default.value
_DEPENDENT = av.stream.Disposition.dependent.value
_ATTACHED_PIC = av.stream.Disposition.attached_pic.value


def _reason(error: Exception) -> str:
    """Return FFmpeg's words without numbers and paths."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

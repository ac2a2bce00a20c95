"""How one local file is opened so that nothing else is read and nothing explodes (uses PyAV).

FFmpeg opens whatever a file or its name points at: playlists, other protocols, devices. Here a
path is first resolved to an absolute regular file; only container formats that cannot refer to
other files are allowed; only the ``file`` protocol exists; and decoders refuse frames above a
pixel limit before they allocate them.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import av
import av.error

# PyAV imports these when it meets the first stream, which a confined process cannot.
import av.subtitles.codeccontext
import av.subtitles.stream
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
from .file import DescriptorReader, MediaFile
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


def check_file(path: str | Path, limits: MediaLimits) -> MediaFile:
    """Return a regular, not empty local file, by its absolute path.

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
    _check_status(status, path, limits)
    return MediaFile(resolved)


@contextmanager
def open_file(path: str | Path, limits: MediaLimits) -> Iterator[MediaFile]:
    """Open a file as :func:`check_file` allows, for a process that may open none.

    Yields:
        The file, whose descriptor is open until the end of the block.

    Raises:
        MediaError: As of :func:`check_file`, or UnreadableError: it may not be opened.
    """
    media = check_file(path, limits)
    with _readable(media.path):
        # Nor does it wait if a pipe has taken the place of the file.
        descriptor = os.open(media.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check_status(os.fstat(descriptor), path, limits)
        yield MediaFile(media.path, descriptor)
    finally:
        os.close(descriptor)


def _check_status(status: os.stat_result, path: str | Path, limits: MediaLimits) -> None:
    """Raise unless a file is a regular one of an allowed size."""
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


@contextmanager
def open_video(media: MediaFile, limits: MediaLimits, threads: int) -> Iterator[Opened]:
    """Open the main video stream of a local file, guarded; closes everything on leaving.

    Args:
        media: The file.
        limits: Largest size.
        threads: Decoder threads; 0 for one per core.

    Yields:
        The open video, whose decoder is configured but not yet open.

    Raises:
        MediaError: One of its kinds, naming the file.
    """
    with _open(media, limits) as container:
        stream = _main_stream(container, media, limits)
        context = stream.codec_context
        width, height = context.width, context.height
        if not width * height:  # also when probing met a refused size
            width, height = _stated_size(media, limits)
        if width * height > limits.max_pixels:
            raise MediaLimitError(
                f"frames are {width}x{height}; allowed: at most {limits.max_pixels} pixels; "
                "raise MediaLimits.max_pixels if you trust the file.",
                media.path,
            )
        if (width + 128) * (height + 128) > _MOST_OF_FFMPEG:
            raise MediaLimitError(
                f"frames are {width}x{height}; allowed: at most {_MOST_OF_FFMPEG} pixels with 128 "
                "more on each axis, whatever the limits; make the picture smaller.",
                media.path,
            )
        most = limits.max_pixels
        if width * height:
            most = min(most, max(width * height, _MAX_CHANGED_PIXELS))
        # Decoders count the rows and columns that they add for alignment, too.
        padded = max(most, (width + 128) * (height + 128)) + _PADDING_PIXELS
        context.options = {"max_pixels": str(padded)}
        context.thread_count = threads
        context.thread_type = "AUTO"
        with _readable(media.path):
            view = _view(media, limits, container, stream, most)
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


def _stated_size(media: MediaFile, limits: MediaLimits) -> tuple[int, int]:
    """Return the width and height that the file states, without any decoder; 0 if none."""
    with _readable(media.path):
        width, height = still_size(media)
    if width * height:
        return width, height
    with _open(media, limits, decoders="none") as container:
        context = _main_stream(container, media, limits).codec_context
        return context.width, context.height


def _open(media: MediaFile, limits: MediaLimits, decoders: str | None = None) -> InputContainer:
    """Open the container by an absolute path and restricted formats, protocols and decoders."""
    with _readable(media.path):
        with media.open() as file:
            head = file.read(24)
        image = forced = still_format(media, head)
    if image == "jpeg_pipe" and media.path.suffix.lower() in (".mjpeg", ".mjpg"):
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
            _as_av_takes(media), mode="r", format=forced, options=options, **_METADATA
        )
    except MemoryError as error:
        raise MediaLimitError("opening it needs more memory than there is.", media.path) from error
    except (av.error.FFmpegError, ValueError) as error:
        known = image or head.startswith(_CONTAINERS) or head[4:8] in _MP4_BOXES
        if known:
            raise DecodeError(
                f"the container cannot be read ({_reason(error)}); it is damaged, cut short or "
                "not one of the supported formats; copy or convert it again.",
                media.path,
            ) from error
        raise UnsupportedMediaError(
            f"not a supported video or image file ({_reason(error)}); supported are MP4/MOV, "
            "Matroska/WebM, AVI, MPEG-TS/PS, FLV, ASF, Ogg, GIF and common image files; convert "
            "it, for example with 'ffmpeg -i FILE out.mp4'.",
            media.path,
        ) from error
    return container


def _as_av_takes(media: MediaFile) -> str | BinaryIO:
    """Return a file as ``av.open`` takes it."""
    if media.descriptor is None:
        return str(media.path)
    return cast("BinaryIO", _AvReader(media.descriptor, str(media.path)))


class _AvReader(DescriptorReader):
    """Has the name of its file, by which FFmpeg may know a format, and errors as FFmpeg's own."""

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__(descriptor)
        self.name = name

    def read(self, size: int = -1) -> bytes:
        try:
            data = os.pread(self.descriptor, size, self.position)
        except OSError as error:
            av.error.err_check(-(error.errno or errno.EIO))
            raise
        self.position += len(data)
        return data


def _main_stream(container: InputContainer, media: MediaFile, limits: MediaLimits) -> VideoStream:
    """Return the video stream to show: not cover art; moving, default, largest, first."""
    pictures = [s for s in container.streams.video if s.disposition.value & _ATTACHED_PIC]
    streams = [s for s in container.streams.video if s not in pictures]
    if not streams:
        content = "only a cover picture" if pictures else "no video stream"
        raise NoVideoError(f"the file holds {content}; give a file with video.", media.path)
    if any(s.disposition.value & _DEPENDENT for s in streams):
        raise UnsupportedMediaError(
            f"the image is stored as {len(streams)} tiles; convert it to JPEG or PNG.", media.path
        )
    known = [s for s in streams if s.codec_context is not None]
    if not known:
        raise UnsupportedMediaError(
            "no decoder for its video codec; convert it, for example with "
            "'ffmpeg -i FILE -c:v libx264 out.mp4'.",
            media.path,
        )
    moving = _moving(known, media, limits) if len(known) > 1 else set()
    return max(
        known,
        key=lambda s: (
            s.index in moving,
            bool(s.disposition.value & _DEFAULT),
            s.codec_context.width * s.codec_context.height,
            -s.index,
        ),
    )


def _moving(streams: list[VideoStream], media: MediaFile, limits: MediaLimits) -> set[int]:
    """Return the indices of the streams that have more than one packet.

    Where the container does not list them, packets are read until one of the streams has many:
    a stream that has none or one by then is a still picture.
    """
    listed = bool({"mov", "avi"} & set(streams[0].container.format.name.split(",")))
    counts = {s.index: len(s.index_entries) if listed else 0 for s in streams}
    if not all(counts.values()):
        counts = dict.fromkeys(counts, 0)
        with _open(media, limits) as container, suppress(av.error.FFmpegError, ValueError):
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
    media: MediaFile,
    limits: MediaLimits,
    container: InputContainer,
    stream: VideoStream,
    max_pixels: int,
) -> FrameView:
    """Return how the decoded frames of a stream are meant."""
    names, context = container.format.name.split(","), stream.codec_context
    view = FrameView(context.codec.name, max_pixels, is_still=_is_still(container, stream))
    if "mov" in names and view.is_still:
        view.crop, item = image_layout(media, stream.id)
        view.alpha = None if item is None else _still_alpha(media, limits, item)
    elif "mov" in names:
        view.crop = track_crop(media, stream.id)
    elif "matroska" in names:
        view.crop = matroska_crop(media, container.streams.video.index(stream))
        tags = {name.lower(): value for name, value in stream.metadata.items()}
        if context.name in ("vp8", "vp9") and tags.get("alpha_mode") == "1":
            view.alpha = BlockAlpha(context.name, context.options)
    elif "webp_pipe" in names:
        view.orientation = webp_orientation(media)
    return view


def _still_alpha(media: MediaFile, limits: MediaLimits, item: int) -> av.VideoFrame | None:
    """Decode the alpha of an image of HEIF or AVIF; None if FFmpeg lists no such item."""
    with _open(media, limits) as container:
        for stream in container.streams.video:
            if stream.id == item and stream.codec_context is not None:
                stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
                try:
                    return next(container.decode(stream), None)
                except (av.error.FFmpegError, ValueError) as error:
                    raise DecodeError(
                        f"its alpha cannot be decoded ({_reason(error)}); copy it again.",
                        media.path,
                    ) from error
    return None


_DEFAULT = av.stream.Disposition.default.value
_DEPENDENT = av.stream.Disposition.dependent.value
_ATTACHED_PIC = av.stream.Disposition.attached_pic.value


def _reason(error: Exception) -> str:
    """Return FFmpeg's words without numbers and paths."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

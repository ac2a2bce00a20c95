"""From a decoded frame to small upright RGB: colour, alpha, resize, rotation (uses PyAV).

Every pixel that reaches a network passes through :class:`FrameResizer`: video files, still images
and arrays, in training and at inference. libswscale scales straight from the decoded planes with
an antialiasing triangle filter (``bilinear`` widened by the scale), which ``benchmarks/resize.py``
measures against converting the full frame and resizing it in torch.

What is decided here, and must not change while checkpoints depend on it:

* Colour matrix as tagged; untagged video is BT.709 when at least 1280 px wide or more than 576 px
  high and BT.601 otherwise, as players do. Range as tagged, also of monochrome; untagged is
  limited, except in the ``yuvj`` formats and in the gray of still images (JPEG, PNG, TIFF). No
  tone mapping: HDR video keeps its transfer curve.
* Transparent pixels are composited over black before the resize, even where alpha is a second
  picture: in VP8, VP9, AVIF and HEIF stills. That of animated AVIF and of HEVC video is not read.
* What the container wants cut off is cut off (:mod:`.headers.layout`): MP4, MOV, AVIF, HEIF,
  Matroska.
* Interlaced frames are taken whole, both fields, without deinterlacing.
* Rotation and mirroring follow the display matrix, to the nearest quarter turn; the orientation
  in the EXIF data of JPEG, PNG, WebP and TIFF is one, and AVIF and HEIF state it themselves.
* Sample aspect ratio is ignored: pixels count as square.
"""

from __future__ import annotations

from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import ColorRange, VideoReformatter

from ..config import Preprocessing
from ..errors import DecodeError, InputError, MediaLimitError, UnsupportedMediaError
from .bars import Bars
from .view import Beside, FrameFilter

Frame = npt.NDArray[np.uint8]

# Flags of libswscale (swscale.h).
SWS_BILINEAR = 0x2
SWS_QUALITY = 0x2000 | 0x4000 | 0x40000 | 0x80000
"""Full chroma in output and input, accurate rounding, and the same bits on every processor."""

# AVColorSpace of a frame -> libswscale's SWS_CS number of the matrix; others count as untagged.
SWS_BT709, SWS_BT601 = 1, 5
_MATRIX = {1: SWS_BT709, 4: 4, 5: SWS_BT601, 6: SWS_BT601, 7: 7, 9: 9, 10: 9}
_ALPHA_ROWS = 256
_MAX_ASPECT = 64
_MOST_TIMES_SMALLER = 64
"""How much smaller one pass makes a side at most: libswscale's filters have at most 256 taps."""

# Kinds of side data (AVFrameSideDataType) that PyAV does not know, such as EXIF: it reads nothing
# of a frame that has one.
_UNKNOWN_KINDS = set(range(40)) - {kind.value for kind in SideDataType}
_KNOWN_ONLY = [("sidedata", f"mode=delete:type={kind}") for kind in sorted(_UNKNOWN_KINDS)]
# EXIF orientation -> (transposed, then flipped vertically, then flipped horizontally), and the
# turn by which FFmpeg states it.
_EXIF_ORIENTATION = {
    **{1: (False, False, False), 2: (False, False, True), 3: (False, True, True)},
    **{4: (False, True, False), 5: (True, False, False), 6: (True, False, True)},
    **{7: (True, True, True), 8: (True, True, False)},
}
_EXIF_TURN = {1: 0, 2: 180, 3: 180, 4: 0, 5: 90, 6: 90, 7: 270, 8: 270}

# ITU-T H.273: 16 to 235 of limited range mean 0 to 255.
_STRETCHED = np.clip(np.round((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8)


READING_RULES = 2
"""Raised when what is made of the same file changes. 2: times that ascend, mended clocks, crop,
alpha, mirrored orientations, range of monochrome, chroma of interlaced frames."""


_LIBRARIES = ", ".join(
    f"{name} {'.'.join(map(str, number))}"
    for name, number in sorted(av.library_versions.items())
    if name in ("libavcodec", "libavformat", "libswscale")
)
DECODER_VERSION = (
    f"PyAV {av.__version__} / FFmpeg {getattr(av, 'ffmpeg_version_info', 'unknown version')} "
    f"({_LIBRARIES}), rules {READING_RULES}"
)
"""Versions of everything that decides decoded pixels and their times, for provenance."""


def target_size(height_px: int, width_px: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the (height, width) to which a frame as shown is resized.

    Args:
        height_px: Height of the frame after rotation.
        width_px: Width of the frame after rotation.
        preprocessing: ``"stretch"`` gives its fixed size; ``"short_side"`` keeps the aspect ratio.

    Raises:
        MediaLimitError: With ``"short_side"``, one side is more than 64 times the other.

    Example:
        >>> target_size(1080, 1920, Preprocessing())
        (128, 171)
        >>> target_size(1080, 1920, Preprocessing(resize="short_side"))
        (128, 228)
    """
    if preprocessing.resize == "stretch":
        return preprocessing.resize_height_px, preprocessing.resize_width_px
    short, long = sorted((height_px, width_px))
    if long > _MAX_ASPECT * short:
        raise MediaLimitError(
            f"frames are {width_px}x{height_px}; with resize 'short_side' one side may be at most "
            f"{_MAX_ASPECT} times the other; use a model whose resize is 'stretch'."
        )
    side = preprocessing.resize_height_px
    scaled = (2 * long * side + short) // (2 * short)  # rounded half up, exactly
    return (side, scaled) if height_px <= width_px else (scaled, side)


def display_size(frame: av.VideoFrame) -> tuple[int, int, int]:
    """Return (height, width, clockwise rotation in degrees) of a frame as it is shown."""
    transposed, _, _ = _orientation(frame)
    size = (frame.width, frame.height) if transposed else (frame.height, frame.width)
    turn = -frame.rotation % 360 or _EXIF_TURN[Beside.of(frame).orientation]
    return (*size, turn)


class FrameResizer:
    """Turns decoded frames into upright uint8 RGB of one size, fixed by the first frame.

    Args:
        preprocessing: Says how to resize.
        max_pixels: Largest width times height of a decoded frame.
        scaling: libswscale's filter; checkpoints depend on the default.
    """

    def __init__(
        self, preprocessing: Preprocessing, max_pixels: int, scaling: int = SWS_BILINEAR
    ) -> None:
        self._preprocessing = preprocessing
        self._max_pixels = max_pixels
        self._scaler = VideoReformatter()
        self._progressive = FrameFilter(("setfield", "prog"))
        self._flags = scaling | SWS_QUALITY
        self._size: tuple[int, int] | None = None
        self._bars: Bars | None = None
        self._cropped: dict[str, FrameFilter] = {}

    def fix_size(self, height_px: int, width_px: int) -> None:
        """Fix the size by a frame as shown; without this call the first frame fixes it."""
        self._size = target_size(height_px, width_px, self._preprocessing)

    def cut(self, bars: Bars, height_px: int, width_px: int) -> None:
        """Cut bars off all frames from now on, whose size as shown is given."""
        self._bars = bars
        self.fix_size(*bars.rest(height_px, width_px))

    def __call__(self, frame: av.VideoFrame) -> Frame:
        """Return the frame as (h, w, 3) uint8 RGB, contiguous.

        Raises:
            MediaLimitError: The frame is larger than the limit.
            UnsupportedMediaError: Its pixel format cannot be converted.
            DecodeError: The conversion failed.
        """
        if frame.width * frame.height > self._max_pixels:
            raise MediaLimitError(
                f"a frame is {frame.width}x{frame.height}; allowed: at most {self._max_pixels} "
                "pixels; raise MediaLimits.max_pixels if you trust the file."
            )
        if frame.format.name.startswith("bayer"):
            raise UnsupportedMediaError(
                f"pixel format {frame.format.name} (raw sensor data); convert the video first."
            )
        if self._size is None:
            self.fix_size(*display_size(frame)[:2])
        size = self._size or (0, 0)
        transposed, flip_vertical, flip_horizontal = _orientation(frame)
        height, width = size[::-1] if transposed else size
        try:
            # Interlaced frames are called progressive: libswscale would split their fields.
            whole = self._progressive(frame) if frame.interlaced_frame else frame
            opaque = self._opaque(whole)
            if self._bars is not None:
                stored = self._bars.as_stored(transposed, flip_vertical, flip_horizontal)
                how = stored.crop_filter  # the same for all frames, but for one that is turned
                cropped = self._cropped.setdefault(how, FrameFilter(("crop", how)))
                opaque = cropped(opaque)
            small = self._resize(opaque, height, width)
        except (av.error.FFmpegError, ValueError, MemoryError) as error:
            raise DecodeError(
                f"a frame of {frame.width}x{frame.height} {frame.format.name} cannot be "
                f"resized to {width}x{height}: {error}."
            ) from error
        if transposed:
            small = small.transpose(1, 0, 2)
        if flip_vertical:
            small = small[::-1]
        if flip_horizontal:
            small = small[:, ::-1]
        return np.ascontiguousarray(small)

    def _resize(self, frame: av.VideoFrame, height: int, width: int) -> Frame:
        """Resize and convert to RGB24, in two passes where one does not reach."""
        try:
            small = self._scale(frame, height, width)
        except av.error.ArgumentError:
            most = _MOST_TIMES_SMALLER
            sides = min(frame.height, most * height), min(frame.width, most * width)
            if sides == (frame.height, frame.width):
                raise
            small = self._scale(self._scale(frame, *sides), height, width)
        pixels: Frame = np.asarray(small.to_ndarray(), dtype=np.uint8)
        return _STRETCHED[pixels] if _is_limited_gray(frame) else pixels

    def _scale(self, frame: av.VideoFrame, height: int, width: int) -> av.VideoFrame:
        """Resize and convert to RGB24 in one pass of libswscale."""
        return self._scaler.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=_matrix(frame),
            dst_color_range=ColorRange.JPEG,
            interpolation=self._flags,
            threads=1,
        )

    def _opaque(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Composite a frame with alpha over black at full size; pass any other through."""
        has_alpha = any(component.is_alpha for component in frame.format.components)
        alpha = Beside.of(frame).alpha
        if not has_alpha and alpha is None and frame.format.name != "pal8":
            return frame
        rgba = VideoReformatter().reformat(
            frame,
            format="rgba",
            src_colorspace=_matrix(frame),
            dst_color_range=ColorRange.JPEG,
            interpolation=SWS_BILINEAR | SWS_QUALITY,
            threads=1,
        )
        pixels = rgba.to_ndarray()  # (H, W, 4)
        if _is_limited_gray(frame):
            pixels[..., :3] = _STRETCHED[pixels[..., :3]]
        if alpha is not None:
            pixels[..., 3] = _first_plane(alpha)
        rgb = np.empty((*pixels.shape[:2], 3), dtype=np.uint8)
        for top in range(0, len(pixels), _ALPHA_ROWS):
            rows = pixels[top : top + _ALPHA_ROWS].astype(np.uint16)
            rgb[top : top + _ALPHA_ROWS] = (rows[..., :3] * rows[..., 3:] + 127) // 255
        return av.VideoFrame.from_ndarray(rgb, format="rgb24")


def resize_rgb(frames: Frame, preprocessing: Preprocessing) -> Frame:
    """Resize RGB arrays exactly as video frames are resized.

    Args:
        frames: (N, H, W, 3) uint8 RGB, already upright.
        preprocessing: Says how to resize.

    Returns:
        (N, h, w, 3) uint8 RGB.

    Raises:
        InputError: Shape or dtype differs, or a side is 0.
        MediaLimitError: See :func:`target_size`.

    Example:
        >>> resize_rgb(np.zeros((2, 480, 640, 3), np.uint8), Preprocessing()).shape
        (2, 128, 171, 3)
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise InputError(
            f"frames are {frames.dtype} of shape {frames.shape}; allowed: uint8 (N, H, W, 3) RGB."
        )
    _, height, width, _ = frames.shape
    if height < 1 or width < 1:
        raise InputError(f"frames have shape {frames.shape}; allowed: sides of 1 px or more.")
    small_height, small_width = target_size(height, width, preprocessing)
    resizer = FrameResizer(preprocessing, max_pixels=height * width)
    small = np.empty((len(frames), small_height, small_width, 3), dtype=np.uint8)
    for i, array in enumerate(frames):
        small[i] = resizer(av.VideoFrame.from_ndarray(np.ascontiguousarray(array), "rgb24"))
    return small


def _matrix(frame: av.VideoFrame) -> int | None:
    """Return the YUV matrix of a frame; None for RGB, which has none."""
    if frame.format.is_rgb or frame.format.name == "pal8":
        return None
    guess = SWS_BT709 if frame.width >= 1280 or frame.height > 576 else SWS_BT601
    return _MATRIX.get(int(frame.colorspace), guess)


def _first_plane(frame: av.VideoFrame) -> Frame:
    """Return the luma or gray of a frame as (H, W) uint8, whatever its range."""
    frame.color_range = ColorRange.JPEG
    gray = VideoReformatter().reformat(
        frame, format="gray", dst_color_range=ColorRange.JPEG, interpolation=SWS_QUALITY, threads=1
    )
    pixels: Frame = np.asarray(gray.to_ndarray(), dtype=np.uint8)
    return pixels


def _is_limited_gray(frame: av.VideoFrame) -> bool:
    """Return True for monochrome of limited range, which libswscale takes for full range."""
    name = frame.format.name
    if name.startswith("ya"):  # with alpha: from images, unless a tag says more
        return bool(frame.color_range == ColorRange.MPEG)
    whole_numbers = name.startswith("gray") and "f" not in name
    return whole_numbers and frame.color_range != ColorRange.JPEG


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Return (transposed, then flipped vertically, then flipped horizontally) of a frame.

    The display matrix maps a stored point (p, q) to (a p + c q, b p + d q), with y downwards.
    """
    try:
        side_data: Any = frame.side_data  # PyAV declares it as a dict of motion vectors only
    except ValueError:
        side_data = FrameFilter(*_KNOWN_ONLY)(frame).side_data
    data = side_data.get(SideDataType.DISPLAYMATRIX)
    if data is None:
        return _EXIF_ORIENTATION[Beside.of(frame).orientation]
    a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, d < 0, a < 0
    return True, b < 0, c < 0

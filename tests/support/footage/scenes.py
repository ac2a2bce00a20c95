"""Makers of videos that look like footage to a network: shots of moving shapes, and edits of them.

Every video has shots of its own, so that its frames are nowhere else; a shot moves, so that its
frames can be told apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, RATE, SHOT_SECONDS = 192, 144, 12, 3.0

Edit = Callable[[np.ndarray], np.ndarray]


@lru_cache(maxsize=64)
def _shapes(video: int, shot: int) -> list[tuple[np.ndarray, ...]]:
    """Return place, motion, size and colour of the shapes of one shot, the ground first."""
    generator = np.random.default_rng([video, shot])
    shapes = []
    for _ in range(14):
        place, motion = generator.uniform(0, 1, 2), generator.uniform(-0.12, 0.12, 2)
        size, colour = generator.uniform(0.06, 0.3, 2), generator.integers(20, 256, 3)
        shapes.append((place, motion, size, colour))
    return shapes


def scene(video: int, seconds: float) -> np.ndarray:
    """Return the (HEIGHT, WIDTH, 3) uint8 frame that a video shows at an instant."""
    shot, inside = divmod(seconds, SHOT_SECONDS)
    shapes = _shapes(video, int(shot))
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / np.array([HEIGHT, WIDTH])[:, None, None]
    ground, slope = shapes[0][3], shapes[0][1]
    light = 0.6 + slope[0] * 3 * (x - 0.5) + slope[1] * 3 * (y - 0.5)
    frame = ground * light[..., None]
    for number, (place, motion, size, colour) in enumerate(shapes[1:]):
        left, top = (place + motion * inside) % 1
        across, down = (x - left) / size[0], (y - top) / size[1]
        within = across**2 + down**2 < 1 if number % 2 else np.maximum(abs(across), abs(down)) < 1
        stripes = 0.75 + 0.25 * np.sin(across * (8 + number))
        frame = np.where(within[..., None], colour * stripes[..., None], frame)
    return np.clip(frame, 0, 255).astype(np.uint8)


def footage(
    path: Path,
    video: int,
    begin: float = 0.0,
    seconds: float = 9.0,
    speed: float = 1.0,
    edit: Edit = lambda frame: frame,
    quality: int = 23,
) -> Path:
    """Write a stretch of a video to a file.

    Args:
        path: The file.
        video: Number of the video.
        begin: Where the stretch begins in it.
        seconds: Length of the file.
        speed: Seconds of the video shown in one second.
        edit: What is done to each frame.
        quality: H.264's constant rate factor.
    """
    frames = (scene(video, begin + speed * n / RATE) for n in range(round(seconds * RATE)))
    return written(path, (edit(frame) for frame in frames), quality)


def written(path: Path, frames, quality: int = 23) -> Path:
    """Encode (H, W, 3) uint8 frames as H.264."""
    with av.open(str(path), "w") as container:
        stream = None
        for number, frame in enumerate(frames):
            if stream is None:
                options = {"crf": str(quality), "preset": "veryfast", "g": "24"}
                stream = container.add_stream("libx264", rate=RATE, options=options)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.codec_context.thread_count = 1
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def mirrored(frame: np.ndarray) -> np.ndarray:
    return frame[:, ::-1]


def letterboxed(frame: np.ndarray) -> np.ndarray:
    """Black bars above and below, a fifth of the height each, as a wider picture has them."""
    bar = np.zeros((HEIGHT // 3, WIDTH, 3), np.uint8)
    return np.concatenate([bar, frame, bar])


def darker(frame: np.ndarray) -> np.ndarray:
    return (frame * 0.7 + 10).astype(np.uint8)


def flat(path: Path, seconds: float = 6.0, colour: int = 0) -> Path:
    """Write a video of one colour."""
    frame = np.full((HEIGHT, WIDTH, 3), colour, np.uint8)
    return written(path, (frame for _ in range(round(seconds * RATE))))

"""Render the short clips that this project ships; every pixel is computed here.

    python examples/render_clip.py

writes ``examples/bouncing_balls.mp4``, the clip of the README, and ``ccl_hub/publish/golden.mp4``,
the clip behind ``ccl-hub verify``. Encoders differ between builds, so the committed files are the
reference; rendering again may change their bytes.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
HEIGHT, WIDTH, RATE = 240, 320, 25


def frame_at(seconds: float, seed: int) -> np.ndarray:
    """Draw one uint8 (240,320,3) RGB frame: three balls bounce before a slowly panning ground."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    phase = 2 * np.pi * seconds
    ground = np.stack(
        [
            90 + 40 * np.sin((x + 30 * seconds) / 23 + seed) * np.cos(y / 31),
            110 + 50 * np.sin((x + y + 30 * seconds) / 37 + 2 * seed),
            120 + 35 * np.cos((x - y + 15 * seconds) / 29),
        ],
        axis=-1,
    )  # (H,W,3)
    for ball in range(3):
        radius = 18 + 9 * ball
        centre_x = WIDTH / 2 + (WIDTH / 2 - radius) * np.sin(phase * (0.21 + 0.1 * ball) + seed)
        bounce = abs(np.sin(phase * (0.5 + 0.13 * ball) + ball))
        centre_y = HEIGHT - radius - (HEIGHT - 2 * radius) * bounce
        distance = np.hypot(x - centre_x, y - centre_y)
        cover = np.clip(radius + 0.5 - distance, 0, 1)[..., None]  # (H,W,1), soft edge
        shade = np.clip(1.2 - distance / (1.6 * radius), 0.3, 1)[..., None]
        colour = np.array([[230, 70, 50], [60, 200, 90], [70, 110, 235]][ball])
        ground = ground * (1 - cover) + colour * shade * cover
    return np.clip(ground, 0, 255).astype(np.uint8)


def render(path: Path, length_seconds: float, seed: int) -> None:
    """Encode ``length_seconds`` of the scene as H.264 with B-frames at 25 frames per second."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": "26", "g": "50", "threads": "1"}
        for index in range(round(length_seconds * RATE)):
            frame = av.VideoFrame.from_ndarray(frame_at(index / RATE, seed), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


if __name__ == "__main__":
    render(ROOT / "examples" / "bouncing_balls.mp4", length_seconds=6.0, seed=1)
    render(ROOT / "ccl_hub" / "publish" / "golden.mp4", length_seconds=2.4, seed=5)

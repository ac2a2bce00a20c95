"""The videos that both trees get: rendered once, without the code of either."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "bouncing_balls.mp4"
CLASSES, VIDEOS_PER_CLASS = ("left", "right", "still"), 6


@dataclass(frozen=True)
class Inputs:
    """What is embedded, decoded and packed.

    Args:
        example: One ordinary video.
        every: Folder of all videos: ordinary, odd, broken, and those the caller added.
        classes: Folder with a folder of small videos for each class, inside ``every``.
        image: A still image.
    """

    example: Path
    every: Path
    classes: Path
    image: Path


def make_inputs(folder: Path, videos: Sequence[Path]) -> Inputs:
    """Render clips into ``folder`` and copy the example and the folders ``videos`` beside them."""
    classes, odd = folder / "classes", folder / "odd"
    for speed, name in zip((-3, 3, 0), CLASSES, strict=True):
        for seed in range(VIDEOS_PER_CLASS):
            _render(classes / name / f"{seed}.mp4", "mpeg4", 40, speed=speed, seed=seed)
    _render(odd / "reordered.avi", "mpeg4", 50, options={"bf": "2"})
    _render(odd / "uneven.mkv", "libx264", 40, ticks=_uneven_ticks(40))
    _render(odd / "turned.mp4", "libx264", 40, rotation=90)
    _render(odd / "short.mp4", "libx264", 3)
    _render(odd / "moving.gif", "gif", 20, pixel_format="rgb8")
    _render(odd / "whole.mkv", "libx264", 100)
    whole = (odd / "whole.mkv").read_bytes()
    (odd / "cut.mkv").write_bytes(whole[: len(whole) * 6 // 10])
    (odd / "text.mp4").write_text("This is not a video.\n")
    _render(folder / "stills" / "still.png", "png", 1, pixel_format="rgb24", format="image2")
    example = Path(shutil.copy(EXAMPLE, folder))
    for number, source in enumerate(videos):
        shutil.copytree(source, folder / "videos" / f"{number}-{source.name}")
    return Inputs(example, folder, classes, folder / "stills" / "still.png")


def _uneven_ticks(frames: int) -> list[int]:
    """Return presentation times in ms that rush and pause."""
    steps = np.random.default_rng(0).choice([20, 33, 40, 40, 120, 400], frames - 1)
    return [0, *np.cumsum(steps).tolist()]


def _render(
    path: Path,
    codec: str,
    frames: int,
    *,
    speed: int = 2,
    seed: int = 0,
    ticks: Sequence[int] | None = None,
    rotation: int = 0,
    pixel_format: str = "yuv420p",
    format: str | None = None,
    options: dict[str, str] | None = None,
) -> None:
    """Write a video of moving plaids, 160 x 120 at 25 frames/s, or at ``ticks`` in ms."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unit = Fraction(1, 1000) if ticks else Fraction(1, 25)
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 160, 120, pixel_format
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = unit
        if rotation:
            stream.set_display_rotation(rotation)
        y, x, c = np.ogrid[:120, :160, :3]
        for number in range(frames):
            plaid = (3 * (x + speed * number) + 40 * seed) % 256 ^ (2 * y + 60 * c) % 256
            frame = av.VideoFrame.from_ndarray(plaid.astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = ticks[number] if ticks else number, unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())

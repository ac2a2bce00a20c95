"""Why frames are resized in libswscale: speed and parity against torch, on one's own videos.

    python -m benchmarks.resize VIDEO... [--frames 32] [--json]

For each video the first frames are decoded once; then, on one core, each way resizes them to
128x171: libswscale with three filters straight from the decoded planes, and torch from full-size
RGB (conversion included). Parity is the PSNR and largest difference to a reference that resizes
each plane in float64 with an antialiased triangle and converts by the definition of the matrix;
it assumes centred chroma, so libswscale, which honours the chroma position, cannot reach it
exactly.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.video.reformatter import Interpolation

from ccl_hub.config import Preprocessing
from ccl_hub.video import pixels as video_pixels
from ccl_hub.video.open import MediaLimits, check_file, open_video
from ccl_hub.video.pixels import DECODER_VERSION, FrameResizer

PAPER = Preprocessing()
SIZE = (PAPER.resize_height_px, PAPER.resize_width_px)
FILTERS = {
    "swscale bilinear (used)": Interpolation.BILINEAR,
    "swscale bicubic": Interpolation.BICUBIC,
    "swscale area": Interpolation.AREA,
}


def decode(path: Path, count: int) -> list[av.VideoFrame]:
    """Return the first frames of a video."""
    frames: list[av.VideoFrame] = []
    with open_video(check_file(path, MediaLimits()), MediaLimits(), threads=1) as opened:
        for packet in opened.container.demux(opened.stream):
            frames += opened.stream.codec_context.decode(packet if packet.size else None)
            if len(frames) >= count:
                break
    return frames[:count]


def full_rgb(frame: av.VideoFrame) -> np.ndarray:
    """Convert a whole frame to (H, W, 3) uint8 RGB by the same matrix."""
    return (
        video_pixels.VideoReformatter()
        .reformat(
            frame,
            format="rgb24",
            src_colorspace=video_pixels._matrix(frame),
            dst_color_range=video_pixels.ColorRange.JPEG,
            interpolation=video_pixels.SWS_BILINEAR | video_pixels.SWS_QUALITY,
            threads=1,
        )
        .to_ndarray()
    )


def by_torch(frame: av.VideoFrame) -> np.ndarray:
    """Convert the whole frame, then resize in torch on uint8."""
    image = torch.from_numpy(full_rgb(frame)).permute(2, 0, 1)[None]
    small = F.interpolate(image, size=SIZE, mode="bilinear", antialias=True)
    return small[0].permute(1, 2, 0).numpy()


def reference(frame: av.VideoFrame) -> np.ndarray | None:
    """Return (h, w, 3) float64 by definition, for 8-bit 4:2:0 frames; else None."""
    if frame.format.name not in ("yuv420p", "yuvj420p"):
        return None
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        values = torch.from_numpy(rows[: plane.height, : plane.width].astype(np.float64))
        planes.append(
            F.interpolate(values[None, None], size=SIZE, mode="bilinear", antialias=True)[0, 0]
        )
    y, u, v = (plane.numpy() for plane in planes)
    full = frame.format.name == "yuvj420p" or frame.color_range == 2
    luma = y / 255 if full else (y - 16) / 219
    cb, cr = ((c - 128) / (255 if full else 224) for c in (u, v))
    hd = video_pixels._matrix(frame) == video_pixels.SWS_BT709
    kr, kb = (0.2126, 0.0722) if hd else (0.299, 0.114)
    red, blue = luma + 2 * (1 - kr) * cr, luma + 2 * (1 - kb) * cb
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.stack([red, green, blue], axis=-1) * 255, 0, 255)


def measure(
    resize: Callable[[av.VideoFrame], np.ndarray], frames: list[av.VideoFrame]
) -> dict[str, float]:
    """Return the best of three mean times, and the parity."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        small = [resize(frame) for frame in frames]
        best = min(best, (time.perf_counter() - start) / len(frames))
    row = {"ms": best * 1e3}
    exact = [reference(frame) for frame in frames]
    if exact[0] is not None:
        error = np.stack(small) - np.stack(exact)
        row["psnr_db"] = float(10 * np.log10(255**2 / np.mean(error**2)))
        row["largest"] = float(np.abs(error).max())
    return row


def main() -> None:
    """Measure every video given and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for path in arguments.videos:
        frames = decode(path, arguments.frames)
        about = {"video": path.name, "size": f"{frames[0].width}x{frames[0].height}"}
        for name, kind in FILTERS.items():
            resizer = FrameResizer(PAPER, max_pixels=2**31, scaling=kind.value)
            rows.append(about | {"way": name} | measure(resizer, frames))
        rows.append(about | {"way": "torch uint8 antialias"} | measure(by_torch, frames))
    out = sys.stdout
    if arguments.json:
        json.dump({"decoder": DECODER_VERSION, "torch": torch.__version__, "rows": rows}, out)
        out.write("\n")
        return
    out.write(f"{DECODER_VERSION}, torch {torch.__version__}, one core\n")
    for row in rows:
        parity = f"{row['psnr_db']:6.1f} dB, max {row['largest']:5.1f}" if "psnr_db" in row else ""
        about = f"{row['video'][:28]:28} {row['size']:>9} {row['way']:24}"
        out.write(f"{about} {row['ms']:7.2f} ms {parity}\n")


if __name__ == "__main__":
    main()

#!/usr/bin/env bash
# Monochrome video of limited range is shown too dull: FFmpeg's scaler takes each gray for full range.
#
# Package: av 18.1.0 (FFmpeg 8.1); OpenCV 5.0.0.93 does the same.
# Input: lossless gray FFV1 in Matroska, tagged limited range, with luma 16, 126 and 235 (what
#     security and thermal cameras and film scans hold: black, middle, white).
# Seen: to_ndarray(format="rgb24") gives 16, 126, 235; the same luma in yuv420p with neutral colour
#     gives 0, 128, 255. OpenCV's read() gives 16, 126, 235 as well.
# Expected: 0, 128, 255 both times: ITU-T H.273 VideoFullRangeFlag 0, RFC 9559 Range 1 (the zscale
#     filter gives these too).
# Known: no issue found for PyAV or OpenCV.
# Instead: stretch by (y - 16) * 255 / 219 when format.name starts with "gray" and the range is
#     limited, or convert by the zscale filter.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    av==18.1.0 opencv-python-headless==5.0.0.93 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import sys

import av
import cv2
import numpy as np

LEVELS = (16, 126, 235)


def shown(pixel_format):
    path = f"{pixel_format}.mkv"
    with av.open(path, "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, pixel_format
        stream.codec_context.color_range = 1  # limited
        for level in LEVELS:
            frame = av.VideoFrame(64, 64, pixel_format)
            for plane, value in zip(frame.planes, (level, 128, 128)):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.color_range = 1
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with av.open(path) as film:
        frames = list(film.decode(video=0))
        by_pyav = [int(f.to_ndarray(format="rgb24")[9, 9, 0]) for f in frames]
    film = cv2.VideoCapture(path)
    return int(frames[0].color_range), by_pyav, [int(film.read()[1][9, 9, 0]) for _ in LEVELS]


print("av", av.__version__, "cv2", cv2.__version__)
print("expected: range 1 (limited), [0, 128, 255] for gray and for yuv420p")
seen = {name: shown(name) for name in ("yuv420p", "gray")}
for name, (tag, by_pyav, by_opencv) in seen.items():
    print(f"seen: {name}: range {tag}, PyAV {by_pyav}, OpenCV {by_opencv}")
if seen["gray"][1] != list(LEVELS) or seen["yuv420p"][1][0] > 2:
    sys.exit("changed: gray of limited range is stretched, or yuv420p is not")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }

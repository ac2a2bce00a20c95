#!/usr/bin/env bash
# OpenCV's wheel opens an AV1 film and tells its size, but decodes none of its frames.
#
# Package: opencv-python-headless 5.0.0.93 for Linux.
# Input: 75 pictures, 25 a second, AV1 in MP4 (as phones, screen recorders and video sites write it).
# Seen: isOpened() is True, CAP_PROP_FRAME_COUNT is 75, width and height are right, and the first
#     read() returns False, as at the end of a film. A loop over read() ends without an error.
# Expected: 75 frames (PyAV's wheel decodes them all), or isOpened() False. The FFmpeg inside OpenCV's
#     wheel has no AV1 decoder in software (no dav1d), only one that needs a graphics card.
# Known: opencv/opencv-python#908, opencv/opencv#24430 (2023, open).
# Instead: treat "no frame read although FRAME_COUNT is above 0" as an error, and read AV1 by PyAV.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    av==18.1.0 opencv-python-headless==5.0.0.93 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import os
import sys

os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"

import av
import cv2
import numpy as np


def encode(path, codec, count=75, rate=25, size=64, muxer=None, **options):
    """Write `count` plain grey pictures; picture number i has the grey level 3 * i."""
    with av.open(path, "w", options=muxer or {}) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        stream.options = options
        for i in range(count):
            picture = np.full((size, size, 3), 3 * i, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        out.mux(stream.encode(None))


def number(picture):
    """Return the number of the picture that is shown."""
    return round(float(picture.mean()) / 3)


encode("film.mp4", "libsvtav1" if "libsvtav1" in av.codecs_available else "libaom-av1")
with av.open("film.mp4") as film:
    by_pyav = sum(1 for _ in film.decode(video=0))
film = cv2.VideoCapture("film.mp4")
opened, count = film.isOpened(), film.get(cv2.CAP_PROP_FRAME_COUNT)
frames = 0
while film.read()[0]:
    frames += 1
print("cv2", cv2.__version__, "av", av.__version__)
print(f"expected: 75 frames, as PyAV decodes ({by_pyav}), or a film that does not open")
print(f"seen: isOpened {opened}, FRAME_COUNT {count:.0f}, frames read {frames}")
if not (opened and count == 75 and frames == 0 and by_pyav == 75):
    sys.exit("changed: OpenCV decodes AV1 or no longer opens it")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }

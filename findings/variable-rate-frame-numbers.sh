#!/usr/bin/env bash
# For a film of variable rate OpenCV's frame count and frame numbers do not fit each other.
#
# Packages: opencv-python-headless 5.0.0.93, imageio-ffmpeg 0.8.1.
# Input: seven pictures, one each ten seconds, in Matroska (a recording of slides; 60 s).
# Seen: OpenCV: FRAME_COUNT is 1501 (duration times rate), yet read() gives 7 pictures, and
#     set(CAP_PROP_POS_FRAMES, i) counts pictures for i below 7 and finds nothing for 7 to 1500: so
#     "every 250th of FRAME_COUNT" gives picture 0 and then nothing. imageio's FFMPEG plugin gives 1749
#     pictures (it repeats them at 25 a second, and the last for another ten seconds).
# Expected: one meaning for both: 7 pictures numbered 0 to 6 (as PyAV decodes).
# Known: opencv/opencv#9053 (positions by number are not exact).
# Instead: read in order and use CAP_PROP_POS_MSEC, which is right here; count by reading.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    av==18.1.0 opencv-python-headless==5.0.0.93 imageio==2.38.1 imageio-ffmpeg==0.8.1 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import sys
from fractions import Fraction

import av
import cv2
import imageio.v3 as iio
import numpy as np

tick = Fraction(1, 1000)
with av.open("slides.mkv", "w") as out:
    stream = out.add_stream("libx264", rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
    stream.codec_context.time_base, stream.options = tick, {"bf": "0"}
    for i in range(7):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 30 * i, np.uint8), "rgb24")
        frame.pts, frame.time_base = 10_000 * i, tick
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
film = cv2.VideoCapture("slides.mkv")
count, times = int(film.get(cv2.CAP_PROP_FRAME_COUNT)), []
while film.read()[0]:
    times.append(film.get(cv2.CAP_PROP_POS_MSEC) / 1000)
picked = {}
for i in (0, 1, 6, 7, 250, 1500):
    film.set(cv2.CAP_PROP_POS_FRAMES, i)
    good, picture = film.read()
    picked[i] = round(float(picture.mean()) / 30) if good else None
repeated = sum(1 for _ in iio.imiter("slides.mkv", plugin="FFMPEG"))
print("cv2", cv2.__version__)
print("expected: 7 pictures, at 0, 10 ... 60 s; numbers either of pictures or of 1/25 s")
print(f"seen: count {count}, read {len(times)} at {times}")
print(f"      picture by number: {picked}; imageio's FFMPEG plugin: {repeated} pictures")
if count < 1000 or len(times) != 7 or picked[1] != 1 or picked[250] is not None:
    sys.exit("changed: count and numbers of a film of variable rate fit each other")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }

#!/usr/bin/env bash
# OpenCV and decord count the frames that an MP4 edit list hides.
#
# Packages: opencv-python-headless 5.0.0.93, decord2 3.4.0 (decord 0.6.0 too).
# Input: 75 pictures, H.264 in MP4 with one key frame, of which an edit list shows the last 38 or so:
#     what "trim without encoding" (ffmpeg -ss -c copy, phones) writes.
# Seen: OpenCV: FRAME_COUNT 75, then 37 frames are read. decord: len() is 75, the times begin at
#     -1.5 s, and number 0 is the first picture that is shown, so times and pictures do not fit.
# Expected: the number of frames that are shown, which PyAV and the ffmpeg program decode.
# Known: opencv/opencv#15569 and #17257, dmlc/decord#373 report counts that are too high.
# Instead: count by decoding with PyAV or the ffmpeg program.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    av==18.1.0 opencv-python-headless==5.0.0.93 decord2==3.4.0 imageio-ffmpeg==0.8.1 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import subprocess
import sys

import av
import cv2
import decord
import imageio_ffmpeg
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


encode("whole.mp4", "libx264", crf="5")
command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-ss", "1.5", "-i", "whole.mp4"]
subprocess.run([*command, "-c", "copy", "trimmed.mp4"], check=True)
with av.open("trimmed.mp4") as film:
    shown = [number(f.to_ndarray(format="rgb24")) for f in film.decode(video=0)]
film = cv2.VideoCapture("trimmed.mp4")
count, read = int(film.get(cv2.CAP_PROP_FRAME_COUNT)), 0
while film.read()[0]:
    read += 1
reader = decord.VideoReader("trimmed.mp4")
times = [float(reader.get_frame_timestamp(i)[0]) for i in range(len(reader))]
picture = number(reader[0].asnumpy())
print("cv2", cv2.__version__, "decord2", decord.__version__)
print(f"expected: {len(shown)} frames, pictures {shown[0]} to {shown[-1]} (PyAV)")
print(f"seen: OpenCV counts {count} and reads {read}; decord counts {len(reader)},")
print(f"      number 0 is picture {picture} at {times[0]:.2f} s")
if not (count > read == len(shown) and len(reader) > len(shown) and times[0] < -1 and picture == shown[0]):
    sys.exit("changed: the counts no longer hold hidden frames, or the times are not negative")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }

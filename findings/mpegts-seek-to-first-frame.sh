#!/usr/bin/env bash
# Seeking an MPEG transport stream to the time of its first frame lands behind it, in all readers.
#
# Packages: av 18.1.0, opencv-python-headless 5.0.0.93, decord2 3.4.0 (decord 0.6.0 and
#     torchcodec 0.17.0 do the same). The cause is FFmpeg's search by time in MPEG-TS.
# Input: 75 pictures, 25 a second, in MPEG-TS: MPEG-2 (many key frames) and H.264 (one key frame).
# Seen: PyAV, seek to stream.start_time: MPEG-2 gives a later picture (the one of the
#     next key frame) first, H.264 gives no picture at all.
#     OpenCV, set(CAP_PROP_POS_FRAMES, 0): returns True, then read() gives a later picture or nothing.
#     decord: reader[0] is that later picture (no error, and its length says 75), or DECORDError.
# Expected: picture 0, as without the seek and as in MP4 (FFmpeg: a backward seek lands at or before).
# Known: the same in other readers: JuliaIO/VideoIO.jl#427 and opencv/opencv#19444.
# Instead: seek at least a second before the time wanted and drop frames up to it, read from the
#     start, or copy the stream into MP4 first. Compare the first picture with a plain read.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    av==18.1.0 opencv-python-headless==5.0.0.93 decord2==3.4.0 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import os
import sys

os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"

import av
import cv2
import decord
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


def by_pyav(path):
    with av.open(path) as film:
        stream = film.streams.video[0]
        film.seek(stream.start_time, stream=stream)
        return next((number(f.to_ndarray(format="rgb24")) for f in film.decode(stream)), None)


def by_opencv(path):
    film = cv2.VideoCapture(path)
    film.set(cv2.CAP_PROP_POS_FRAMES, 0)
    good, picture = film.read()
    return number(picture) if good else None


def by_decord(path):
    try:
        return number(decord.VideoReader(path)[0].asnumpy())
    except decord.DECORDError:
        return "DECORDError"


encode("mpeg2.ts", "mpeg2video", g="12", bf="2", qmin="1", qmax="2")
encode("h264.ts", "libx264", crf="5")
encode("h264.mp4", "libx264", crf="5")
seen = {p: (by_pyav(p), by_opencv(p), by_decord(p)) for p in ("mpeg2.ts", "h264.ts", "h264.mp4")}
print("av", av.__version__, "cv2", cv2.__version__, "decord2", decord.__version__)
print("expected: the first picture is 0 for PyAV, OpenCV and decord, whatever the container")
print("seen:", seen)
if seen["h264.mp4"] != (0, 0, 0):
    sys.exit("changed: MP4 is wrong now too")
if 0 in seen["mpeg2.ts"] or seen["h264.ts"] != (None, None, "DECORDError"):
    sys.exit("changed: some reader finds the first picture of a transport stream")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }

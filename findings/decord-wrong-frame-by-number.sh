#!/usr/bin/env bash
# decord returns the wrong picture for a frame number, without an error, in ordinary HEVC MP4 and AVI.
#
# Package: decord2 3.4.0 (decord 0.6.0 does the same).
# Input: 75 pictures, 25 a second: HEVC in MP4 as libx265 makes it by default (open groups of pictures),
#     and H.264 with B-frames in AVI; H.264 in MP4 for comparison. Picture i has the grey level 3 * i.
# Seen: reader[i] of a fresh reader is picture i in the H.264 MP4; in the others many numbers give
#     another picture: some later ones in HEVC (pictures that lead a key frame are skipped after a seek
#     and are not counted), pictures up to 50 places earlier in AVI. Reading from 0 on is right.
# Expected: picture i for number i, as when the film is read in order, and as OpenCV gives.
# Known: dmlc/decord#325 (HEVC) and dmlc/decord#54 (numbers read out of order), both open.
# Instead: read in order (one reader, ascending numbers from 0 without gaps), or use PyAV or
#     torchcodec; H.264 MP4 with closed groups of pictures is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    av==18.1.0 decord2==3.4.0 opencv-python-headless==5.0.0.93 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import sys

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


def by_decord(path):
    return [number(decord.VideoReader(path)[i].asnumpy()) for i in range(0, 75, 3)]


def by_opencv(path):
    film, pictures = cv2.VideoCapture(path), []
    for i in range(0, 75, 3):
        film.set(cv2.CAP_PROP_POS_FRAMES, i)
        pictures.append(number(film.read()[1]))
    return pictures


order = "b-adapt=0:keyint=25:scenecut=0"
encode("h264.mp4", "libx264", crf="5", bf="3", **{"x264-params": order})
encode("h264.avi", "libx264", crf="5", bf="3", **{"x264-params": order})
encode("hevc.mp4", "libx265", crf="5", **{"x265-params": "log-level=none:keyint=25"})
wanted = list(range(0, 75, 3))
print("decord2", decord.__version__, "cv2", cv2.__version__)
print("expected:", wanted)
wrong = {}
for path in ("h264.mp4", "hevc.mp4", "h264.avi"):
    pictures, others = by_decord(path), by_opencv(path)
    wrong[path] = sum(a != b for a, b in zip(pictures, wanted))
    print(f"seen: {path}: decord {pictures}")
    print(f"      {wrong[path]} of 25 wrong; by OpenCV {sum(a != b for a, b in zip(others, wanted))}")
if wrong["h264.mp4"] or not wrong["hevc.mp4"] or not wrong["h264.avi"]:
    sys.exit("changed: decord finds the right picture in HEVC MP4 or AVI, or none in H.264 MP4")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }

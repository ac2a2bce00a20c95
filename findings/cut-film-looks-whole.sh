#!/usr/bin/env bash
# A film whose end is missing looks whole in moviepy and OpenCV; in PyAV its last whole frames are lost.
#
# Packages: moviepy 2.2.1, opencv-python-headless 5.0.0.93, av 18.1.0.
# Input: MP4 with its index in front (faststart, as the web wants it), 75 pictures, of which the first
#     60 per cent of the bytes were copied (a download that broke off).
# Seen: moviepy: 3.0 s long; beyond the cut it repeats the last picture, with a UserWarning at most.
#     OpenCV: FRAME_COUNT 75, read() just ends. PyAV: InvalidDataError from the cut packet, and the
#     pictures that the decoder still holds are not given: fewer than ffmpeg's program decodes.
# Expected: an error after the last whole picture, or a length that fits what is there.
# Known: Zulko/moviepy has several issues on the warning; none found on PyAV's held pictures.
# Instead: PyAV: demux and decode packet by packet, catch InvalidDataError, then decode(None) for the
#     rest. OpenCV: compare the pictures read with FRAME_COUNT. moviepy: turn its warning into an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    av==18.1.0 opencv-python-headless==5.0.0.93 moviepy==2.2.1 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import importlib.metadata
import sys
import warnings

import av
import cv2
import moviepy
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


encode("whole.mp4", "libx264", muxer={"movflags": "faststart"}, crf="5", bf="3", threads="1")
with open("whole.mp4", "rb") as source, open("cut.mp4", "wb") as out:
    data = source.read()
    out.write(data[: len(data) * 6 // 10])
given, error = [], "no error"
try:
    with av.open("cut.mp4") as film:
        for frame in film.decode(video=0):
            given.append(number(frame.to_ndarray(format="rgb24")))
except av.error.InvalidDataError as raised:
    error = type(raised).__name__
patient = []
with av.open("cut.mp4") as film:
    stream = film.streams.video[0]
    packets = [packet for packet in film.demux(stream) if packet.size]
    for packet in [*packets, None]:
        try:
            patient += [number(f.to_ndarray(format="rgb24")) for f in stream.decode(packet)]
        except av.error.InvalidDataError:
            pass
film = cv2.VideoCapture("cut.mp4")
count, read = int(film.get(cv2.CAP_PROP_FRAME_COUNT)), 0
while film.read()[0]:
    read += 1
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    clip = moviepy.VideoFileClip("cut.mp4")
    pictures = [number(clip.get_frame((i + 0.5) / 25)) for i in range(75)]
versions = {name: importlib.metadata.version(name) for name in ("av", "moviepy")}
print(versions, "cv2", cv2.__version__)
print(f"expected: {len(patient)} pictures and an error, or a length that fits them")
print(f"seen: PyAV: {len(given)} pictures, then {error}; OpenCV: count {count}, {read} read;")
print(f"      moviepy: {clip.duration} s, pictures {pictures[0]} to {pictures[-1]}, the last", end=" ")
print(f"{pictures.count(pictures[-1])} times, {len(told)} warnings")
kept = len(given) < len(patient) and error == "InvalidDataError"
if not kept or count != 75 or read > 60 or pictures.count(pictures[-1]) < 10:
    sys.exit("changed: one of the three tells that the film is cut, or PyAV gives all pictures")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }

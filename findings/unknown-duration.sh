#!/usr/bin/env bash
# OpenCV and moviepy do not know "unknown" for a film without a duration, such as a browser's recording.
#
# Packages: opencv-python-headless 5.0.0.93, moviepy 2.2.1.
# Input: 75 pictures, 25 a second, VP8 in a WebM written live (no duration in the header, as browsers'
#     MediaRecorder and many streaming recorders write it) and the same as plain H.264 (.h264).
# Seen: OpenCV: CAP_PROP_FRAME_COUNT is a negative number of 15 to 19 digits. moviepy: OSError, the
#     film cannot be opened at all, although the ffmpeg program it carries decodes all 75 pictures.
# Expected: 0 or -1 (documented for properties that are not known), and a clip that can be read.
# Known: opencv/opencv-python#322 reports the negative count; none found for moviepy.
# Instead: count by reading to the end (or by PyAV's demux); before moviepy copy the film with
#     ffmpeg -c copy into a file that is seekable, which writes the duration.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    av==18.1.0 opencv-python-headless==5.0.0.93 moviepy==2.2.1 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import importlib.metadata
import subprocess
import sys

import av
import cv2
import imageio_ffmpeg
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


def pictures(path):
    """Return how many pictures OpenCV and the ffmpeg program of moviepy decode."""
    film, count = cv2.VideoCapture(path), 0
    while film.read()[0]:
        count += 1
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path]
    command += ["-f", "rawvideo", "-pix_fmt", "gray", "-"]
    return count, len(subprocess.run(command, capture_output=True, check=True).stdout) // 64**2


def by_moviepy(path):
    try:
        return moviepy.VideoFileClip(path).duration
    except OSError as error:
        return str(error).splitlines()[0]


encode("live.webm", "libvpx", muxer={"live": "1"}, deadline="realtime")
encode("raw.h264", "libx264", bf="0")
wrong = True
print("cv2", cv2.__version__, "moviepy", importlib.metadata.version("moviepy"))
print("expected: 75 pictures; a count of 0, -1 or 75; a clip of 3 s or of unknown length")
for path in ("live.webm", "raw.h264"):
    count = cv2.VideoCapture(path).get(cv2.CAP_PROP_FRAME_COUNT)
    clip = by_moviepy(path)
    print(f"seen: {path}: pictures {pictures(path)}, OpenCV's count {count:.0f}, moviepy: {clip}")
    wrong = wrong and pictures(path) == (75, 75) and count < -1e6 and isinstance(clip, str)
if not wrong:
    sys.exit("changed: a count is sensible now, or moviepy opens a film")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }

#!/usr/bin/env bash
# PyAV makes up presentation times, in decode order, for AVI files with B-frames.
#
# Package: av 18.1.0 (FFmpeg 8.1). Seen in 2026.
# Input: 75 pictures, 25 a second, H.264 with B-frames, in AVI. AVI stores no presentation times.
# Seen: frames come out in the right order, but frame.pts steps back and forth (1 4 3 5 2 8 ...).
#     frame.dts ascends by one. av.open sets FFmpeg's flag GENPTS, which guesses presentation times
#     from the decode times and is wrong for pictures that are stored out of order.
# Expected: no pts (as ffprobe reports for such a file) or ascending pts: 0, 1, 2 ... 74.
# Known: PyAV-Org/PyAV#1023 reports times of AVI files that are not in order.
# Instead: count the steps back of pts and of dts over the frames, and use the one that has fewer
#     (FFmpeg's own best-effort rule). A copy into MP4 (-c copy) keeps the wrong times: encode anew.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import sys

import av
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


encode("film.avi", "libx264", bf="3", **{"x264-params": "b-adapt=0:keyint=25:scenecut=0"})
with av.open("film.avi") as film:
    frames = [(number(f.to_ndarray(format="rgb24")), f.pts, f.dts) for f in film.decode(video=0)]
order = [shown for shown, _, _ in frames]
pts = [pts for _, pts, _ in frames]
dts = [dts for _, _, dts in frames if dts is not None]
back = sum(later < earlier for earlier, later in zip(pts, pts[1:]))
print("av", av.__version__)
print("expected: pictures 0 to 74 in order, pts never steps back (ffprobe: no pts at all)")
print(f"seen: in order: {order == list(range(75))}; pts steps back {back} times: {pts[:9]} ...")
print(f"      dts ascends: {dts == sorted(dts)}: {dts[:9]} ...")
if not (order == list(range(75)) and back > 20 and dts == sorted(dts)):
    sys.exit("changed: pts no longer steps back, or order or dts changed")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }

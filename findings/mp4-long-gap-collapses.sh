#!/usr/bin/env bash
# A gap of more than 2**31 ticks between two frames is written to MP4 without an error and is then gone.
#
# Package: av 18.1.0 (FFmpeg's MP4 muxer).
# Input: five pictures in a clock of 1/16000 s; between the third and the fourth lie 37 hours and 17
#     minutes (2**31 + 10 ticks): a surveillance camera that records motion only. At 1/90000 s
#     the limit is 6.6 hours.
# Seen: muxing raises nothing. Read again, the frames after the gap follow 1 tick after the third.
#     A gap of 2**31 - 10 ticks is kept.
# Expected: the gap, or an error when it is written: stts holds 32-bit durations (ISO/IEC 14496-12
#     has unsigned ones; an empty edit or a coarser time scale can hold longer gaps).
# Known: no issue found.
# Instead: choose a coarse clock for such recordings (1/1000 s holds 24 days), or use Matroska, and
#     compare the last time after writing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import sys
from fractions import Fraction

import av
import numpy as np

TICK = Fraction(1, 16000)


def read_back(gap):
    times = (0, 640, 1280, 1280 + gap, 1920 + gap)
    with av.open("gap.mp4", "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base, stream.options = TICK, {"bf": "0"}
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")
            frame.pts, frame.time_base = time, TICK
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with av.open("gap.mp4") as film:
        return [round(float(frame.time), 3) for frame in film.decode(video=0)]


print("av", av.__version__)
below, above = read_back(2**31 - 10), read_back(2**31 + 10)
print("expected: the fourth and fifth picture at about 134217.8 s, or an error")
print("seen, gap of 2**31 - 10 ticks:", below)
print("seen, gap of 2**31 + 10 ticks:", above)
if below[3] < 134217 or above[3] > 1:
    sys.exit("changed: the long gap is kept, or the shorter one is lost")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }

#!/usr/bin/env bash
# torchcodec gives the NEXT frame for a time at which an earlier one is still on screen.
#
# Packages: torchcodec 0.17.0 with torch 2.14.1. Needs FFmpeg's shared libraries 4 to 8 and 5 GB of
#     disk for torch; exits 2 where torchcodec cannot load them.
# Input: seven pictures, one each ten seconds, in Matroska (a recording of slides; no durations).
# Seen: get_frame_played_at(5.0) gives picture 1, whose time is 10 s, in both seek modes.
# Expected: picture 0, which a player shows from 0 to 10 s, and as the name "played at" says.
#     A frame without a duration is taken to last 1/25 s.
# Known: meta-pytorch/torchcodec#1628, an open change for Matroska and variable rate.
# Instead: take the times of all frames (exact mode: get_frames_in_range, pts_seconds) and choose the
#     last one that is not later than the time wanted.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    torch==2.14.1 torchcodec==0.17.0 av==18.1.0 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import importlib.metadata
import sys
from fractions import Fraction

import av
import numpy as np

try:
    from torchcodec.decoders import VideoDecoder
except (ImportError, OSError, RuntimeError) as error:
    print("torchcodec cannot be loaded here (are FFmpeg's libraries there?):", str(error)[:80])
    sys.exit(2)

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
seen = {}
for mode in ("exact", "approximate"):
    decoder = VideoDecoder("slides.mkv", seek_mode=mode)
    frame = decoder.get_frame_played_at(5.0)
    seen[mode] = round(float(frame.data.float().mean()) / 30), frame.pts_seconds
print("torchcodec", importlib.metadata.version("torchcodec"))
print("expected: picture 0, of 0.0 s, at the time 5.0 s")
print("seen (picture, its time):", seen)
if any(picture != 1 for picture, _ in seen.values()):
    sys.exit("changed: the frame that is on screen is given")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }

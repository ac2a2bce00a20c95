#!/usr/bin/env bash
# In Matroska FFmpeg makes decode times up, so they do not help where the block times are decode times.
#
# Package: av 18.1.0 (FFmpeg 8.1).
# Input: 75 pictures, 25 a second, H.264 with B-frames, copied into Matroska with each packet's pts
#     set to its dts (as some recorders and AVI converters write them).
# Seen: packet.dts and frame.dts are not the stored times: after the first packets they lag behind them
#     by the depth of reordering (two or three pictures), so they start late or repeat.
# Expected: dts equal to the stored block times, as in the MP4 with the same packets.
#     Matroska stores one time a block; FFmpeg calls it pts and derives dts from the order of pts.
# Known: no issue found.
# Instead: compare packet.pts with the order in which frames come out: if the packets' pts ascend while
#     the codec reorders, number the frames by the packets' sorted pts.
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


def copy_with_decode_times(path):
    """Copy film.mp4 to `path`, each packet's pts replaced by its dts."""
    with av.open("film.mp4") as source, av.open(path, "w") as out:
        first = source.streams.video[0]
        stream = out.add_stream_from_template(first)
        for packet in source.demux(first):
            if packet.dts is not None:
                packet.pts = packet.dts
                packet.stream = stream
                out.mux(packet)


def packet_times(path):
    """Return pts and dts of the packets in hundredths of a second."""
    with av.open(path) as film:
        packets = [packet for packet in film.demux(video=0) if packet.size]
    return [
        [None if t is None else round(float(t * p.time_base) * 100) for t in times]
        for p, times in ((packets[0], [p.pts for p in packets]), (packets[0], [p.dts for p in packets]))
    ]


encode("film.mp4", "libx264", bf="3", **{"x264-params": "b-adapt=0:keyint=25:scenecut=0"})
for path in ("copy.mp4", "copy.mkv"):
    copy_with_decode_times(path)
print("av", av.__version__)
print("expected: dts equal to pts in both copies (but for a start at zero)")
lags = {}
for path in ("copy.mp4", "copy.mkv"):
    pts, dts = packet_times(path)
    lags[path] = {p - d for p, d in zip(pts[10:], dts[10:]) if d is not None}
    print(f"seen: {path}: pts {pts[:8]}, dts {dts[:8]}, pts - dts later on: {lags[path]}")
if lags["copy.mp4"] != {0} or 0 in lags["copy.mkv"]:
    sys.exit("changed: Matroska's dts are the block times, or MP4's are not")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }

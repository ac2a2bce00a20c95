#!/usr/bin/env bash
# imageio's FFMPEG plugin refuses films by their suffix, also when it is asked for by name.
#
# Package: imageio 2.38.1 with imageio-ffmpeg 0.8.1 (which holds ffmpeg 7).
# Input: the same 75 pictures as .mp4, .ts, .flv and .m2ts.
# Seen: iio.imiter(path, plugin="FFMPEG") reads the .mp4; for the others OSError "`FFMPEG` can not handle
#     the given uri", before ffmpeg is asked. A copy of the .ts that is named .mp4 is read.
# Expected: 75 pictures each: the program decodes all, and plugin= names it. plugin="pyav" reads them.
# Known: imageio/imageio has a list of suffixes for this plugin; no issue found about TS and FLV.
# Instead: plugin="pyav", or imageio_ffmpeg.read_frames(path), which has no list.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    av==18.1.0 imageio==2.38.1 imageio-ffmpeg==0.8.1 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import shutil
import sys

import av
import imageio
import imageio.v3 as iio
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


def pictures(path, plugin):
    try:
        return sum(1 for _ in iio.imiter(path, plugin=plugin))
    except OSError as error:
        return f"OSError: {error}"


for path in ("film.mp4", "film.ts", "film.flv", "film.m2ts"):
    encode(path, "libx264", crf="5")
shutil.copy("film.ts", "copy.mp4")
paths = ("film.mp4", "film.ts", "film.flv", "film.m2ts", "copy.mp4")
seen = {path: pictures(path, "FFMPEG") for path in paths}
by_pyav = {path: pictures(path, "pyav") for path in paths}
print("imageio", imageio.__version__)
print("expected: 75 pictures from each; by plugin pyav:", by_pyav)
print("seen by plugin FFMPEG:", seen)
refused = ("film.ts", "film.flv", "film.m2ts")
if seen["film.mp4"] != 75 or seen["copy.mp4"] != 75 or 75 in [seen[path] for path in refused]:
    sys.exit("changed: the plugin reads .ts, .flv or .m2ts, or not even .mp4")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }

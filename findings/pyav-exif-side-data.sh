#!/usr/bin/env bash
# PyAV cannot list the side data of a JPEG with EXIF, and its rotation does not know mirrored pictures.
#
# Package: av 18.1.0 (FFmpeg 8.1), Pillow 13.0.0 for comparison.
# Input: JPEGs with EXIF orientation 6 (turned) and 2 (mirrored), as cameras and phones write them.
# Seen: frame.side_data raises ValueError "31 is not a valid Type" (FFmpeg's new type EXIF is not in
#     PyAV's list); frame.rotation is -90 for 6, but -180 for orientation 2, which is a mirror.
# Expected: a list of side data (unknown kinds left out or given as numbers), and a way to tell a mirror
#     from a half turn: Pillow's ImageOps.exif_transpose and FFmpeg's autorotate mirror orientation 2.
# Known: no issue found.
# Instead: catch ValueError; read the orientation by Pillow and apply ImageOps.exif_transpose.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    av==18.1.0 pillow==13.0.0 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import sys

import av
import numpy as np
import PIL
from PIL import Image

seen = {}
for orientation in (6, 2):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save("photo.jpg", exif=exif)
    with av.open("photo.jpg") as photo:
        frame = next(photo.decode(video=0))
        try:
            kinds = [str(data.type) for data in frame.side_data]
        except ValueError as error:
            kinds = f"ValueError: {error}"
        seen[orientation] = (kinds, frame.rotation)
print("av", av.__version__, "Pillow", PIL.__version__)
print("expected: side data without an error; orientation 2 is a mirror, not a turn")
for orientation, (kinds, rotation) in seen.items():
    print(f"seen: orientation {orientation}: side data {kinds}; rotation {rotation}")
if not all("not a valid" in str(kinds) for kinds, _ in seen.values()):
    sys.exit("changed: the side data of a JPEG with EXIF can be listed")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }

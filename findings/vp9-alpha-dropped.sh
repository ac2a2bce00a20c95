#!/usr/bin/env bash
# PyAV and OpenCV show what is transparent in a VP9 WebM as if it were opaque.
#
# Packages: av 18.1.0, opencv-python-headless 5.0.0.93.
# Input: VP9 with alpha in WebM (stickers, overlays): left half opaque red, right half green with
#     alpha 0.
# Seen: the decoder that av.open chooses ("vp9") gives yuv420p without alpha, and the hidden green shows;
#     OpenCV the same. No error, no sign of alpha in the pixel format.
# Expected: yuva420p with alpha 0 in the right half, as the decoder "libvpx-vp9" gives, which PyAV's
#     wheel holds too, and as browsers show it (Matroska element AlphaMode, tag alpha_mode 1).
# Known: mpv-player/mpv#10304; the native decoder's lack of alpha is an old FFmpeg ticket.
# Instead: if stream.metadata has alpha_mode "1", decode the packets by
#     av.CodecContext.create("libvpx-vp9", "r").
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    av==18.1.0 opencv-python-headless==5.0.0.93 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import sys

import av
import cv2
import numpy as np

picture = np.zeros((64, 64, 4), np.uint8)
picture[:, :32], picture[:, 32:] = (255, 0, 0, 255), (0, 255, 0, 0)
with av.open("sticker.webm", "w") as out:
    stream = out.add_stream("libvpx-vp9", rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuva420p"
    stream.options = {"auto-alt-ref": "0"}
    for i in range(5):
        frame = av.VideoFrame.from_ndarray(picture, "rgba").reformat(format="yuva420p")
        frame.pts = i
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
with av.open("sticker.webm") as film:
    tag = film.streams.video[0].metadata.get("alpha_mode")
    frame = next(film.decode(video=0))
    usual = frame.format.name, frame.to_ndarray(format="rgb24")[32, 48].tolist()
with av.open("sticker.webm") as film:
    decoder = av.CodecContext.create("libvpx-vp9", "r")
    frames = [f for packet in film.demux(video=0) for f in decoder.decode(packet)]
    alpha = frames[0].format.name, frames[0].to_ndarray(format="rgba")[32, 48].tolist()
opencv = cv2.VideoCapture("sticker.webm").read()[1][32, 48, ::-1].tolist()
print("av", av.__version__, "cv2", cv2.__version__, "; alpha_mode of the file:", tag)
print("expected, right half: alpha 0, as by libvpx-vp9:", alpha)
print("seen: PyAV:", usual, "; OpenCV:", opencv)
if usual[0] != "yuv420p" or alpha[0] != "yuva420p" or alpha[1][3] != 0 or opencv[1] < 200:
    sys.exit("changed: the alpha of VP9 is kept, or libvpx-vp9 does not give it")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }

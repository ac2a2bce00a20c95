#!/usr/bin/env bash
# PyAV's decode of the video alone ends where the SOUND of a cut MP4 ends.
#
# Package: av 18.1.0 (imageio's pyav plugin does the same).
# Input: MP4 with its index in front, all video first, then all sound (a common order of long runs), of
#     which the first 55 per cent of the bytes were copied.
# Seen: container.decode(video=0) gives a few pictures and ends without an error, because the other
#     streams are read too (and dropped), and the first missing sound sample counts as the end.
# Expected: each picture that is in the file: over a hundred, as with the same loop after
#     stream.discard = Discard.all for the sound, and as the ffmpeg program with -map 0:v gives.
# Known: no issue found.
# Instead: before decoding set discard (av.stream.Discard.all) on each stream that is not wanted.
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
from av.stream import Discard

rng = np.random.default_rng(0)
with av.open("fine.mp4", "w") as out:
    video, sound = out.add_stream("libx264", rate=25), out.add_stream("aac", rate=44100)
    video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
    for i in range(250):
        picture = rng.integers(0, 255, (120, 160, 3), np.uint8)
        out.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1764), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 44100, 1764 * i
        out.mux(sound.encode(frame))
    out.mux(video.encode(None))
    out.mux(sound.encode(None))
options = {"movflags": "faststart", "max_interleave_delta": "1"}
with av.open("runs.mp4", "w", options=options) as out, av.open("fine.mp4") as source:
    copies = [out.add_stream_from_template(stream) for stream in source.streams]
    for copy in copies:
        source.seek(0)
        for packet in source.demux(source.streams[copy.index]):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
with open("runs.mp4", "rb") as source, open("cut.mp4", "wb") as out:
    data = source.read()
    out.write(data[: len(data) * 55 // 100])


def pictures(alone):
    count = 0
    with av.open("cut.mp4") as film:
        if alone:
            film.streams.audio[0].discard = Discard.all
        try:
            for _ in film.decode(video=0):
                count += 1
        except av.error.InvalidDataError:
            pass  # the last picture is cut
    return count


print("av", av.__version__)
print("expected: the same number of pictures both ways")
print(f"seen: {pictures(False)} pictures, and {pictures(True)} with the sound discarded")
if pictures(False) * 2 > pictures(True):
    sys.exit("changed: the video is no longer ended by missing sound")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }

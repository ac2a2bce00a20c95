#!/usr/bin/env bash
# Encoding AV1 by libsvtav1 as root leaves the calling thread with real-time priority.
#
# Packages: av 18.1.0, whose FFmpeg has SVT-AV1 4.1.
# Input: three black pictures of 64 x 64, as root (in containers and CI the usual user).
# Seen: before, the thread has the ordinary policy; from the first picture on, and after the file is
#     closed, it has SCHED_FIFO of priority 99, and every thread or process that it starts inherits
#     that. One that computes then keeps its core from all ordinary processes, but for 5 % of the time.
# Expected: a library gives threads of its own such a priority, if any, and leaves the caller's.
# Known: no issue on PyAV's or FFmpeg's side was found.
# Instead: encode in a process of its own, or set the policy back (os.sched_setscheduler) afterwards.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root: others may not have real-time priority" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import importlib.metadata
import os
import subprocess
import sys

import av
import numpy as np

NAMES = {os.SCHED_OTHER: "ordinary", os.SCHED_FIFO: "real-time"}


def policy():
    """Return the policy of this thread, and its priority."""
    return NAMES.get(os.sched_getscheduler(0), "another"), os.sched_getparam(0).sched_priority


before = policy()
if before[0] != "ordinary":
    print("this process had no ordinary priority to begin with", file=sys.stderr)
    sys.exit(2)
with av.open("film.mp4", "w") as out:
    stream = out.add_stream("libsvtav1", rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
    for _ in range(3):
        picture = np.zeros((64, 64, 3), np.uint8)
        out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
    out.mux(stream.encode(None))
after = policy()
code = "import os; print(os.sched_getscheduler(0) == os.SCHED_FIFO)"
inherits = subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "True"
print("av", importlib.metadata.version("av"))
print(f"expected: {before} before and after")
print(f"seen: {before}, then {after}; a process started afterwards inherits it: {inherits}")
if after != ("real-time", 99) or not inherits:
    sys.exit("changed: the caller keeps its priority, or may not be given that one here")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }

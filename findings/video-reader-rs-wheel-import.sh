#!/usr/bin/env bash
# The Linux wheel of video_reader-rs installs and cannot be imported.
#
# Package: video_reader-rs 0.4.5 (Linux, x86_64).
# Input: import video_reader, in a fresh environment with numpy alone.
# Seen: ImportError "libsharpyuv-48a062bd.so.0: cannot open shared object file". The file is in the wheel
#     (video_reader_rs.libs), but the loader is not told to look for it there.
# Expected: the import works, as wheels bring the libraries they need.
# Known: no issue found.
# Instead: LD_LIBRARY_PATH=.../site-packages/video_reader_rs.libs before Python starts, or another
#     reader (PyAV, torchcodec).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    video_reader-rs==0.4.5 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import importlib.metadata
import os
import subprocess
import sys
import sysconfig

libraries = os.path.join(sysconfig.get_paths()["platlib"], "video_reader_rs.libs")


def imported(environment):
    command = [sys.executable, "-c", "import video_reader"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return "works" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


plain = imported(dict(os.environ))
helped = imported({**os.environ, "LD_LIBRARY_PATH": libraries})
print("video_reader-rs", importlib.metadata.version("video_reader-rs"))
print("expected: the import works")
print("seen:", plain, "; with LD_LIBRARY_PATH:", helped)
print("      libsharpyuv in the wheel:", [n for n in os.listdir(libraries) if "sharpyuv" in n])
if "libsharpyuv" not in plain:
    sys.exit("changed: the wheel can be imported, or fails otherwise")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }

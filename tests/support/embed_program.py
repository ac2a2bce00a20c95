"""Runs ``ccl-embed`` again and again: torch is imported once, and each run is a fork.

Reads one JSON request a line from stdin and answers on stdout. Each run is a process group of its
own that executes the command as a user's shell would; ``before`` is code that runs in it first.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import json
import os
import sys

import pyarrow.parquet  # noqa: F401

import ccl_hub.batch
import ccl_hub.job
import ccl_hub.job.parts  # noqa: F401
from ccl_hub.cli.embed_command import embed_main


def start(request: dict) -> int:
    """Fork a run and return its process id; returns in the parent only."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    for number, place in enumerate(("/dev/null", request["stdout"], request["stderr"])):
        flags = os.O_RDWR if number == 0 or place.startswith("/dev/") else os.O_WRONLY | os.O_CREAT
        handle = os.open(place, flags, 0o666)
        os.dup2(handle, number)
        os.close(handle)
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path[:0] = request["path"]
    sys.argv = ["ccl-embed", *request["arguments"]]
    exec(request["before"], {})  # noqa: S102
    code = run_command()
    sys.stdout.flush()
    sys.stderr.flush()
    atexit._run_exitfuncs()
    os._exit(code)  # taking down what was imported would take longer than the run


def run_command() -> int:
    """Run the command and return its exit code."""
    try:
        embed_main()
    except SystemExit as error:
        return int(error.code or 0)
    raise AssertionError("the command returned")


def main() -> None:
    """Answer requests until stdin ends."""
    sys.argv = ["ccl-embed", "--version"]
    with contextlib.redirect_stdout(io.StringIO()):
        run_command()  # imports the rest
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            pid, status = os.waitpid(request["wait"], os.WNOHANG)
            answer = None if pid == 0 else os.waitstatus_to_exitcode(status)
        else:
            answer = start(request)
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

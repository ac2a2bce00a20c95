"""From the inside: what a decoder that its file has taken over can still do, and what it says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from attempts import ALLOWED, ATTEMPTS, LIES, SITE_CUSTOMIZE
from project import PYTHONPATH
from watched_pool import watched

from ccl_hub.decoding import confinement, sandbox
from ccl_hub.decoding.confinement import Walls, available
from ccl_hub.decoding.sandbox import level_of
from ccl_hub.decoding.shared_memory import SharedMemory
from ccl_hub.errors import InputError

CALLS = {
    "read": "openat",
    "list": "openat",
    "look": "newfstatat",
    "write": "openat",
    "connect": "socket",
    "datagram": "socket",
    "spawn": "clone",
    "exec": "execve",
    "fork": "clone",
    "signal": "kill",
    "watch": "pidfd_open",
    "namespace": "unshare",
    "code": "mmap",
}
"""The system call by which each attempt is refused."""

needs_full = pytest.mark.skipif(
    level_of(available()) != "full", reason="this system cannot confine decoding fully"
)


@pytest.fixture
def attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose videos are attempts: :func:`video` makes them."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE_CUSTOMIZE)
    monkeypatch.syspath_prepend(str(site))
    (tmp_path / "secret.txt").write_text("secret")
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        facts = {
            "file": str(tmp_path / "secret.txt"),
            "folder": str(tmp_path),
            "new": str(tmp_path / "new.txt"),
            "parent": os.getpid(),
            "port": server.getsockname()[1],
        }
        (tmp_path / "facts.json").write_text(json.dumps(facts))
        yield tmp_path


def video(folder: Path, *words: str) -> Path:
    path = folder / "-".join((*words, "x.mp4"))
    path.write_bytes((folder / "facts.json").read_bytes())
    return path


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the calls that are refused, in order."""
    names: list[str] = []
    take = confinement.Refusals.take

    def noted(self: confinement.Refusals) -> str | None:
        name = take(self)
        names.extend([name] if name else [])
        return name

    monkeypatch.setattr(confinement.Refusals, "take", noted)
    return names


@needs_full
def test_each_attempt_is_refused_and_named(attempts: Path, refused: list[str]) -> None:
    assert CALLS.keys() == ATTEMPTS.keys()
    paths = [video(attempts, word) for word in ATTEMPTS]
    with watched(deadline=600.0, sandbox="require") as one:
        outcomes = dict(zip(ATTEMPTS, one.decode(paths), strict=True))
        assert one.pool.walls == available()
    for word, (code, reason) in outcomes.items():
        assert code == "internal", (word, code, reason)
        assert f"({CALLS[word]}" in reason or f", {CALLS[word]}" in reason, (word, reason)
        assert "could" not in reason and "sandbox='off'" in reason
    assert len(refused) >= len(ATTEMPTS) and set(refused) >= set(CALLS.values())
    assert not (attempts / "new.txt").exists()


def test_the_same_attempts_succeed_without_a_sandbox(attempts: Path, refused: list[str]) -> None:
    words = [word for word in ATTEMPTS if word != "namespace" or _may_make_namespaces()]
    with watched(deadline=600.0, sandbox="off") as one:
        outcomes = one.decode([video(attempts, word) for word in words])
        assert one.pool.walls == Walls()
    assert outcomes == [("no_video", "it could.")] * len(words)
    assert (attempts / "new.txt").exists() and refused == []


def _may_make_namespaces() -> bool:
    """Whether this system lets anybody do that; some do not."""
    code = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x10000000) != 0)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@needs_full
def test_what_decoders_need_is_allowed(attempts: Path, refused: list[str]) -> None:
    with watched(deadline=600.0) as one:
        outcomes = one.decode([video(attempts, word) for word in ALLOWED])
    assert outcomes == [("no_video", "it could.")] * len(ALLOWED) and refused == []


@needs_full
@pytest.mark.parametrize("lie", [lie for lie in LIES if lie != "half"])
def test_what_is_not_a_message_costs_one_video(attempts: Path, lie: str) -> None:
    bad = attempts / f"{lie}-x.mp4"
    bad.write_bytes(b"x")
    with watched(deadline=600.0) as one:
        ((code, reason),) = one.decode([bad])
    assert code == "internal" and "does not keep to the rules" in reason


def test_half_a_message_costs_one_deadline(attempts: Path) -> None:
    bad = attempts / "half-x.mp4"
    bad.write_bytes(b"x")
    with watched(deadline=3.0) as one:
        assert [code for code, _ in one.decode([bad])] == ["timeout"]


SECOND_WALL = """
import errno, json, os, sys
from ccl_hub.decoding import confinement
from attempts import ATTEMPTS

version = confinement.available().landlock
confinement.available = lambda: confinement.Walls(version)
assert confinement.confine() == (confinement.Walls(version), None)
facts, outcomes = json.loads(sys.argv[1]), {}
for word in ("read", "list", "write", "connect", "signal"):
    try:
        ATTEMPTS[word](facts)
        outcomes[word] = 0
    except OSError as error:
        outcomes[word] = error.errno
os.write(1, json.dumps(outcomes).encode())
"""


def run(code: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not available().landlock, reason="this kernel has no Landlock")
def test_landlock_alone_refuses_paths(attempts: Path) -> None:
    outcomes = json.loads(run(SECOND_WALL, (attempts / "facts.json").read_text()))
    version, denied = available().landlock, {"read": 13, "list": 13, "write": 13}
    denied["connect"] = 13 if version >= 4 else 0
    denied["signal"] = 1 if version >= 6 else 0
    assert outcomes == denied
    assert level_of(Walls(version)) == "files only"


UNWATCHED = """
import errno, os
from ccl_hub.decoding import confinement

install = confinement._install

def busy(program, flags=0):
    if flags & confinement._NEW_LISTENER:
        raise OSError(errno.EBUSY, "there is one")
    return install(program, flags)

confinement._install = busy
walls, watcher = confinement.confine()
assert walls.seccomp and watcher is None
try:
    os.open("/", os.O_RDONLY)
except PermissionError as error:
    os.write(1, str(error.errno).encode())
"""


@needs_full
def test_calls_are_refused_where_nobody_can_watch() -> None:
    """As in a container whose own supervisor watches: a process has one."""
    assert run(UNWATCHED) == "1"


@needs_full
def test_threads_that_are_there_already_are_confined_too() -> None:
    """As those of a debugger; Landlock would leave them free."""
    before = (
        "import threading\nready = threading.Event()\n"
        "def attempt():\n"
        "    ready.wait()\n"
        "    try:\n        os.open('/', os.O_RDONLY)\n"
        "    except PermissionError as error:\n        os.write(1, b'other ')\n"
        "thread = threading.Thread(target=attempt)\nthread.start()\n"
    )
    after = "\nassert not walls.landlock\nready.set()\nthread.join()"
    head, tail = UNWATCHED.split("walls, watcher")
    assert run(head + before + "walls, watcher" + tail + after) == "1other "


def test_nobody_can_shorten_the_memory_of_frames() -> None:
    """Who reads behind its end would die of it."""
    memory = SharedMemory()
    if sys.platform != "linux" or memory.descriptor is None:
        pytest.skip("only Linux seals memory")
    other = os.dup(memory.descriptor)
    buffer = memory.map(1 << 16)
    try:
        with pytest.raises(PermissionError):
            os.ftruncate(other, 0)
        assert buffer[-1] == 0
    finally:
        buffer.close()
        os.close(other)


# The level ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("walls", "level", "words"),
    [
        (Walls(7, True), "full", "full (seccomp, Landlock 7)"),
        (Walls(0, True), "full", "full (seccomp)"),
        (Walls(3), "files only", "files only (Landlock 3)"),
        (Walls(), "none", "none"),
    ],
)
def test_levels(walls: Walls, level: str, words: str) -> None:
    assert level_of(walls) == level and sandbox.describe(walls) == words


def test_a_sandbox_that_is_required_is_had_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "available", lambda: Walls(4))
    with pytest.raises(InputError, match="at the level 'files only', not 'full'"):
        watched(sandbox="require").__enter__()
    with pytest.raises(InputError, match="sandbox is 'maybe'; allowed: auto, require, off"):
        sandbox.check("maybe")  # type: ignore[arg-type]


def test_less_than_full_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sandbox, "_told", False)
    for walls in (Walls(7, True), Walls(), Walls()):
        sandbox.tell_once(walls)
    assert len(caplog.records) == 1 and "'none'" in caplog.text and "SECURITY.md" in caplog.text


def test_the_names_of_calls_are_those_of_the_kernel() -> None:
    import platform

    from ccl_hub.decoding import system_calls

    if platform.machine() != "x86_64" or not Path("/usr/include/asm/unistd_64.h").exists():
        some = {"x86_64": ("openat", 257), "aarch64": ("openat", 56)}.get(platform.machine())
        assert some is None or system_calls.numbers()[some[0]] == some[1]
        return
    named = system_calls.numbers()
    for line in Path("/usr/include/asm/unistd_64.h").read_text().splitlines():
        words = line.split()
        if len(words) == 3 and words[1].startswith("__NR_"):
            name = words[1].removeprefix("__NR_")
            assert named.get(name, int(words[2])) == int(words[2])

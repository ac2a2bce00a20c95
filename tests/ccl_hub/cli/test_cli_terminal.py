"""``ccl-embed`` at a terminal: the bar, signals, readers that go away."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from embed_jobs import (
    FAULTY_READER,
    QUICK,
    ROOT,
    Program,
    ids,
    outputs,
    tiny_folder,
    write_tiny,
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="forks, and sends signals")


def fresh(
    *arguments: object, env: dict | None = None, **kw: object
) -> subprocess.CompletedProcess:
    """Run the command in a process that nothing has prepared."""
    code = "from ccl_hub.cli.embed_command import embed_main; embed_main()"
    path = os.pathsep.join([*(env or {}).pop("path", []), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", **(env or {})},
        timeout=300,
        **{"cwd": ROOT, **kw},
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Texts named like videos; QUICK takes them for such."""
    folder = tmp_path / "tree"
    for name in ("a/1.mp4", "a/2.mkv", "b/c/3.mp4", "b/4.txt", "5.MP4", ".hidden.mp4"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


@contextlib.contextmanager
def killed_at_last(group: int) -> Iterator[None]:
    """Let nothing of a process group outlive a test that fails: some hang for ten minutes."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


class Terminal:
    """A pseudo-terminal and what was written to it."""

    def __init__(self) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self.handle, self.inner = pty.openpty()
        fcntl.ioctl(self.inner, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 140, 0, 0))
        self.name, self.text = os.ttyname(self.inner), b""
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        while True:
            try:
                self.text += os.read(self.handle, 4096)
            except OSError:
                return

    def close(self) -> str:
        time.sleep(0.2)
        os.close(self.inner)
        self.thread.join(5)
        os.close(self.handle)
        return self.text.decode()


def test_the_bar_shows_videos_speed_time_left_and_failures(
    tmp_path: Path, program: Program, model: Path
) -> None:
    folder = tiny_folder(tmp_path / "in", 40)
    (folder / "text.mp4").write_text("no video")
    terminal = Terminal()
    arguments = (folder, "--model", model, "--clips", 1, "--out", tmp_path / "x")
    run = program.start(*arguments, stderr=terminal.name)
    run.wait()
    text = terminal.close()
    assert run.code == 2, text
    bars = [line for line in text.replace("\n", "\r").split("\r") if "video/s" in line]
    assert len(bars) > 2
    assert any("/41 [" in bar and "<" in bar for bar in bars), "videos in all, and time left"
    assert "h of video/h" in bars[-1] and "1 failed" in bars[-1]
    assert f"{tmp_path}/x: 41 videos: 40 done" in text


# Counts how often each folder and list is read, and writes that into the current folder.
COUNT_READS = """
import atexit, collections, json, os
from pathlib import Path
from ccl_hub.inputs import find

scandir, listed_paths, reads = os.scandir, find.listed_paths, collections.Counter()


def counted(read):
    def reading(path="."):
        reads[Path(path).name] += 1
        return read(path)

    return reading


os.scandir, find.listed_paths = counted(scandir), counted(listed_paths)
atexit.register(lambda: Path("reads.json").write_text(json.dumps(reads)))
"""


@pytest.mark.parametrize("bar", [True, False])
@pytest.mark.parametrize("backend", ["torch", "openvino-int8"])
def test_each_folder_and_list_is_read_once(
    tmp_path: Path, program: Program, tree: Path, bar: bool, backend: str
) -> None:
    """Also where the bar shows how many videos there are, and where some calibrate the model."""
    (tree / "list.txt").write_text("b/4.txt\n5.MP4\n")
    inputs = (tree / "a", tree / "b", "**/*.MP4", "--manifest", "list.txt")
    terminal = Terminal()
    options = ("--out", tmp_path / "x", "--backend", backend)
    run = program.start(
        *(*inputs, *options),
        cwd=tree,
        before=QUICK + COUNT_READS,
        stderr=terminal.name if bar else None,
    )
    run.wait()
    text = terminal.close() + ("" if bar else run.stderr)
    assert run.code == 0 and "5 videos: 5 done" in text, text
    assert not bar or "/5 [" in text, text
    reads = json.loads((tree / "reads.json").read_text())
    # The pattern is an input of its own: it reads every folder once more.
    assert {name: reads[name] for name in ("a", "b", "c", "tree", "list.txt")} == {
        **{"a": 2, "b": 2, "c": 2},
        **{"tree": 1, "list.txt": 1},
    }


def test_no_bar_where_it_is_not_wanted(tmp_path: Path, program: Program, tree: Path) -> None:
    terminal = Terminal()
    run = program.start(
        tree, "--out", tmp_path / "x", "--quiet", stderr=terminal.name, before=QUICK
    )
    run.wait()
    assert (run.code, terminal.close()) == (0, "")


@pytest.mark.parametrize("name", ["feats", "feats.parquet"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_job_that_goes_on(
    tmp_path: Path, program: Program, model: Path, name: str, number: int
) -> None:
    """Also with a decoding process that hangs."""
    folder = tiny_folder(tmp_path / "in", 30)
    shutil.copy(folder / "029.mp4", folder / "hang-1.mp4")
    (tmp_path / "sitecustomize.py").write_text(FAULTY_READER)
    out = tmp_path / name
    arguments = (folder, "--model", model, "--clips", 1, "--out", out, "--json")
    run = program.start(*arguments, "--deadline", 300, path=(tmp_path,))
    with killed_at_last(run.pid):
        while len(run.videos) < 20:  # the last are told of with the next one, which hangs
            assert run.poll() is None, run.stderr
            time.sleep(0.01)
        time.sleep(0.5)
        if number == signal.SIGINT:
            os.killpg(run.pid, number)  # as a terminal does
        else:
            os.kill(run.pid, number)
        run.wait(timeout_seconds=20)
    if number == signal.SIGINT:
        assert run.code == 130
        hint = "ccl-embed: stopped by the user; run the same command again to go on.\n"
        assert run.stderr == hint
    else:
        assert run.code == -signal.SIGTERM
    (folder / "hang-1.mp4").unlink()
    again = program.run(*arguments)
    assert again.code == 0, again.stderr
    if number == signal.SIGINT:
        assert all(video["kept"] for video in again.videos)
    assert len(ids(out) if "." in name else outputs(out)) == 30


def test_a_signal_in_a_process_of_its_own(tmp_path: Path, model: Path) -> None:
    """The same from the shell, to the end of the interpreter."""
    folder = tiny_folder(tmp_path / "in", 12)
    shutil.copy(folder / "000.mp4", folder / "hang-1.mp4")
    (tmp_path / "sitecustomize.py").write_text(FAULTY_READER)
    code = "from ccl_hub.cli.embed_command import embed_main; embed_main()"
    command = [sys.executable, "-c", code, folder, "--model", model, "--clips", "1"]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    with subprocess.Popen(
        [*map(str, command), "--out", str(tmp_path / "x"), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        with killed_at_last(process.pid):
            for _ in range(2):
                assert json.loads(process.stdout.readline())["state"] == "done"
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(timeout=30) == 130
            assert process.stderr.read().count("\n") == 1
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.slow
def test_a_reader_that_goes_away_leaves_a_job_that_goes_on(tmp_path: Path, model: Path) -> None:
    folder = tiny_folder(tmp_path / "in", 12)
    code = "from ccl_hub.cli.embed_command import embed_main; embed_main()"
    command = [sys.executable, "-c", code, folder, "--model", model, "--clips", "1"]
    with subprocess.Popen(
        [*map(str, command), "--out", str(tmp_path / "x"), "--json", "-q"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        with killed_at_last(process.pid):
            assert (process.wait(timeout=60), process.stderr.read()) == (1, "")
    done = fresh(folder, "--model", model, "--clips", 1, "--out", tmp_path / "x")
    assert done.returncode == 0 and len(outputs(tmp_path / "x")) == 12


def test_one_video_of_a_batch_has_the_output_of_the_command_for_one(
    tmp_path: Path, program: Program, model: Path
) -> None:
    import numpy as np

    video = write_tiny(tmp_path / "v.mp4", 3, 9)
    arguments = (video, "--model", model, "--clips", 3)
    assert program.run(*arguments, "--out", tmp_path / "x").code == 0
    assert program.run(*arguments, "--out", tmp_path / "v.npz").code == 0
    with np.load(tmp_path / "x" / "v.mp4.npz") as one, np.load(tmp_path / "v.npz") as other:
        for name in ("clips", "frames", "video", "clip_seconds", "frame_seconds"):
            np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-5)

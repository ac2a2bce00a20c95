"""What the tests of batch jobs share: a tiny model, tiny videos, runs of the command, faults."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from media import Recipe, numbered_frame, write_video
from project import ROOT
from tiny_models import tiny_model

from ccl_hub.backends import Engine
from ccl_hub.batch import BatchOptions, engines_for
from ccl_hub.job import JobInputs, JobOptions, JobSummary, VideoEvent, run_job
from ccl_hub.job.destination import Destination
from ccl_hub.job.manifest import Row, read_row
from ccl_hub.sampling import Sampling

# Put on the path of decoding processes: files with certain names crash, hang or eat memory there.
FAULTY_READER = """
import os, resource, time
from pathlib import Path
from ccl_hub import video

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
inner = video.VideoReader.__init__


def init(self, path, *arguments, **named):
    word = Path(getattr(path, "path", path)).stem.partition("-")[0]  # of a MediaFile
    if word == "crash":
        os.abort()
    if word == "exit":
        os._exit(3)
    if word == "hang":
        time.sleep(1000)
    if word == "memory":
        raise MemoryError
    if word == "disk":
        raise OSError(5, "Input/output error")
    inner(self, path, *arguments, **named)


video.VideoReader.__init__ = init
"""

# Executed in a run in place of decoding and network: vectors are made of the bytes of the file, so
# that only the keeping of results takes time. A file that begins with "bad" is damaged.
QUICK = """
import hashlib
from pathlib import Path
from types import SimpleNamespace as Fake
import numpy as np
from ccl_hub.batch import BatchItem, run
from ccl_hub.embed.embeddings import EmbeddingProvenance, Embeddings

facts = dict(model="quick", weights_sha256="0" * 64, config_fingerprint="f", dtype="float32",
    device="cpu", sampling="clips=2", ccl_hub="0", torch="0", backend="torch", decoder="none",
    source_bytes=1, source_frames=8, duration_seconds=2.0, completeness="complete", note="")


def quick_batch(paths, engines, sampling, options):
    index = -1
    for path in paths:
        if path is None:
            yield None
            continue
        index += 1
        data = path.read_bytes()
        if data.startswith(b"bad"):
            yield BatchItem(index, path, None, "damaged", "it is bad")
            continue
        seed = int.from_bytes(hashlib.sha256(data).digest()[:4], "big")
        clips = np.random.default_rng(seed).standard_normal((2, 4)).astype(np.float32)
        frames = clips[:, None].repeat(3, 1)
        seconds = np.arange(6.0).reshape(2, 3)
        made = EmbeddingProvenance(**{**facts, "source": str(path)})
        spans = np.array([[0.0, 1.0], [1.0, 2.0]])
        yield BatchItem(
            index, path, Embeddings(clips, spans, frames, seconds, clips.mean(0), made)
        )


config = Fake(fingerprint=lambda: "f")
engine = Fake(
    model=Fake(name="quick", weights_sha256="0" * 64, config=config, state_dict=dict),
    info=Fake(backend="torch", detail="", dtype="float32"),
)
run.embed_patiently, run.engines_for = quick_batch, lambda *arguments, **named: [engine]
"""


def small_parts(rows: int) -> str:
    """Return code that makes the parts of a dataset small, for runs of the command."""
    return f"from ccl_hub.job import parts; parts.DatasetSink.__init__.__defaults__ = ({rows},)\n"


def write_tiny(path: Path, number: int = 0, frames: int = 5) -> Path:
    """Write a small video that differs from those of other numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def make(frame: int, width: int, height: int) -> object:
        return numbered_frame((7 * number + frame) % 512, width, height)

    recipe = Recipe(f"{path.stem}{path.suffix}", "mpeg4", frames, (48, 32), rate=12, make=make)
    return write_video(path.parent, recipe)


def tiny_folder(folder: Path, count: int) -> Path:
    """Write small videos 000.mp4, 001.mp4, ... of 3 to 8 frames."""
    for number in range(count):
        write_tiny(folder / f"{number:03d}.mp4", number, 3 + number % 6)
    return folder


def save_model(folder: Path, **arch: object) -> Path:
    """Save a tiny model and return its folder."""
    return tiny_model(**arch).save_pretrained(folder)


# In this process ---------------------------------------------------------------------------------


@cache
def engines() -> list[Engine]:
    """Return a tiny model, made once."""
    return engines_for(tiny_model(), None, "cpu", None, "torch", BatchOptions(threads=1))


@dataclass
class Done:
    """What a job in this process did."""

    summary: JobSummary
    events: list[VideoEvent]

    @property
    def now(self) -> list[str]:
        """Videos that were not kept."""
        return sorted(event.id for event in self.events if not event.kept)

    @property
    def codes(self) -> dict[str, str]:
        """Reason code of each video."""
        return {event.id: event.code for event in self.events}


def job(
    inputs: Path | list[Path],
    out: Path,
    *,
    clips: int = 1,
    deadline_seconds: float = 60.0,
    use: list[Engine] | None = None,
    root: Path | None = None,
    lists: tuple[Path, ...] = (),
    **options: object,
) -> Done:
    """Run a job with one decoding process."""
    given = inputs if isinstance(inputs, list) else [inputs]
    events: list[VideoEvent] = []
    summary = run_job(
        JobInputs(given, lists, root),
        out,
        use or engines(),
        Sampling(clips=clips),
        JobOptions(**options),
        BatchOptions(workers=1, threads=1, deadline_seconds=deadline_seconds),
        events.append,
    )
    return Done(summary, events)


# What is there -----------------------------------------------------------------------------------


def outputs(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder but the state, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != ".ccl"
    }


def ages(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the inode and time of change of every file but the state."""
    return {name: _age(folder / name) for name in outputs(folder)}


def _age(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def rows(dataset: Path) -> Counter[str]:
    """Return the rows of a dataset; every file in its folder must be a part."""
    tables = [pq.read_table(path) for path in sorted(dataset.iterdir())]
    found = pa.concat_tables(tables).to_pylist() if tables else []
    return Counter(json.dumps(row, sort_keys=True) for row in found)


def ids(dataset: Path) -> Counter[str]:
    """Return how many rows of each video a dataset has."""
    found: Counter[str] = Counter()
    for row, count in rows(dataset).items():
        found[json.loads(row)["id"]] += count
    return found


def known(out: Path, id: str, label: str = "0-of-1") -> Row:
    """Return the row of a video in the manifest."""
    row = read_row(Destination.at(out).state / f"manifest-{label}.sqlite", id)
    assert row is not None, id
    return row


# In processes of their own -----------------------------------------------------------------------


@dataclass
class Run:
    """A run of ``ccl-embed``."""

    program: Program
    pid: int
    stdout_file: Path
    stderr_file: Path
    code: int | None = None

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        if self.code is None:
            self.code = self.program.ask({"wait": self.pid})
        return self.code

    def wait(self, timeout_seconds: float = 120.0) -> Run:
        """Wait for its end, and for that of every process it started."""
        deadline = time.monotonic() + timeout_seconds
        while self.poll() is None or self.alive():
            assert time.monotonic() < deadline, f"still running: {self.stderr}"
            time.sleep(0.01)
        return self

    def alive(self) -> bool:
        """Whether any process of its group is left."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> Run:
        """End it and all it started, as the machine losing power would."""
        if self.alive():
            os.killpg(self.pid, signal.SIGKILL)
        return self.wait()

    @property
    def stdout(self) -> str:
        """What it wrote so far."""
        return self.stdout_file.read_text() if self.stdout_file.is_file() else ""

    @property
    def stderr(self) -> str:
        """Messages so far."""
        return self.stderr_file.read_text() if self.stderr_file.is_file() else ""

    @property
    def facts(self) -> list[dict]:
        """The JSON lines that are whole."""
        return [json.loads(line) for line in self.stdout.splitlines(True) if line.endswith("\n")]

    @property
    def videos(self) -> list[dict]:
        """The facts of videos."""
        return [fact for fact in self.facts if fact["event"] == "video"]


@dataclass
class Program:
    """Starts runs of ``ccl-embed`` quickly; see embed_program.py."""

    folder: Path
    count: int = 0
    process: subprocess.Popen[str] = field(init=False)

    def __enter__(self) -> Program:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("embed_program.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "HF_HUB_OFFLINE": "1"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()

    def ask(self, request: dict) -> int | None:
        """Send a request and return the answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{json.dumps(request)}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(
        self,
        *arguments: object,
        before: str = "",
        cwd: Path = ROOT,
        path: tuple[Path, ...] = (),
        stderr: str | None = None,
        env: dict[str, str] | None = None,
    ) -> Run:
        """Start a run.

        Args:
            arguments: Of the command.
            before: Code that runs in its process first.
            cwd: Its current folder.
            path: Folders of modules for it and the processes it starts.
            stderr: A terminal to write messages to; None for a file.
            env: Added to the environment.
        """
        self.count += 1
        out = self.folder / f"{self.count}.out"
        errors = Path(stderr) if stderr else self.folder / f"{self.count}.err"
        request = {
            "arguments": [os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments],
            "stdout": str(out),
            "stderr": str(errors),
            "env": env or {},
            "cwd": str(cwd),
            "path": [str(folder) for folder in path],
            "before": before,
        }
        pid = self.ask(request)
        assert pid is not None
        return Run(self, pid, out, errors)

    def run(self, *arguments: object, **named: object) -> Run:
        """Start a run and wait for its end."""
        return self.start(*arguments, **named).wait()


DAMAGES = {
    "truncated": lambda data: data[: len(data) // 2],
    "zeroed": lambda data: bytes(len(data)),
    "flipped": lambda data: data[:300] + bytes([data[300] ^ 1]) + data[301:],
    "emptied": lambda data: b"",
    "deleted": lambda data: None,
}


def damage(path: Path, how: str) -> None:
    """Change a file in one of the :data:`DAMAGES`; its time of change tells nothing."""
    data = DAMAGES[how](path.read_bytes())
    stamp = path.stat().st_mtime_ns
    if data is None:
        path.unlink()
        return
    path.write_bytes(data)
    os.utime(path, ns=(stamp, stamp))  # nothing but the content tells


def manifest(out: Path) -> Path:
    """Return the database of a destination with one shard."""
    return Destination.at(out).state / "manifest-0-of-1.sqlite"


def change(out: Path, query: str, *values: object) -> None:
    """Change what a destination knows."""
    with sqlite3.connect(manifest(out)) as database:
        database.execute(query, values)
    database.close()

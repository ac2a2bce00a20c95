"""A job that is killed at any moment: every result exactly once, nothing half."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from embed_jobs import (
    QUICK,
    Program,
    Run,
    ids,
    job,
    outputs,
    rows,
    small_parts,
    tiny_folder,
    write_tiny,
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills process groups")


COUNT = 200


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("videos"), COUNT)


class Undisturbed:
    """A run of all the videos into one destination."""

    def __init__(self, program: Program, many: Path, model: Path, out: Path) -> None:
        self.program, self.arguments = program, (many, "--model", model, "--clips", 1)
        done = self.start(out).wait()
        assert done.code == 0, done.stderr
        self.content = self.read(out)

    def start(self, out: Path) -> Run:
        return self.program.start(*self.arguments, "--out", out, "--json", before=small_parts(30))

    def read(self, out: Path) -> object:
        return rows(out) if out.suffix == ".parquet" else outputs(out)


@pytest.fixture(scope="module", params=["feats", "feats.parquet"])
def undisturbed(
    request: pytest.FixtureRequest,
    program: Program,
    many: Path,
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Undisturbed:
    out = tmp_path_factory.mktemp("undisturbed") / request.param
    found = Undisturbed(program, many, model, out)
    assert len(found.content) == COUNT
    found.name = request.param
    return found


def assert_finished_once(run: Run, out: Path, undisturbed: Undisturbed) -> None:
    """Every video was told of once, and all there is equals an undisturbed run, byte by byte."""
    assert run.code == 0, run.stderr
    told = [video["id"] for video in run.videos]
    assert sorted(told) == [f"{number:03d}.mp4" for number in range(COUNT)]
    assert {video["state"] for video in run.videos} == {"done"}
    assert undisturbed.read(out) == undisturbed.content


def killed_at_random(tmp_path: Path, undisturbed: Undisturbed, seed: int, kills: int) -> None:
    rng = random.Random(seed)  # noqa: S311
    out, hits = tmp_path / undisturbed.name, 0
    for _ in range(kills):
        run, told = undisturbed.start(out), rng.randrange(COUNT)
        while run.poll() is None and len(run.stdout.splitlines()) < told:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        hits += run.poll() is None
        run.kill()
    assert hits, "no kill came in time"
    assert_finished_once(undisturbed.start(out).wait(), out, undisturbed)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_kill_9_at_a_random_moment_changes_nothing(
    tmp_path: Path, undisturbed: Undisturbed, seed: int
) -> None:
    killed_at_random(tmp_path, undisturbed, seed, kills=1)


@pytest.mark.slow
def test_several_kills_in_one_job_change_nothing(tmp_path: Path, undisturbed: Undisturbed) -> None:
    killed_at_random(tmp_path, undisturbed, seed=3, kills=4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4, 24))
def test_kill_9_at_twenty_more_moments_changes_nothing(
    tmp_path: Path, undisturbed: Undisturbed, seed: int
) -> None:
    killed_at_random(tmp_path, undisturbed, seed, kills=1 + seed % 3)


# Kills the run before the n-th step of writing: a file or folder is made, synced, renamed or
# removed, or the manifest changed or committed. Counts the steps for n = 0.
KILL_AT_STEP = """
import os, signal, sys
from pathlib import Path
from ccl_hub._util import files
from ccl_hub.job import manifest

nth, count = {nth}, 0


def step():
    global count
    count += 1
    if count == nth:
        os.kill(os.getpid(), signal.SIGKILL)


def around(owner, name):
    inner = getattr(owner, name)

    def outer(*arguments, **named):
        if name == "open" and arguments[1:] != ("xb",):
            return inner(*arguments, **named)
        step()
        return inner(*arguments, **named)

    setattr(owner, name, outer)


for name in ("open", "replace", "unlink", "mkdir"):
    around(Path, name)
around(files.os, "fsync")
for name in ("record", "commit", "replace_parts", "add_to_spool", "mark_stale", "drop_part"):
    around(manifest.Manifest, name)
manifest.COMMIT_SECONDS = {commit_seconds}
import atexit

if nth == 0:
    atexit.register(lambda: Path("steps").write_text(str(count)))
"""


def quick(program: Program, tmp_path: Path, out: str, nth: int = -1, every: bool = True) -> Run:
    """Run over the texts in "in", killed at a step; commits after each video, or once a second."""
    step = KILL_AT_STEP.format(nth=nth, commit_seconds=-1 if every else 1)
    before = QUICK + small_parts(5) + step
    return program.run("in", "--out", out, "--clips", 2, "--json", before=before, cwd=tmp_path)


def change_some(folder: Path) -> None:
    """Prepare the second run: one video is new, one has changed, one has become bad."""
    (folder / "0.mp4").write_text("changed")
    (folder / "1.mp4").write_text("bad")
    (folder / "5.mp4").write_text("new")


@pytest.mark.parametrize(
    ("every", "apart"),
    [
        pytest.param(True, 6, id="some"),
        pytest.param(True, 1, id="each", marks=pytest.mark.slow),
        pytest.param(False, 1, id="late", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", ["feats", "feats.parquet"])
def test_killed_between_any_two_steps_of_writing(
    tmp_path: Path, program: Program, name: str, every: bool, apart: int
) -> None:
    """The job has an earlier run behind it, so that outputs are replaced and removed, too.

    It is killed before every step, or before one of each ``apart`` steps.
    """
    read = rows if name.endswith(".parquet") else outputs
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.mp4").write_text(f"video {number}")
        os.utime(folder / f"{number}.mp4", (1, 1))
    assert quick(program, tmp_path, name).code == 0
    start = tmp_path / "start"
    start.mkdir()
    for path in tmp_path.glob("feats*"):
        shutil.copytree(path, start / path.name)
    before = read(tmp_path / name)
    change_some(folder)
    assert quick(program, tmp_path, name, 0, every).code == 2  # one is bad
    steps, after = int((tmp_path / "steps").read_text()), read(tmp_path / name)
    assert steps > 20 and len(after) == (10 if read is rows else 6)  # one is failures.csv

    for nth in range(1, steps + 1, apart):
        for path in start.iterdir():
            shutil.rmtree(tmp_path / path.name)
            shutil.copytree(path, tmp_path / path.name)
        killed = quick(program, tmp_path, name, nth, every)
        assert killed.code == -signal.SIGKILL, (nth, killed.stderr)
        if read is outputs:
            for place, data in outputs(tmp_path / name).items():
                if place != "failures.csv":
                    assert data in (before.get(place), after.get(place)), (nth, place)
        else:  # readable at any moment
            assert set(ids(tmp_path / name)) <= {f"{number}.mp4" for number in range(6)}
        again = quick(program, tmp_path, name, -1, every)
        assert again.code == 2, (nth, again.stderr)
        assert read(tmp_path / name) == after, nth
        assert not list(tmp_path.rglob("*.tmp")), nth


def test_an_interrupted_change_of_parts_counts_not_at_all(tmp_path: Path) -> None:
    """Ctrl-C between two statements must not leave rows both in a part and waiting for one."""
    tiny_folder(tmp_path / "in", 3)
    out = tmp_path / "feats.parquet"
    job(tmp_path / "in", out)
    whole = rows(out)
    write_tiny(tmp_path / "in" / "001.mp4", 77)
    from ccl_hub.job import manifest

    def interrupting(number: int):
        class Database:
            """Raises KeyboardInterrupt at the n-th statement of replace_parts."""

            def __init__(self, inner: object) -> None:
                self.inner, self.left = inner, number

            def execute(self, *arguments: object) -> object:
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt
                return self.inner.execute(*arguments)  # type: ignore[attr-defined]

            def close(self) -> None:
                self.inner.close()  # type: ignore[attr-defined]

        inner = manifest.Manifest.replace_parts

        def replace_parts(self: manifest.Manifest, *arguments: object) -> None:
            self._db = Database(self._db)  # type: ignore[assignment]
            inner(self, *arguments)  # type: ignore[arg-type]

        return replace_parts

    for number in range(1, 8):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(manifest.Manifest, "replace_parts", interrupting(number))
            job(tmp_path / "in", out)
    done = job(tmp_path / "in", out)
    assert done.summary.all_done and set(ids(out).values()) == {1}
    assert len(rows(out) & whole) == 2, "two are as they were, one has changed"

"""Promises of batch jobs under faults: exactly once, nothing half, repair, refusal, full disks."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from embed_jobs import (
    FAULTY_READER,
    QUICK,
    Program,
    Run,
    ages,
    ids,
    job,
    known,
    outputs,
    rows,
    save_model,
    small_parts,
    tiny_folder,
    write_tiny,
)
from media import Recipe, cut, write_video

from ccl_hub.backends.int8_cache import tensors_sha256
from ccl_hub.embed.embeddings import Embeddings
from ccl_hub.errors import InputError, OutputError
from ccl_hub.job.destination import Destination

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills process groups")
COUNT = 200


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with Program(tmp_path_factory.mktemp("program")) as started:
        yield started


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("videos"), COUNT)


class Undisturbed:
    """A run of all the videos into one destination."""

    def __init__(self, program: Program, videos: Path, model: Path, out: Path) -> None:
        self.program, self.arguments = program, (videos, "--model", model, "--clips", 1)
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
    videos: Path,
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Undisturbed:
    out = tmp_path_factory.mktemp("undisturbed") / request.param
    found = Undisturbed(program, videos, model, out)
    assert len(found.content) == COUNT
    found.name = request.param
    return found


# [1] Exactly once --------------------------------------------------------------------------------


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


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kill_9_at_a_random_moment_changes_nothing(
    tmp_path: Path, undisturbed: Undisturbed, seed: int
) -> None:
    killed_at_random(tmp_path, undisturbed, seed, kills=1)


def test_several_kills_in_one_job_change_nothing(tmp_path: Path, undisturbed: Undisturbed) -> None:
    killed_at_random(tmp_path, undisturbed, seed=3, kills=4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4, 24))
def test_kill_9_at_twenty_more_moments_changes_nothing(
    tmp_path: Path, undisturbed: Undisturbed, seed: int
) -> None:
    killed_at_random(tmp_path, undisturbed, seed, kills=1 + seed % 3)


# [2] No half file --------------------------------------------------------------------------------

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
    "every", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["each", "late"]
)
@pytest.mark.parametrize("name", ["feats", "feats.parquet"])
def test_killed_between_any_two_steps_of_writing(
    tmp_path: Path, program: Program, name: str, every: bool
) -> None:
    """The job has an earlier run behind it, so that outputs are replaced and removed, too."""
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

    for nth in range(1, steps + 1):
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


# [3] Self-repair ---------------------------------------------------------------------------------

DAMAGES = {
    "truncated": lambda data: data[: len(data) // 2],
    "zeroed": lambda data: bytes(len(data)),
    "flipped": lambda data: data[:300] + bytes([data[300] ^ 1]) + data[301:],
    "emptied": lambda data: b"",
    "deleted": lambda data: None,
}


def damage(path: Path, how: str) -> None:
    data = DAMAGES[how](path.read_bytes())
    stamp = path.stat().st_mtime_ns
    if data is None:
        path.unlink()
        return
    path.write_bytes(data)
    os.utime(path, ns=(stamp, stamp))  # nothing but the content tells


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("small"), 6)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_output_and_no_other_is_made_again(
    tmp_path: Path, small: Path, how: str
) -> None:
    job(small, tmp_path)
    whole, before = outputs(tmp_path), ages(tmp_path)
    damage(tmp_path / "003.mp4.npz", how)
    done = job(small, tmp_path)
    assert done.now == ["003.mp4"]
    assert outputs(tmp_path) == whole
    changed = {name for name, age in ages(tmp_path).items() if age != before[name]}
    assert changed == {"003.mp4.npz"}


@pytest.mark.parametrize("how", DAMAGES)
def test_the_videos_of_a_damaged_part_and_no_others_are_made_again(
    tmp_path: Path, small: Path, how: str
) -> None:
    out = tmp_path / "feats.parquet"
    job(small, out)
    extra = tiny_folder(tmp_path / "extra", 2)
    job(extra, out)  # a part of its own
    whole, before = rows(out), ages(out)
    assert len(before) == 2
    hurt = known(out, "000.mp4").output
    damage(out / hurt, how)
    done = job([small, extra], out)
    assert done.now == [f"{number:03d}.mp4" for number in range(6)]
    assert rows(out) == whole
    other = (before.keys() - {hurt}).pop()
    assert ages(out)[other] == before[other]


# [4] Stale outputs -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["feats", "feats.parquet"])
def test_other_settings_in_the_same_place_are_refused_and_name_both(
    tmp_path: Path, small: Path, name: str
) -> None:
    import torch

    from ccl_hub import CCLModel
    from ccl_hub.batch import BatchOptions, engines_for

    first, second = save_model(tmp_path / "one"), tmp_path / "two"
    net = CCLModel.from_pretrained(first)
    with torch.no_grad():
        net.trunk.conv1.weight.mul_(1.5)
    net.save_pretrained(second)

    def loaded(folder: Path, dtype: str = "float32") -> list:
        return engines_for(folder, None, "cpu", dtype, "torch", BatchOptions(threads=1))

    ours, theirs = loaded(first), loaded(second)
    out, one = tmp_path / name, [small / "000.mp4"]
    job(one, out, use=ours)
    whole = ages(out)
    hashes = [tensors_sha256(engines[0].model) for engines in (ours, theirs)]
    is_dataset = name.endswith(".parquet")
    cases = {
        f"tensors_sha256 is '{hashes[0]}' there, '{hashes[1]}' now": {"use": theirs},
        "sampling is 'clips=1' there, 'clips=3' now": {"clips": 3, "use": ours},
        "dtype is 'float32' there, 'bfloat16' now": {"use": loaded(first, "bfloat16")},
        f"root is '{small}' there, '{tmp_path}' now": {"root": tmp_path, "use": ours},
    }
    if is_dataset:
        cases["level is 'clip' there, 'video' now"] = {"level": "video", "use": ours}
    else:
        cases["format is 'npz' there, 'npy' now"] = {"suffix": ".npy", "use": ours}
    for message, change in cases.items():
        with pytest.raises(InputError) as caught:
            job(one, out, **change)
        assert message in str(caught.value) and "--overwrite" in str(caught.value)
    assert ages(out) == whole
    assert job(one, out, use=ours).now == []


def test_another_backend_is_refused(tmp_path: Path, small: Path) -> None:
    from dataclasses import replace

    from embed_jobs import engines

    class Other:
        """The same network that says it runs elsewhere."""

        def __init__(self) -> None:
            self.inner = engines()[0]
            self.info = replace(self.inner.info, backend="openvino-int8", detail="abc")

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    job([small / "000.mp4"], tmp_path / "x")
    with pytest.raises(InputError, match="backend is 'torch' there, 'openvino-int8 abc' now"):
        job([small / "000.mp4"], tmp_path / "x", use=[Other()])


def test_overwrite_removes_what_a_job_made_and_nothing_else(tmp_path: Path, small: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    out = tmp_path / "feats"
    job([small, bad], out, root=small)
    assert (out / "failures.csv").is_file() and len(outputs(out)) == 7
    (out / "notes.txt").write_text("mine")
    (out / "000.mp4.npy").write_text("mine, too")
    done = job([small / "001.mp4"], out, root=small, suffix=".safetensors", overwrite=True)
    assert done.now == ["001.mp4"]
    assert set(outputs(out)) == {"notes.txt", "000.mp4.npy", "001.mp4.safetensors"}
    assert (out / "notes.txt").read_text() == "mine"


def test_overwrite_with_the_same_settings_removes_nothing(tmp_path: Path, small: Path) -> None:
    job(small, tmp_path / "x")
    assert job(small, tmp_path / "x", overwrite=True).now == []


def test_overwrite_of_a_dataset_removes_every_part_of_every_shard(
    tmp_path: Path, small: Path
) -> None:
    from ccl_hub.inputs.shards import Shard

    out = tmp_path / "feats.parquet"
    for index in range(2):
        job(small, out, shard=Shard(index, 2))
    (out / "part-0-of-2-0123456789abcdef.parquet").write_text("of a run that was killed")
    with pytest.raises(InputError, match="made by runs of 2 shards, this is one of 1"):
        job(small, out)
    job(small, out, overwrite=True)
    assert ids(out) == dict.fromkeys(sorted(path.name for path in small.iterdir()), 1)
    (part,) = out.iterdir()
    assert part.name.startswith("part-0-of-1-")


def test_a_dataset_that_lost_its_state_is_not_mixed_with_another_number_of_shards(
    tmp_path: Path, small: Path
) -> None:
    from ccl_hub.inputs.shards import Shard

    out = tmp_path / "feats.parquet"
    job(small, out)
    shutil.rmtree(tmp_path / "feats.parquet.ccl")
    with pytest.raises(InputError, match="not the state of the job that made it"):
        job(small, out, shard=Shard(0, 2))
    job(small, out, overwrite=True)
    with pytest.raises(InputError, match="made by runs of 1 shards, this is one of 2"):
        job(small, out, shard=Shard(0, 2))
    assert set(ids(out).values()) == {1} and len(ids(out)) == 6


# [6] Several runs at once ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["feats", "feats.parquet"])
def test_a_second_run_waits_and_finds_everything_done(
    tmp_path: Path, program: Program, videos: Path, model: Path, name: str
) -> None:
    arguments = (videos, "--model", model, "--clips", 1, "--out", tmp_path / name, "--json")
    first = program.start(*arguments)
    while not first.videos:
        assert first.poll() is None, first.stderr
        time.sleep(0.01)
    second = program.start(*arguments)
    first.wait()
    second.wait()
    assert (first.code, second.code) == (0, 0), first.stderr + second.stderr
    assert "another run is writing the same shard here; waiting" in second.stderr
    assert "waiting" not in first.stderr
    assert len(first.videos) == len(second.videos) == COUNT
    assert not any(video["kept"] for video in first.videos)
    assert all(video["kept"] for video in second.videos)
    assert len(rows(tmp_path / name) if "." in name else outputs(tmp_path / name)) == COUNT


@pytest.mark.parametrize("name", ["feats", "feats.parquet"])
@pytest.mark.slow
def test_shards_at_once_share_the_videos(
    tmp_path: Path, program: Program, videos: Path, model: Path, name: str
) -> None:
    out = tmp_path / name
    arguments = (videos, "--model", model, "--clips", 1, "--out", out, "--json", "--workers", 1)
    runs = [program.start(*arguments, "--shard", f"{index}/3") for index in range(3)]
    while not runs[0].videos:
        assert runs[0].poll() is None, runs[0].stderr
        time.sleep(0.01)
    other = program.run(*arguments, "--shard", "0/2")
    assert other.code == 1, other.stderr
    assert "a run with another number of shards is writing here" in other.stderr
    for run in runs:
        assert run.wait().code == 0, run.stderr
        assert "waiting" not in run.stderr
    told = [video["id"] for run in runs for video in run.videos]
    assert sorted(told) == sorted(path.name for path in videos.iterdir())
    if name == "feats":
        found = outputs(out)
        assert len(found) == COUNT
        for place in found:
            Embeddings.load(out / place)
    else:
        assert len(rows(out)) == sum(ids(out).values()) == COUNT


def test_runs_without_shards_after_shards_take_over_what_is_done(tmp_path: Path) -> None:
    from ccl_hub.inputs.shards import Shard

    folder, out = tiny_folder(tmp_path / "in", 8), tmp_path / "feats"
    for number in range(4):
        (folder / f"bad{number}.mp4").write_text("no video")
    job(folder, out)
    whole = ages(out)
    failures = 0
    for index in range(2):
        done = job(folder, out, shard=Shard(index, 2))
        assert done.now == []
        listed = done.summary.failures
        assert listed == out / f"failures-{index}-of-2.csv"
        failures += len(listed.read_text().splitlines()) - 1
    assert failures == 4
    assert not (out / "failures.csv").exists(), "it would go stale"
    (folder / "bad0.mp4").write_bytes((folder / "000.mp4").read_bytes())
    now = [id for index in range(2) for id in job(folder, out, shard=Shard(index, 2)).now]
    assert now == ["bad0.mp4"]
    done = job(folder, out)
    assert len((out / "failures.csv").read_text().splitlines()) == 4
    assert not list(out.glob("failures-*"))
    assert {n: a for n, a in ages(out).items() if n in whole and n.endswith("npz")} == {
        n: a for n, a in whole.items() if n.endswith("npz")
    }


# [7] Full disk -----------------------------------------------------------------------------------


@pytest.fixture
def little_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path, left_bytes: int) -> Path:
    """Leave so much space on a disk."""
    found = os.statvfs(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(max(0, found.f_bavail * found.f_frsize - left_bytes)))
    return ballast


def assert_one_line(run: Run) -> None:
    assert run.code == 1, run.stderr
    assert run.stderr.count("\n") == 1 and "Traceback" not in run.stderr, run.stderr
    assert "space" in run.stderr and "bug" not in run.stderr


@pytest.mark.parametrize("left_kb", [400, 60, 24, 8, 0])
@pytest.mark.parametrize("name", ["feats", "feats.parquet"])
def test_a_full_disk_is_a_clean_error_and_the_next_run_goes_on(
    tmp_path: Path, little_disk: Path, program: Program, name: str, left_kb: int
) -> None:
    """From little space, where not even the manifest has any, to some for many outputs."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number:03d}.mp4").write_text(f"video {number}")
    out, is_dataset = little_disk / name, name.endswith(".parquet")
    commits = "from ccl_hub.job import manifest; manifest.COMMIT_SECONDS = 0.05"
    before = QUICK + small_parts(50) + commits
    arguments = (folder, "--out", out, "--clips", 2, "--quiet", "--json")
    ballast = fill(little_disk, left_kb // (1 + 3 * is_dataset) << 10)
    run = program.run(*arguments, before=before)
    assert_one_line(run)
    finished = {} if is_dataset or not out.exists() else outputs(out)
    for place in finished:
        Embeddings.load(out / place)
    if left_kb == 400 and not is_dataset:
        assert len(finished) > 20
    assert_one_line(program.run(*arguments, before=before))
    assert is_dataset or finished.items() <= outputs(out).items()
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(little_disk)], check=True)
    again = program.run(*arguments, before=before)
    assert again.code == 0, again.stderr
    if is_dataset:
        assert ids(out) == {f"{number:03d}.mp4": 2 for number in range(200)}
    else:
        assert len(outputs(out)) == 200 and finished.items() <= outputs(out).items()
    assert not list(little_disk.rglob("*.tmp"))


# [8] Bad videos, [11] truncation -----------------------------------------------------------------

CODES = {
    "empty": "damaged",
    "text": "unsupported",
    "cut_mp4": "damaged",
    "sound": "no_video",
    "pipe": "not_found",
    "missing": "not_found",
    "crash-": "crashed",
    "exit-": "crashed",
    "memory-": "too_large",
    "disk-": "unreadable",
    "hang-": "timeout",
}
TRANSIENT = {"not_found", "crashed", "unreadable", "timeout"}


@pytest.fixture
def faulty_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(FAULTY_READER)
    monkeypatch.syspath_prepend(folder)


def silence(path: Path) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        for start in range(0, 48000, 1024):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = 48000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def bad_videos(folder: Path) -> list[Path]:
    """Write one video of each kind that cannot be embedded, those that hang last."""
    whole = write_video(folder, Recipe("whole.mp4", "mpeg4", 40, (48, 32)))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video")
    cut(whole, folder / "cut_mp4.mp4", 0.5)  # its index was at the end
    silence(folder / "sound.mp4")
    os.mkfifo(folder / "pipe.mp4")  # nobody ever writes to it
    for word in ("crash-1", "exit-1", "memory-1", "disk-1", "hang-1"):
        shutil.copy(whole, folder / f"{word}.mp4")
    whole.unlink()
    return [*sorted(folder.iterdir()), folder / "missing.mp4"]


@pytest.mark.parametrize("name", ["feats", "feats.parquet"])
def test_bad_videos_cost_themselves_only(tmp_path: Path, faulty_reader: None, name: str) -> None:
    folder = tiny_folder(tmp_path / "in", 180)
    bad = tmp_path / "bad"
    bad.mkdir()
    listed = bad_videos(bad)
    listed += [bad / "text2.mp4", *(bad / f"missing{number}.mp4" for number in range(8))]
    (bad / "text2.mp4").write_text("ffconcat version 1.0\nfile ../in/000.mp4\n")
    assert len(listed) == 20
    expected = {
        f"bad/{path.name}": next(c for word, c in CODES.items() if path.stem.startswith(word))
        for path in listed
    }
    out = tmp_path / name
    done = job([folder, *listed], out, root=tmp_path, deadline_seconds=1.5)
    assert done.summary.counts == {"done": 180, "failed": 20}
    assert {id: code for id, code in done.codes.items() if code} == expected
    import csv

    assert done.summary.failures is not None
    with done.summary.failures.open(newline="") as file:
        told = list(csv.DictReader(file))
    assert {row["id"]: row["code"] for row in told} == expected
    assert [row["id"] for row in told] == sorted(expected)
    assert all(row["state"] == "failed" and row["reason"] for row in told)
    assert all(row["path"] == str(tmp_path / row["id"]) for row in told)

    # Again: what may have been the machine's fault is tried again, the rest is not.
    again = job([folder, *listed], out, root=tmp_path, deadline_seconds=1.5)
    assert again.now == sorted(id for id, code in expected.items() if code in TRANSIENT)
    assert again.summary.counts == done.summary.counts
    assert again.codes == done.codes


def test_what_failed_is_tried_again_when_asked_for_or_replaced(tmp_path: Path) -> None:
    folder, out = tiny_folder(tmp_path / "in", 2), tmp_path / "feats"
    for name in ("x.mp4", "y.mp4"):
        (folder / name).write_text("no video")
    assert job(folder, out).now == ["000.mp4", "001.mp4", "x.mp4", "y.mp4"]
    assert job(folder, out).now == []
    assert job(folder, out, retry_failed=True).now == ["x.mp4", "y.mp4"]
    write_tiny(folder / "x.mp4", 9)
    done = job(folder, out)
    assert done.now == ["x.mp4"] and done.codes["x.mp4"] == ""
    assert len((out / "failures.csv").read_text().splitlines()) == 2
    write_tiny(folder / "y.mp4", 10)
    done = job(folder, out)
    assert done.summary.all_done and done.summary.failures is None
    assert not (out / "failures.csv").exists()


@pytest.mark.parametrize("name", ["feats", "feats.parquet"])
def test_a_good_video_that_turns_bad_loses_its_output(tmp_path: Path, name: str) -> None:
    folder, out = tiny_folder(tmp_path / "in", 3), tmp_path / name
    job(folder, out)
    (folder / "001.mp4").write_text("no video")
    done = job(folder, out)
    assert done.now == ["001.mp4"] and done.summary.counts["failed"] == 1
    if name == "feats":
        assert set(outputs(out)) == {"000.mp4.npz", "002.mp4.npz", "failures.csv"}
    else:
        assert set(ids(out)) == {"000.mp4", "002.mp4"}
    (folder / "001.mp4").unlink()
    assert job([folder, folder / "001.mp4"], out, root=folder).codes["001.mp4"] == "not_found"


def test_an_output_nobody_noted_goes_when_its_video_fails(tmp_path: Path) -> None:
    """A run may be killed between an output and its row, and the video be bad in the next."""
    folder, out = tiny_folder(tmp_path / "in", 1), tmp_path / "feats"
    job(folder, out)
    (folder / "x.mp4").write_text("no video")
    (out / "x.mp4.npz").write_text("left behind")
    job(folder, out)
    assert set(outputs(out)) == {"000.mp4.npz", "failures.csv"}


def test_fail_fast_stops_and_another_run_goes_on(tmp_path: Path) -> None:
    folder, out = tiny_folder(tmp_path / "in", 30), tmp_path / "feats"
    (folder / "0005.mp4").write_text("no video")
    done = job(folder, out, fail_fast=True)
    assert done.summary.stopped and not done.summary.all_done
    assert done.codes["0005.mp4"] == "unsupported"
    assert done.summary.counts["done"] < 30
    again = job(folder, out)
    assert again.summary.counts == {"done": 30, "failed": 1} and not again.summary.stopped
    assert not {event.id for event in done.events} & set(again.now)


@pytest.mark.parametrize("name", ["feats", "feats.parquet"])
def test_a_truncated_video_is_never_plain_success(tmp_path: Path, name: str) -> None:
    folder, out = tiny_folder(tmp_path / "in", 1), tmp_path / name
    whole = write_video(tmp_path, Recipe("whole.mkv", "mpeg4", 60, (48, 32)))
    cut(whole, folder / "cut.mkv", 0.6)
    for now in (["000.mp4", "cut.mkv"], []):
        done = job(folder, out)
        assert done.now == now
        assert done.summary.counts == {"done": 1, "incomplete": 1}
        assert not done.summary.all_done and done.summary.codes == {"incomplete": 1}
        row = known(out, "cut.mkv")
        assert (row.state, row.code) == ("incomplete", "incomplete") and row.reason
        assert done.summary.failures is not None
        assert "cut.mkv,incomplete,incomplete" in done.summary.failures.read_text()
    if name == "feats":
        assert Embeddings.load(out / "cut.mkv.npz").incomplete
    else:
        found = {row["id"]: row["completeness"] for row in map(json.loads, rows(out))}
        assert found["cut.mkv"] == "incomplete"
    (folder / "cut.mkv").write_bytes(whole.read_bytes())
    done = job(folder, out)
    assert done.summary.all_done and done.now == ["cut.mkv"]


# State that is damaged ---------------------------------------------------------------------------


def test_a_damaged_manifest_is_a_clear_error_and_can_be_removed(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "in", 3)
    for name in ("feats", "feats.parquet"):
        out = tmp_path / name
        job(folder, out)
        whole = rows(out) if "." in name else outputs(out)
        path = Destination.at(out).state / "manifest-0-of-1.sqlite"
        path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)
        with pytest.raises(OutputError, match=r"manifest-0-of-1.*cannot be read.*remove it"):
            job(folder, out)
        path.unlink()
        assert len(job(folder, out).now) == 3
        assert (rows(out) if "." in name else outputs(out)) == whole


def test_damaged_settings_are_a_clear_error(tmp_path: Path) -> None:
    folder, out = tiny_folder(tmp_path / "in", 1), tmp_path / "feats"
    job(folder, out)
    for text in ("{", "[1]"):
        (out / ".ccl" / "settings.json").write_text(text)
        with pytest.raises(OutputError, match=r"settings\.json: .*remove"):
            job(folder, out)

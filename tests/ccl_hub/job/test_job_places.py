"""Where results go: folders, links, full disks, places that are taken."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from embed_jobs import (
    QUICK,
    Program,
    Run,
    ids,
    job,
    outputs,
    small_parts,
)

from ccl_hub._util.folder_lock import is_held, only_writer
from ccl_hub.embed.embeddings import Embeddings
from ccl_hub.errors import InputError, OutputError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills process groups")


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


def test_a_destination_that_is_a_file_is_a_clear_error(tmp_path: Path, small: Path) -> None:
    for name in ("feats", "feats.parquet"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(OutputError, match="the folder cannot be made"):
            job(small, tmp_path / name)
        assert (tmp_path / name).read_text() == "mine"


def test_an_output_place_that_is_taken_by_a_folder_is_a_clear_error(
    tmp_path: Path, small: Path
) -> None:
    (tmp_path / "001.mp4.npz").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"001\.mp4\.npz: cannot be written"):
        job(small, tmp_path)
    (tmp_path / "001.mp4.npz").rmdir()
    assert job(small, tmp_path).summary.all_done


def test_a_lock_file_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(OutputError, match="lock: cannot be locked"), only_writer(tmp_path, "lock"):
        pass


@pytest.mark.skipif(os.name == "nt", reason="no locks on Windows")
def test_looking_at_a_lock_is_not_taken_for_a_run(tmp_path: Path) -> None:
    import threading

    told: list[str] = []
    with only_writer(tmp_path, "lock"):
        assert is_held(tmp_path / "lock")
        entered = threading.Event()

        def wait() -> None:
            with only_writer(tmp_path, "lock", lambda: told.append("waiting")):
                entered.set()

        threading.Thread(target=wait).start()
        assert not entered.wait(0.2), "it is held"
    assert entered.wait(5) and not told, "held for a moment only, which is no news"
    assert not is_held(tmp_path / "lock")


def test_a_dataset_behind_a_link_keeps_its_state_where_it_is(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "feats.parquet"
    link.symlink_to(tmp_path / "disk" / "real.parquet")
    job(videos, link)
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == [
        "real.parquet",
        "real.parquet.ccl",
    ]
    assert job(videos, link).now == []


both = pytest.mark.parametrize("name", ["feats", "feats.parquet"])


def test_files_of_the_user_that_are_called_like_outputs_are_safe(
    videos: Path, tmp_path: Path
) -> None:
    np.save(videos / "000.mp4.npy", np.zeros(3))
    (videos / "labels.npz").write_bytes(b"not ours, and not called like an output")
    before = outputs(videos)
    with pytest.raises(InputError, match=r"000\.mp4\.npy"):
        job(videos, videos, suffix=".npy")
    (videos / "000.mp4.npy").unlink()
    job(videos, videos, suffix=".npy")
    assert {k: v for k, v in outputs(videos).items() if k in before} == {
        k: v for k, v in before.items() if k != "000.mp4.npy"
    } | {"000.mp4.npy": (videos / "000.mp4.npy").read_bytes()}


def test_a_link_that_is_called_like_a_dataset_is_one(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    out = tmp_path / "feats.parquet"
    out.symlink_to(tmp_path / "store")
    job(videos, out)
    assert set(ids(tmp_path / "store")) == {f"00{i}.mp4" for i in range(3)}
    assert (tmp_path / "store.ccl" / "settings.json").is_file()


@both
def test_the_jobs_own_files_are_no_videos(videos: Path, tmp_path: Path, name: str) -> None:
    out = videos / name
    for _ in range(2):
        done = job([Path(f"{videos}/**/*")], out)
        assert done.summary.counts == {"done": 3}
    # As a shell expands videos/*.
    found = sorted(path for path in videos.rglob("*") if path.is_file())
    assert job(found, out).summary.counts == {"done": 3}


def test_a_destination_may_hold_another_one(videos: Path, tmp_path: Path) -> None:
    job(videos, tmp_path / "feats" / "inner")
    job(videos, tmp_path / "feats", clips=2)
    assert len(outputs(tmp_path / "feats" / "inner")) == 3
    shutil.rmtree(tmp_path / "feats" / ".ccl")
    for path in (tmp_path / "feats").glob("*.npz"):
        path.rename(path.with_name("still.jpg.npz"))
    with pytest.raises(InputError, match=r"still\.jpg\.npz"):
        job(videos, tmp_path / "feats")


def test_the_jobs_own_files_are_known_by_any_name(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (videos / "sub").mkdir()
    (tmp_path / "link").symlink_to(videos)
    monkeypatch.chdir(videos / "sub")
    for inputs, out in ((Path("../*"), Path("..")), (tmp_path / "link" / "*", videos)):
        assert job([inputs], out, root=videos).summary.counts == {"done": 3}
        assert job([inputs], out, root=videos).summary.counts == {"done": 3}
        assert job([inputs], out, root=videos).summary.all_done


def test_nothing_is_made_for_inputs_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no input"):
        job([], tmp_path / "feats")
    assert not list(tmp_path.iterdir())

"""Videos that fail: what they cost, what is told, and when they are tried again."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from embed_jobs import (
    FAULTY_READER,
    change,
    engines,
    ids,
    job,
    known,
    outputs,
    rows,
    tiny_folder,
    write_tiny,
)
from media import Recipe, cut, write_video

from ccl_hub.batch import BatchOptions, embed_batch, embed_patiently
from ccl_hub.decoding.messages import Job
from ccl_hub.decoding.pool import DecodePool
from ccl_hub.embed.embeddings import Embeddings
from ccl_hub.errors import InputError
from ccl_hub.sampling import Sampling

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills process groups")


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


both = pytest.mark.parametrize("name", ["feats", "feats.parquet"])


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the videos that are given to decoding processes."""
    asked: list[str] = []
    submit = DecodePool.submit

    def note(pool: DecodePool, job: Job) -> None:
        asked.append(job.path.name)
        submit(pool, job)

    monkeypatch.setattr(DecodePool, "submit", note)
    return asked


@both
def test_missing_files_need_no_decoding_process(
    tmp_path: Path, name: str, decoded: list[str]
) -> None:
    """A list of 50,000 paths that went stale took a minute, in every run."""
    write_tiny(tmp_path / "000.mp4")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    names = ["empty.mp4", "loop.mp4", "000.mp4/x.mp4", *(f"gone/{n}.mp4" for n in range(40))]
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join([*names, "000.mp4"]))
    items = embed_batch(
        (tmp_path / one for one in names), engines(), Sampling(1), BatchOptions(1, 1)
    )
    said = {names[item.index]: (item.code, item.reason) for item in items}
    decoded.clear()
    done = job([], tmp_path / name, lists=(listed,))
    assert decoded == ["000.mp4"]
    for again in (done, job([], tmp_path / name, lists=(listed,))):
        assert {event.id: (event.code, event.reason) for event in again.events} == {
            "000.mp4": ("", ""),
            **said,
        }
        assert again.summary.codes == {"not_found": len(names) - 1, "damaged": 1}
        assert again.summary.failures is not None
        assert len(again.summary.failures.read_text().splitlines()) == 1 + len(names)
    assert decoded == ["000.mp4"]
    assert known(tmp_path / name, "gone/7.mp4").code == "not_found"
    write_tiny(tmp_path / "gone/7.mp4", 7)
    assert job([], tmp_path / name, lists=(listed,)).codes["gone/7.mp4"] == ""
    assert decoded == ["000.mp4", "7.mp4"]


def test_a_missing_file_is_a_first_failure_too(tmp_path: Path, small: Path) -> None:
    gone = [tmp_path / "gone.mp4", tmp_path / "gone2.mp4"]
    done = job([*gone, small], tmp_path / "feats", root=tmp_path, fail_fast=True)
    assert done.summary.stopped and done.codes == {"gone.mp4": "not_found"}, done.codes


def test_an_incomplete_video_is_tried_again_only_if_asked(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "feats"
    job(videos, out)
    change(out, "UPDATE videos SET state = 'incomplete', code = 'incomplete' WHERE id = '000.mp4'")
    assert job(videos, out).now == [] and job(videos, out).codes["000.mp4"] == "incomplete"
    assert job(videos, out, retry_failed=True).now == ["000.mp4"]
    assert job(videos, out).summary.all_done


def test_failures_are_those_of_this_run(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "feats"
    (videos / "bad.mp4").write_text("no video")
    assert "bad.mp4" in Path(job(videos, out).summary.failures or "").read_text()
    (videos / "bad.mp4").unlink()
    done = job(videos, out)
    assert done.summary.all_done and done.summary.failures is None
    assert not (out / "failures.csv").exists()


def test_results_do_not_wait_for_the_next_source(videos: Path) -> None:
    """As of a folder that is watched: the second path comes long after the first."""
    came: list[int] = []

    def sources() -> Iterator[Path | None]:
        yield videos / "000.mp4"
        end = time.monotonic() + 60
        while not came:
            assert time.monotonic() < end, "the result waits"
            yield None
        yield videos / "001.mp4"

    own = BatchOptions(workers=1, threads=1)
    for item in embed_patiently(sources(), engines(), Sampling(clips=1), own):
        if item is not None:
            came.append(item.index)
    assert came == [0, 1]


@both
def test_an_error_of_a_list_comes_after_the_videos_in_front_of_it(
    tmp_path: Path, name: str
) -> None:
    tiny_folder(tmp_path, 6)
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"".join(b"00%d.mp4\n" % i for i in range(6)) + b"\0.mp4\n")
    with pytest.raises(InputError, match="line 7: a zero byte"):
        job([], tmp_path / name, lists=(listed,))
    assert [known(tmp_path / name, f"00{i}.mp4").state for i in range(6)] == ["done"] * 6

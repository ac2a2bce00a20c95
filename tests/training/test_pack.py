"""Packing: right frames, exact resume after kill -9, bad videos named and not replaced."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pyarrow
import pytest
from project import ROOT

pytest.importorskip("av")
from media import Recipe, cut, irregular_ticks, numbers, read_number, write_video
from numbered import FRAMES, bad_folder, decoded, make_videos

from ccl_hub.config import Preprocessing
from ccl_hub.errors import TrainingError
from ccl_hub.video import DECODER_VERSION
from training.data.datasets import VideoItem, VideoList, from_folder
from training.frames.files import VideoFolderStore, stored_facts
from training.frames.pack_pool import ShardTask, run_tasks
from training.frames.pack_worker import PackOptions, _pack_video
from training.frames.packed import FrameStore
from training.frames.packing import pack
from training.pack import main

RAW = PackOptions(Preprocessing(), codec="raw")
SECONDS_PER_VIDEO = 60


def content(folder):
    """All bytes of a store."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_a_store_holds_every_frame_at_its_time(videos, packed):
    store = FrameStore(packed)
    assert store.names == [item.id for item in videos]
    assert (len(store), store.frames) == (5, 5 * FRAMES)
    for video, item in enumerate(videos):
        info, pixels = decoded(item.path)
        assert store.frames_of(video) == FRAMES
        assert store.frame_size(video) == (128, 171)
        np.testing.assert_array_equal(store.seconds(video), info.seconds)
        assert store.duration(video) == info.duration_seconds
        stored = store.read(video, range(FRAMES))
        assert numbers(stored) == list(range(20 * video, 20 * video + FRAMES))
        assert np.mean((stored.astype(float) - pixels) ** 2) < 12  # JPEG: above 37 dB on noise


def test_raw_frames_are_the_pixels_of_inference(videos, tmp_path):
    pack(videos, tmp_path, RAW)
    store = FrameStore(tmp_path)
    for video, item in enumerate(videos):
        _, pixels = decoded(item.path)
        np.testing.assert_array_equal(store.read(video, range(FRAMES)), pixels)


def test_irregular_times_are_kept(tmp_path):
    ticks = irregular_ticks(30)
    recipe = Recipe("v.mkv", "mpeg4", 30, ticks=ticks)
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v", recipe)
    pack(from_folder(tmp_path / "v"), tmp_path / "p")
    np.testing.assert_allclose(FrameStore(tmp_path / "p").seconds(0), recipe.seconds, atol=1e-9)


def test_packets_that_mislead_about_the_order_are_found_out(tmp_path, monkeypatch):
    """The frames are packed, and read without packing, all the same."""
    import av

    from ccl_hub.video import index as video_index

    monkeypatch.setattr(video_index, "COMPARED_FRAMES", 1)  # so that it is found out late
    b_frames = {"x264-params": "bframes=3:b-adapt=0:keyint=25"}
    source = write_video(tmp_path, Recipe("source.mp4", "libx264", 50, options=b_frames))
    folder = tmp_path / "v"
    folder.mkdir()
    with av.open(str(source)) as video, av.open(str(folder / "v.mkv"), "w") as container:
        stream = container.add_stream_from_template(video.streams.video[0])
        for packet in video.demux(video=0):
            if packet.size:
                packet.stream, packet.pts = stream, packet.dts
                container.mux(packet)
    (item,) = from_folder(folder)
    packed = _pack_video(item, PackOptions(Preprocessing(), codec="raw"))
    assert packed.problem is None
    np.testing.assert_allclose(packed.seconds, np.arange(50) / 25, atol=0.0011)
    store = VideoFolderStore(folder)
    assert [read_number(f) for f in store.read(0, range(50))] == list(range(50))


def test_labels_groups_and_splits_travel_with_the_store(videos, tmp_path):
    items = tuple(
        replace(item, label="ab"[number % 2], group=f"g{number}", split="train")
        for number, item in enumerate(videos)
    )
    listed = VideoList("labelled", items, ("a", "b"))
    pack(listed, tmp_path, RAW)
    store = FrameStore(tmp_path)
    assert store.videos.classes == ("a", "b")
    assert store.videos.targets().tolist() == [0, 1, 0, 1, 0]
    assert store.videos.fingerprint() == listed.fingerprint()
    assert [item.group for item in store.videos] == ["g0", "g1", "g2", "g3", "g4"]


def test_store_says_how_it_was_made(packed):
    meta = json.loads((packed / "store.json").read_text())
    assert meta["decoder"] == DECODER_VERSION
    assert meta["preprocessing"]["resize_width_px"] == 171
    assert (meta["codec"], meta["quality"], meta["problems"]) == ("jpeg", 95, [])
    assert FrameStore(packed).preprocessing == Preprocessing()


def test_fingerprint_follows_bytes_and_settings_not_workers(videos, packed, tmp_path):
    first = FrameStore(packed).fingerprint()
    pack(videos, tmp_path / "a", workers=2, shard_videos=1)
    assert FrameStore(tmp_path / "a").fingerprint() == first
    pack(videos, tmp_path / "b", PackOptions(Preprocessing(), quality=90))
    assert FrameStore(tmp_path / "b").fingerprint() != first
    other = make_videos(tmp_path / "other", frames=FRAMES + 1)
    pack(from_folder(other), tmp_path / "c")
    assert FrameStore(tmp_path / "c").fingerprint() != first


def test_a_store_is_the_same_whichever_frames_make_a_clip(videos, packed, tmp_path):
    """It has every frame; and packings from before the choice go on, and keep their hashes."""
    on_screen = Preprocessing(frame_choice="on_screen")
    pack(videos, tmp_path, PackOptions(on_screen), shard_videos=2)
    for name in ("store.json", "plan.json"):
        text = (tmp_path / name).read_text()
        assert "frame_choice" not in text
        assert text == (packed / name).read_text()
    assert FrameStore(tmp_path).fingerprint() == FrameStore(packed).fingerprint()
    nearest = VideoFolderStore(videos, Preprocessing())
    assert VideoFolderStore(videos, on_screen).fingerprint() == nearest.fingerprint()
    values = asdict(Preprocessing())
    for later in ("frame_choice", "bars", "key_frames_only"):
        del values[later]
    assert stored_facts(on_screen) == values


def test_shards_are_ordinary_arrow_files(packed):
    with pyarrow.memory_map(str(packed / "shard-00000.arrow")) as file:
        table = pyarrow.ipc.open_file(file).read_all()
    assert table.column("id").to_pylist() == ["0.mp4", "1.mp4"]
    assert [len(frames) for frames in table.column("frames")] == [FRAMES, FRAMES]
    jpeg = table.column("frames")[1][3].as_py()
    np.testing.assert_array_equal(FrameStore(packed).encoded(1, 3), np.frombuffer(jpeg, np.uint8))


def test_same_command_again_changes_nothing(videos, packed):
    before = content(packed)
    stamps = {path: path.stat().st_mtime_ns for path in packed.glob("shard-*")}
    seen = []
    pack(videos, packed, shard_videos=2, progress=seen.append)
    assert content(packed) == before
    assert {path: path.stat().st_mtime_ns for path in packed.glob("shard-*")} == stamps
    assert sum(seen) == 5


def test_a_damaged_or_lost_shard_is_made_again(videos, packed, tmp_path):
    pack(videos, tmp_path, shard_videos=2)
    cut(tmp_path / "shard-00001.arrow", tmp_path / "shard-00001.arrow", 0.5)
    with pytest.raises(TrainingError, match=r"shard-00001.arrow: the shard has \d+ bytes, not"):
        FrameStore(tmp_path)
    (tmp_path / "shard-00002.arrow").unlink()
    (tmp_path / ".0123456789abcdef.tmp").write_bytes(b"half")
    pack(videos, tmp_path, shard_videos=2)
    assert content(tmp_path) == content(packed)


def test_another_packing_is_refused_unless_told_to_replace_it(videos, tmp_path):
    pack(videos, tmp_path)
    before = content(tmp_path)
    quality = PackOptions(Preprocessing(), quality=80)
    with pytest.raises(TrainingError, match="other settings; give another folder, or replace"):
        pack(videos, tmp_path, quality)
    fewer = VideoList("fewer", videos.items[:2])
    with pytest.raises(TrainingError, match="holds a packing of other videos"):
        pack(fewer, tmp_path)
    assert content(tmp_path) == before
    report = pack(fewer, tmp_path, quality, overwrite=True)
    assert (report.videos, len(FrameStore(tmp_path))) == (2, 2)


def test_two_packings_never_write_to_one_folder(videos, tmp_path):
    import fcntl

    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match="another packing is writing here"):
            pack(videos, tmp_path)


def test_bad_videos_are_reported_and_never_replaced(tmp_path):
    listed = bad_folder(tmp_path / "v")
    report = pack(listed, tmp_path / "p", shard_videos=2)
    codes = {problem.id: problem.code for problem in report.problems}
    assert codes == {
        "3.mp4": "duplicate",
        "4.mp4": "unsupported",
        "5.mkv": "incomplete",
        "gone.mp4": "not_found",
    }
    store = FrameStore(tmp_path / "p")
    assert store.names == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]
    assert report.failed == 3
    assert {p["id"]: p["code"] for p in store.meta["problems"]} == codes
    kept = pack(
        listed, tmp_path / "q", PackOptions(Preprocessing(), keep_incomplete=True), shard_videos=2
    )
    assert "5.mkv" in FrameStore(tmp_path / "q").names
    assert {problem.id: problem.code for problem in kept.problems} == codes


def test_command_line_reports_on_stderr_and_by_exit_code(tmp_path, capsys):
    listed = bad_folder(tmp_path / "v")
    assert len(listed) == 7
    out = str(tmp_path / "p")
    assert main([str(tmp_path / "v"), "--out", out, "--workers", "1", "--codec", "raw"]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert "unsupported        1  4.mp4" in streams.err
    assert "4 videos, " in streams.err
    assert main([str(tmp_path / "nowhere"), "--out", out]) == 1
    assert "error: " in capsys.readouterr().err
    assert main([str(tmp_path / "v"), "--out", out, "--quality", "5"]) == 1
    assert "quality is 5; allowed: 50 to 100" in capsys.readouterr().err


def test_missing_videos_are_told_before_packing(tmp_path, capsys):
    """A wrong --root is seen at once, not after hours."""
    make_videos(tmp_path / "v")
    (tmp_path / "list.csv").write_text("path\n0.mp4\nabsent.mp4\n")
    out = ["--out", str(tmp_path / "p"), "--root", str(tmp_path / "v"), "--workers", "1"]
    assert main([str(tmp_path / "list.csv"), *out]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("before packing:\nproblem ")
    before, _, after = errors.partition("0%")
    assert before.count("absent.mp4: no file") == after.count("absent.mp4: no file") == 1
    assert FrameStore(tmp_path / "p").names == ["0.mp4"]


def test_nothing_packable_is_an_error(tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v/a.mp4").write_text("no")
    with pytest.raises(TrainingError, match=r"none of the 1 videos could be packed; .* first, a"):
        pack(from_folder(tmp_path / "v"), tmp_path / "p")
    with pytest.raises(TrainingError, match="no finished packed store"):
        FrameStore(tmp_path / "p")


def test_kill_9_at_any_moment_and_the_next_run_finishes_exactly(tmp_path):
    folder = make_videos(tmp_path / "v", 30, frames=60)
    command = [sys.executable, "-m", "training.pack", str(folder), "--out"]
    options = ["--workers", "2", "--shard-videos", "2"]
    generator = np.random.default_rng(5)
    target = tmp_path / "killed"
    killed = 0
    for _ in range(3):
        process = subprocess.Popen(
            [*command, str(target), *options],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + SECONDS_PER_VIDEO
        before = len(list(target.glob("shard-*.arrow")))
        while len(list(target.glob("shard-*.arrow"))) <= before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(generator.random() * 0.1)
        if process.poll() is None:  # a fast machine may be done by now
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
        finished = {path.name: path.read_bytes() for path in target.glob("shard-*.arrow")}
    assert killed, "no run was killed before its end"
    subprocess.run([*command, str(target), *options], cwd=ROOT, check=True, capture_output=True)
    assert {name: (target / name).read_bytes() for name in finished} == finished
    assert not list(target.glob(".*.tmp"))
    pack(from_folder(folder), tmp_path / "calm", workers=2, shard_videos=2)
    assert content(target) == content(tmp_path / "calm")


@pytest.mark.parametrize(("behaviour", "code"), [("crash", "crashed"), ("hang", "timeout")])
def test_a_video_that_kills_or_hangs_the_decoder_costs_itself_alone(
    videos, tmp_path, monkeypatch, behaviour, code
):
    """The decoder of the worker process is replaced by one that aborts or sleeps on a video."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time, training.frames.pack_worker as w\n"
        "real = w._decoded\n"
        "def decoded(item, *rest, **options):\n"
        "    if item.id == '1.mp4':\n"
        f"        {'os.abort()' if behaviour == 'crash' else 'time.sleep(600)'}\n"
        "    return real(item, *rest, **options)\n"
        "w._decoded = decoded\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    seen = []
    report = pack(
        videos,
        tmp_path / "p",
        RAW,
        workers=2,
        shard_videos=3,
        video_timeout_seconds=8 if behaviour == "hang" else 600,
        progress=seen.append,
    )
    assert [(p.id, p.code) for p in report.problems] == [("1.mp4", code)]
    assert FrameStore(tmp_path / "p").names == ["0.mp4", "2.mp4", "3.mp4", "4.mp4"]
    assert sum(seen) == 5


def test_a_shard_that_cannot_be_written_is_an_error(videos, tmp_path):
    task = ShardTask(tmp_path / "missing" / "shard-00000.arrow", list(videos), "plan")
    with pytest.raises(OSError, match="cannot be written"):
        run_tasks([task], RAW, 1, 60, lambda count: None)


@pytest.mark.shared
def test_real_videos_are_packed_above_40_db(shared_data, tmp_path):
    real = sorted((shared_data / "eval/tennis/serve").glob("*.mp4"))[:3]
    items = tuple(VideoItem(path.name, path) for path in real)
    pack(VideoList("real", items), tmp_path, workers=2, shard_videos=2)
    store = FrameStore(tmp_path)
    for video, item in enumerate(items):
        _, pixels = decoded(item.path)
        error = np.mean((store.read(video, range(len(pixels))).astype(float) - pixels) ** 2)
        assert 10 * np.log10(255**2 / error) > 40

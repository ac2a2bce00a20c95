"""Packing: right frames, exact resume after kill -9, bad videos named and not replaced."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch

pytest.importorskip("av")
from media import Recipe, cut, irregular_ticks, numbered_frame, numbers, write_video

from ccl_hub.config import Preprocessing
from ccl_hub.errors import MediaError, TrainingError
from ccl_hub.video import DECODER_VERSION, VideoReader
from training.datasets import VideoItem, VideoList, from_folder
from training.frame_codec import encode_frame, pillow_jpeg, torchvision_jpeg
from training.loader import ResidentFrames
from training.pack import main, pack
from training.pack_pool import ShardTask, run_tasks
from training.pack_worker import PackOptions
from training.store import FrameStore, VideoFolderStore

ROOT = Path(__file__).parents[1]
RAW = PackOptions(Preprocessing(), codec="raw")
FRAMES = 12
SECONDS_PER_VIDEO = 60


def make_videos(folder, count=5, frames=FRAMES, **change):
    """Write videos whose frames are numbered on from 20 times the video's place."""
    folder.mkdir(parents=True, exist_ok=True)
    for place in range(count):

        def make(number, width, height, first=20 * place):
            return numbered_frame(first + number, width, height)

        recipe = Recipe(f"{place}.mp4", "mpeg4", frames, rate=12, make=make, **change)
        write_video(folder, recipe)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return from_folder(make_videos(tmp_path_factory.mktemp("videos")))


@pytest.fixture(scope="module")
def packed(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    pack(videos, folder, workers=1, shard_videos=2)
    return folder


def content(folder):
    """All bytes of a store but for times of change."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def decoded(path):
    with VideoReader(path, resize=Preprocessing()) as reader:
        return reader.info, np.stack(
            [f for _, f in reader.frames(range(len(reader.info.seconds)))]
        )


def test_a_store_holds_every_frame_at_its_time(videos, packed):
    store = FrameStore.open(packed)
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


def test_frames_come_in_the_order_asked_for(packed):
    store = FrameStore(packed)
    wanted = [7, 0, 7, 11, 3]
    assert numbers(store.read(2, wanted)) == [47, 40, 47, 51, 43]
    out = np.zeros((5, 128, 171, 3), np.uint8)
    assert store.read(2, wanted, out) is out
    np.testing.assert_array_equal(out, store.read(2, wanted))
    three = np.zeros((3, 128, 171, 3), np.uint8)
    np.testing.assert_array_equal(store.read(1, [1, 2, 3], three), store.read(1, [1, 2, 3]))
    for bad in ([12], [-1]):
        with pytest.raises(TrainingError, match=r"2.mp4: frame -?\d+ asked for, it has 12"):
            store.read(2, bad)


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


def test_labels_groups_and_splits_travel_with_the_store(videos, tmp_path):
    items = tuple(
        replace(item, label="ab"[place % 2], group=f"g{place}", split="train")
        for place, item in enumerate(videos)
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
    with pytest.raises(TrainingError, match="other settings; choose another folder, or replace"):
        pack(videos, tmp_path, quality)
    fewer = VideoList("fewer", videos.items[:2])
    with pytest.raises(TrainingError, match="holds the packing of other videos"):
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


def bad_folder(folder):
    """Make good videos, a missing one, and one of each kind of bad ones."""
    make_videos(folder, 3, frames=50, options={"g": "5"})
    (folder / "3.mp4").write_bytes((folder / "1.mp4").read_bytes())
    (folder / "4.mp4").write_text("this is no video")
    write_video(folder, Recipe("whole.mkv", "mpeg4", 50))
    cut(folder / "whole.mkv", folder / "5.mkv", 0.6)
    (folder / "whole.mkv").unlink()
    listed = from_folder(folder)
    return VideoList("bad", (*listed.items, VideoItem("gone.mp4", folder / "gone.mp4")))


def test_bad_videos_are_reported_and_nothing_takes_their_place(tmp_path):
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
    assert "quality is 5; allowed are 50 to 100" in capsys.readouterr().err


def test_nothing_packable_is_an_error(tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v/a.mp4").write_text("no")
    with pytest.raises(TrainingError, match=r"none of the 1 videos could be packed; the first: a"):
        pack(from_folder(tmp_path / "v"), tmp_path / "p")
    with pytest.raises(TrainingError, match="no finished packed store"):
        FrameStore(tmp_path / "p")


def test_kill_9_at_any_moment_and_the_next_run_finishes_exactly(tmp_path):
    folder = make_videos(tmp_path / "v", 12, frames=60)
    command = [sys.executable, "-m", "training.pack", str(folder), "--out"]
    options = ["--workers", "2", "--shard-videos", "2"]
    generator = np.random.default_rng(5)
    target = tmp_path / "killed"
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
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        finished = {path.name: path.read_bytes() for path in target.glob("shard-*.arrow")}
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
        "import os, time, training.pack_worker as w\n"
        "real = w._decode_ffmpeg\n"
        "def decode(item, options, digest):\n"
        "    if item.id == '1.mp4':\n"
        f"        {'os.abort()' if behaviour == 'crash' else 'time.sleep(600)'}\n"
        "    return real(item, options, digest)\n"
        "w._decode_ffmpeg = decode\n"
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


def test_opencv_decoding_is_close_and_named_in_the_store(videos, tmp_path):
    cv2 = pytest.importorskip("cv2")
    pack(videos, tmp_path, PackOptions(Preprocessing(), codec="raw", decoder="opencv"))
    store = FrameStore(tmp_path)
    assert store.meta["decoder"] == f"OpenCV {cv2.__version__}"
    assert numbers(store.read(3, range(FRAMES))) == list(range(60, 60 + FRAMES))
    _, pixels = decoded(videos.items[3].path)
    assert np.abs(store.read(3, range(FRAMES)).astype(float) - pixels).mean() < 4
    np.testing.assert_allclose(store.seconds(3), np.arange(FRAMES) / 12, atol=1e-3)


def test_damaged_frames_name_video_and_store(videos, tmp_path):
    pack(videos, tmp_path)
    store = FrameStore(tmp_path)
    frame = store.encoded(1, 4)
    whole = (tmp_path / "shard-00000.arrow").read_bytes()
    place = whole.index(frame.tobytes())
    broken = whole[:place] + bytes(len(frame)) + whole[place + len(frame) :]
    (tmp_path / "shard-00000.arrow").write_bytes(broken)
    damaged = FrameStore(tmp_path)
    assert numbers(damaged.read(1, [3])) == [23]
    with pytest.raises(TrainingError, match=r"1.mp4 in .*damaged JPEG.*pack the videos again"):
        damaged.read(1, [3, 4])


def test_stores_of_another_kind_are_refused(packed, tmp_path):
    def write(**change):
        meta = {**json.loads((packed / "store.json").read_text()), **change}
        (tmp_path / "store.json").write_text(json.dumps(meta))

    with pytest.raises(TrainingError, match=r"store.json is missing.*python -m training.pack"):
        FrameStore(tmp_path)
    write(version=99)
    with pytest.raises(TrainingError, match="store version 99, this version reads 1"):
        FrameStore(tmp_path)
    write(codec="webp")
    with pytest.raises(TrainingError, match="codec 'webp'; allowed are"):
        FrameStore(tmp_path)
    write(preprocessing={"size": 3})
    with pytest.raises(TrainingError, match="unknown key 'size'"):
        FrameStore(tmp_path)
    write()
    with pytest.raises(TrainingError, match=r"index.arrow: unusable index"):
        FrameStore(tmp_path)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(TrainingError, match="not JSON"):
        FrameStore(tmp_path)


@pytest.mark.parametrize("decoder", [pillow_jpeg, torchvision_jpeg()])
def test_jpeg_is_not_subsampled(decoder):
    if decoder is None:
        pytest.skip("this torchvision has no JPEG operator")
    stripes = np.zeros((16, 32, 3), np.uint8)
    stripes[:, ::2, 0], stripes[:, 1::2, 2] = 255, 255
    data = np.frombuffer(encode_frame(stripes, "jpeg", 95), np.uint8)
    error = np.abs(decoder(data).astype(int) - stripes).mean()
    assert error < 8  # with 4:2:0 the two colours would mix: above 60


def test_both_jpeg_decoders_give_the_same_pixels(packed):
    operator = torchvision_jpeg()
    if operator is None:
        pytest.skip("this torchvision has no JPEG operator")
    store = FrameStore(packed)
    for video in range(len(store)):
        data = store.encoded(video, 3)
        np.testing.assert_array_equal(operator(data), pillow_jpeg(data))


def test_videos_can_be_read_without_packing(videos, packed):
    store, files = FrameStore(packed), VideoFolderStore(videos)
    assert files.names == store.names
    assert files.videos.fingerprint() == store.videos.fingerprint()
    for video in range(len(store)):
        assert files.frames_of(video) == store.frames_of(video)
        assert files.duration(video) == store.duration(video)
        np.testing.assert_array_equal(files.seconds(video), store.seconds(video))
        assert files.frame_size(video) == store.frame_size(video)
        wanted = [9, 2, 2, 11]
        assert numbers(files.read(video, wanted)) == numbers(store.read(video, wanted))
    out = np.zeros((2, 128, 171, 3), np.uint8)
    assert files.read(0, [3, 1], out) is out
    assert numbers(out) == [3, 1]


def test_reading_files_refuses_or_leaves_out_bad_videos(tmp_path):
    listed = bad_folder(tmp_path / "v")
    with pytest.raises(TrainingError, match="4 of 7 videos cannot be used") as caught:
        VideoFolderStore(listed)
    assert "duplicate" in str(caught.value)
    assert "incomplete" in str(caught.value)
    store = VideoFolderStore(listed, allow_problems=True)
    assert store.names == ["0.mp4", "1.mp4", "2.mp4"]
    assert [p.id for p in store.problems] == ["3.mp4", "4.mp4", "5.mkv", "gone.mp4"]
    (tmp_path / "v/1.mp4").unlink()
    with pytest.raises(MediaError, match=r"1.mp4"):
        store.read(1, [0])


def test_resident_frames_equal_the_store(packed):
    store = FrameStore(packed)
    seen = []
    resident = ResidentFrames(store, progress=seen.append)
    assert (sum(seen), resident.fingerprint()) == (5 * FRAMES, store.fingerprint())
    for video in range(len(store)):
        np.testing.assert_array_equal(
            resident.read(video, [5, 1, 5]), store.read(video, [5, 1, 5])
        )
    places = resident.flat_indices(4, [[0, 1], [2, 3]])
    assert resident.gather(places).shape == (2, 2, 128, 171, 3)
    assert numbers(resident.gather(places)[1].numpy()) == [82, 83]
    small = ResidentFrames(store, size_px=(64, 86))
    assert small.frame_size(0) == (64, 86)
    assert numbers(small.read(3, [2])) == [62]
    assert small.fingerprint() != store.fingerprint()
    with pytest.raises(TrainingError, match=r"0.mp4: frames 3 to 12 asked for, it has 12"):
        resident.flat_indices(0, [3, 12])


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


def test_the_benchmark_runs_and_writes_its_figures(packed, videos, tmp_path):
    from benchmarks.loader import main as benchmark

    out = tmp_path / "loader.json"
    source = str(videos.items[0].path.parent)
    small = ["--batch", "4", "--clips", "4", "--naive-clips", "4", "--rounds", "1"]
    small += ["--workers", "1", "--processes", "0", "--crop-px", "32", "--out", str(out)]
    threads = torch.get_num_threads()
    try:
        assert benchmark([str(packed), "--videos", source, *small]) == 0
    finally:
        torch.set_num_threads(threads)
    rows = {row["name"]: row["clips_per_second"] for row in json.loads(out.read_text())["rows"]}
    assert list(rows) == [
        "packed, 1 threads",
        "resident 128x171",
        "files, 2 threads",
        "naive, 2 threads",
        "augment paper 128x171 -> 32",
        "augment strong 128x171 -> 32",
    ]
    assert all(rate > 0 for rate in rows.values())

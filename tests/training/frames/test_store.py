"""Sources of frames: packed, resident, rendered and straight from files; and refusals."""

import json
import logging

import numpy as np
import pytest
import torch

pytest.importorskip("av")
from media import numbers
from numbered import FRAMES, bad_folder

from ccl_hub.config import Preprocessing
from ccl_hub.errors import MediaError, TrainingError
from training.clips.loader import ResidentFrames
from training.frames.codec import encode_frame, pillow_jpeg, torchvision_jpeg
from training.frames.files import VideoFolderStore
from training.frames.packed import FrameStore
from training.frames.packing import pack
from training.frames.rendered import RenderedVideos


def test_frames_come_in_the_order_asked_for(packed):
    store = FrameStore(packed)
    assert numbers(store.read(2, [7, 0, 7, 11, 3])) == [47, 40, 47, 51, 43]
    for bad in ([12], [-1]):
        with pytest.raises(TrainingError, match=r"2.mp4: has no frame -?\d+; give 0 to 11"):
            store.read(2, bad)


def test_damaged_frames_name_video_and_store(videos, tmp_path):
    pack(videos, tmp_path)
    store = FrameStore(tmp_path)
    frame = store.encoded(1, 4)
    whole = (tmp_path / "shard-00000.arrow").read_bytes()
    start = whole.index(frame.tobytes())
    broken = whole[:start] + bytes(len(frame)) + whole[start + len(frame) :]
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
    with pytest.raises(TrainingError, match="store version 99, this program reads 1"):
        FrameStore(tmp_path)
    write(codec="webp")
    with pytest.raises(TrainingError, match="codec is 'webp'; allowed: jpeg or raw"):
        FrameStore(tmp_path)
    write(preprocessing={"size": 3})
    with pytest.raises(TrainingError, match="unknown key 'size'"):
        FrameStore(tmp_path)
    write()
    with pytest.raises(TrainingError, match=r"index.arrow: unusable index"):
        FrameStore(tmp_path)
    meta = json.loads((packed / "store.json").read_text())
    del meta["shards"]
    (tmp_path / "store.json").write_text(json.dumps(meta))
    with pytest.raises(TrainingError, match=r"store.json: 'shards' is missing"):
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
        indices = [9, 2, 2, 11]
        assert numbers(files.read(video, indices)) == numbers(store.read(video, indices))


def test_problems_found_when_packing_are_logged_on_opening(tmp_path, caplog):
    pack(bad_folder(tmp_path / "v"), tmp_path / "p")
    with caplog.at_level(logging.WARNING):
        store = FrameStore(tmp_path / "p")
    assert [p.id for p in store.problems] == ["4.mp4", "5.mkv", "gone.mp4", "3.mp4"]
    assert caplog.text.count("found when it was packed") == 1
    assert "not_found          1  gone.mp4" in caplog.text


def test_files_of_their_own_shapes_keep_them_with_short_side(videos):
    square = Preprocessing(resize="short_side")
    store = VideoFolderStore(videos, square)
    assert store.frame_size(0) == (128, 160)
    assert store.read(0, [5]).shape == (1, 128, 160, 3)
    assert numbers(store.read(0, [5])) == [5]


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
    positions = resident.flat_indices(4, [[0, 1], [2, 3]])
    assert resident.gather(positions).shape == (2, 2, 128, 171, 3)
    assert numbers(resident.gather(positions)[1].numpy()) == [82, 83]
    small = ResidentFrames(store, size_px=(64, 86))
    assert small.frame_size(0) == (64, 86)
    assert numbers(small.read(3, [2])) == [62]
    assert small.fingerprint() != store.fingerprint()
    with pytest.raises(TrainingError, match=r"0.mp4: has no frames 3 to 12; give 0 to 11"):
        resident.flat_indices(0, [3, 12])


def test_rendered_videos_are_a_function_of_their_number():
    one, same = RenderedVideos(8, Preprocessing()), RenderedVideos(16, Preprocessing())
    assert np.array_equal(one.read(3, [0, 29]), same.read(3, [0, 29]))
    assert not np.array_equal(one.read(3, [0]), one.read(3, [12]))
    assert not np.array_equal(one.read(3, [0]), RenderedVideos(8, Preprocessing(), 1).read(3, [0]))
    assert one.fingerprint() != same.fingerprint()
    assert one.frame_size(0) == (128, 171)
    with pytest.raises(TrainingError, match=r"rendered-00003: has no frames .*; give 0 to 29"):
        one.read(3, [0, 30])


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


def test_the_benchmark_of_training_times_loader_step_both_and_the_naive_way(
    packed, videos, tmp_path, capsys
):
    from benchmarks.training import main as benchmark

    out = tmp_path / "training.json"
    source = tmp_path / "videos.csv"  # with classes, as a data set has them
    source.write_text("path,class\n" + "".join(f"{item.id},a\n" for item in videos))
    (tmp_path / "videos").symlink_to(videos.items[0].path.parent)
    changes = [f"data.pack={packed}", "optim.batch=2", "precision.autocast=none", "data.workers=1"]
    changes += ["precision.device=cpu", "preprocessing.clip_frames=2"]
    arguments = [text for change in changes for text in ("--set", change)]
    arguments += ["--videos", str(source), "--crop-px", "32", "--steps", "1", "--rounds", "1"]
    assert benchmark(["mini", *arguments, "--out", str(out)]) == 0
    rows = {row["name"]: row["clips_per_second"] for row in json.loads(out.read_text())["rows"]}
    assert list(rows) == ["loader", "step", "both", "naive"]
    assert all(rate > 0 for rate in rows.values())
    assert capsys.readouterr().out.count("clips/s") == 4

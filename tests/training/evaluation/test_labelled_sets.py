"""Labelled sets to evaluate on: where they come from, and how they are split."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from pathlib import Path

import pytest

from ccl_hub.config import Preprocessing
from ccl_hub.errors import ConfigError, TrainingError
from training.data.datasets import VideoItem, VideoList, from_manifest
from training.data.splits import with_official_split, with_splits
from training.evaluation.labelled_sets import (
    EvaluationSet,
    data_record,
    open_evaluation_set,
    open_evaluation_sets,
)
from training.frames.pack_worker import PackOptions
from training.frames.packing import pack
from training.frames.rendered import RenderedVideos

SMALL = Preprocessing(clip_frames=2, resize_height_px=40, resize_width_px=48, crop_px=32)


def listed(*labels: str, groups: tuple[str, ...] = (), splits: tuple[str, ...] = ()) -> VideoList:
    items = tuple(
        VideoItem(
            f"{label}/{i}",
            Path(f"{label}/{i}"),
            label,
            groups[i] if groups else "",
            splits[i] if splits else "",
        )
        for i, label in enumerate(labels)
    )
    return VideoList("listed", items, tuple(sorted(set(labels))))


def split_of(videos: VideoList) -> dict[str, str]:
    return {item.id: item.split for item in videos}


def test_each_class_is_split_by_hash_whatever_the_order():
    videos = listed(*["run"] * 10, *["sit"] * 4, *["eat"] * 2)
    split, note = with_splits(videos, 0.3)
    assert note == "split by hash, 30 % of each class for testing"
    counts = {name: [0, 0] for name in ("run", "sit", "eat")}
    for item in split:
        counts[item.label][item.split == "test"] += 1
    assert counts == {"run": [7, 3], "sit": [3, 1], "eat": [1, 1]}
    turned = VideoList("listed", videos.items[::-1], videos.classes)
    assert split_of(with_splits(turned, 0.3)[0]) == split_of(split)
    # A video more changes no other class.
    more = VideoList(
        "listed", (*videos.items, VideoItem("sit/x", Path("x"), "sit")), videos.classes
    )
    again = split_of(with_splits(more, 0.3)[0])
    assert all(again[item.id] == item.split for item in split if item.label != "sit")


def test_groups_stay_on_one_side():
    groups = tuple(f"actor{i % 5}" for i in range(20))
    split, note = with_splits(listed(*["run", "sit"] * 10, groups=groups), 0.4)
    sides = {(item.group, item.split) for item in split}
    assert len(sides) == 5 and sum(side == "test" for _, side in sides) == 2
    assert note == "split by hash, 40 % of groups for testing"


def test_what_cannot_be_split_is_refused():
    with pytest.raises(TrainingError, match=r"listed: class 'sit' has a single video .*\(sit/2\)"):
        with_splits(listed("run", "run", "sit"))
    with pytest.raises(TrainingError, match=r"listed has a single video or group \(one\)"):
        with_splits(listed("run", "run", groups=("one", "one")))


def write_lists(folder: Path) -> Path:
    """Official lists, in the form of UCF101, of 2 classes with 3 videos each."""
    folder.mkdir()
    (folder / "classInd.txt").write_text("1 Eat\n2 Run\n")
    names = [f"{c}/v_{c}_g0{g}_c01.avi" for c in ("Eat", "Run") for g in (1, 2, 3)]
    for fold in (1, 2, 3):
        test = [name for name in names if f"_g0{fold}_" in name]
        (folder / f"testlist0{fold}.txt").write_text("\n".join(test))
        (folder / f"trainlist0{fold}.txt").write_text(
            "\n".join(f"{name} 1" for name in names if name not in test)
        )
    return folder


def official_videos(*more: str) -> VideoList:
    ids = [f"{c}/v_{c}_g0{g}_c01.avi" for c in ("Eat", "Run") for g in (1, 2, 3)]
    items = tuple(VideoItem(name, Path(name)) for name in [*ids, *more])
    return VideoList("packed", items)


def test_official_splits_are_laid_over_any_set(tmp_path):
    lists = write_lists(tmp_path / "lists")
    for fold in (1, 2, 3):
        videos, note = with_official_split(official_videos("Run/extra.avi"), lists, fold)
        assert (videos.name, videos.classes, note) == (f"UCF101 split {fold}", ("Eat", "Run"), "")
        test = [item.id for item in videos.select("test")]
        assert test == [f"{c}/v_{c}_g0{fold}_c01.avi" for c in ("Eat", "Run")]
        assert videos.items[0].group == "g01"
        assert (videos.items[-1].split, videos.items[-1].label) == ("unused", None)
    whole = official_videos()
    part = VideoList("packed", whole.items[1:])
    _, note = with_official_split(part, lists, 3)
    assert note == "1 of 6 official videos are missing"
    with pytest.raises(TrainingError, match=r"other: has none of the 6 videos that .*lists names"):
        with_official_split(VideoList("other", (VideoItem("x", Path("x")),)), lists, 1)


def test_data_may_name_official_lists(tmp_path, monkeypatch):
    lists = write_lists(tmp_path / "lists")
    rendered = RenderedVideos(6, SMALL)
    rendered.videos = official_videos()
    monkeypatch.setattr(
        "training.evaluation.labelled_sets.RenderedVideos", lambda *_, **__: rendered
    )
    first, second = (open_evaluation_set(f"rendered:6,{lists},{fold}", SMALL) for fold in (1, 2))
    assert (first.videos.name, second.videos.name) == ("UCF101 split 1", "UCF101 split 2")
    assert first.fingerprint() != second.fingerprint()
    assert first.source.fingerprint() == second.source.fingerprint()
    with pytest.raises(TrainingError, match="split 4; the official splits are 1, 2 and 3"):
        open_evaluation_set(f"rendered:6,{lists},4", SMALL)


@pytest.mark.shared
def test_the_official_lists_of_hmdb51_fit_videos_named_as_in_them(shared_data, tmp_path):
    from training.data.benchmark_sets import hmdb51

    lists = shared_data / "splits/hmdb51_testTrainMulti_7030_splits"
    first = hmdb51(tmp_path, lists, 1)
    videos, note = with_official_split(first, lists, 2)
    assert note == "" and videos.name == "HMDB51 split 2"
    assert split_of(videos) == split_of(hmdb51(tmp_path, lists, 2))
    assert split_of(videos) != split_of(first)


def test_rendered_videos_have_splits_of_their_own():
    source = open_evaluation_set("rendered:24", SMALL)
    record = data_record(source)
    assert (record.name, record.train_videos, record.test_videos) == ("rendered", 16, 8)
    assert (record.classes, record.note) == (8, "")
    assert source.read(3, [0, 2]).shape == (2, 40, 48, 3)
    assert source.frames_of(3) == 30 and source.frame_size(3) == (40, 48)
    assert source.duration(3) == pytest.approx(2.4) and len(source.seconds(3)) == 30


def test_val_stands_in_for_a_missing_test_split(monkeypatch):
    rendered = RenderedVideos(4, SMALL)
    rendered.videos = listed("a", "b", "a", "b", splits=("train", "train", "val", "val"))
    monkeypatch.setattr(
        "training.evaluation.labelled_sets.RenderedVideos", lambda *_, **__: rendered
    )
    source = open_evaluation_set("rendered:4", SMALL)
    assert [item.split for item in source.videos] == ["train", "train", "test", "test"]
    assert data_record(source).note == "tested on split val"


@pytest.mark.parametrize(
    ("videos", "words"),
    [
        (listed("a", "b", "a", splits=("train", "train", "test")), "class 'b' has no video"),
        (listed("a", "a", splits=("train", "dev")), "no video of split 'test'"),
        (listed("a", "a", splits=("test", "")), "no video of split 'train'"),
    ],
)
def test_sets_without_every_class_in_both_splits_are_refused(videos, words, monkeypatch):
    rendered = RenderedVideos(len(videos), SMALL)
    rendered.videos = videos
    monkeypatch.setattr(
        "training.evaluation.labelled_sets.RenderedVideos", lambda *_, **__: rendered
    )
    with pytest.raises(TrainingError, match=words):
        open_evaluation_set("rendered:3", SMALL)


def test_videos_without_a_class_are_refused_where_they_are_used():
    items = [VideoItem(str(i), Path(str(i)), None, "", s) for i, s in enumerate(("train", "test"))]
    rendered = RenderedVideos(2, SMALL)
    with pytest.raises(TrainingError, match="plain: 0 has no class; an evaluation needs"):
        EvaluationSet(rendered, VideoList("plain", tuple(items)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("nowhere", "nowhere: no such data; give a packed set"),
        ("nowhere.csv", "the table does not exist"),
        ("rendered:many", "rendered:many: give the number of videos"),
        ("rendered:0", "give the number of videos"),
    ],
)
def test_data_that_are_not_there_are_refused(data, words):
    with pytest.raises(TrainingError, match=words):
        open_evaluation_set(data, SMALL)


def test_two_sets_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="data sets are named rendered, rendered; results need"):
        open_evaluation_sets(["rendered:24", "rendered:32"], SMALL)


@pytest.fixture(scope="module")
def classes_folder(tmp_path_factory) -> Path:
    """Two classes with three short videos each."""
    pytest.importorskip("av")
    from numbered import make_videos

    folder = tmp_path_factory.mktemp("set") / "moves"
    for first, name in enumerate(("jump", "run")):
        # The second class has other frames, so that no two files are equal.
        make_videos(folder / name, 3, frames=6 + first)
    return folder


def test_a_folder_of_classes_is_split(classes_folder):
    source = open_evaluation_set(classes_folder, SMALL, test_share=0.4)
    record = data_record(source)
    assert (record.name, record.train_videos, record.test_videos) == ("moves", 4, 2)
    assert record.note == "split by hash, 40 % of each class for testing"
    assert source.read(0, [1]).shape == (1, 40, 48, 3)
    other_share = data_record(open_evaluation_set(classes_folder, SMALL, test_share=0.6))
    assert other_share.fingerprint != record.fingerprint
    same_split = data_record(open_evaluation_set(classes_folder, SMALL))  # 0.3 of 3 is 1 too
    assert same_split.fingerprint == record.fingerprint


def test_unpacked_data_are_the_same_for_models_that_see_them_otherwise(classes_folder):
    """Results of such models were refused as those of two data sets of one name."""
    other = Preprocessing(clip_frames=3, resize="short_side", resize_height_px=36, crop_px=32)
    changed = dataclasses.replace(SMALL, mean=(0.5, 0.5, 0.5))
    for data in (classes_folder, "rendered:24"):
        sets = [open_evaluation_set(data, how) for how in (SMALL, changed, other)]
        assert len({data_record(one).fingerprint for one in sets}) == 1
        assert sets[0].fingerprint() != sets[2].fingerprint()  # the frames are not the same


def test_an_unpacked_video_of_another_size_is_other_data(classes_folder, tmp_path):
    from numbered import make_videos

    folder = shutil.copytree(classes_folder, tmp_path / "moves")
    before = data_record(open_evaluation_set(folder, SMALL))
    assert before == data_record(open_evaluation_set(classes_folder, SMALL))  # paths do not count
    longer = make_videos(tmp_path / "longer", 1, frames=11)
    shutil.copy(longer / "0.mp4", folder / "run/0.mp4")
    after = data_record(open_evaluation_set(folder, SMALL))
    assert after.fingerprint != before.fingerprint and after.name == before.name


def test_a_manifest_and_a_packed_set_keep_their_splits(classes_folder, tmp_path):
    manifest = classes_folder.parent / "moves.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "class", "split"])
        for name in ("jump", "run"):
            for i in range(3):
                writer.writerow([f"moves/{name}/{i}.mp4", name, ("test", "train")[i > 0]])
    unpacked = open_evaluation_set(manifest, SMALL)
    assert [item.split for item in unpacked.videos] == ["test", "train", "train"] * 2
    assert unpacked.note == ""
    pack(from_manifest(manifest), tmp_path / "packed", PackOptions(SMALL), workers=1)
    stored = open_evaluation_set(tmp_path / "packed", SMALL)
    assert [item.split for item in stored.videos] == ["test", "train", "train"] * 2
    assert data_record(stored).classes == 2
    assert data_record(stored).fingerprint == stored.source.fingerprint()
    with pytest.raises(ConfigError, match="packed with resize_height_px = 40"):
        open_evaluation_set(tmp_path / "packed", Preprocessing())

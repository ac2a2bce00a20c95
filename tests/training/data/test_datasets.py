"""Lists of videos: every format, every refusal, and what is wrong with the files."""

import csv
import hashlib
import logging
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from ccl_hub.errors import TrainingError
from training.data.benchmark_sets import hmdb51, kinetics400, mmact, ucf101
from training.data.checks import Problem, check_videos, problem_table, usable_videos
from training.data.datasets import VideoItem, VideoList, from_folder, from_manifest
from training.data.sources import list_videos


def touch(folder, *names):
    """Make files that hold their own name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def write_csv(path, *rows):
    path.write_text("".join(",".join(row) + "\n" for row in rows))
    return path


def test_folder_with_classes(tmp_path):
    touch(tmp_path, "run/b.mp4", "run/a.AVI", "jump/deep/c.mkv", "run/notes.txt", ".x/d.mp4")
    videos = from_folder(tmp_path)
    assert [item.id for item in videos] == ["jump/deep/c.mkv", "run/a.AVI", "run/b.mp4"]
    assert videos.classes == ("jump", "run")
    assert videos.targets().tolist() == [0, 1, 1]
    assert videos.items[1].path == tmp_path / "run/a.AVI"


def test_folder_without_classes(tmp_path):
    touch(tmp_path, "b.mp4", "room/a.mp4")
    videos = from_folder(tmp_path)
    assert videos.classes == ()
    assert [item.group for item in videos] == ["", "room"]
    assert videos.targets().tolist() == [-1, -1]
    touch(tmp_path / "all", "x/1.mp4", "y/2.mp4")
    assert from_folder(tmp_path / "all", classes=False).classes == ()


def test_folder_errors_are_one_clear_line(tmp_path):
    with pytest.raises(TrainingError, match=r"nowhere: the folder of videos does not exist"):
        from_folder(tmp_path / "nowhere")
    touch(tmp_path, "file.mp4")
    with pytest.raises(TrainingError, match=r"file.mp4: the folder of videos is not a folder"):
        from_folder(tmp_path / "file.mp4")
    touch(tmp_path / "set", "a/1.mp4")
    (tmp_path / "set/b").mkdir()
    with pytest.raises(TrainingError, match=r"class 'b' has no video"):
        from_folder(tmp_path / "set")
    touch(tmp_path / "set", "stray.mp4")
    with pytest.raises(TrainingError, match=r"stray.mp4: lies outside the class folders"):
        from_folder(tmp_path / "set", classes=True)
    (tmp_path / "bare").mkdir()
    with pytest.raises(TrainingError, match=r"bare: holds no video"):
        from_folder(tmp_path / "bare")


def test_manifest_csv(tmp_path):
    touch(tmp_path, "v/1.mp4", "v/2.mp4", "v/3.mp4")
    table = write_csv(
        tmp_path / "set.csv",
        ("path", "class", "group", "split"),
        ("v/1.mp4", "run", "ann", "train"),
        ("v/2.mp4", "jump", "bob", "test"),
        ("v/3.mp4", "jump", "ann", "train"),
    )
    videos = from_manifest(table)
    assert videos.classes == ("jump", "run")
    assert [item.group for item in videos] == ["ann", "bob", "ann"]
    train = videos.select("train")
    assert [item.id for item in train] == ["v/1.mp4", "v/3.mp4"]
    assert train.classes == videos.classes
    with pytest.raises(TrainingError, match=r"class 'run' has no video"):
        videos.select("test")
    with pytest.raises(TrainingError, match=r"no video of split 'val'; give one of"):
        videos.select("val")


def test_manifest_finds_the_folder_of_its_name(tmp_path):
    touch(tmp_path, "set/a/1.mp4")
    table = write_csv(tmp_path / "set.csv", ("path", "source"), ("a/1.mp4", "a"))
    (item,) = from_manifest(table)
    assert item.path == tmp_path / "set/a/1.mp4"
    assert item.group == "a"
    (elsewhere,) = from_manifest(table, root=tmp_path)
    assert elsewhere.path == tmp_path / "a/1.mp4"


def test_manifest_parquet_reads_as_the_csv_does(tmp_path):
    touch(tmp_path, "1.mp4", "2.mp4")
    columns = {"path": ["1.mp4", "2.mp4"], "class": ["a", "b"], "seconds": [1.5, None]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "m.parquet")
    table = write_csv(tmp_path / "m.csv", ("path", "class"), ("1.mp4", "a"), ("2.mp4", "b"))
    packed = from_manifest(tmp_path / "m.parquet")
    assert packed.items == from_manifest(table).items
    assert packed.fingerprint() == from_manifest(table).fingerprint()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,clas", "1.mp4,a"], r"unknown column 'clas'; allowed: path, id, class"),
        (["class", "a"], r"no column 'path'"),
        (["path"], r"has no row"),
        (["path,class", "1.mp4"], r"row 1 has more or fewer cells than the header, which has 2"),
        (["path", "1.mp4,2"], r"row 1 has more or fewer cells than the header, which has 1"),
        (["path,class", "1.mp4,a", "2.mp4,"], r"row 2 \(2.mp4\) has an empty class"),
        (["path", "../1.mp4"], r"row 1 has path '../1.mp4'; give a path below"),
        (["path", "/1.mp4"], r"row 1 has path '/1.mp4'"),
        (["path", "1.mp4", "1.mp4"], r"1.mp4 is listed twice"),
    ],
)
def test_bad_manifests_are_refused(tmp_path, lines, message):
    path = tmp_path / "m.csv"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(TrainingError, match=message):
        from_manifest(path)


def test_manifest_files_that_are_no_table(tmp_path):
    with pytest.raises(TrainingError, match=r"m.csv: the table does not exist"):
        from_manifest(tmp_path / "m.csv")
    (tmp_path / "m.csv").write_bytes(b"path\n\xff\xfe.mp4\n")
    with pytest.raises(TrainingError, match="not a UTF-8 csv table"):
        from_manifest(tmp_path / "m.csv")
    (tmp_path / "m.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(TrainingError, match="not a parquet table"):
        from_manifest(tmp_path / "m.parquet")
    (tmp_path / "m.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"is not a table; give a .csv or .parquet"):
        from_manifest(tmp_path / "m.json")


def test_fingerprint_tells_lists_apart():
    def item(**change):
        return VideoItem(
            **{"id": "a", "path": Path("a"), "label": "x", "split": "train", **change}
        )

    base = VideoList("n", (item(),), ("x",))
    others = [
        VideoList("n", (item(id="b"),), ("x",)),
        VideoList("n", (item(label=None),), ("x",)),
        VideoList("n", (item(split="test"),), ("x",)),
        VideoList("n", (item(group="g"),), ("x",)),
        VideoList("n", (item(),), ("x", "y")),
    ]
    prints = {base.fingerprint(), *(other.fingerprint() for other in others)}
    assert len(prints) == 6
    assert VideoList("other name", (item(path=Path("q")),), ("x",)).fingerprint() in prints


def test_checks_find_missing_unreadable_empty_and_duplicate_files(tmp_path):
    touch(tmp_path, "good.mp4", "also.mp4")
    (tmp_path / "copy.mp4").write_text("good.mp4")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "also.mp4")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    names = ["good", "also", "copy", "link", "empty", "gone", "folder"]
    items = tuple(VideoItem(name, tmp_path / f"{name}.mp4") for name in names)
    problems = check_videos(VideoList("set", items))
    assert [(p.id, p.code) for p in problems] == [
        ("copy", "duplicate"),
        ("link", "duplicate"),
        ("empty", "empty"),
        ("gone", "not_found"),
        ("folder", "not_found"),
    ]
    assert "same bytes as good" in problems[0].text
    assert "same file as also" in problems[1].text


def test_problems_refuse_a_list_or_leave_videos_out_but_never_silently(tmp_path, caplog):
    touch(tmp_path, "x/1.mp4", "y/2.mp4")
    videos = from_folder(tmp_path)
    assert usable_videos(videos, (), allow=False) is videos
    problems = (Problem("x/1.mp4", "damaged", "no frame"),)
    with pytest.raises(TrainingError, match=r"1 of 2 videos cannot be used(.|\n)*damaged"):
        usable_videos(videos, problems, allow=False)
    with caplog.at_level(logging.WARNING), pytest.raises(TrainingError, match="class 'x' has no"):
        usable_videos(videos, problems, allow=True)
    assert "x/1.mp4: no frame" in caplog.text
    plain = from_folder(tmp_path, classes=False)
    kept = usable_videos(plain, problems, allow=True)
    assert [item.id for item in kept] == ["y/2.mp4"]


def test_problem_table_counts_every_kind_and_shortens_long_lists():
    problems = [Problem(f"v{i}", "not_found", "no file") for i in range(25)]
    table = problem_table([*problems, Problem("w", "damaged", "cut")], rows=3)
    lines = table.splitlines()
    assert lines[1].split()[:2] == ["damaged", "1"]
    assert lines[2].split()[:2] == ["not_found", "25"]
    assert lines[-1].strip() == "... and 22 more"


def ucf_lists(folder):
    folder.mkdir()
    (folder / "classInd.txt").write_text("1 Archery\r\n2 Jump\r\n")
    (folder / "trainlist01.txt").write_text(
        "Archery/v_Archery_g08_c01.avi 1\r\nJump/v_Jump_g09_c02.avi 2\r\n"
    )
    (folder / "testlist01.txt").write_text("Jump/v_Jump_g01_c01.avi\r\n")
    return folder


def test_ucf101(tmp_path):
    touch(tmp_path / "videos", "Archery/v_Archery_g08_c01.avi", "v_Jump_g09_c02.mp4")
    videos = ucf101(tmp_path / "videos", ucf_lists(tmp_path / "lists"), 1)
    assert videos.classes == ("Archery", "Jump")
    assert [(i.label, i.group, i.split) for i in videos] == [
        ("Archery", "g08", "train"),
        ("Jump", "g09", "train"),
        ("Jump", "g01", "test"),
    ]
    assert videos.items[1].path.name == "v_Jump_g09_c02.mp4"  # flat, another container
    assert [p.id for p in check_videos(videos)] == ["Jump/v_Jump_g01_c01.avi"]
    with pytest.raises(TrainingError, match="split 4; the official splits are 1, 2 and 3"):
        ucf101(tmp_path / "videos", tmp_path / "lists", 4)
    with pytest.raises(TrainingError, match=r"trainlist02.txt: the official list is missing"):
        ucf101(tmp_path / "videos", tmp_path / "lists", 2)
    touch(tmp_path / "videos", "again/v_Jump_g01_c01.avi", "more/v_Jump_g01_c01.mp4")
    with pytest.raises(TrainingError, match="Two files have that name"):
        ucf101(tmp_path / "videos", tmp_path / "lists", 1)


def test_hmdb51(tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/catch_test_split1.txt").write_text("a (b)_c.avi 1 \nd.avi 2 \ne.avi 0 \n")
    (tmp_path / "lists/run_test_split1.txt").write_text("f.avi 1 \n")
    touch(tmp_path / "videos", "catch/a (b)_c.avi", "d.avi")
    videos = hmdb51(tmp_path / "videos", tmp_path / "lists")
    assert videos.classes == ("catch", "run")
    assert [(i.id, i.split) for i in videos] == [
        ("catch/a (b)_c.avi", "train"),
        ("catch/d.avi", "test"),
        ("catch/e.avi", "unused"),
        ("run/f.avi", "train"),
    ]
    assert videos.items[1].path == tmp_path / "videos/d.avi"
    (tmp_path / "lists/run_test_split1.txt").write_text("f.avi 3\n")
    with pytest.raises(TrainingError, match=r"'f.avi 3' is not a line of the official list"):
        hmdb51(tmp_path / "videos", tmp_path / "lists")
    with pytest.raises(TrainingError, match=r"no list named <class>_test_split3\.txt"):
        hmdb51(tmp_path / "videos", tmp_path / "lists", 3)


def test_kinetics400(tmp_path):
    table = write_csv(
        tmp_path / "k.csv",
        ("label", "youtube_id", "time_start", "time_end", "split"),
        ("zumba", "---QUuC4vJs", "84", "94", "validate"),
        ("air drumming", "abc", "1", "11", "train"),
    )
    touch(tmp_path / "k", "val/---QUuC4vJs_000084_000094.mp4")
    videos = kinetics400(tmp_path / "k", table)
    assert videos.classes == ("air drumming", "zumba")
    first, second = videos
    assert (first.split, first.label, first.group) == ("val", "zumba", "---QUuC4vJs")
    assert first.path == tmp_path / "k/val/---QUuC4vJs_000084_000094.mp4"
    assert second.id == "train/air drumming/abc_000001_000011.mp4"
    assert [p.code for p in check_videos(videos)] == ["not_found"]
    write_csv(table, ("label", "youtube_id"), ("a", "b"))
    with pytest.raises(TrainingError, match="no column 'split'"):
        kinetics400(tmp_path / "k", table)
    # Both once ended in a traceback.
    table.write_bytes(b"label,youtube_id,time_start,time_end,split\n\xff,a,1,11,train\n")
    with pytest.raises(TrainingError, match=r"k\.csv: is not a UTF-8 csv table"):
        kinetics400(tmp_path / "k", table)
    table.write_text("label,youtube_id,time_start,time_end,split\nzumba,a,1,11\n")
    with pytest.raises(TrainingError, match=r"k\.csv: row 1 has more or fewer cells .* has 5"):
        kinetics400(tmp_path / "k", table)


def test_mmact(tmp_path):
    names = [
        f"subject{s}/cam{c}/scene1/session{m}/{a}.mp4"
        for s in (1, 16, 17, 20)
        for c in (1, 2)
        for m in (1, 2, 3, 4, 10)
        for a in ("jump", "run")
    ]
    touch(tmp_path, *names)
    videos = mmact(tmp_path)
    assert videos.classes == ("jump", "run")
    assert {i.id.split("/")[0] for i in videos.select("test")} == {"subject17", "subject20"}
    assert len(videos.select("train")) == 40
    sessions = mmact(tmp_path, "cross-session")
    assert {i.id.split("/")[3] for i in sessions.select("test")} == {"session10"}
    assert len(sessions.select("test")) == 16
    with pytest.raises(TrainingError, match="MMAct protocol is 'cross-view'"):
        mmact(tmp_path, "cross-view")
    touch(tmp_path, "subject1/run.mp4")
    with pytest.raises(TrainingError, match=r"subject1/run.mp4: expected subject<S>"):
        mmact(tmp_path)


def test_mmact_actions_that_differ_in_case_are_one_class(tmp_path):
    """As in the authors' reader; once "Carrying" and "carrying" were two classes."""
    folders = ("subject01/cam1/scene1/session1", "subject17/cam4/scene3/session5")
    touch(tmp_path, f"{folders[0]}/Carrying.mp4", f"{folders[1]}/carrying.mp4")
    videos = mmact(tmp_path)
    assert videos.classes == ("carrying",)
    assert [(item.split, item.label) for item in videos] == [
        ("train", "carrying"),
        ("test", "carrying"),
    ]


def test_mmact_cross_session_trains_on_four_of_five(tmp_path):
    touch(tmp_path, *(f"subject{s}/cam1/scene1/session{m}/a.mp4" for s in "12" for m in "12345"))
    videos = mmact(tmp_path, "cross-session")
    assert {item.group[-8:] for item in videos.select("test")} == {"session5"}
    assert len(videos.select("train")) == 8


def test_sources_by_name(tmp_path):
    touch(tmp_path / "v", "a/1.mp4", "b/2.mp4")
    with pytest.raises(
        TrainingError, match="no video of split 'train'; none has a split, so give"
    ):
        list_videos(tmp_path / "v", split="train")
    assert list_videos(tmp_path / "v").classes == ("a", "b")
    assert list_videos(tmp_path / "v", "folder").classes == ()
    table = write_csv(tmp_path / "m.csv", ("path", "split"), ("1.mp4", "x"), ("2.mp4", "y"))
    assert [i.id for i in list_videos(table, split="y")] == ["2.mp4"]
    videos = list_videos(tmp_path / "v", "ucf101", lists=ucf_lists(tmp_path / "lists"))
    assert len(videos) == 3
    with pytest.raises(TrainingError, match="ucf101 needs its official lists"):
        list_videos(tmp_path / "v", "ucf101")
    with pytest.raises(TrainingError, match="data format is 'tar'; allowed: auto, folder"):
        list_videos(tmp_path / "v", "tar")


@pytest.mark.shared
def test_official_ucf101_lists(shared_data, tmp_path):
    parts = set()
    for fold in (1, 2, 3):
        videos = ucf101(tmp_path, shared_data / "splits/ucfTrainTestlist", fold)
        assert (len(videos), len(videos.classes)) == (13320, 101)
        train, test = videos.select("train"), videos.select("test")
        assert not {(i.label, i.group) for i in train} & {(i.label, i.group) for i in test}
        parts.add((len(train), len(test)))
    assert parts == {(9537, 3783), (9586, 3734), (9624, 3696)}


@pytest.mark.shared
def test_official_hmdb51_lists(shared_data, tmp_path):
    for fold in (1, 2, 3):
        lists = shared_data / "splits/hmdb51_testTrainMulti_7030_splits"
        videos = hmdb51(tmp_path, lists, fold)
        assert (len(videos), len(videos.classes)) == (6766, 51)
        assert np.bincount(videos.select("train").targets()).tolist() == [70] * 51
        assert np.bincount(videos.select("test").targets()).tolist() == [30] * 51


@pytest.mark.shared
def test_no_evaluation_video_is_in_the_training_data(shared_data):
    """By the bytes of the files, their paths and names, and the sources they come from."""

    def digest(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()

    training = from_manifest(shared_data / "pretrain.csv")
    with (shared_data / "pretrain.csv").open(newline="") as file:
        sources = {row["source"].lower() for row in csv.DictReader(file)}
    trained = {digest(item.path) for item in training}
    paths = {item.path.resolve() for item in training}
    stems = {item.path.stem for item in training}
    assert len(trained) == len(training) > 3000
    sets = ("weizmann", "ut-interaction", "tennis", "arid", "skate-tricks")
    for manifest in (*(f"eval/{name}.csv" for name in sets), "find.csv"):
        held_out = from_manifest(shared_data / manifest)
        assert len(held_out) >= 90
        assert not {digest(item.path) for item in held_out} & trained
        assert not {item.path.resolve() for item in held_out} & paths
    for name in sets[:3]:
        held_out = from_manifest(shared_data / f"eval/{name}.csv")
        assert not {item.path.stem for item in held_out} & stems
        assert not [s for s in sources if name in s.replace("_", "-")]
    with (shared_data / "find.csv").open(newline="") as file:
        assert not {row["source"].lower() for row in csv.DictReader(file)} & sources

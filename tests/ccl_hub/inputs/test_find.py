"""Which videos the inputs mean: folders, patterns, files; each once, in an order of names."""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import av.error
import pytest
from found_videos import fault, ids, make
from media import Recipe, write_video

from ccl_hub.config import Preprocessing
from ccl_hub.errors import InputError
from ccl_hub.inputs import (
    IMAGE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    VideoSearch,
    common_root,
    find_videos,
)
from ccl_hub.inputs.find import BEGUN_AT_ONCE
from ccl_hub.video import VideoReader


def test_a_folder_gives_its_visible_videos_sorted_by_path(tmp_path: Path) -> None:
    make(tmp_path, "b.mp4", "a/z.MKV", "a/b/c.webm", "a.mp4", "a-.mp4", "notes.txt", "x.png")
    make(tmp_path, ".hidden.mp4", ".folder/x.mp4", "a/.x/y.mp4", "movie.mp4/real.mov")
    found = list(find_videos([tmp_path]))
    names = ["a-.mp4", "a.mp4", "a/b/c.webm", "a/z.MKV", "b.mp4", "movie.mp4/real.mov"]
    assert [video.id for video in found] == names == sorted(names)
    assert [video.path for video in found] == [tmp_path / name for name in names]


def test_links_to_files_are_taken_and_links_to_folders_are_named_and_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "real/x.mp4", "other/y.mp4")
    (tmp_path / "real/again").symlink_to(tmp_path / "real")
    (tmp_path / "real/linked.mp4").symlink_to(tmp_path / "other/y.mp4")
    (tmp_path / "real/lost.mp4").symlink_to(tmp_path / "nowhere")
    (tmp_path / "real/loop.mp4").symlink_to(tmp_path / "real/loop.mp4")
    expected = ["linked.mp4", "loop.mp4", "lost.mp4", "x.mp4"]
    assert ids(tmp_path / "real") == expected
    assert f"{tmp_path}/real/again: a link to a folder, not followed" in caplog.text
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert ids(tmp_path / "link") == expected  # it was asked for
    assert next(find_videos([tmp_path / "link"])).path == tmp_path / "link/linked.mp4"
    assert ids(f"{tmp_path}/real/**/*.mp4") == expected


def test_extensions_are_compared_in_any_case_with_or_without_dot(tmp_path: Path) -> None:
    make(tmp_path, "a.AVI", "b.dat", "c.mp4")
    assert ids(tmp_path, extensions=["avi", ".DAT"]) == ["a.AVI", "b.dat"]
    for wrong in ([], "mp4", [""], ["a/b"]):
        assert "allowed: a list of endings such as '.mp4'" in fault(tmp_path, extensions=wrong)


MP4 = ".mp4 .mov .m4v .mp4v .mpg4 .mpeg4 .qt .mqv .hdmov .3gp .3gpp .3gp2 .3g2 .3gpp2 .mj2 .mjp2"


SUFFIXES = {
    ("mp4", "mpeg4"): f"{MP4} .ismv .cmfv .dvb .lrv .glv .360 .lrf .insv",
    ("matroska", "mpeg4"): ".mkv .webm .mk3d",
    ("avi", "mpeg4"): ".avi .divx .xvid",
    ("mpegts", "mpeg2video"): ".ts .mts .m2ts .m2t .mpegts .tod .tp .trp .rec .ssif",
    ("vob", "mpeg2video"): ".mpg .mpeg .mpe .mpg2 .mpeg2 .mpv .mpv2 .m2p .mod .vob .vro .evo .tod",
    ("mpeg2video", "mpeg2video"): ".m2v .mp2v .mpv .mpv2",
    ("mpeg1video", "mpeg1video"): ".m1v .mpv",
    ("asf", "wmv2"): ".wmv .asf .wm .dvr-ms",
    ("ogg", "libvpx"): ".ogv .ogm .ogg .ogx",
    ("rm", "rv20"): ".rm .rmvb .rv",
    ("flv", "flv"): ".flv .f4v",
    ("swf", "flv"): ".swf",
    ("mxf", "mpeg2video"): ".mxf",
    ("nut", "mpeg4"): ".nut",
    ("ivf", "libvpx"): ".ivf",
    ("dv", "dvvideo"): ".dv .dif",
    ("gif", "gif"): ".gif",
    ("apng", "apng"): ".apng",
    ("yuv4mpegpipe", "rawvideo"): ".y4m",
    ("h263", "h263"): ".h263 .263",
    ("h264", "libx264"): ".h264 .h26l .264 .avc",
    ("hevc", "libx265"): ".h265 .265 .hevc",
    ("mjpeg", "mjpeg"): ".mjpeg .mjpg",
    ("avif", "libsvtav1"): ".avif",
    ("obu", "libsvtav1"): ".obu",
}


NO_ENCODER = {".h266", ".266", ".vvc"}


SIZES = {"dv": (720, 576), "h263": (176, 144)}


OPTIONS = {
    "libsvtav1": {"preset": "12", "svtav1-params": ""},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
}


FORMATS = {"dv": "yuv420p", "gif": "rgb8", "apng": "rgb24", "mjpeg": "yuvj420p"}


@pytest.mark.parametrize(("container", "codec"), SUFFIXES)
def test_every_name_that_is_searched_for_is_opened(
    container: str, codec: str, tmp_path: Path
) -> None:
    """Cameras, phones and recorders give these names to containers that are read."""
    recipe = Recipe(
        "made",
        codec,
        8,
        SIZES.get(container, (64, 64)),
        FORMATS.get(codec, FORMATS.get(container, "yuv420p")),
        options=OPTIONS.get(codec, {}),
        format=container,
    )
    try:
        made = write_video(tmp_path, recipe)
    except (av.error.FFmpegError, ValueError) as error:
        pytest.skip(f"this PyAV cannot write it: {error}")
    names = [f"film{suffix}" for suffix in SUFFIXES[container, codec].split()]
    for name in names:
        shutil.copy(made, tmp_path / name)
    made.unlink()
    assert ids(tmp_path) == sorted(names)
    for name in names:
        with VideoReader(tmp_path / name, resize=Preprocessing()) as reader:
            assert len(reader.info.seconds) == 8, name


def test_the_names_that_are_searched_for() -> None:
    covered = {suffix for names in SUFFIXES.values() for suffix in names.split()}
    assert covered | NO_ENCODER == set(VIDEO_EXTENSIONS)
    assert len(set(VIDEO_EXTENSIONS)) == len(VIDEO_EXTENSIONS)
    assert not {*IMAGE_EXTENSIONS, ".jxl", ".m4s", ".dat"} & set(VIDEO_EXTENSIONS)


def test_a_folder_deeper_than_the_recursion_limit_of_python(tmp_path: Path) -> None:
    folders = [tmp_path / ("d/" * depth) for depth in range(1, 1201)]
    for folder in folders:
        folder.mkdir()
    video = folders[-1] / "x.mp4"
    video.touch()
    try:
        assert ids(tmp_path) == ["d/" * 1200 + "x.mp4"] == ids(f"{tmp_path}/**/x*", root=tmp_path)
    finally:  # pytest, which tidies up later, cannot go as deep
        video.unlink()
        for folder in reversed(folders):
            folder.rmdir()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permission_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "a/x.mp4", "b.mp4")
    (tmp_path / "a").chmod(0)
    assert ids(tmp_path) == ["b.mp4"]
    assert "left out, the folder cannot be read (Permission denied)" in caplog.text
    assert "cannot be read (Permission denied)" in fault(tmp_path / "a")


def test_folders_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "a/x.mp4", "b.mp4")
    scandir, code = os.scandir, [13]

    def refuse(folder: str) -> Any:
        if Path(folder).name == "a":
            raise OSError(code[0], os.strerror(code[0]))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert ids(tmp_path) == ["b.mp4"]
    expected = f"{tmp_path}/a: left out, the folder cannot be read (Permission denied)"
    assert caplog.record_tuples == [("ccl_hub.inputs.walk", logging.WARNING, expected)]
    assert "the folder cannot be read (Permission denied)" in fault(tmp_path / "a")
    code[0] = 5  # a disk that fails is no reason to go on with less
    assert fault(tmp_path) == (
        f"{tmp_path}/a: the folder cannot be read (Input/output error); check its name and "
        "permissions."
    )


def test_any_existing_or_missing_file_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "notes.txt", ".hidden", "plain")
    monkeypatch.chdir(tmp_path)
    given = ["notes.txt", ".hidden", "plain", "missing.mp4", "https://host/x.mp4", "a/../b.mp4"]
    found = list(find_videos(given))
    expected = [".hidden", "b.mp4", "https:/host/x.mp4", "missing.mp4", "notes.txt", "plain"]
    # a missing file in another folder does not change what the others are called
    assert sorted(video.id for video in found) == expected
    assert all(video.path.is_absolute() and ".." not in video.path.parts for video in found)


NAMES = ["12:30.mp4", "-x.mp4", "-", "p%03d.mp4", "x#y?z.mp4", "p[1].mp4", "*.mp4", "a b .mp4"]
NAMES += ["new\nline.mp4", " x", "[!a]", "e\u0301.mp4", "\u00e9.mp4", "\\.mp4", "~", "$HOME.mp4"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_exists_is_never_a_pattern(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "p1.mp4", "x#yaz.mp4", "b", name)
    monkeypatch.chdir(tmp_path)
    (found,) = find_videos([name])
    assert (found.id, found.path) == (name, tmp_path / name)
    assert name in ids(".", extensions=["mp4"]) or not name.endswith(".mp4")


def test_patterns_match_as_in_a_shell_and_sorted(tmp_path: Path) -> None:
    make(tmp_path, "a/x.mp4", "a/notes.txt", "b/x.mp4", "b/c/x.mp4", "b/c/y.txt", "x.mp4", "d.txt")
    make(tmp_path, ".h/x.mp4", "a/.x.mp4", "b.mp4/deep.mp4")

    def at(pattern: str) -> list[str]:
        return ids(f"{tmp_path}/{pattern}", root=tmp_path)

    everything = ["a/x.mp4", "b.mp4/deep.mp4", "b/c/x.mp4", "b/x.mp4", "x.mp4"]
    assert at("**/*.mp4") == everything  # b.mp4 is a folder that matches
    assert at("**") == at("*/**/../../**") == everything
    assert at("**/x.mp4") == ["a/x.mp4", "b/c/x.mp4", "b/x.mp4", "x.mp4"]
    assert at("*/x.mp4") == ["a/x.mp4", "b/x.mp4"]
    assert at("[ab]/?.mp4") == ["a/x.mp4", "b/x.mp4"]
    assert at("[!a]/**/x.*") == ["b/c/x.mp4", "b/x.mp4"]
    assert at("*.txt") == ["d.txt"]  # any extension
    assert at("*/") == [name for name in everything if "/" in name]
    assert at("b/*") == ["b/c/x.mp4", "b/x.mp4"]  # of a folder, videos only
    assert at("b/**/c/**/*") == ["b/c/x.mp4", "b/c/y.txt"]
    assert at(".*/x.mp4") == [".h/x.mp4"]
    assert at("a/.*") == ["a/.x.mp4"]


def test_a_pattern_reads_only_folders_that_can_match(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a1/x.mp4", "a1/deep/x.mp4", "b1/x.mp4")
    scandir, seen = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda folder: (seen.append(folder), scandir(folder))[1])
    assert ids(f"{tmp_path}/a*/*.mp4") == ["a1/x.mp4"]
    assert seen == [str(tmp_path), f"{tmp_path}/a1"]


def test_a_folder_with_glob_characters_in_front_of_a_pattern(tmp_path: Path) -> None:
    make(tmp_path, "set[1]/a.mp4", "set1/b.mp4")
    assert ids(f"{tmp_path}/set[1]/*.mp4") == ["a.mp4"]
    assert ids(f"{tmp_path}/set[1]") == ["a.mp4"]
    assert ids(f"{tmp_path}/set[1]/missing.mp4") == ["missing.mp4"]


def test_what_gives_no_video_is_named_when_it_is_reached(tmp_path: Path) -> None:
    make(tmp_path, "x.mp4", "empty/notes.txt")
    missing, empty = tmp_path / "vidoes", tmp_path / "empty"
    reached = find_videos([tmp_path / "x.mp4", missing])
    assert next(reached).id == "x.mp4"
    expected = f"{missing}: there is no such file or folder; check the name. URLs are not opened."
    with pytest.raises(InputError, match=re.escape(expected)):
        next(reached)
    assert fault(f"{tmp_path}/no.d/") == expected.replace(str(missing), f"{tmp_path}/no.d/")
    assert fault(empty, extensions=["mp4", "avi"]) == (
        f"{empty}: no video in this folder or below it; looked for .mp4, .avi, but not at hidden "
        "names and behind links; give another folder, or other extensions."
    )
    assert f" and {len(VIDEO_EXTENSIONS) - 8} more, but" in fault(empty)
    for pattern in ("*.avi", "nowhere/*.mp4", "x.mp4/*", "e*", "missing[1].mp4"):
        assert fault(f"{tmp_path}/{pattern}") == (
            f"{tmp_path}/{pattern}: no video matches this pattern, and no file is called so."
        )
    assert fault("") == "an input is ''; give the name of a file or folder."
    assert "an input is 'a\\x00.mp4'" in fault("a\0.mp4")
    assert fault() == "no input; give at least one video file, folder, pattern or list."
    for single in ("x.mp4", Path("x.mp4")):
        with pytest.raises(InputError, match="put a single path into a list"):
            list(find_videos(single))  # type: ignore[arg-type]


def test_the_root_is_the_deepest_common_folder(tmp_path: Path) -> None:
    make(tmp_path, "a/b/x.mp4", "a/c/y.mp4", "list.txt", "p[1]/x.mp4")
    assert common_root([tmp_path / "a"]) == tmp_path / "a"
    assert common_root([tmp_path / "a/b/x.mp4"]) == tmp_path / "a/b"
    assert common_root([tmp_path / "a/b/missing.mp4"]) == tmp_path / "a/b"
    assert common_root([tmp_path / "a/b", tmp_path / "a/c/y.mp4"]) == tmp_path / "a"
    assert common_root([f"{tmp_path}/a/*/x.mp4"]) == tmp_path / "a"
    assert common_root([f"{tmp_path}/a/x?[0].mp4"]) == tmp_path / "a"
    assert common_root([f"{tmp_path}/p[1]/*.mp4"]) == tmp_path / "p[1]"
    assert common_root([], [tmp_path / "list.txt"]) == tmp_path
    assert common_root([tmp_path / "a/b"], [tmp_path / "list.txt"]) == tmp_path
    assert ids(tmp_path / "a", root=tmp_path / "a/b") == [
        "x.mp4",
        f"_abs{tmp_path}/a/c/y.mp4",
    ]


def test_each_video_comes_once_and_in_the_same_order(tmp_path: Path) -> None:
    make(tmp_path, "a/x.mp4", "a/y.mp4", "z.mp4")
    table = tmp_path / "list.csv"
    table.write_text("path\nz.mp4\na/x.mp4\nz.mp4\nnew.mp4\n./a/../z.mp4\n")
    given: list[str | Path] = [tmp_path / "a/y.mp4", tmp_path / "a", f"{tmp_path}/*/*.mp4"]
    expected = ["a/y.mp4", "a/x.mp4", "z.mp4", "new.mp4"]
    assert ids(*given, lists=[table, table]) == expected
    assert ids(*given, lists=[table, table]) == expected


def test_a_search_that_was_checked_goes_on_or_is_forgotten(tmp_path: Path) -> None:
    """Of many inputs only some stay begun; after hours of waiting what is there counts."""
    folders = []
    for number in range(BEGUN_AT_ONCE + 3):
        folders.append(tmp_path / f"{number:03d}")
        folders[-1].mkdir()
        (folders[-1] / "a.mp4").touch()
    search = VideoSearch(folders)
    search.check()
    (folders[0] / "b.mp4").touch()
    (folders[-1] / "b.mp4").touch()
    first, last = folders[0].name, folders[-1].name
    ids = [video.id for video in search.videos()]
    assert ids == sorted([*(f"{folder.name}/a.mp4" for folder in folders), f"{last}/b.mp4"])
    search.check()
    (folders[0] / "c.mp4").touch()
    search.forget()
    assert f"{first}/c.mp4" in [video.id for video in search.videos()]

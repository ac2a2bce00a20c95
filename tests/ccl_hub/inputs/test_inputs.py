"""Which videos, what each is called, where its result goes: nothing lost, mixed up or moved."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

import av.error
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from media import Recipe, write_video

from ccl_hub.config import Preprocessing
from ccl_hub.errors import InputError
from ccl_hub.inputs import (
    IMAGE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    Shard,
    common_root,
    find_videos,
    names,
    output_name,
    parse_shard,
    shard_of,
)
from ccl_hub.inputs.lists import LONGEST_LINE_BYTES, listed_paths
from ccl_hub.inputs.names import video_id
from ccl_hub.video import VideoReader

MARK = "~[0-9a-f]{8}"


def make(folder: Path, *files: str) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def ids(*inputs: str | Path, **more: Any) -> list[str]:
    return [video.id for video in find_videos(inputs, **more)]


def listed(path: Path, content: str | bytes) -> list[str]:
    """Write a list and return what is in it, relative to its folder where it is below."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [os.path.relpath(name, path.parent) for name in listed_paths(path)]


def fault(*inputs: str | Path, **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        list(find_videos(inputs, **more))
    return str(caught.value)


# --- folders ------------------------------------------------------------------------------------


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


# --- what an input means ------------------------------------------------------------------------


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


# --- ids ----------------------------------------------------------------------------------------


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


def test_an_id_outside_the_root_is_not_that_of_a_video_inside() -> None:
    def of(path: str) -> str:
        return video_id(PurePath(path), PurePath("/data"))

    assert of("/data/a/x.mp4") == "a/x.mp4"
    assert of("/datax/x.mp4") == "_abs/datax/x.mp4"
    assert of("/data/_abs/datax/x.mp4") == "_abs/data/_abs/datax/x.mp4"
    assert of("/data/a/_abs/x.mp4") == "a/_abs/x.mp4"
    assert of("/data") == "_abs/data"


def test_ids_of_windows_paths_have_plain_drives() -> None:
    root = PureWindowsPath("D:\\data")
    assert video_id(PureWindowsPath("d:\\Data\\a\\x.mp4"), root) == "a/x.mp4"
    assert video_id(PureWindowsPath("C:\\a\\x.mp4"), root) == "_abs/C/a/x.mp4"
    assert video_id(PureWindowsPath("\\\\C\\a\\x.mp4"), root) == "_abs/unc/C/a/x.mp4"


def test_names_that_are_not_utf8_and_their_twins_stay_apart(tmp_path: Path) -> None:
    raws = [b"caf\xe9.mp4", b"caf\xc3\xa9.mp4", b"caf\\xe9.mp4", b"\xff/x.mp4", b"\\xff/x.mp4"]
    mark = hashlib.sha256(b"caf\xe9.mp4").hexdigest()[:8]
    raws.append(f"caf\\xe9~{mark}.mp4".encode())  # pretends to be the first
    for raw in raws:
        make(tmp_path, os.fsdecode(raw))
    found = list(find_videos([tmp_path]))
    by_name = {
        os.fsencode(video.path)[len(os.fsencode(tmp_path)) + 1 :]: video.id for video in found
    }
    assert set(by_name) == set(raws)  # as they are opened
    assert by_name[b"caf\xe9.mp4"] == f"caf\\xe9~{mark}.mp4"
    assert by_name[b"caf\xc3\xa9.mp4"] == "caf\u00e9.mp4"
    assert by_name[b"\\xff/x.mp4"] == "\\xff/x.mp4"
    assert re.fullmatch(rf"\\xff{MARK}/x.mp4", by_name[b"\xff/x.mp4"])
    assert ids(tmp_path / os.fsdecode(b"caf\xe9.mp4")) == [f"caf\\xe9~{mark}.mp4"]
    assert ids(f"{tmp_path}/caf*", root=tmp_path) == [
        video.id for video in found if video.id.startswith("caf")
    ]


@pytest.mark.skipif(os.name == "nt", reason="names are no bytes there")
@given(st.sets(st.binary(min_size=1, max_size=6), min_size=2, max_size=6))
@example({b"x.\xff"})
@example({b".\xff", b"\xff"})
def test_ids_of_any_bytes_differ_and_are_text(raws: set[bytes]) -> None:
    raws = {raw for raw in raws if not set(b"/\0") & set(raw)} - {b".", b".."}
    made = {video_id(PurePath("/d", os.fsdecode(raw)), PurePath("/d")) for raw in raws}
    # also apart from files that are called like the ids of the others
    pretenders = {id.encode() for id in made} - raws
    made |= {video_id(PurePath("/d", os.fsdecode(raw)), PurePath("/d")) for raw in pretenders}
    assert len(made) == len(raws | pretenders)
    assert all("/" not in id and id.encode().decode() == id for id in made)


def test_each_video_comes_once_and_in_the_same_order(tmp_path: Path) -> None:
    make(tmp_path, "a/x.mp4", "a/y.mp4", "z.mp4")
    table = tmp_path / "list.csv"
    table.write_text("path\nz.mp4\na/x.mp4\nz.mp4\nnew.mp4\n./a/../z.mp4\n")
    given: list[str | Path] = [tmp_path / "a/y.mp4", tmp_path / "a", f"{tmp_path}/*/*.mp4"]
    expected = ["a/y.mp4", "a/x.mp4", "z.mp4", "new.mp4"]
    assert ids(*given, lists=[table, table]) == expected
    assert ids(*given, lists=[table, table]) == expected


# --- lists --------------------------------------------------------------------------------------


def test_a_text_list_is_one_path_a_line_as_it_is(tmp_path: Path) -> None:
    content = '\ufeffa.mp4\r\n\n  \n# b.mp4\n../c, d.mp4\n /x.mp4 \n"q".mp4\nz\u2028\x85\x0b.mp4'
    found = listed(tmp_path / "list.txt", content)
    assert found == [
        "a.mp4",
        "# b.mp4",
        "../c, d.mp4",
        " /x.mp4 ",
        '"q".mp4',
        "z\u2028\x85\x0b.mp4",
    ]
    assert next(listed_paths(tmp_path / "list.txt")) == f"{tmp_path}/a.mp4"


def test_a_list_is_relative_to_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "sub/v.csv")
    (tmp_path / "sub/v.csv").write_text("clip.mp4\n../up.mp4\n/abs/x.mp4\n")
    monkeypatch.chdir(tmp_path)
    found = list(find_videos([], lists=[Path("sub/v.csv")]))
    assert [str(video.path) for video in found] == [
        f"{tmp_path}/sub/clip.mp4",
        f"{tmp_path}/up.mp4",
        "/abs/x.mp4",
    ]
    assert [video.id for video in found] == [
        "clip.mp4",
        f"_abs{tmp_path}/up.mp4",
        "_abs/abs/x.mp4",
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.csv", 'label,path\n1,a.mp4\n"x,y","b, ""c"".mp4"\n\n2,"new\nline.mp4"\n'),
        ("l.csv", '\ufefflabel,Path \r\n1,a.mp4\r\n2,"b, ""c"".mp4"\r\n,"new\nline.mp4"'),
        ("l.TSV", 'path\tlabel\na.mp4\t1\n"b, ""c"".mp4"\t\n"new\nline.mp4"\tx\n'),
        ("l.csv", '\ufeffa.mp4\n"b, ""c"".mp4"\n"new\nline.mp4"\n'),
        ("l.csv", 'path\na.mp4\n"b, ""c"".mp4"\n"new\nline.mp4"\n'),
        ("l.csv", '\ufeff"path","n"\n"a.mp4",1\n"b, ""c"".mp4",2\n"new\nline.mp4",3\n'),
    ],
)
def test_tables(name: str, content: str, tmp_path: Path) -> None:
    assert listed(tmp_path / name, content) == ["a.mp4", 'b, "c".mp4', "new\nline.mp4"]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("l.txt", b"a.mp4\ncaf\xe9.mp4\nb\xff.mp4\n\xed\xa0\x80.mp4\nc.mp4\n", 2),
        (
            "l.csv",
            b"path,label\na.mp4,\xe9\ncaf\xe9.mp4,\nb\xff.mp4,\n\xed\xa0\x80.mp4,\nc.mp4,",
            2,
        ),
        (
            "l.tsv",
            b"caf\xe9\tpath\n1\ta.mp4\n1\tcaf\xe9.mp4\n1\tb\xff.mp4\n1\t\xed\xa0\x80.mp4\n1\tc.mp4",
            1,
        ),
    ],
)
def test_a_name_that_is_not_utf8_is_taken_as_it_is(
    name: str, content: bytes, line: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One such name spoils no list, and the file of that name is found."""
    caplog.set_level(logging.WARNING, logger="ccl_hub")
    raws = [b"a.mp4", b"caf\xe9.mp4", b"b\xff.mp4", b"\xed\xa0\x80.mp4", b"c.mp4"]
    assert listed(tmp_path / name, content) == [os.fsdecode(raw) for raw in raws]
    make(tmp_path, *(os.fsdecode(raw) for raw in raws))
    found = list(find_videos([], lists=[tmp_path / name]))
    assert len(found) == 5 and all(video.path.is_file() for video in found)
    assert {video.id for video in found} == set(ids(tmp_path))
    assert caplog.messages[0].startswith(f"{tmp_path / name}: line {line} is not UTF-8; ")
    assert len(caplog.messages) == 2  # once each time that the list is read


def test_a_parquet_list_may_hold_bytes_and_text_that_is_none(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    raws = [b"a.mp4", b"caf\xe9.mp4"]
    text = pa.array(raws, pa.binary()).view(pa.string())  # as a writer that checks nothing
    for number, column in enumerate((text, text.dictionary_encode(), pa.array(raws))):
        path = parquet(tmp_path / f"{number}.parquet", {"path": column})
        assert [Path(one).name for one in listed_paths(path)] == ["a.mp4", os.fsdecode(raws[1])]


def test_a_name_that_no_file_can_have_costs_one_video() -> None:
    one, other = find_videos(["/data/a\ud800.mp4", "/data/b.mp4"])
    assert re.fullmatch(rf"a\\xed\\xa0\\x80{MARK}\.mp4", one.id) and other.id == "b.mp4"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("l.txt", "a.mp4\n".encode("utf-16"), "line 1: not UTF-8 (byte 0xff)"),
        ("l.txt", b"a.mp4\nb\0.mp4\n", "line 2: a zero byte in a path; save it as UTF-8 text."),
        ("l.txt", b"\n \n", "the list names no video; write at least one path into it."),
        ("l.csv", b"", "the list names no video"),
        ("l.csv", b"path,label\n", "the list names no video"),
        (
            "l.csv",
            b"video,label\na.mp4,1\n",
            "line 1: no column 'path' among 'video, label'; name the column of the videos 'path', "
            "or give one column only; cells of a .csv are separated by commas, those of a .tsv by "
            "tabs.",
        ),
        ("l.csv", b"label;path\n1;a.mp4\n", "line 1: no column 'path' among 'label;path'"),
        ("l.tsv", b"label,path\n1,a.mp4\n", "line 1: no column 'path' among 'label,path'"),
        (
            "l.csv",
            b"a.mp4\nb.mp4\nc,d.mp4\n",
            "line 3: 2 cells where the first line has 1; quote names that hold the delimiter ','.",
        ),
        ("l.csv", b"path,n\na.mp4,1\nb.mp4\n", "line 3: 1 cells where the first line has 2"),
        ("l.csv", b"path,n\na.mp4,1\n,2\n", "line 3: an empty path; fill it in or remove the"),
        ("l.csv", b'path\n"a.mp4\nb.mp4\n', "line 3: not a table (unexpected end of data)"),
        ("l.csv", b"path\na.mp4\rb.mp4\n", "line 2: not a table (new-line character seen"),
        ("l.txt", b"a.mp4\n" + b"x" * 1100000, "line 2: more than 1048576 bytes; give UTF-8"),
        ("l.parquet", b"PAR1 but not really", "the list cannot be read ("),
    ],
)
def test_lists_that_are_wrong_say_where(
    name: str, content: bytes, expected: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    assert fault(lists=[tmp_path / name]).startswith(f"{tmp_path / name}: {expected}")


def test_a_list_that_is_missing_or_a_folder(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no.csv", "No such file"), (tmp_path, "Is a directory")):
        assert fault(lists=[path]).startswith(f"{path}: the list cannot be read ({reason}")


def parquet(path: Path, columns: dict[str, Any], **more: Any) -> Path:
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pytest.importorskip("pyarrow").table(columns), path, **more)
    return path


def test_a_parquet_list_is_read_in_order_over_row_groups(tmp_path: Path) -> None:
    names = [f"v{n}.mp4" for n in range(10000)]
    name = os.fsdecode(b"l\xff.parquet")
    path = parquet(tmp_path / "l.parquet", {"n": range(10000), "path": names}, row_group_size=999)
    path = path.rename(tmp_path / name)
    assert ids(lists=[path]) == names
    pyarrow = pytest.importorskip("pyarrow")
    path = parquet(
        tmp_path / "d.parquet", {"path": pyarrow.array(["x", "y", "x"]).dictionary_encode()}
    )
    assert ids(lists=[path]) == ["x", "y"]


def test_parquet_lists_that_are_wrong_say_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet(tmp_path / "l.parquet", {"video": ["a.mp4"], "n": [1]})
    assert fault(lists=[path]) == (
        f"{path}: columns: no column 'path' among 'video, n'; name the column of the videos "
        "'path'."
    )
    parquet(path, {"path": [1, 2]})
    assert fault(lists=[path]) == (
        f"{path}: column 'path': its type is int64; write the paths as text (string)."
    )
    parquet(path, {"path": ["a.mp4", None]})
    assert "row 2: an empty path; fill it in or remove the line." in fault(lists=[path])
    parquet(path, {"path": []})
    assert "its type is null" in fault(lists=[path])
    raw = parquet(path, {"path": ["a.mp4"] * 500}).read_bytes()
    path.write_bytes(raw[:-20])
    assert fault(lists=[path]).startswith(f"{path}: the list cannot be read (")
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # what find_spec answers None for
    said = fault(lists=[path])
    assert "a .parquet list needs pyarrow" in said and "or give the list as .csv." in said


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_a_long_list_needs_no_memory(name: str, tmp_path: Path) -> None:
    with (tmp_path / name).open("w") as file:
        file.writelines(f"folder/video_{n:06d}.mp4\n" for n in range(100_000))
    tracemalloc.start()
    try:
        count = sum(1 for _ in listed_paths(tmp_path / name))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 100_000
    assert peak_bytes < 1_000_000  # held whole, its paths would take 10 MB


def test_a_line_without_end_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "zeros.txt"
    with path.open("wb") as file:
        file.truncate(1 << 33)  # 8 GiB, of which nothing is on the disk
    assert f"line 1: more than {LONGEST_LINE_BYTES} bytes" in fault(lists=[path])


def test_nothing_heavy_is_imported() -> None:
    heavy = {"av", "numpy", "pyarrow", "torch"}
    code = f"import sys, ccl_hub.inputs; print(*({heavy} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# --- shards -------------------------------------------------------------------------------------


def test_shards_are_stable_over_versions() -> None:
    assert [shard_of(f"video_{n}.mp4", 8) for n in range(8)] == [5, 0, 2, 1, 0, 4, 7, 3]
    assert shard_of("caf\u00e9.mp4", 1) == 0
    for wrong in (0, -1):
        with pytest.raises(InputError, match=f"shards is {wrong}; allowed: at least 1"):
            shard_of("x", wrong)


@given(st.sets(st.text(min_size=1).filter(names._is_text)), st.integers(1, 50))
def test_shards_share_all_videos_and_each_is_in_one(ids: set[str], shards: int) -> None:
    parts = [{id for id in ids if shard_of(id, shards) == n} for n in range(shards)]
    assert set().union(*parts) == ids
    assert sum(len(part) for part in parts) == len(ids)


def test_shards_are_of_about_one_size_and_ask_nothing_but_the_id() -> None:
    videos = [f"class_{n % 7}/video_{n:05d}.mp4" for n in range(8000)]
    counts = [sum(shard_of(id, 8) == n for id in videos) for n in range(8)]
    assert max(counts) < 1.1 * min(counts) + 50
    assert [shard_of(id, 8) for id in reversed(videos)][::-1] == [shard_of(id, 8) for id in videos]


ARRAY = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "3"}
SRUN = {"SLURM_PROCID": "3", "SLURM_NTASKS": "6"}
ALONE = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        (None, TORCHRUN, (0, 1)),
        ("0/1", {}, (0, 1)),
        ("2/8", TORCHRUN, (2, 8)),
        ("auto", TORCHRUN, (1, 2)),
        ("auto", {**TORCHRUN, **SRUN, **ARRAY}, (1, 2)),
        ("auto", {**SRUN, **ARRAY}, (3, 6)),
        ("auto", ARRAY, (2, 4)),
        ("auto", {**ALONE, **ARRAY}, (2, 4)),  # what each task of an array is told
        ("auto", {**ARRAY, "SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_STEP": "2"}, (3, 4)),
        ("auto", ALONE, (0, 1)),
        ("auto", {"RANK": "1", **SRUN}, (3, 6)),
    ],
)
def test_which_shard(text: str | None, environ: dict[str, str], expected: tuple[int, int]) -> None:
    assert parse_shard(text, environ) == Shard(*expected)


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("8/8", {}, "the shard is '8/8'; allowed: i/n with i from 0 to n - 1, such as 0/8."),
        ("0/0", {}, "the shard is '0/0'; allowed: i/n with i from 0"),
        ("-1/8", {}, "the shard is '-1/8'; allowed: i/n such as 0/8, or auto."),
        ("1", {}, "the shard is '1'; allowed: i/n"),
        ("1/2/3", {}, "the shard is '1/2/3'; allowed: i/n"),
        ("\u0661/\u0668", {}, "allowed: i/n such as 0/8, or auto."),
        ("", {}, "the shard is ''; allowed: i/n such as 0/8, or auto."),
        ("auto", {}, "shard auto: neither torchrun (RANK, WORLD_SIZE) nor Slurm"),
        ("auto", {"RANK": "x", "WORLD_SIZE": "2"}, "shard auto: RANK is 'x'; expected a number"),
        ("auto", {"RANK": "2", "WORLD_SIZE": "2"}, "RANK and WORLD_SIZE mean 2/2; allowed: i/n"),
        (
            "auto",
            {**ARRAY, "SLURM_ARRAY_TASK_ID": "9"},
            "SLURM_ARRAY_TASK_COUNT mean 6/4; allowed",
        ),
    ],
)
def test_shards_that_are_wrong(text: str, environ: dict[str, str], expected: str) -> None:
    with pytest.raises(InputError, match=re.escape(expected)):
        parse_shard(text, environ)


# --- output names -------------------------------------------------------------------------------


def test_output_names_of_usual_ids_are_the_ids() -> None:
    for id in ("a/x.mp4", "x", "12:30.mp4", 'a?*|\\<>".mp4', " . x /\n", "caf\u00e9", ".x", "con"):
        assert output_name(id, ".npz") == f"{id}.npz"
    assert output_name("x.mp4", ".emb.parquet") == "x.mp4.emb.parquet"


def test_output_names_that_need_a_mark() -> None:
    def marked(id: str, *, cut: str | None = None) -> None:
        digest = hashlib.sha256(id.encode()).hexdigest()[:8]
        assert output_name(id, ".npz") == f"{id if cut is None else cut}~{digest}.npz"

    assert output_name("x" * 251, ".npz") == "x" * 251 + ".npz"
    marked("x" * 252, cut="x" * 242)
    marked("a/" + "\u00e9" * 127, cut="a/" + "\u00e9" * 121)
    marked("x" + "\u00e9" * 127, cut="x" + "\u00e9" * 120)  # 241 bytes: the next has two
    marked("e\u0301.mp4")
    marked(".ccl")
    marked("a/.CCL")
    marked("x~0123abcd")
    in_state, other = output_name(".ccl/x", ".npz"), output_name(".ccl/y", ".npz")
    assert re.fullmatch(rf"\.ccl{MARK}/x\.npz", in_state)
    assert Path(in_state).parent == Path(other).parent  # a folder stays one folder
    assert re.fullmatch(rf"x\.NPZ{MARK}/y\.npz", output_name("x.NPZ/y", ".npz"))


@pytest.mark.parametrize("id", ["", "/x", "x/", "a//x", "..", "a/../x", ".", "a\0", "\ud800"])
def test_ids_that_would_lead_elsewhere_are_refused(id: str) -> None:
    with pytest.raises(InputError, match="allowed: UTF-8 text, a relative path without"):
        output_name(id, ".npz")


@pytest.mark.parametrize("suffix", ["", ".", "npz", "./x", ".n/z", "..npz", ".a.b.c.d.e", ".é"])
def test_suffixes_that_are_none_are_refused(suffix: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"suffix is {suffix!r}; allowed: an ext")):
        output_name("x", suffix)


PIECES = ["a", "A.mp4", ".npz", ".ccl", "e\u0301", "\u00e9", "~0123abcd", "x" * 120, "\U0001f600"]
PIECES += ["CON", " ", ".", ":", "_", "\\", "\n", "\u00e9" * 59, "\u212b", "\ufb01"]
part = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), min_size=1, max_size=5).map("".join)
good_id = (
    st.lists(part, min_size=1, max_size=3)
    .map("/".join)
    .filter(lambda id: names._is_text(id) and "\0" not in id)
    .filter(lambda id: not {"", ".", ".."} & {*id.split("/")})
)


def check_outputs(ids: set[str]) -> None:
    """Outputs fit, stay below the folder, and are apart; also from those called like outputs."""
    outputs = {id: output_name(id, ".npz") for id in ids}
    pretenders = {name.removesuffix(".npz") for name in outputs.values()}
    pretenders |= {f"{name}/x" for name in outputs.values()}
    outputs |= {id: output_name(id, ".npz") for id in pretenders}
    files = [unicodedata.normalize("NFC", name) for name in outputs.values()]
    assert len(set(files)) == len(outputs)
    folders = {str(above) for name in files for above in PurePath(name).parents}
    assert not folders & set(files)
    for name in outputs.values():
        assert name.endswith(".npz")
        assert not PurePath(name).is_absolute() and os.path.normpath(name) == name
        assert all(0 < len(part.encode()) <= 255 for part in name.split("/"))
        assert ".ccl" not in name.lower().split("/")


@given(st.sets(good_id, min_size=1, max_size=8))
@example({"a", "a.npz/x", "a.npz", "a.npz.npz/x"})
@example({"x" * 251, "x" * 252, "x" * 255, "x" * 300})
@example({"e\u0301", "\u00e9", "e\u0301/x", "\u00e9/x"})
def test_outputs_never_meet_and_never_leave(ids: set[str]) -> None:
    check_outputs(ids)


@given(st.sets(good_id, min_size=1, max_size=8))
@example({"NUL.mp4", "_NUL.mp4", "a:b", "a_b", "a?b", "a.", "a", "a ", "a./x", "com1 .x", "aux"})
def test_outputs_on_windows(ids: set[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "_ON_WINDOWS", True)
        check_outputs(ids)
        made = [output_name(id, ".npz") for id in ids]
    for name in (part for whole in made for part in whole.split("/")):
        assert not re.search(r'[<>:"|?*\\\x00-\x1f]|[. ]\Z', name)
        stem = name.split(".")[0].rstrip(" ").lower()
        assert not re.fullmatch(r"con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]", stem)


def test_every_output_can_be_written(tmp_path: Path) -> None:
    ids: Sequence[str] = [
        "x",
        "x.npz",
        "\u00e9" * 200,
        "e\u0301",
        ".ccl",
        "a/b/c",
        "12:30",
        "a\nb",
    ]
    for id in ids:
        path = tmp_path / output_name(id, ".npz")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(id)
    assert sorted(path.read_text() for path in tmp_path.rglob("*.npz")) == sorted(ids)

"""Lists of videos: every path as it is written, and what is wrong said with its line."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from found_videos import fault, ids, make

from ccl_hub.errors import InputError
from ccl_hub.inputs import (
    find_videos,
)
from ccl_hub.inputs.lists import LONGEST_LINE_BYTES, listed_paths

MARK = "~[0-9a-f]{8}"


def listed(path: Path, content: str | bytes) -> list[str]:
    """Write a list and return what is in it, relative to its folder where it is below."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [os.path.relpath(name, path.parent) for name in listed_paths(path)]


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


@pytest.mark.skipif(os.name == "nt", reason="no pipes with names")
def test_a_list_from_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"not a regular file, .* save it to a file"):
        next(listed_paths(tmp_path / "pipe"))

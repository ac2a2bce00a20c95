"""What each video is called, and where its result goes: nothing lost, mixed up or moved."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePath, PureWindowsPath

import pytest
from found_videos import ids, make
from hypothesis import example, given
from hypothesis import strategies as st

from ccl_hub.errors import InputError
from ccl_hub.inputs import (
    find_videos,
    names,
)
from ccl_hub.inputs.names import LONGEST_OUTPUT_BYTES, output_name, video_id

MARK = "~[0-9a-f]{8}"


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


pytestmark = pytest.mark.skipif(os.name == "nt", reason="links, and names of POSIX")


def test_a_long_id_has_an_output_of_its_own() -> None:
    long = [f"{'a/' * 1500}{number}.mp4" for number in range(2)]
    made = [output_name(id, ".npz") for id in long]
    assert made[0] != made[1] and max(map(len, made)) < 100
    folder = made[0].split("/")[0]
    assert output_name(f"{folder}/x.mp4", ".npz").split("/")[0] != folder
    short = "a/" * ((LONGEST_OUTPUT_BYTES - 10) // 2) + "x.mp4"
    assert output_name(short, ".npz") == f"{short}.npz"

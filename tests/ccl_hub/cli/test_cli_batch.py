"""``ccl-embed`` over many videos as a user runs it: streams, exit codes, which videos."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embed_jobs import (
    QUICK,
    ROOT,
    Program,
    Run,
    ids,
    known,
    outputs,
    tiny_folder,
    write_tiny,
)

from ccl_hub.decoding.confinement import available
from ccl_hub.decoding.sandbox import level_of

pytestmark = pytest.mark.skipif(os.name == "nt", reason="forks, and sends signals")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("videos"), 5)


def fresh(
    *arguments: object, env: dict | None = None, **kw: object
) -> subprocess.CompletedProcess:
    """Run the command in a process that nothing has prepared."""
    code = "from ccl_hub.cli.embed_command import embed_main; embed_main()"
    path = os.pathsep.join([*(env or {}).pop("path", []), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", **(env or {})},
        timeout=300,
        **{"cwd": ROOT, **kw},
    )


def test_a_folder_of_videos(tmp_path: Path, model: Path, videos: Path) -> None:
    for now, before in ((5, 0), (0, 5)):
        done = fresh(videos, "--out", "feats", "--model", model, "--clips", 2, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        first, second = done.stderr.splitlines()
        assert first == f"{tmp_path}/feats: 5 videos: 5 done, 0 incomplete, 0 failed"
        assert second.startswith(f"now: {now} videos, ")
        assert second.endswith(f"; {before} were there before")
        assert "videos/s" in second and "h of video/h" in second
    assert set(outputs(tmp_path / "feats")) == {f"{n:03d}.mp4.npz" for n in range(5)}


@pytest.mark.slow
def test_what_is_not_done_is_told(
    tmp_path: Path, program: Program, model: Path, videos: Path
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    arguments = (videos, "text.mp4", "gone.mp4", "--model", model, "--clips", 1, "--out", "feats")
    done = program.run(*arguments, "--json", cwd=tmp_path)
    assert done.code == 2
    *told, summary = done.facts
    assert len(told) == 7 and all(fact["event"] == "video" for fact in told)
    states = {Path(fact["path"]).name: (fact["state"], fact["code"]) for fact in told}
    assert states["text.mp4"] == ("failed", "unsupported")
    assert states["gone.mp4"] == ("failed", "not_found")
    assert states["000.mp4"] == ("done", "")
    assert all(fact["reason"] for fact in told if fact["code"])
    assert sum(fact["duration_seconds"] for fact in told) == pytest.approx(
        summary["video_seconds"], abs=0.01
    )
    failures = tmp_path / "feats" / "failures.csv"
    assert {**summary, "elapsed_seconds": 0, "video_seconds": 0} == {
        "event": "summary",
        "destination": str(tmp_path / "feats"),
        "videos": {"done": 5, "failed": 2},
        "reasons": {"unsupported": 1, "not_found": 1},
        "kept": 0,
        "video_seconds": 0,
        "elapsed_seconds": 0,
        "failures": str(failures),
        "stopped": False,
        "sandbox": level_of(available()),
    }
    table = done.stderr.splitlines()
    assert table[0] == f"{tmp_path}/feats: 7 videos: 5 done, 0 incomplete, 2 failed"
    assert sorted(table[2:4]) == ["  not_found    1", "  unsupported  1"]
    assert table[4:] == [f"see {failures}"]
    again = program.run(*arguments, "--json", cwd=tmp_path)
    assert again.code == 2 and again.facts[-1]["kept"] == 6, "only what was not found is tried"


def test_quiet_says_nothing_and_fail_fast_stops(
    tmp_path: Path, program: Program, model: Path, videos: Path
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    arguments = (tmp_path / "text.mp4", videos, "--model", model, "--clips", 1)
    options = ("--out", tmp_path / "feats", "--fail-fast")
    done = program.run(*arguments, *options, "--quiet", "--json")
    assert (done.code, done.stderr) == (2, "")
    assert done.facts[-1]["stopped"]
    done = program.run(*arguments, "--out", tmp_path / "more", "--fail-fast")
    assert done.stderr.splitlines()[-1] == "stopped at the first failure; run again to go on"
    done = program.run(videos, "--model", model, "--clips", 1, "--out", tmp_path / "x", "-q")
    assert (done.code, done.stderr, done.stdout) == (0, "", "")


def test_npy_levels_and_options_of_the_batch(
    tmp_path: Path, program: Program, model: Path, videos: Path
) -> None:
    import numpy as np

    out = tmp_path / "feats"
    options = ("--format", "npy", "--level", "video", "--workers", 1, "--threads", 1)
    options += ("--memory-limit", "2G", "--batch-size", 2, "--deadline", 50, "--checksum")
    done = program.run(videos, "--model", model, "--every", 0.2, "--out", out, *options)
    assert done.code == 0, done.stderr
    assert np.load(out / "000.mp4.npy").shape == (16,)
    assert known(out, "000.mp4").source_sha256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x"], "no input"),
        (["gone", "--out", "x"], "gone: there is no such file or folder"),
        ([".", "gone", "--out", "x.parquet"], "gone: there is no such file or folder"),
        (["*.mkv", "--out", "x"], "no video matches this pattern"),
        ([".", "--ext", "mkv", "--out", "x"], "no video in this folder"),
        ([".", "--ext", "/", "--out", "x"], "allowed: a list of endings"),
        ([".", "--out", "x.csv"], "a dataset that ends in .parquet"),
        ([".", "--out", "x.npz"], "is a file for one video"),
        ([".", "--out", "x.parquet", "--format", "npy"], "whose parts are Parquet"),
        ([".", "--out", "x", "--memory-limit", "64M"], "memory_bytes is 67108864; allowed"),
        ([".", "--out", "x", "--level", "clip"], "hold every level"),
        ([".", "--out", "x", "--level", "all"], "allowed: clip, frame, video"),
        ([".", "--out", "x", "--clips", "2", "--every", "1"], "give one"),
        ([".", "--out", "x", "--shard", "2/2"], "allowed: i/n with i from 0"),
        ([".", "--out", "x", "--shard", "auto"], "neither torchrun"),
        ([".", "--out", "x", "--manifest", "gone.csv"], "gone.csv: the list cannot be read"),
    ],
)
def test_wrong_usage_is_one_line_at_once(
    tmp_path: Path, program: Program, arguments: list, message: str
) -> None:
    (tmp_path / "v.mp4").write_text("no video")
    done = program.run(*arguments, cwd=tmp_path)
    assert done.code == 2 and message in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]


@pytest.mark.parametrize(
    "arguments", [["--out", "x"], [".", "--out", "x", "--level", "clip"], ["gone", "--out", "x"]]
)
def test_wrong_usage_needs_no_torch(tmp_path: Path, model: Path, arguments: list) -> None:
    (tmp_path / "v.mp4").write_text("no video")
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')")
    done = fresh(*arguments, cwd=tmp_path, env={"path": [str(tmp_path)]})
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "torch was imported" not in done.stderr
    words = (".", "--out", "x", "--model", model, "--backend", "torch")
    done = fresh(*words, cwd=tmp_path, env={"path": [str(tmp_path)]})
    assert "torch was imported" in done.stderr, "the trap works"


@pytest.mark.parametrize(
    ("out", "advice"),
    [
        *(
            (f"x{suffix}", "give the name of a file")
            for suffix in (".npy", ".npz", ".safetensors")
        ),
        *((name, "give the name of a folder") for name in ("x", "x.parquet")),
    ],
)
def test_an_output_that_is_a_pipe_is_refused_before_any_work(
    tmp_path: Path, out: str, advice: str
) -> None:
    (tmp_path / "v.mp4").write_text("no video")
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')")
    os.mkfifo(tmp_path / out)
    done = fresh("v.mp4", "--out", out, cwd=tmp_path, env={"path": [str(tmp_path)]})
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"ccl-embed: {out}: is a pipe, and never replaced; {advice}")
    assert done.stderr.count("\n") == 1 and (tmp_path / out).is_fifo()
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("place", ["v.mp4.npz", "failures.csv"])
@pytest.mark.slow
def test_a_pipe_among_the_outputs_stays(
    tmp_path: Path, program: Program, model: Path, place: str
) -> None:
    """Also where a video fails, whose earlier output would be removed."""
    (tmp_path / "v.mp4").write_text("no video")
    out = tmp_path / "feats"
    arguments = (tmp_path / "v.mp4", "--model", model, "--out", out, "--retry-failed")
    assert program.run(*arguments).code == 2
    (out / place).unlink(missing_ok=True)
    os.mkfifo(out / place)
    done = program.run(*arguments)
    assert done.code == 1 and f"{out / place}: is a pipe" in done.stderr
    assert done.stderr.count("\n") == 1 and (out / place).is_fifo()


def test_other_settings_are_wrong_usage(
    tmp_path: Path, program: Program, model: Path, videos: Path
) -> None:
    arguments = (videos, "--model", model, "--out", tmp_path / "x")
    assert program.run(*arguments, "--clips", 1).code == 0
    done = program.run(*arguments, "--clips", 2)
    assert done.code == 2 and done.stderr.count("\n") == 1
    assert "sampling is 'clips=1' there, 'clips=2' now" in done.stderr
    assert program.run(*arguments, "--clips", 2, "--overwrite").code == 0


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Texts named like videos; QUICK takes them for such."""
    folder = tmp_path / "tree"
    for name in ("a/1.mp4", "a/2.mkv", "b/c/3.mp4", "b/4.txt", "5.MP4", ".hidden.mp4"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def ids_of(run: Run) -> list[str]:
    assert run.code == 0, run.stderr
    return sorted(video["id"] for video in run.videos)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["."], ["5.MP4", "a/1.mp4", "a/2.mkv", "b/c/3.mp4"]),
        ([".", "--ext", "mkv, txt"], ["a/2.mkv", "b/4.txt"]),
        (["**/*.mp4"], ["a/1.mp4", "b/c/3.mp4"]),
        (["b"], ["c/3.mp4"]),
        (["b", "--root", "."], ["b/c/3.mp4"]),
        (["a", "b/4.txt"], ["a/1.mp4", "a/2.mkv", "b/4.txt"]),
        (["--manifest", "list.csv"], ["a/1.mp4", "b/4.txt"]),
        (["--manifest", "list.names"], ["a/1.mp4", "b/4.txt"]),
        (["--manifest", "list.parquet", "a"], ["a/1.mp4", "a/2.mkv", "b/4.txt"]),
    ],
)
def test_inputs(
    tmp_path: Path, program: Program, tree: Path, arguments: list, expected: list
) -> None:
    (tree / "list.csv").write_text("label,path\n1,a/1.mp4\n2,b/4.txt\n")
    (tree / "list.names").write_text(f"a/1.mp4\n{tree}/b/4.txt\n")
    pq.write_table(pa.table({"path": ["a/1.mp4", "b/4.txt"]}), tree / "list.parquet")
    run = program.run(*arguments, "--out", tmp_path / "x", "--json", before=QUICK, cwd=tree)
    assert ids_of(run) == sorted(expected)


def test_shards_of_torchrun(tmp_path: Path, program: Program, tree: Path) -> None:
    options = (tree, "--out", tmp_path / "x.parquet", "--json", "--shard", "auto")
    found = []
    for rank in range(2):
        env = {"RANK": str(rank), "WORLD_SIZE": "2"}
        run = program.run(*options, before=QUICK, env=env)
        assert run.stderr.splitlines()[0] == f"shard {rank} of 2"
        found += ids_of(run)
    assert sorted(found) == sorted(ids(tmp_path / "x.parquet"))
    assert len(found) == 4


@pytest.mark.parametrize("name", ["feats", "feats.parquet"])
@pytest.mark.slow
def test_a_name_that_cannot_be_decoded_costs_one_video_at_most(
    tmp_path: Path, program: Program, model: Path, name: str
) -> None:
    """In a list, in every file that is written, and where messages are ASCII alone."""
    folder = tmp_path / os.fsdecode(b"fol\xe9")
    write_tiny(folder / "a.mp4")
    shutil.copy(folder / "a.mp4", folder / os.fsdecode(b"caf\xe9.mp4"))
    (folder / "list.txt").write_bytes(b"gone\xff.mp4\ncaf\xe9.mp4\na.mp4\n")
    listed, out = folder / "list.txt", folder / name
    arguments = ("--manifest", listed, "--model", model, "--out", out, "--json", "--clips", 1)
    if name == "feats":
        ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        fresh_run = fresh(*arguments, env=ascii_only)
        code, stdout, stderr = fresh_run.returncode, fresh_run.stdout, fresh_run.stderr
    else:
        run = program.run(*arguments)
        code, stdout, stderr = run.code, run.stdout, run.stderr
    assert code == 2 and "1 failed" in stderr, stderr
    facts = [json.loads(line) for line in stdout.splitlines()]
    codes = {fact["path"].rpartition("/")[2]: fact["code"] for fact in facts[:-1]}
    assert codes == {"a.mp4": "", "caf\\xe9.mp4": "", "gone\\xff.mp4": "not_found"}
    assert stderr.count("list.txt: line 1 is not UTF-8") == 1
    failures = Path(f"{out}.ccl" if name.endswith("parquet") else out) / "failures.csv"
    assert "fol\\xe9/gone\\xff.mp4,failed,not_found" in failures.read_text()


def test_a_link_to_a_folder_is_told_of_once(tmp_path: Path, program: Program, tree: Path) -> None:
    (tree / "link").symlink_to(tree / "a")
    run = program.run(tree, "--out", tmp_path / "x", before=QUICK)
    assert run.code == 0 and run.stderr.count("a link to a folder, not followed") == 1

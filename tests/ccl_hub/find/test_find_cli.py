"""``ccl-find`` as a user runs it: exit codes, streams, tables, the page."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT
from scenes import footage

CODE = (
    "import sys; sys.modules['torch'] = None\n"  # on a CPU it is never imported
    "from ccl_hub.cli.find_command import find_main; find_main()"
)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", CODE, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "100", "HF_HUB_OFFLINE": "1"},
        timeout=300,
    )


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "videos").mkdir()
    for number in range(8):
        footage(folder / "videos" / f"v{number}.mp4", number)
    done = run(
        *("index", folder / "videos", "--out", folder / "library", "--workers", 1),
        *("--threads", 1, "--json", "--device", "cpu"),
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"] for line in lines] == ["video"] * 8 + ["summary"]
    assert lines[-1]["in_library"] == 8 and "8 videos" in done.stderr
    return folder


def test_where_prints_a_line_a_table_and_a_page(indexed: Path, tmp_path: Path) -> None:
    cut = footage(tmp_path / "cut.mp4", 5, begin=3.0, seconds=4.0)
    page = tmp_path / "hits.html"
    given = ("--in", indexed / "library", "--device", "cpu")
    done = run("where", cut, *given, "--csv", "--page", page)
    assert done.returncode == 0, done.stderr
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert row["video"] == "v5.mp4" and abs(float(row["start"]) - 3) < 0.75
    assert "data:image/jpeg" in page.read_text() and "v5.mp4" in page.read_text()
    done = run("similar", cut, *given, "--top", 3)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3, done.stderr


def test_nothing_found_is_exit_code_3(indexed: Path, tmp_path: Path) -> None:
    stranger = footage(tmp_path / "stranger.mp4", 77, seconds=3.0)
    given = ("--in", indexed / "library", "--device", "cpu")
    done = run("where", stranger, *given, "--json", "--max-e", 1e-9)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["rows"] == [] and "nothing found" in done.stderr


def test_wrong_usage_is_told_in_one_line(indexed: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (("where", "no.mp4", "--in", tmp_path), "no library in this folder"),
        (("where", "no.mp4", "--in", tmp_path, "--json", "--csv"), "--json and --csv"),
        (("index", tmp_path / "none", "--out", tmp_path / "l"), "no such file or folder"),
    ):
        done = run(*arguments)
        assert done.returncode == 2 and message in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1 and done.stdout == ""


def test_help_loads_no_torch() -> None:
    code = (
        "import sys\nfrom ccl_hub.cli.find_command import find_app\n"
        "try:\n    find_app(['where', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'numpy', 'lancedb') if name in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr

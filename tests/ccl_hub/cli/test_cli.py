"""The commands as a user runs them: fresh processes, exit codes, streams, one-line errors."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from project import ROOT
from tiny_models import tiny_model

from ccl_hub.decoding.confinement import available
from ccl_hub.decoding.sandbox import describe
from ccl_hub.embed import Embeddings
from ccl_hub.registry import list_models

BALLS = ROOT / "examples" / "bouncing_balls.mp4"


def run(command: str, *arguments: object, **kw: object) -> subprocess.CompletedProcess[str]:
    code = f"from ccl_hub.cli.{command}_command import {command}_main; {command}_main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "HF_HUB_OFFLINE": "1"},
        timeout=300,
        **{"cwd": ROOT, **kw},
    )


def test_embed_writes_the_file_and_one_summary_line(tmp_path: Path) -> None:
    done = run("embed", BALLS, "--out", tmp_path / "feats.npy")
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "feats.npy").shape == (10, 512)
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "clips (10, 512) from 6.00 s of video in" in done.stderr


def test_options_json_and_quiet(tmp_path: Path) -> None:
    out = tmp_path / "feats.npz"
    done = run("embed", BALLS, "-o", out, "--every", 2, "--dtype", "bfloat16", "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert facts["shapes"] == {"clips": [4, 512], "frames": [4, 8, 512], "video": [512]}
    assert facts["provenance"]["dtype"] == "bfloat16"
    with np.load(out) as file:
        assert file["clips"].shape == (4, 512)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["no.mp4", "--out", "x.npy"], 1, "no.mp4"),
        ([BALLS, "--out", "x.csv"], 2, ".npy, .npz, .safetensors"),
        ([BALLS, "--out", "x.npz", "--level", "clip"], 2, "every level"),
        ([BALLS, "--out", "x.npy", "--model", "nothing"], 1, "Known names"),
        ([BALLS, "--out", "x.npy", "--dtype", "int3"], 2, "float32, bfloat16, float16"),
        ([BALLS, "--out", "x.npy", "--clips", "2", "--every", "1"], 2, "give one"),
        ([BALLS, "--out", "no/x.npy"], 1, "folder exists"),
        ([BALLS], 2, "--out"),
        (["--out", "x.npy"], 2, "no INPUT"),
        (["--out", "x"], 2, "no input"),
        ([BALLS, BALLS, "--out", "x.npy"], 2, "for several give a folder"),
        ([], 2, "--out"),
    ],
)
def test_errors_are_one_clear_line(
    tmp_path: Path, arguments: list, code: int, message: str
) -> None:
    done = run("embed", *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr and done.stdout == ""
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model().save_pretrained(tmp_path_factory.mktemp("model"))


def test_the_video_itself_is_never_overwritten(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "video.npy").write_bytes(BALLS.read_bytes())
    (tmp_path / "link.npy").symlink_to("video.npy")
    for out in ("video.npy", "link.npy"):
        done = run("embed", "video.npy", "--out", out, "--model", tiny, cwd=tmp_path)
        assert done.returncode == 2 and "is the embedded file itself" in done.stderr
    assert (tmp_path / "video.npy").read_bytes() == BALLS.read_bytes()


def test_a_reader_that_goes_away_is_no_bug(tiny: Path, tmp_path: Path) -> None:
    code = "from ccl_hub.cli.embed_command import embed_main; embed_main()"
    options = ["--out", str(tmp_path / "x.npy"), "--model", str(tiny), "--json", "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(BALLS), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=120)) == ("", 1)
    process.stderr.close()
    assert (tmp_path / "x.npy").is_file(), "the embeddings do not depend on who reads the facts"


@pytest.mark.skipif(os.name == "nt", reason="closes a descriptor by the shell")
def test_without_a_stderr(tiny: Path, tmp_path: Path) -> None:
    code = "from ccl_hub.cli.embed_command import embed_main; embed_main()"
    command = [sys.executable, "-c", code, BALLS, "--out", tmp_path / "x.npy", "--model", tiny]
    line = f"exec {shlex.join(map(str, command))} 2>&-"
    assert subprocess.run(["sh", "-c", line], cwd=ROOT, timeout=120).returncode == 0
    assert (tmp_path / "x.npy").is_file()


@pytest.mark.skipif(os.name == "nt", reason="names on Windows are always Unicode")
def test_names_that_are_not_unicode(tiny: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.mp4")
    try:
        (tmp_path / name).write_bytes(BALLS.read_bytes())
    except OSError:
        pytest.skip("this file system takes only Unicode names")
    out = os.fsdecode(b"o\xff.npz")
    done = run("embed", name, "--out", out, "--model", tiny, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["provenance"]["source"] == name
    assert Embeddings.load(tmp_path / out).provenance.source == name


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
@pytest.mark.parametrize("engine", ["torch_engine.TorchEngine", "onnx_engine.OnnxEngine"])
def test_ctrl_c_is_one_line_and_leaves_nothing(tiny: Path, tmp_path: Path, engine: str) -> None:
    module, name = engine.split(".")
    options = ["--model", str(tiny), "--backend", module.removesuffix("_engine")]
    # The signal comes once the embedding is under way, however slow this machine is.
    code = (
        f"import os, signal; from ccl_hub.backends.{module} import {name} as e\n"
        "inner = e.__call__\n"
        "def call(*a):\n    os.kill(os.getpid(), signal.SIGINT)\n    return inner(*a)\n"
        "e.__call__ = call\nfrom ccl_hub.cli.embed_command import embed_main; embed_main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(BALLS), "--out", "x.npy", *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == 130
    assert done.stderr == "ccl-embed: stopped by the user; nothing was written.\n"
    assert not list(tmp_path.iterdir())


def test_a_broken_model_folder_is_a_failure_not_wrong_usage(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{")
    done = run("embed", BALLS, "--out", tmp_path / "x.npy", "--model", tmp_path / "model")
    assert done.returncode == 1 and "not JSON" in done.stderr


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "x.npy").mkdir()
    done = run("embed", "no.mp4", "--out", "x.npy", cwd=tmp_path)
    assert done.returncode == 1 and "x.npy: cannot be written (it is a folder)" in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run("embed", "no.mp4", "--out", "x.npy", "--debug", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_help_answers_at_once() -> None:
    best = float("inf")
    for _ in range(5):  # the machine may be busy: the best of five
        began = time.perf_counter()
        done = run("embed", "--help")
        best = min(best, time.perf_counter() - began)
        assert done.returncode == 0 and "--every" in done.stdout
    assert best < 0.3


def test_names_that_look_like_options(tmp_path: Path) -> None:
    (tmp_path / "-x.mp4").write_bytes(BALLS.read_bytes())
    done = run("embed", "--out", "x.npy", "--clips", 1, "--", "-x.mp4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_list_names_every_model() -> None:
    done = run("hub", "list")
    assert done.returncode == 0 and all(name in done.stdout for name in list_models())
    entries = json.loads(run("hub", "list", "--json").stdout)
    assert [entry["name"] for entry in entries] == list_models()


def test_info_and_verify() -> None:
    facts = json.loads(run("hub", "info", "ccl_r18_mini").stdout)
    assert facts["preprocessing"]["clip_frames"] == 8 and len(facts["sha256"]) == 64
    done = run("hub", "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 5
    assert f"confinement of decoders: {describe(available())}" in done.stdout


def test_cuda_is_refused_clearly_without_one(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    done = run("embed", BALLS, "--out", "x.npy", "--device", "cuda", cwd=tmp_path)
    assert done.returncode == 2 and "allowed: auto, cpu" in done.stderr

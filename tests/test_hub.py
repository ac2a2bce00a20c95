"""Weights from the Hub, through huggingface_hub's own client and a server on 127.0.0.1."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ccl_hub import weights
from tests.hub_server import COMMIT, Hub, serve
from tests.test_model import tiny_model

ROOT = Path(__file__).resolve().parent.parent
LOAD = """
import sys, torch
from ccl_hub import CCLModel
from ccl_hub.errors import CCLError
try:
    model = CCLModel.from_pretrained(sys.argv[1], revision=sys.argv[2] if sys.argv[2:] else None)
except CCLError as error:
    print(type(error).__name__, error)
    sys.exit(3)
with torch.inference_mode():
    clip = torch.linspace(-1, 1, 12288).reshape(1, 3, 4, 32, 32)
    print("video", model(clip).video[0, :4].tolist())
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = tiny_model().save_pretrained(tmp_path / "repository")
    with serve() as running:
        running.repositories["someone/ccl_tiny"] = folder
        yield running


def load(hub: Hub, cache: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Load in a fresh process, because huggingface_hub reads its settings when imported."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *arguments],
        env={**clean, "HF_ENDPOINT": hub.url, "HF_HOME": str(cache), **environment},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode in (0, 3), done.stderr
    return done.returncode, done.stdout.strip()


def test_fetch_then_offline_from_the_cache(hub: Hub, tmp_path: Path) -> None:
    with torch.inference_mode():
        clip = torch.linspace(-1, 1, 12288).reshape(1, 3, 4, 32, 32)
        wanted = tiny_model()(clip).video[0, :4].tolist()
    assert load(hub, tmp_path / "cache", "someone/ccl_tiny") == (0, f"video {wanted}")
    assert any("GET" in line and weights.WEIGHTS_NAME in line for line in hub.requests)

    hub.requests.clear()
    offline = load(hub, tmp_path / "cache", "someone/ccl_tiny", HF_HUB_OFFLINE="1")
    assert offline == (0, f"video {wanted}")
    assert hub.requests == [], "offline mode must open no connection"
    pinned = load(hub, tmp_path / "cache", f"someone/ccl_tiny@{COMMIT}")
    assert pinned == (0, f"video {wanted}")
    # The client may ask the server about itself; a full commit in the cache is never asked for.
    assert not [line for line in hub.requests if "/resolve/" in line]


def test_what_is_missing_is_named(hub: Hub, tmp_path: Path) -> None:
    code, text = load(hub, tmp_path / "cache", "someone/other")
    assert code == 3 and text.startswith("ModelNotFoundError someone/other: no such repository")
    code, text = load(hub, tmp_path / "cache", "someone/ccl_tiny", "v9")
    assert code == 3 and "no such revision" in text
    code, text = load(hub, tmp_path / "empty", "someone/ccl_tiny", HF_HUB_OFFLINE="1")
    assert code == 3 and "not in the local cache" in text and "ccl_r18_mini" in text


@pytest.mark.slow
def test_a_download_that_breaks_off_is_a_clear_error_and_works_next_time(
    hub: Hub, tmp_path: Path
) -> None:
    hub.largest_body_bytes = 5000
    code, text = load(hub, tmp_path / "cache", "someone/ccl_tiny")
    assert code == 3 and "ModelNotFoundError someone/ccl_tiny: the download failed" in text
    hub.largest_body_bytes = None
    code, text = load(hub, tmp_path / "cache", "someone/ccl_tiny")
    assert code == 0, text


def test_a_cache_that_cannot_be_written_is_a_clear_error(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    code, text = load(hub, tmp_path / "file", "someone/ccl_tiny")
    assert code == 3 and "the download failed" in text and "HF_HOME" in text


def test_both_files_come_from_one_commit(hub: Hub, tmp_path: Path) -> None:
    assert load(hub, tmp_path / "cache", "someone/ccl_tiny")[0] == 0
    asked = [line for line in hub.requests if line.endswith(weights.WEIGHTS_NAME)]
    assert asked and all(f"/resolve/{COMMIT}/" in line for line in asked)


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_quiet_command_says_nothing_while_it_downloads(hub: Hub, tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    code = "from ccl_hub.cli import embed_main; embed_main()"
    video, out = ROOT / "examples" / "bouncing_balls.mp4", tmp_path / "x.npy"
    options = ["--model", "someone/ccl_tiny", "--clips", "1", "--quiet"]
    ours, theirs = os.openpty()  # bars are drawn on terminals only
    done = subprocess.run(
        [sys.executable, "-c", code, str(video), "--out", str(out), *options],
        env={**clean, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=theirs,
        cwd=ROOT,
        timeout=120,
    )
    os.write(theirs, b"end")  # so that reading does not wait for what never comes
    said = os.read(ours, 10_000)
    os.close(ours)
    os.close(theirs)
    assert (done.returncode, done.stdout, said) == (0, b"", b"end")
    assert out.is_file()


def test_repository_with_only_pickles(hub: Hub, tmp_path: Path) -> None:
    folder = hub.repositories["someone/ccl_tiny"]
    (folder / weights.WEIGHTS_NAME).rename(folder / "pytorch_model.bin")
    code, text = load(hub, tmp_path / "cache", "someone/ccl_tiny")
    assert code == 3 and text.startswith("WeightsError") and "safetensors" in text
